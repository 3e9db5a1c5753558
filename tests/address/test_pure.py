"""Forms of an address, extensions, keys, masquerading and lists."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpgw.address import form
from smtpgw.address.extension import Delimiter
from smtpgw.address.keys import Strategy, domain_keys, keys
from smtpgw.address.lists import DomainList, Element
from smtpgw.address.masquerade import Masquerade
from smtpgw.address.names import host_name

_TEXT = st.binary(min_size=1, max_size=40)


@given(_TEXT, st.sampled_from([b"example.com", b"[192.0.2.1]", b"x"]))
def test_what_is_written_means_what_was_meant(local: bytes, domain: bytes) -> None:
    address = local + b"@" + domain
    assert form.internal(form.external(address)) == address


@given(_TEXT)
def test_a_local_part_is_quoted_only_if_it_must(local: bytes) -> None:
    quoted = form.quote(local)
    assert (quoted == local) == (not quoted.startswith(b'"'))
    assert b"\r" not in quoted.replace(b"\\\r", b"")


@pytest.mark.parametrize(
    ("delimiter", "local", "expected"),
    [
        (b"+", b"user+x", (b"user", b"+x")),
        (b"+-", b"user-a+b", (b"user", b"-a+b")),
        (b"-+", b"user+a-b", (b"user", b"+a-b")),
        (b"", b"user+x", (b"user+x", b"")),
        (b"+", b"+x", (b"+x", b"")),
        (b"-", b"owner-list", (b"owner-list", b"")),
        (b"-", b"list-request", (b"list-request", b"")),
        (b"-", b"-request", (b"-request", b"")),
        (b"+", b"owner-list+x", (b"owner-list", b"+x")),
        (b"+", b"Postmaster", (b"Postmaster", b"")),
        (b"+", b"user+", (b"user", b"+")),
        (b"]^", b"user^x", (b"user", b"^x")),
    ],
)
def test_extensions(delimiter: bytes, local: bytes, expected: tuple[bytes, bytes]) -> None:
    assert Delimiter(delimiter).split(local) == expected


def test_keys_come_in_the_order_of_the_manual() -> None:
    """virtual(5), access(5) and transport(5)."""
    address, plus = b"user+x@host.example.com", Delimiter(b"+")
    virtual = [each.text for each in keys(address, Strategy.DEFAULT, plus, ours=True)]
    assert virtual == [
        address, b"user@host.example.com", b"user+x", b"user", b"@host.example.com",
    ]  # fmt: skip
    assert [each.extension for each in keys(address, Strategy.DEFAULT, plus, ours=True)] == [
        b"", b"+x", b"", b"+x", b"",
    ]  # fmt: skip
    access = Strategy.FULL | Strategy.NOEXT | Strategy.DOMAIN | Strategy.PARENT
    access |= Strategy.LOCALPART_AT
    assert {each.text for each in keys(address, access, plus)} == {
        address, b"user@host.example.com", b"host.example.com", b"example.com", b"com",
        b"user+x@", b"user@",
    }  # fmt: skip
    below = [each.text for each in domain_keys(b"a.b.c", Strategy.DOMAIN | Strategy.DOT_PARENT)]
    assert below == [b"a.b.c", b".b.c", b".c"]


def test_only_whole_keys_are_asked_of_tables_of_patterns() -> None:
    those = list(keys(b"u+x@a.b", Strategy.DEFAULT | Strategy.DOMAIN, Delimiter(b"+"), ours=True))
    assert [each.text for each in those if not each.partial] == [b"u+x@a.b"]


def test_a_quoted_address_is_looked_up_in_both_forms() -> None:
    (key,) = keys(b"a b@x", Strategy.FULL, Delimiter())
    assert (key.text, key.other) == (b'"a b"@x', b"a b@x")


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (b"u@a.example.com", b"u@example.com"),
        (b"u@example.com", b"u@example.com"),
        (b"u@x.keep.example.com", b"u@x.keep.example.com"),
        (b"root@a.example.com", b"root@a.example.com"),
        (b"u@a.other.com", b"u@a.other.com"),
        (b"u@aexample.com", b"u@aexample.com"),
        (b"u", b"u"),
    ],
)
def test_masquerading(address: bytes, expected: bytes) -> None:
    rule = Masquerade([b"!keep.example.com", b"example.com"], {b"root"})
    assert rule.rewrite(address) == expected


@pytest.mark.parametrize(
    ("names", "parents", "domain", "expected"),
    [
        (["a.com"], True, b"x.a.com", True),
        (["a.com"], False, b"x.a.com", False),
        ([".a.com"], False, b"x.a.com", True),
        ([".a.com"], False, b"a.com", False),
        (["!x.a.com", "a.com"], True, b"x.a.com", False),
        (["!x.a.com", "a.com"], True, b"y.a.com", True),
        (["A.com"], True, b"a.COM", True),
        (["a.com"], True, b"ba.com", False),
    ],
)
def test_lists_of_domains(names: list[str], parents: bool, domain: bytes, expected: bool) -> None:
    elements = [Element(each.strip("!").encode(), None, each[0] == "!") for each in names]
    found = asyncio.run(DomainList(elements, parents).match(domain))
    assert bool(found) is expected


@pytest.mark.parametrize(
    ("name", "valid"),
    [(b"a.b", True), (b"a_b.c", True), (b"-a.b", False), (b"a..b", False), (b"1.2.3.4", False),
     (b"", False), (b"a" * 64 + b".b", False), (b"x.1", True)],
)  # fmt: skip
def test_host_names(name: bytes, valid: bool) -> None:
    assert host_name(name) is valid
