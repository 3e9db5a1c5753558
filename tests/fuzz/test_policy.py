"""The policy protocol's fuzz targets, on saved seeds and on what hypothesis makes of it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.driver import seeds
from tests.fuzz.policy_targets import TARGETS

_pieces = st.sampled_from(
    [
        b"request=smtpd_access_policy\n", b"protocol_state=RCPT\n", b"sender=a@b\n", b"\n", b"\r\n",
        b"client_address=192.0.2.1\n", b"client_address=::1\n", b"client_port=unknown\n", b"=\n",
        b"action=DUNNO\n", b"size=99999999999999999999\n", b"recipient_count=-1\n", b"x",
        b"encryption_protocol=TLSv1.3\n", b"ccert_fingerprint=AA\n", b"sender=\xff\xfe\n",
        b"{", b"}", b"inet:h:1", b"unix:p", b", ", b"timeout=1s", b"try_limit=0", b"\0", b"y" * 900,
    ]
)  # fmt: skip
_inputs = st.one_of(
    st.binary(max_size=60),
    st.builds(b"".join, st.lists(st.one_of(_pieces, st.binary(max_size=4)), max_size=24)),
)


@pytest.mark.parametrize("name", TARGETS)
def test_saved_seeds(name: str) -> None:
    found = seeds(name)
    assert found
    for each in found:
        TARGETS[name](each)


@pytest.mark.parametrize("name", TARGETS)
@given(data=_inputs)
@settings(max_examples=200, deadline=None)
def test_any_input(name: str, data: bytes) -> None:
    TARGETS[name](data)
