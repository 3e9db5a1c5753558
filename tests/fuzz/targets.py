"""Fuzz targets of the milter protocol: `fuzz_*(data)` must end or raise nothing.

Each takes any octets as what a peer sent.  The one error allowed is PeerError,
and no object may hold more than its limits.  `python tests/fuzz/targets.py NAME`
runs one under atheris, where that is installed, from the saved seeds.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    # Run as a script: the project's root is not on the path then.
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from milterd.wire import messages as m
from milterd.wire.constants import Actions, Protocol
from milterd.wire.convert import EditCollector, edit_to_replies
from milterd.wire.errors import PeerError
from milterd.wire.frames import FrameDecoder
from milterd.wire.limits import Limits
from milterd.wire.milter import MilterConnection
from milterd.wire.mta import MtaConnection
from milterd.wire.states import EDIT_ACTIONS, EVENTS
from tests.fuzz.driver import Target, run

LIMITS = Limits(frame=4096, macros=512, edits=20, edit_octets=2048, replaced_body=2048)

_WAY: tuple[m.CommandMessage, ...] = (
    m.Connect(b"mx.example.org"),
    m.Helo(b"mx.example.org"),
    m.MailFrom(b"<a@example.org>"),
    m.RcptTo(b"<b@example.net>"),
    m.Data(),
    m.Header(b"Subject", b"x"),
    m.EndOfHeaders(),
    m.BodyChunk(b"x\r\n"),
    m.EndOfMessage(),
)


def _pieces(data: bytes) -> tuple[int, list[bytes]]:
    """A choice, and the rest in two pieces whose border the octets choose."""
    choice, cut, rest = data[0], data[1], data[2:]
    border = cut * len(rest) // 255
    return choice, [rest[:border], rest[border:]]


def fuzz_frames(data: bytes) -> None:
    """FrameDecoder: any cut gives the same frames or the same error, nothing is lost."""
    if len(data) < 2:
        return
    _, pieces = _pieces(data)
    assert _frames([b"".join(pieces)]) == _frames(pieces)


def _frames(pieces: list[bytes]) -> tuple[list[tuple[int, bytes]], bool]:
    decoder, found = FrameDecoder(LIMITS.frame), []
    fed = 0
    try:
        for piece in pieces:
            decoder.feed(piece)
            fed += len(piece)
            for each in decoder:
                assert len(each[1]) < LIMITS.frame
                found.append(each)
            assert decoder.buffered <= LIMITS.frame + 4
            assert fed == decoder.buffered + sum(len(payload) + 5 for _, payload in found)
    except PeerError:
        return found, True
    return found, False


def fuzz_mta(data: bytes) -> None:
    """MtaConnection: what a milter says, from the negotiation or at any event."""
    if len(data) < 2:
        return
    choice, pieces = _pieces(data)
    mta = MtaConnection(limits=LIMITS)
    mta.negotiate()
    if choice & 0x0F:
        mta.receive(m.Negotiate(6, Actions(choice << 1), Protocol.SKIP).encode())
        _walk(mta, min(choice & 0x0F, len(_WAY)))
    collector = EditCollector(bool(choice & 0x80), LIMITS)
    try:
        for piece in pieces:
            for reply in mta.receive(piece):
                if isinstance(reply, m.EditReply):
                    collector.take(reply)
        mta.eof()
    except PeerError:
        return
    # Whatever was let through can be told to another MTA.
    for edit in collector.edits():
        list(edit_to_replies(edit, leading_space=True))


def _walk(mta: MtaConnection, steps: int) -> None:
    """Go on to the event number `steps`, and leave its answer due."""
    for event in _WAY[: steps - 1]:
        mta.send(event)
        mta.receive(m.Continue().encode())
    mta.send(_WAY[steps - 1])
    assert mta.awaiting == 1


def fuzz_milter(data: bytes) -> None:
    """MilterConnection: what an MTA says, each event answered in turn."""
    if len(data) < 2:
        return
    choice, pieces = _pieces(data)
    milter = MilterConnection(
        accept_actions=Actions.ALL, accept_protocol=Protocol(choice << 12), limits=LIMITS
    )
    if choice & 1:
        milter.receive(m.Negotiate(6, Actions.ALL, Protocol.ALL).encode())
        milter.negotiate()
    answers = (m.Continue(), m.TempFail(), m.Accept(), m.ReplyCode(b"550 5.7.1 no"))
    try:
        for piece in pieces:
            events = milter.receive(piece)
            while events:
                _answer(milter, events, answers[choice >> 6])
                events = milter.receive()
        milter.eof()
    except PeerError:
        return


def _answer(milter: MilterConnection, events: list[m.CommandMessage], answer: m.Reply) -> None:
    for event in events:
        assert not isinstance(event, m.BodyChunk) or len(event.octets) <= LIMITS.body_chunk
    if isinstance(events[-1], m.Negotiate):
        milter.negotiate()
    elif milter.reply_due:
        assert type(events[-1]) in EVENTS
        milter.reply(answer)


def fuzz_edits(data: bytes) -> None:
    """EditCollector: any edits a milter can send are refused or can be sent on."""
    collector = EditCollector(leading_space=False, limits=LIMITS)
    decoder = FrameDecoder(LIMITS.frame)
    decoder.feed(data)
    try:
        for code, payload in decoder:
            reply = m.decode_reply(code, payload)
            if type(reply) in EDIT_ACTIONS and isinstance(reply, m.EditReply):
                collector.take(reply)
    except PeerError:
        return
    for edit in collector.edits():
        list(edit_to_replies(edit, leading_space=False))


TARGETS: dict[str, Target] = {
    "frames": fuzz_frames,
    "mta": fuzz_mta,
    "milter": fuzz_milter,
    "edits": fuzz_edits,
}


if __name__ == "__main__":
    sys.exit(run(TARGETS, sys.argv))
