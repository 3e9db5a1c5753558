"""What strangers write into address lists is read once, however it is made."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpgw.address import aliases, form, headers, mailboxes
from smtpgw.address.tokens import tokens

HOSTILE = [b'"' + b'\\"' * 20_000, b'"a' * 20_001, b"(" * 40_000, b"[" * 40_000, b"<" * 40_000,
           b'"' + b"\\" * 40_001, b"(\\" * 20_000, b'a"b' * 20_001, b"a@b," * 10_000]  # fmt: skip
READERS = {
    "fields": headers.spans,
    "lists": mailboxes.addresses,
    "meanings": form.internal,
    "aliases": lambda value: list(aliases.targets(value)),
}


@given(st.lists(st.sampled_from([b'"', b"\\", b"(", b")", b"<", b",", b"a", b" ", b"["])))
def test_every_octet_is_in_one_token(parts: list[bytes]) -> None:
    value = b"".join(parts)
    found = list(tokens(value))
    assert b"".join(value[start:end] for _, start, end in found) == value
    for kind, start, end in found:
        whole = re.fullmatch(rb'"(?:[^"\\]|\\.)*"', value[start:end], re.DOTALL) is not None
        assert whole == (kind == "quoted")


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("octets", HOSTILE, ids=range(len(HOSTILE)))
def test_no_octets_are_read_again_and_again(reader: str, octets: bytes) -> None:
    """Twice as many cost about twice as much, not four times."""

    def cost(value: bytes) -> float:
        began = time.process_time()
        READERS[reader](value)
        return time.process_time() - began

    small = min(cost(octets) for _ in range(3))
    assert any(cost(octets * 4) < 9 * small + 0.2 for _ in range(3))
