"""Screening's fuzz targets, on saved seeds and on what hypothesis makes."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.driver import seeds
from tests.fuzz.screen_targets import TARGETS

_entries = st.lists(
    st.sampled_from([
        b"bl.example", b"=", b"*", b"127.0.0.", b"[", b"]", b"..", b";", b"2", b"-3", b".", b"256",
        b"127.0.[0..255].[2;4]", b"\xff", b" ",
    ]), max_size=8,
).map(b"".join)  # fmt: skip
_lines = st.lists(
    st.one_of(
        st.sampled_from([
            b"EHLO x\r\n", b"HELO x\n", b"MAIL FROM:<a@b>\r\n", b'RCPT TO:<"\\<c@d>\r\n',
            b"QUIT\r\n", b"STARTTLS\r\n", b"DATA\r\n", b"BDAT 3\r\n", b"RSET\r\n", b"VRFY x\r\n",
            b"ETRN x\r\n",
            b"GET /\r\n", b"Subject: x\r\n", b"\xff\r\n", b"x" * 90, b"RCPT TO:<", b"\r", b"\n",
            b"\0",
        ]),
        st.binary(max_size=6),
    ), max_size=14,
).map(b"".join)  # fmt: skip
_inputs = st.one_of(
    st.binary(max_size=80),
    _entries,
    st.builds(lambda choice, said: choice + said, st.binary(min_size=2, max_size=2), _lines),
)


@pytest.mark.parametrize("name", TARGETS)
def test_saved_seeds(name: str) -> None:
    found = seeds(name)
    assert found
    for each in found:
        TARGETS[name](each)


@pytest.mark.parametrize("name", TARGETS)
@given(data=_inputs)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_input(name: str, data: bytes) -> None:
    TARGETS[name](data)
