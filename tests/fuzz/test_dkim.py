"""The dkim filter's fuzz targets, on saved seeds and on what hypothesis makes of tags."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.dkim_targets import TARGETS
from tests.fuzz.driver import seeds

_parts = st.sampled_from(
    [
        b"v=1;",
        b"v=DKIM1;",
        b"a=rsa-sha256;",
        b"a=ed25519-sha256;",
        b"c=simple/relaxed;",
        b"d=a.b;",
        b"s=c;",
        b"h=from:to;",
        b"bh=AAAA;",
        b"b=AAAA",
        b"l=1;",
        b"t=1;",
        b"x=2;",
        b"i=@a.b;",
        b"k=rsa;",
        b"p=MAYCAQECAQM=;",
        b"p=;",
        b"=",
        b";",
        b"\r\n ",
        b"\r\n",
        b"\n\n",
        b"From: a@b\r\n",
        b"Authentication-Results: mx.example.net;",
        b"DKIM-Signature: ",
        b"ARC-Seal: i=1;",
        b"ARC-Message-Signature: i=1;",
        b"Content-Type: multipart/signed; boundary=b; protocol=application/pgp-signature\r\n",
        b"\r\n--b\r\n",
        b"\r\n--b--",
        b"-----BEGIN PGP SIGNED MESSAGE-----\r\n",
        b"-----BEGIN PGP SIGNATURE-----\r\n",
        b"-----END PGP SIGNATURE-----\r\n",
        b"\0",
        b"\xff",
    ]
)
_inputs = st.lists(st.one_of(_parts, st.binary(max_size=5)), max_size=24).map(b"".join)


@pytest.mark.parametrize("name", TARGETS)
def test_saved_seeds(name: str) -> None:
    found = seeds(name)
    assert found
    for each in found:
        TARGETS[name](each)


@pytest.mark.parametrize("name", TARGETS)
def test_any_tags(name: str) -> None:
    @settings(max_examples=150, deadline=None)
    @given(_inputs)
    def check(data: bytes) -> None:
        TARGETS[name](data)

    check()
