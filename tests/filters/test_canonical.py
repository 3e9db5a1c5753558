"""The relaxed forms, piece by piece, against dkimpy's on the whole message."""

from __future__ import annotations

import hashlib
import time
from itertools import pairwise

import pytest
from dkim.canonicalization import Relaxed
from hypothesis import given
from hypothesis import strategies as st

from milterd.core.mail import BytesBody, HeaderField
from milterd.signed.canonical import BODY_FORMS, RelaxedBody, relaxed_field, signed_fields
from milterd.signed.dkim_hash import hash_body

ODD = st.lists(
    st.sampled_from([b" ", b"\t", b"\r\n", b"\r", b"\n", b"a", b"\0", b"\x0b", b"\xff", b"  \r\n"])
).map(b"".join)
CUTS = st.lists(st.integers(0, 60), max_size=6)


def relaxed(body: bytes, cuts: list[int]) -> bytes:
    form, edges = RelaxedBody(), [0, *sorted(cuts), len(body)]
    parts = [b"".join(form.feed(body[start:end])) for start, end in pairwise(edges)]
    return b"".join(parts) + b"".join(form.finish())


@given(ODD | st.binary(max_size=60), CUTS)
def test_any_body_in_any_pieces(body: bytes, cuts: list[int]) -> None:
    as_sent = body if not body or body.endswith(b"\r\n") else body + b"\r\n"
    cuts = [min(each, len(body)) for each in cuts]
    expected = Relaxed.canonicalize_body(as_sent)
    assert relaxed(body, cuts) == expected
    assert relaxed(body, list(range(len(body)))) == expected


@pytest.mark.parametrize("name", BODY_FORMS)
@given(body=st.tuples(ODD | st.binary(max_size=60), st.sampled_from([b"", b"\r\n", b"a\r\n"])))
def test_a_body_that_is_formed_as_one(name: str, body: tuple[bytes, bytes]) -> None:
    octets, form = b"".join(body), BODY_FORMS[name]()
    expected = b"".join((*form.feed(octets), *form.finish()))
    found = hash_body(BytesBody(octets), name)
    assert (found.whole, found.size) == (hashlib.sha256(expected).digest(), len(expected))


@given(ODD | st.binary(max_size=60))
def test_any_field(value: bytes) -> None:
    edges = b"x" + value + b"x"  # dkimpy strips VT and FF at the ends, RFC 6376 does not
    ((name, expected),) = Relaxed.canonicalize_headers([(b"Some-Name", edges)])
    # dkimpy unfolds at a bare LF as well; in a mail here CRLF alone is a line end.
    if b"\n" not in edges.replace(b"\r\n", b""):
        assert relaxed_field(b"Some-Name", edges) + b"\r\n" == name + b":" + expected


def test_white_space_is_space_and_tab_only() -> None:
    assert relaxed_field(b"A", b" \t\x0bb\x0c \t") == b"a:\x0bb\x0c"


def test_fields_are_taken_from_the_bottom() -> None:
    fields = [HeaderField(name, b" %d" % at) for at, name in enumerate((b"To", b"Cc", b"TO"))]
    assert signed_fields(fields, [b"to", b"x", b"to", b"cc", b"to"]) == [b"to:2", b"to:0", b"cc:1"]


@pytest.mark.parametrize("unit", [b" ", b"\r\n", b"\r", b" \r\n", b" \t\r", b"\t\r\n x"], ids=repr)
def test_time_is_linear_and_output_comes_in_pieces(unit: bytes) -> None:
    """Runs that make a careless pattern quadratic, 4 MB of each."""
    piece, form = unit * (65_535 // len(unit)), RelaxedBody()
    began = time.process_time()
    sizes = [len(each) for _ in range(64) for each in form.feed(piece)]
    sizes += [len(each) for each in form.feed(b"x")] + [len(each) for each in form.finish()]
    assert time.process_time() - began < 2
    assert max(sizes) <= 65_540
