"""The grader of MTAs: a right one passes, and each wrong one fails where it is wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest

from milterd.base.sockets import parse
from milterd.core.actions import DeleteRecipient, Edit, InsertHeader
from milterd.core.mail import HeaderField, Mail
from milterd.lab.conform.check import Outcome
from milterd.lab.conform.grade import Graded
from milterd.lab.link import MilterError
from milterd.lab.mta.check import MtaError, Site
from milterd.lab.mta.grade import CHECKS, Options, grade
from milterd.wire import messages as m
from milterd.wire.frames import FrameDecoder
from milterd.wire.mta import MtaConnection
from tests.lab.small_mta import Pairs, Session, small_mta
from tests.peers.process import directory, free_port

LIMIT = Session.limit
LEFT_OUT = (
    *("event/rcpt-refused", "hang-up/", "offer/version-", "discard/session", "text/no-"),
    *("macros/lists", "edit/add-recipient-args", "edit/sender-args"),
)
"""What the small MTA has no part for."""


def card(kind: type[Session], names: Sequence[str] = ()) -> dict[str, Graded]:
    """Grade an MTA of this kind by the checks of these names, or by all it has a part for."""
    wanted = [
        each
        for each in CHECKS
        if (each.name in names if names else not each.name.startswith(LEFT_OUT))
    ]
    assert wanted

    async def main() -> list[Graded]:
        port, lenient, sink = free_port(), free_port(), free_port()
        with directory("small") as home:
            milter, hop = f"unix:{home}/m", f"127.0.0.1:{sink}"
            site = Site(
                parse(f"127.0.0.1:{port}"), parse(f"127.0.0.1:{lenient}"),
                command=LIMIT, content=LIMIT, delivery=2.0, settle=0.3,
            )  # fmt: skip
            async with small_mta(kind, milter, hop, port, lenient):
                return await grade(site, Options(milter, hop, jobs=32), wanted)

    return {each.check.name: each for each in asyncio.run(main())}


def test_a_right_mta_passes() -> None:
    found = card(Session)
    wrong = {
        name: each.result.seen
        for name, each in found.items()
        if each.result.outcome is not Outcome.PASSED
    }
    assert not wrong


class NoEdits(Session):
    def edited(self, mail: Mail, edits: Sequence[Edit]) -> Mail:
        del edits
        return mail


class WaitsForReplies(Session):
    def offer(self) -> MtaConnection:
        class Waiting(MtaConnection):
            def send(self, command: m.CommandMessage, macros: object = ()) -> bytes:
                self._unanswered = frozenset()
                return super().send(command, macros)  # type: ignore[arg-type] # as it came

        return Waiting()


class DropsFolds(Session):
    def header(self, field: HeaderField, leading_space: bool) -> m.Header:
        shown = super().header(field, leading_space)
        return replace(shown, value=shown.value.replace(b"\n", b""))


class TrimsSpace(Session):
    def header(self, field: HeaderField, leading_space: bool) -> m.Header:
        shown = super().header(field, leading_space)
        return replace(shown, value=shown.value.strip())


class ShowsItsTrace(Session):
    async def content(self, mail: Mail) -> tuple[bytes, tuple[Edit, ...]]:
        fields = [replace(each, hidden=False) for each in mail.headers]
        return await super().content(mail.with_headers(fields))


class NoMacros(Session):
    def macros(self, event: m.CommandMessage) -> Pairs:
        del event
        return ()


class LongPieces(Session):
    def offer(self) -> MtaConnection:
        from milterd.wire.limits import Limits

        return MtaConnection(limits=Limits(body_chunk=1 << 20))

    def pieces(self, mail: Mail) -> Sequence[bytes]:
        return [b"".join(mail.body.pieces())]


class OverlooksRefusals(Session):
    def refusal(self, event: m.CommandMessage, reply: m.Reply) -> bytes:
        return b"" if isinstance(event, m.EndOfMessage) else super().refusal(event, reply)


class OneLine(Session):
    def lines(self, code: int, enhanced: str, texts: Sequence[str]) -> bytes:
        return super().lines(code, enhanced, [" ".join(texts)])


class DeliversTheDiscarded(Session):
    def discard(self) -> None:
        self.passed = True


class DeliversTheHeld(Session):
    def held(self, edits: Sequence[Edit]) -> bool:
        del edits
        return False


class KeepsRecipients(Session):
    def edited(self, mail: Mail, edits: Sequence[Edit]) -> Mail:
        return super().edited(mail, [e for e in edits if not isinstance(e, DeleteRecipient)])


class CountsFromItsOwn(Session):
    def edited(self, mail: Mail, edits: Sequence[Edit]) -> Mail:
        moved = [
            replace(each, index=each.index + 1) if isinstance(each, InsertHeader) else each
            for each in edits
        ]
        return super().edited(mail, moved)


class TakesWhatFailed(Session):
    """A milter that is gone has said all it had to."""

    def failed(self, event: m.CommandMessage, edits: Sequence[Edit]) -> tuple[Edit, ...]:
        super().failed(event, edits)
        self.fixed = b""
        return ()


class MakesHalfTheEdits(Session):
    """Makes each edit as it comes."""

    async def say(self, command: m.CommandMessage) -> list[m.Reply]:
        assert self.link is not None
        came = FrameDecoder(1 << 20)
        self.link._tap = lambda side, octets: came.feed(octets) if side == "milter" else None
        try:
            return await super().say(command)
        except MilterError:
            edits = []
            while found := came.next_frame():
                edits.append(m.decode_reply(*found))
            if not edits:
                raise
            self.over = True
            return [*edits, m.Accept()]  # type: ignore[list-item] # replies only


class SendsWhatIsUnwanted(Session):
    def offer(self) -> MtaConnection:
        class Deaf(MtaConnection):
            def send(self, command: m.CommandMessage, macros: object = ()) -> bytes:
                self._unsent = frozenset()
                return super().send(command, macros)  # type: ignore[arg-type] # as it came

        return Deaf()


class NeverSkips(Session):
    def offer(self) -> MtaConnection:
        class Unskipping(MtaConnection):
            def send(self, command: m.CommandMessage, macros: object = ()) -> bytes:
                self._skip = None
                return super().send(command, macros)  # type: ignore[arg-type] # as it came

        return Unskipping()


WRONG: dict[type[Session], set[str]] = {
    NoEdits: {"edit/add", "edit/change-2", "edit/body", "edit/add-recipient", "edit/sender"},
    WaitsForReplies: {"unanswered/header", "unanswered/helo", "unanswered/all"},
    DropsFolds: {"header/exact", "header/without-space"},
    TrimsSpace: {"header/exact", "header/without-space"},
    ShowsItsTrace: {"header/own-trace", "header/exact"},
    NoMacros: {"macros/defaults", "macros/queue-id", "macros/addresses"},
    LongPieces: {"body/pieces"},
    OverlooksRefusals: {"refuse/eom", "edit/then-reject"},
    OneLine: {"text/lines"},
    DeliversTheDiscarded: {"discard/mail", "discard/header", "discard/eom"},
    DeliversTheHeld: {"edit/quarantine"},
    KeepsRecipients: {"edit/delete-recipient", "edit/delete-all-recipients"},
    CountsFromItsOwn: {"edit/insert-0", "edit/insert-1", "edit/insert-4", "edit/all-kinds"},
    TakesWhatFailed: {"fault/close-at-mail", "fault/silence-at-eom", "fault/garbage", "fault/down"},
    MakesHalfTheEdits: {"accepting/lost-in-edits", "accepting/lost-in-body"},
    SendsWhatIsUnwanted: {"withheld/helo", "withheld/body", "withheld/eoh"},
    NeverSkips: {"skip/body", "skip/header"},
}
STEADY = ("event/order", "refuse/mail", "accept/mail")
"""Checks that none of these ways of being wrong concerns, but those named here."""


@pytest.mark.parametrize("kind", WRONG, ids=lambda kind: kind.__name__)
def test_a_wrong_mta_fails(kind: type[Session]) -> None:
    found = card(kind, [*WRONG[kind], *STEADY])
    failed = {name for name, each in found.items() if each.result.outcome is Outcome.FAILED}
    assert failed == WRONG[kind], {name: found[name].result.seen for name in found}


# --- where there is nothing to grade ---


def _grade(site: Site, options: Options) -> None:
    asyncio.run(grade(site, options, CHECKS[:1]))


def test_no_mta_there(peer_directory: object) -> None:
    with pytest.raises(MtaError, match="no SMTP session"):
        _grade(Site(parse(f"127.0.0.1:{free_port()}")), Options(f"unix:{peer_directory}/m"))


@pytest.mark.parametrize(
    ("milter", "hop", "why"),
    [("other", "", "did not come to its milter"), ("m", "127.0.0.1:1", "a mail did not come")],
)
def test_an_mta_that_is_not_set_up(peer_directory: object, milter: str, hop: str, why: str) -> None:
    async def main() -> None:
        port, sink = free_port(), f"127.0.0.1:{free_port()}"
        where = f"unix:{peer_directory}"

        class Elsewhere(Session):
            limit = 30.0  # nothing here is late

            async def _deliver(self, mail: Mail) -> None:
                if not hop:
                    await super()._deliver(mail)

        site = Site(parse(f"127.0.0.1:{port}"), delivery=0.5)
        async with small_mta(Elsewhere, f"{where}/{milter}", sink, port, free_port()):
            await grade(site, Options(f"{where}/m", sink), CHECKS[:1])

    with pytest.raises(MtaError, match=why):
        asyncio.run(main())
