"""What of a mail makes a triplet: what changes at every try is left out, and nothing else is."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpgw.greylist.keys import Triplet, network, sender_key, triplet


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("192.0.2.7", "192.0.2.0/24"),
        ("::ffff:192.0.2.7", "192.0.2.0/24"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("", None),
        ("unknown", None),
        ("192.0.2.7; DROP", None),
    ],
)
def test_networks(address: str, expected: str | None) -> None:
    assert network(address) == expected


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("bounce-123-456@list.example", "bounce-7-99999@list.example"),
        ("list-bounces+u=example.net@l.example", "list-bounces+v=example.org@l.example"),
        ("prvs=1234567890=u@example.org", "prvs=0987abcdef=u@example.org"),
        ("prvs=1234567890=u@example.org", "u@example.org"),
        ("btv1==0123456789==u@example.org", "u@example.org"),
        ("SRS0=AbCd=XY=example.org=u@fwd.example", "SRS0=zzzz=AA=example.org=u@fwd.example"),
        (
            "SRS1=a=h.example==b=C=d.example=u@f.example",
            "SRS1=x=h.example==y=Z=d.example=u@f.example",
        ),
        ("U@Example.ORG", "u@example.org"),
        ("0123456789abcdef01@m.example", "fedcba9876543210ff@m.example"),
    ],
)
def test_senders_that_are_one(one: str, other: str) -> None:
    assert sender_key(one.encode()) == sender_key(other.encode())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a@example.org", "b@example.org"),
        ("a@example.org", "a@example.net"),
        ("", "a@example.org"),
        ("SRS0=a=b=one.example=u@f.example", "SRS0=a=b=two.example=u@f.example"),
        ("SRS0=a=b=one.example=u@f.example", "SRS0=a=b=one.example=v@f.example"),
        ("u@example.org", "prvs=1234567890=v@example.org"),
    ],
)
def test_senders_that_are_two(one: str, other: str) -> None:
    assert sender_key(one.encode()) != sender_key(other.encode())


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400), st.binary(max_size=400))
def test_any_octets_are_a_triplet_of_bounded_size(sender: bytes, recipient: bytes) -> None:
    found = triplet("192.0.2.1", sender, recipient)
    assert isinstance(found, Triplet)
    assert len(found.sender) <= 1600
    assert len(found.recipient) <= 1600
    assert sender_key(sender) == found.sender
