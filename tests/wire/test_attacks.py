"""What a hostile or broken peer sends (attack rows I01 to I06, I09 to I11, I16, I18)."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milterd.wire import messages as m
from milterd.wire.constants import Actions, Command, Protocol
from milterd.wire.errors import LocalError, PeerError
from milterd.wire.limits import Limits
from milterd.wire.mta import MtaConnection
from milterd.wire.states import State
from tests.wire.helpers import (
    EXAMPLES,
    WAY_TO,
    WAY_TO_COMMAND,
    hear,
    negotiated_milter,
    negotiated_mta,
    walk,
)


def _at_end_of_message(limits: Limits | None = None, **flags: object) -> MtaConnection:
    mta = negotiated_mta(limits=limits, **flags)  # type: ignore[arg-type]
    walk(mta, WAY_TO_COMMAND[m.EndOfMessage])
    mta.send(m.EndOfMessage())
    return mta


@pytest.mark.parametrize("head", [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x00\x08\x00\x00"])
def test_i01_lengths_are_bounded(head: bytes) -> None:
    limits = Limits(frame=65536)
    with pytest.raises(PeerError):
        _at_end_of_message(limits).receive(head)
    with pytest.raises(PeerError):
        negotiated_milter(limits=limits).receive(head)


def test_i01_body_pieces_are_bounded() -> None:
    milter = hear(negotiated_milter(), WAY_TO[State.END_OF_HEADERS])
    with pytest.raises(PeerError):
        milter.receive(m.BodyChunk(bytes(65536)).encode())
    mta = walk(negotiated_mta(), WAY_TO[State.END_OF_HEADERS])
    with pytest.raises(LocalError):
        mta.send(m.BodyChunk(bytes(65536)))


def test_i01_a_truncated_answer_is_no_answer() -> None:
    mta = _at_end_of_message()
    assert mta.receive(m.AddHeaderReply(b"A", b"b").encode()[:-1]) == []
    with pytest.raises(PeerError):
        mta.eof()


@pytest.mark.parametrize(
    "octets",
    [
        b"\0\0\0\x01?",
        b"\0\0\0\x02cx",
        b"\0\0\0\x01c\0\0\0\x01c",
        b"\0\0\0\x05l\0\0\0\0",
        m.Negotiate(6, Actions(0), Protocol(0)).encode(),
        m.Skip().encode(),
    ],
)
def test_i03_what_is_no_answer_at_end_of_message(octets: bytes) -> None:
    mta = _at_end_of_message()
    with pytest.raises(PeerError):
        mta.receive(octets)
    with pytest.raises(LocalError):
        mta.send(m.Abort())


@pytest.mark.parametrize(
    "text",
    [
        b"250 2.0.0 ok",
        b"999 x",
        b"55",
        b"",
        b"5500 x",
        b"550 5.7.1 a\r\nInjected",
        b"550 5.7.1 a\nInjected",
        b"550 5.7.1 a\rInjected",
        b"550-a\r\n550-b",
        b"550 a\r\n550 b",
        b"550-a\r\n551 b",
        b"550 4.7.1 other class",
        b"550 2.0.0 other class",
        b"550 \x1b]0;title",
        b"550 " + b"x" * 70_000,
        b"\r\n".join([b"550-x"] * 32 + [b"550 x"]),
    ],
)
def test_i04_replies_nobody_may_see(text: bytes) -> None:
    mta = negotiated_mta()
    mta.send(m.Connect(b"x"))
    with pytest.raises(PeerError):
        mta.receive(m.ReplyCode(text).encode())
    milter = negotiated_milter()
    milter.receive(m.Connect(b"x").encode())
    with pytest.raises(LocalError):
        milter.reply(m.ReplyCode(text))


def test_i09_edits_before_the_end_are_refused() -> None:
    mta = walk(negotiated_mta(), WAY_TO[State.MAIL])
    mta.send(m.RcptTo(b"<a@b>"))
    with pytest.raises(PeerError):
        mta.receive(m.AddHeaderReply(b"A", b"b").encode())


def test_i10_quarantine_may_come_early_but_is_noted() -> None:
    mta = walk(negotiated_mta(), WAY_TO[State.MAIL])
    mta.send(m.RcptTo(b"<a@b>"))
    assert mta.receive(m.QuarantineReply(b"why").encode()) == [m.QuarantineReply(b"why")]
    assert mta.awaiting == 1
    assert mta.violations == ("QuarantineReply in answer to RcptTo",)


@pytest.mark.parametrize("reply", [m.Shutdown(), m.ConnFail()])
def test_i10_after_shutdown_only_the_end_may_come(reply: m.Reply) -> None:
    mta = walk(negotiated_mta(), WAY_TO[State.IDLE])
    mta.send(m.MailFrom(b"<>"))
    mta.receive(reply.encode())
    assert mta.state is State.CLOSING
    assert mta.send(m.Quit())


def test_i11_progress_answers_nothing() -> None:
    mta = _at_end_of_message()
    for _ in range(100):
        assert mta.receive(m.Progress().encode()) == [m.Progress()]
    assert mta.awaiting == 1
    assert mta.violations == ()


def test_edits_are_bounded() -> None:
    mta = _at_end_of_message(Limits(edits=2))
    mta.receive(m.AddHeaderReply(b"A", b"b").encode() * 2)
    with pytest.raises(PeerError):
        mta.receive(m.AddHeaderReply(b"A", b"b").encode())
    mta = _at_end_of_message(Limits(edit_octets=100))
    with pytest.raises(PeerError):
        mta.receive(m.AddHeaderReply(b"A", bytes(100).replace(b"\0", b"x")).encode())


def test_a_new_body_is_bounded() -> None:
    mta = _at_end_of_message(Limits(replaced_body=100))
    mta.receive(m.ReplaceBodyChunk(bytes(100)).encode())
    with pytest.raises(PeerError):
        mta.receive(m.ReplaceBodyChunk(b"x").encode())
    mta = _at_end_of_message()
    with pytest.raises(PeerError):
        mta.receive(m.ReplaceBodyChunk(bytes(65536)).encode())


def test_bounds_are_for_each_message() -> None:
    mta = negotiated_mta(limits=Limits(edits=1, replaced_body=10))
    walk(mta, [EXAMPLES[m.Connect]])
    for _ in range(3):
        walk(mta, WAY_TO_COMMAND[m.EndOfMessage][2:])
        mta.send(m.EndOfMessage())
        mta.receive(m.ReplaceBodyChunk(bytes(10)).encode())
        mta.receive(m.AddHeaderReply(b"A", b"b").encode() + m.Accept().encode())


def test_macro_packets_are_bounded() -> None:
    milter = negotiated_milter(limits=Limits(macros=100))
    with pytest.raises(PeerError):
        milter.receive(m.Macros(Command.MAIL, ((b"i", b"x" * 100),)).encode())
    milter = negotiated_milter()
    huge = m.Macros(Command.MAIL, ((b"i", b"}" * 65536),))
    assert milter.receive(huge.encode()) == [huge]


@pytest.mark.parametrize("command", Command)
def test_macros_for_any_command_and_none_at_all(command: Command) -> None:
    milter = negotiated_milter()
    assert milter.receive(m.Macros(command).encode()) == [m.Macros(command)]
    assert not milter.reply_due
    assert milter.state is State.READY


@given(st.binary(max_size=60), st.lists(st.integers(0, 60), max_size=5))
def test_i16_a_body_is_the_same_in_any_pieces(body: bytes, cuts: list[int]) -> None:
    milter = hear(negotiated_milter(), WAY_TO[State.END_OF_HEADERS])
    at = sorted({0, len(body), *(each % (len(body) + 1) for each in cuts)})
    heard = b""
    for start, end in pairwise(at):
        milter.receive(m.BodyChunk(body[start:end]).encode())
        milter.reply(m.Continue())
        heard += body[start:end]
    assert heard == body
    assert milter.receive(m.EndOfMessage().encode()) == [m.EndOfMessage()]


def test_i16_the_biggest_piece_and_the_end_with_octets() -> None:
    biggest = m.BodyChunk(bytes(65535))
    milter = hear(negotiated_milter(), WAY_TO[State.END_OF_HEADERS])
    assert milter.receive(biggest.encode()) == [biggest]
    milter.reply(m.Continue())
    last = m.EndOfMessage(bytes(65535))
    assert milter.receive(last.encode()) == [last]


def test_i16_no_header_and_no_body() -> None:
    hear(negotiated_milter(), [*WAY_TO[State.RCPT], m.EndOfMessage()])
    hear(negotiated_milter(), [*WAY_TO[State.DATA], m.EndOfHeaders(), m.EndOfMessage()])


@pytest.mark.parametrize("state", [each for each in WAY_TO if each is not State.CLOSED])
def test_i18_abort_anywhere(state: State) -> None:
    milter = hear(negotiated_milter(), [*WAY_TO[state], m.Abort(), m.Abort()])
    expected = State.READY if state is State.READY else State.IDLE
    assert milter.state is expected


@pytest.mark.parametrize("state", [each for each in WAY_TO if each is not State.CLOSED])
def test_i18_a_new_client_on_the_same_connection(state: State) -> None:
    """QUIT_NC, then everything from CONNECT on, with the negotiation still in force."""
    again = [m.QuitNewConnection(), *WAY_TO[State.BODY], m.EndOfMessage()]
    milter = hear(negotiated_milter(protocol=Protocol.NR_HDR), [*WAY_TO[state], *again])
    assert milter.agreed_protocol == Protocol.NR_HDR
    assert milter.state is State.IDLE


def test_helo_twice_and_again_between_messages() -> None:
    message = [*WAY_TO[State.BODY][2:], m.EndOfMessage()]
    hear(
        negotiated_milter(),
        [m.Connect(b"x"), m.Helo(b"a"), m.Helo(b"b"), *message, m.Helo(b"c"), *message],
    )


def test_skip_without_agreement_is_noted() -> None:
    mta = walk(negotiated_mta(protocol=Protocol.NONE), WAY_TO[State.END_OF_HEADERS])
    mta.send(m.BodyChunk(b"x"))
    mta.receive(m.Skip().encode())
    assert mta.violations == ("Skip without having negotiated it",)
    milter = hear(negotiated_milter(protocol=Protocol.NONE), WAY_TO[State.END_OF_HEADERS])
    milter.receive(m.BodyChunk(b"x").encode())
    with pytest.raises(LocalError):
        milter.reply(m.Skip())
