"""The edge's fuzz targets, on saved seeds and on what hypothesis makes of SMTP."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.driver import seeds
from tests.fuzz.edge_targets import TARGETS

_lines = st.sampled_from(
    [
        b"EHLO x\r\n", b"HELO x\r\n", b"MAIL FROM:<a@b>\r\n", b"MAIL FROM:<> SMTPUTF8 SIZE=9\r\n",
        b"RCPT TO:<c@d>\r\n", b"RCPT TO:<refused@d> NOTIFY=NEVER\r\n", b"DATA\r\n", b"BDAT 5\r\n",
        b"BDAT 3 LAST\r\n", b"BDAT 0 LAST\r\n", b"BDAT 0\r\n", b"BDAT 601\r\n", b"RSET\r\n",
        b"NOOP\n", b"VRFY x\r\n", b"STARTTLS\r\n", b"AUTH PLAIN =\r\n", b"QUIT\r\n", b"FOO\r\n",
        b"A: b\r\n", b"From x\r\n", b"Received: x\r\n", b" folded\r\n", b"\r\n", b".\r\n",
        b"..\r\n", b"\r\n.\r\n", b"\n.\n", b"\r.\r\n", b"\0", b"x" * 90, b"y" * 700, b"\xff\r\n",
        b"GET / HTTP/1.1\r\n", b"XCLIENT NAME=a+2Eb ADDR=1.2.3.4\r\n", b"XFORWARD HELO=+0A\r\n",
        b"LHLO x\r\n", b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 25\r\n",
    ]
)  # fmt: skip
_begun = st.just(b"EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n")
_said = st.lists(st.one_of(_lines, _lines, _begun, st.binary(max_size=6)), max_size=16)
_inputs = st.one_of(
    st.binary(max_size=100),
    st.builds(
        lambda choice, said: choice + b"".join(said), st.binary(min_size=2, max_size=2), _said
    ),
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
