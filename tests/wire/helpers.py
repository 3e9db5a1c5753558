"""Two ends tied back to back, and short ways to a given state."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from milterd.wire import messages as m
from milterd.wire.agreement import Negotiated
from milterd.wire.constants import Actions, Protocol
from milterd.wire.milter import MilterConnection
from milterd.wire.mta import MtaConnection
from milterd.wire.states import State

EXAMPLES: dict[type[m.CommandMessage], m.CommandMessage] = {
    m.Negotiate: m.Negotiate(6, Actions.ALL, Protocol.ALL),
    m.Connect: m.Connect(b"mx.example.org"),
    m.Helo: m.Helo(b"mx.example.org"),
    m.MailFrom: m.MailFrom(b"<a@example.org>"),
    m.RcptTo: m.RcptTo(b"<b@example.net>"),
    m.Data: m.Data(),
    m.Header: m.Header(b"Subject", b"x"),
    m.EndOfHeaders: m.EndOfHeaders(),
    m.BodyChunk: m.BodyChunk(b"x\r\n"),
    m.EndOfMessage: m.EndOfMessage(),
    m.Unknown: m.Unknown(b"XYZZY"),
    m.Abort: m.Abort(),
    m.Quit: m.Quit(),
    m.QuitNewConnection: m.QuitNewConnection(),
}
"""One of each command."""

REPLIES: dict[type[m.Reply], m.Reply] = {
    m.Continue: m.Continue(),
    m.Accept: m.Accept(),
    m.Reject: m.Reject(),
    m.TempFail: m.TempFail(),
    m.Discard: m.Discard(),
    m.Skip: m.Skip(),
    m.Progress: m.Progress(),
    m.ConnFail: m.ConnFail(),
    m.Shutdown: m.Shutdown(),
    m.ReplyCode: m.ReplyCode(b"550 5.7.1 no"),
    m.AddHeaderReply: m.AddHeaderReply(b"X", b"1"),
    m.InsertHeaderReply: m.InsertHeaderReply(0, b"X", b"1"),
    m.ChangeHeaderReply: m.ChangeHeaderReply(1, b"X", b"1"),
    m.ReplaceBodyChunk: m.ReplaceBodyChunk(b"x\r\n"),
    m.AddRcptReply: m.AddRcptReply(b"<c@example.net>"),
    m.AddRcptParReply: m.AddRcptParReply(b"<c@example.net>", b"NOTIFY=NEVER"),
    m.DelRcptReply: m.DelRcptReply(b"<b@example.net>"),
    m.ChangeFromReply: m.ChangeFromReply(b"<>"),
    m.QuarantineReply: m.QuarantineReply(b"why"),
}
"""One of each reply."""

_C = EXAMPLES
_TO_RCPT = [_C[m.Connect], _C[m.Helo], _C[m.MailFrom], _C[m.RcptTo]]
_TO_EOH = [*_TO_RCPT, _C[m.Data], _C[m.Header], _C[m.EndOfHeaders]]
WAY_TO: dict[State, list[m.CommandMessage]] = {
    State.READY: [],
    State.IDLE: [_C[m.Connect]],
    State.MAIL: [_C[m.Connect], _C[m.MailFrom]],
    State.RCPT: _TO_RCPT,
    State.DATA: [*_TO_RCPT, _C[m.Data]],
    State.HEADER: [*_TO_RCPT, _C[m.Data], _C[m.Header]],
    State.END_OF_HEADERS: _TO_EOH,
    State.BODY: [*_TO_EOH, _C[m.BodyChunk]],
    State.CLOSED: [_C[m.Quit]],
}
"""The commands, each answered Continue, that lead to a state."""
WAY_TO_COMMAND: dict[type[m.CommandMessage], list[m.CommandMessage]] = {
    m.Connect: WAY_TO[State.READY],
    m.Helo: WAY_TO[State.IDLE],
    m.Unknown: WAY_TO[State.IDLE],
    m.MailFrom: WAY_TO[State.IDLE],
    m.RcptTo: WAY_TO[State.MAIL],
    m.Data: WAY_TO[State.RCPT],
    m.Header: WAY_TO[State.DATA],
    m.EndOfHeaders: WAY_TO[State.DATA],
    m.BodyChunk: WAY_TO[State.END_OF_HEADERS],
    m.EndOfMessage: WAY_TO[State.BODY],
}
"""The commands that lead to where this one is legal."""


def negotiated_mta(
    actions: Actions = Actions.ALL,
    protocol: Protocol = Protocol.SKIP,
    version: int = 6,
    **options: object,
) -> MtaConnection:
    """An MTA whose milter answered the offer with these flags."""
    mta = MtaConnection(**options)  # type: ignore[arg-type]
    mta.negotiate()
    (agreed,) = mta.receive(m.Negotiate(version, actions, protocol).encode())
    assert isinstance(agreed, Negotiated)
    return mta


def negotiated_milter(
    actions: Actions = Actions.ALL,
    protocol: Protocol = Protocol.SKIP,
    version: int = 6,
    **options: object,
) -> MilterConnection:
    """A milter that answered a full offer with these flags."""
    milter = MilterConnection(accept_actions=actions, accept_protocol=protocol, **options)  # type: ignore[arg-type]
    offer = m.Negotiate(version, Actions.ALL, Protocol.ALL)
    assert milter.receive(offer.encode()) == [offer]
    milter.negotiate()
    return milter


def walk(mta: MtaConnection, commands: Sequence[m.CommandMessage]) -> MtaConnection:
    """Send these, every answer being Continue."""
    for each in commands:
        mta.send(each)
        if mta.awaiting:
            assert mta.receive(m.Continue().encode()) == [m.Continue()]
    return mta


def hear(milter: MilterConnection, commands: Sequence[m.CommandMessage]) -> MilterConnection:
    """Receive these, and answer each with Continue."""
    for each in commands:
        assert milter.receive(each.encode()) == [each]
        if milter.reply_due:
            milter.reply(m.Continue())
    return milter


Cut = Callable[[bytes], list[bytes]]


def whole(data: bytes) -> list[bytes]:
    """Octets in one piece."""
    return [data]


class Tied:
    """An MTA and a milter whose octets go straight to each other, in pieces as `cut` says."""

    def __init__(self, mta: MtaConnection, milter: MilterConnection, cut: Cut = whole) -> None:
        self.mta, self.milter, self.cut = mta, milter, cut
        self.heard: list[m.CommandMessage] = []
        self.answered: list[m.Reply] = []
        self._to_milter(mta.negotiate())
        assert isinstance(self.heard.pop(), m.Negotiate)
        (agreed,) = self._to_mta(milter.negotiate())
        assert isinstance(agreed, Negotiated)

    def say(
        self,
        command: m.CommandMessage,
        answer: Sequence[m.Reply] = (m.Continue(),),
        macros: Sequence[tuple[bytes, bytes]] = (),
    ) -> list[m.Reply]:
        """Send one event and, if it wants an answer, this answer back."""
        self._to_milter(self.mta.send(command, macros))
        assert self.milter.reply_due == bool(self.mta.awaiting)
        if not self.milter.reply_due:
            return []
        got = self._to_mta(self.milter.reply(*answer))
        replies = [each for each in got if not isinstance(each, Negotiated)]
        self.answered += replies
        return replies

    def _to_milter(self, data: bytes) -> None:
        for piece in self.cut(data):
            self.heard += self.milter.receive(piece)

    def _to_mta(self, data: bytes) -> list[m.Reply | Negotiated]:
        return [each for piece in self.cut(data) for each in self.mta.receive(piece)]
