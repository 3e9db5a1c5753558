"""The fuzz targets of Postfix's checks and of signatures' digests, on saved seeds and on what
hypothesis makes of pieces."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.checks_targets import TARGETS
from tests.fuzz.driver import seeds

_pieces = st.sampled_from(
    [b"X-Gone: 1\r\n", b"X-New: a\r\n", b"X-More: b\r\n", b"stop\r\n", b" folded\r\n", b"\r\n",
     b"Content-Type: multipart/mixed; boundary=a\r\n", b"--a\r\n", b"--a--\r\n", b"\0", b"\r",
     b"\n", b"Content-Type: message/rfc822\r\n", b"Content-Type:", b'boundary="', b"(", b")",
     b"\\", b":", b"x" * 3000, b"a=rsa-sha256; d=x.example; s=s; cv=none; b=AA==", b";", b"=",
     b"-----BEGIN PGP SIGNATURE-----\n\n", b"-----END PGP SIGNATURE-----\n", b"wnUEARYK\n",
     b"\x30\x80", b"\x30\x03\x02\x01\x00", bytes.fromhex("06092a864886f70d010702"), b"\xa0\x02"]
)  # fmt: skip
_texts = st.lists(st.one_of(_pieces, st.binary(max_size=5)), max_size=24).map(b"".join)


@pytest.mark.parametrize("name", TARGETS)
def test_saved_seeds(name: str) -> None:
    found = seeds(name)
    assert found
    for each in found:
        TARGETS[name](each)


@pytest.mark.parametrize("name", TARGETS)
def test_anything(name: str) -> None:
    @settings(max_examples=200, deadline=None)
    @given(_texts)
    def check(data: bytes) -> None:
        TARGETS[name](data)

    check()
