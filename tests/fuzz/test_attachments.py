"""The attachments filter's fuzz targets, on saved seeds and on what hypothesis makes of pieces."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.attachments import makers as make
from tests.fuzz.attachment_targets import TARGETS
from tests.fuzz.driver import seeds

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of oletools
_FILES = [
    make.zipped({"a.exe": make.PROGRAM, "b.txt": b"x"}), make.tarred({"a": b"x"}, "w:"),
    make.tarred({"a": b"x"}), make.macro_document(), make.macro_workbook(), make.nested(3),
]  # fmt: skip
_pieces = st.sampled_from(
    [b"MIME-Version: 1.0\r\n", b"Content-Type: multipart/mixed; boundary=a\r\n", b"\r\n--a\r\n",
     b"--a--\r\n", b"\r\n\r\n", b"Content-Type: message/rfc822\r\n", b"filename", b"name", b"*0*=",
     b"*1", b"=", b'"', b"\\", b"utf-8''", b"%2e", b"%", b"exe", b".", b"=?utf-8?b?", b"?=",
     b"=?x?q?", b";", b" ", b"\0", b"\xff", b"Content-Transfer-Encoding: base64\r\n",
     b"Content-Disposition: attachment; ", b"UEsDBBQAAAA=", b"PK\x03\x04", b"PK\x01\x02",
     b"\x1f\x8b\x08\0", b"MZ", b"message/partial"]
)  # fmt: skip
_texts = st.lists(st.one_of(_pieces, st.binary(max_size=5)), max_size=24).map(b"".join)


@st.composite
def _broken_files(draw: st.DrawFn) -> bytes:
    octets = bytearray(draw(st.sampled_from(_FILES)))
    for _ in range(draw(st.integers(0, 8))):
        octets[draw(st.integers(0, len(octets) - 1))] = draw(st.integers(0, 255))
    return bytes(octets[: draw(st.integers(1, len(octets)))])


@pytest.mark.parametrize("name", TARGETS)
def test_saved_seeds(name: str) -> None:
    found = seeds(name)
    assert found
    for each in found:
        TARGETS[name](each)


@pytest.mark.parametrize("name", TARGETS)
def test_anything(name: str) -> None:
    broken = name == "attachment_file"

    @settings(max_examples=60, deadline=None)
    @given(_broken_files() if broken else _texts)
    def check(data: bytes) -> None:
        TARGETS[name](data)

    check()
