"""Frames made many at a time are those that a connection makes one by one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milterd.core.mail import BytesBody, HeaderField
from milterd.wire import bulk
from milterd.wire import messages as m
from milterd.wire.constants import CHUNK, Command
from milterd.wire.convert import header_to_wire
from milterd.wire.errors import LocalError
from milterd.wire.frames import FrameDecoder
from milterd.wire.mta import MtaConnection
from milterd.wire.states import BEFORE_END, NEXT, State, route

TEXT = st.binary(max_size=30).map(lambda octets: octets.replace(b"\0", b"?"))
PAIRS = st.lists(st.tuples(TEXT, TEXT), max_size=4)
FIELDS = st.lists(st.builds(HeaderField, TEXT, TEXT, hidden=st.booleans()), max_size=6)


def frames(octets: bytes) -> list[tuple[int, bytes]]:
    decoder = FrameDecoder(1 << 20)
    decoder.feed(octets)
    found = list(decoder)
    assert not decoder.buffered
    return found


@given(pairs=PAIRS, fields=FIELDS, leading=st.booleans())
def test_headers(
    pairs: list[tuple[bytes, bytes]], fields: list[HeaderField], leading: bool
) -> None:
    packet = m.Macros(Command.HEADER, tuple(pairs)).encode() if pairs else b""
    one_by_one = b"".join(
        packet + header_to_wire(each, leading).encode() for each in fields if not each.hidden
    )
    strings = b"".join(b"%b\0%b\0" % pair for pair in pairs)
    assert bulk.macros(Command.HEADER, strings) == packet
    assert bulk.headers(fields, leading, packet) == one_by_one


def test_a_field_is_cut_at_what_a_packet_holds() -> None:
    long = HeaderField(b"X-Long", b" a\0" + b"v" * CHUNK)
    [(code, payload)] = frames(bulk.headers([long], True, b""))
    assert code == Command.HEADER[0]
    assert len(payload) == CHUNK
    assert payload.startswith(b"X-Long\0 a v")


@given(size=st.integers(0, 3 * CHUNK))
def test_body(size: int) -> None:
    octets = bytes(size)
    packet = m.Macros(Command.BODY, ((b"i", b"Q"),)).encode()
    made = b"".join(b"%b%b" % each for each in bulk.body(BytesBody(octets), packet))
    pieces = [payload for code, payload in frames(made) if code == Command.BODY[0]]
    assert b"".join(pieces) == octets
    assert all(0 < len(each) <= CHUNK for each in pieces)
    assert len(frames(made)) == 2 * len(pieces)


KINDS = st.lists(st.sampled_from(sorted(BEFORE_END, key=lambda kind: kind.__name__)), max_size=6)


@given(
    state=st.sampled_from(list(State)), kinds=KINDS, unsent=st.sets(st.sampled_from([*BEFORE_END]))
)
def test_a_route_is_its_moves(
    state: State, kinds: list[type[m.CommandMessage]], unsent: set[type[m.CommandMessage]]
) -> None:
    """What answers nothing may come in any number, and only as the table has it."""
    expected: State | None = state
    for kind in kinds:
        expected = NEXT[expected].get(kind) if expected is not None else None
    found = route(state, tuple(kinds), frozenset(unsent), BEFORE_END)
    assert found == (None if expected is None else (expected, None))


def test_only_the_last_of_many_may_be_answered() -> None:
    nothing: frozenset[type[m.CommandMessage]] = frozenset()
    kinds = (m.MailFrom, m.RcptTo)
    assert route(State.IDLE, kinds, nothing, nothing) is None
    assert route(State.IDLE, kinds, nothing, frozenset({m.MailFrom})) == (State.RCPT, m.RcptTo)


def test_a_connection_refuses_a_run_that_is_not_legal() -> None:
    connection = MtaConnection()
    with pytest.raises(LocalError, match="MailFrom may not come nothing yet"):
        connection.run((m.MailFrom,))
