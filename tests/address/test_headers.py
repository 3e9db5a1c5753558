"""A header field is rewritten where a rule says so, and is the same to the octet elsewhere."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpgw.address.headers import rewritten, spans

NEW = b"new@example.net"


async def _same(address: bytes) -> bytes:
    return address


async def _changed(address: bytes) -> bytes:
    return NEW if address == b"old user@example.com" else address


def change(value: bytes) -> bytes:
    return asyncio.run(rewritten(value, _changed))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b' "old user"@example.com', b" new@example.net"),
        (b' Old <"old user"@example.com> (x)', b" Old <new@example.net> (x)"),
        (
            b' a@example.com,\r\n\t "Q, (R" < "old user"@example.com >, b@example.com',
            b' a@example.com,\r\n\t "Q, (R" < new@example.net >, b@example.com',
        ),
        (b' team: "old user"@example.com, b@x;', b" team: new@example.net, b@x;"),
        (b' <@a.example,@b.example:"old user"@example.com>',
         b" <@a.example,@b.example:new@example.net>"),
        (b' ("old user"@example.com) x@y', b' ("old user"@example.com) x@y'),
        (b' "old user"@example.com <b@x>', b' "old user"@example.com <b@x>'),
        (b' "old \\user"@example.com', b" new@example.net"),
    ],
)  # fmt: skip
def test_an_address_is_replaced_and_nothing_else(value: bytes, expected: bytes) -> None:
    assert change(value) == expected


@pytest.mark.parametrize(
    "value",
    [b' "old user"@example.com <', b" <a@b", b' <<"old user"@example.com>>', b" undisclosed:;"],
)
def test_what_does_not_read_as_addresses_stays(value: bytes) -> None:
    assert change(value) == value


@given(st.binary(max_size=200))
def test_any_octets_stay_without_a_rule(value: bytes) -> None:
    assert asyncio.run(rewritten(value, _same)) == value
    ends = [0]
    for each in spans(value):
        assert ends[-1] <= each.start < each.end <= len(value)
        ends.append(each.end)


_LOCAL = st.text("abcxyz.+-_", min_size=1, max_size=8).filter(
    lambda text: ".." not in text and not text.startswith(".") and not text.endswith(".")
)
_NAME = st.sampled_from([b"", b"Jo ", b'"A, B" ', b"(c) ", b"\r\n\tx "])


@given(st.lists(st.tuples(_NAME, _LOCAL, st.booleans()), min_size=1, max_size=6))
def test_every_address_of_a_list_is_found(those: list[tuple[bytes, str, bool]]) -> None:
    parts = []
    for name, local, angle in those:
        address = f"{local}@example.com".encode()
        parts.append(name + b"<" + address + b">" if angle or name.strip() else address)
    value = b" " + b", ".join(parts)
    found = [value[each.start : each.end] for each in spans(value)]
    assert found == [f"{local}@example.com".encode() for _, local, _ in those]
