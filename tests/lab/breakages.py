"""One broken rule each: what is wrong with the milter, and the checks that must see it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

from milterd.wire import messages as m
from milterd.wire.constants import Actions, Protocol, Stage
from milterd.wire.errors import PeerError
from milterd.wire.frames import frame
from milterd.wire.limits import Limits
from tests.lab.broken import CloseNowError, Milter


@dataclass(frozen=True)
class Breakage:
    """`fails`: the ids of exactly the checks that fail, as patterns.  `jobs`: how many checks
    at a time it can bear.  `perhaps`: those that fail where the machine is quick enough."""

    milter: type[Milter]
    fails: tuple[str, ...]
    jobs: int = 24
    perhaps: tuple[str, ...] = ()


ALL: dict[str, Breakage] = {}


def breaks(
    *fails: str, jobs: int = 24, perhaps: tuple[str, ...] = ()
) -> Callable[[type[Milter]], type[Milter]]:
    """Enter a milter into the table."""

    def enter(milter: type[Milter]) -> type[Milter]:
        ALL[milter.__name__] = Breakage(milter, fails, jobs, perhaps)
        return milter

    return enter


# --- negotiation ------------------------------------------------------------------------


def _answer(milter: Milter, **changes: object) -> bytes:
    """What was agreed, but told otherwise."""
    octets = milter.wire.negotiate()
    agreed = m.decode_reply(octets[4], octets[5:])
    assert isinstance(agreed, m.Negotiate)
    return replace(agreed, **changes).encode()  # type: ignore[arg-type]


@breaks("negotiate/version-[2345]")
class VersionTooHigh(Milter):
    def offer(self, _offer: m.Negotiate) -> bytes:
        return _answer(self, version=6)


@breaks("negotiate/version-7")
class VersionThatIsNone(Milter):
    def offer(self, offer: m.Negotiate) -> bytes:
        return _answer(self, version=7) if offer.version == 7 else super().offer(offer)


@breaks("negotiate/actions-withheld", "negotiate/macro-lists-not-offered", "edits/negotiated")
class ActionsNotOffered(Milter):
    def offer(self, offer: m.Negotiate) -> bytes:
        actions = self.actions | Actions.SETSYMLIST
        known = offer.version == 6 and offer.actions
        return _answer(self, actions=actions) if known else super().offer(offer)


@breaks("negotiate/no-protocol-flags")
class FlagsNotOffered(Milter):
    def offer(self, offer: m.Negotiate) -> bytes:
        if not offer.protocol:
            return _answer(self, protocol=Protocol.NR_HDR)
        return super().offer(offer)


@breaks("negotiate/no-actions")
class ActionsWhereNoneAre(Milter):
    def offer(self, offer: m.Negotiate) -> bytes:
        if not offer.actions:
            return _answer(self, actions=Actions.QUARANTINE)
        return super().offer(offer)


@breaks("negotiate/unknown-protocol-flags")
class EchoesUnknownFlags(Milter):
    def offer(self, offer: m.Negotiate) -> bytes:
        unknown = int(offer.protocol) & 0x0FE0_0000
        octets = super().offer(offer)
        return _with_protocol(octets, int(self.wire.agreed_protocol) | unknown)


def _with_protocol(octets: bytes, protocol: int) -> bytes:
    return octets[:13] + protocol.to_bytes(4, "big") + octets[17:]


@breaks("negotiate/version-1")
class AgreesToVersionOne(Milter):
    def first(self, data: bytes) -> bytes:
        version_one = data[4:9] == b"O\0\0\0\x01"
        return m.Negotiate(1, Actions.NONE, Protocol.NONE).encode() if version_one else b""


@breaks("negotiate/macro-lists")
class NamesWithoutBraces(Milter):
    macros: ClassVar[dict[Stage, tuple[str, ...]]] = {Stage.RCPT: ("rcpt_mailer",)}


@breaks("negotiate/macro-lists-not-offered", "negotiate/actions-withheld")
class ListsNotOffered(Milter):
    def offer(self, offer: m.Negotiate) -> bytes:
        if Actions.SETSYMLIST not in offer.actions and offer.version == 6 and offer.actions:
            return _answer(self, macros=self.macros)
        return super().offer(offer)


@breaks("negotiate/same-each-time")
class AnotherEachTime(Milter):
    def offer(self, offer: m.Negotiate) -> bytes:
        type(self).connections += 1
        octets, agreed = super().offer(offer), int(self.wire.agreed_protocol)
        if Protocol.HDR_LEADSPC in offer.protocol and type(self).connections % 2:
            return _with_protocol(octets, agreed | Protocol.HDR_LEADSPC)
        return octets


# --- messages ---------------------------------------------------------------------------

_AFTER_DATA = ("header", "end-of-headers", "body")


@breaks(*(f"abort/after-{each}" for each in _AFTER_DATA))
class KeepsFieldsAfterAbort(Milter):
    def forget(self) -> None:
        kept = self.heads
        super().forget()
        self.heads = kept

    def judge(self) -> list[m.Reply]:
        replies = super().judge()
        self.heads = []
        return replies


@breaks(
    *("messages/several", "messages/in-turns", "messages/helo-between", "stream/*"),
    *("abort/after-header", "abort/after-end-of-headers", "abort/after-body"),
    *("quit-nc/after-message", "quit-nc/after-abort"),
)
class KeepsFieldsForEver(Milter):
    def forget(self) -> None:
        kept = self.heads
        super().forget()
        self.heads = kept


@breaks("messages/in-turns")
class RemembersTheVirus(Milter):
    def hear(self, event: m.CommandMessage) -> None:
        infected = b"EICAR" in self.body
        super().hear(event)
        if infected:
            self.body += b"EICAR"


@breaks("messages/plain")
class RefusesAll(Milter):
    def judge(self) -> list[m.Reply]:
        return [m.Reject()]


@breaks("messages/helo-between", "session/helo-twice")
class ClosesAtSecondHelo(Milter):
    helo = 0

    def hear(self, event: m.CommandMessage) -> None:
        super().hear(event)
        self.helo += isinstance(event, m.Helo)
        self.helo = 0 if isinstance(event, m.QuitNewConnection) else self.helo
        if self.helo > 1:
            raise CloseNowError


# --- sessions and envelopes -------------------------------------------------------------


def _close_if(condition: object) -> None:
    if condition:
        raise CloseNowError


@breaks("session/inet6", "session/inet6-sendmail")
class KnowsNoInet6(Milter):
    def hear(self, event: m.CommandMessage) -> None:
        super().hear(event)
        _close_if(isinstance(event, m.Connect) and b":" in event.address)


@breaks("session/unknown-family")
class ClosesWithoutAddress(Milter):
    def hear(self, event: m.CommandMessage) -> None:
        super().hear(event)
        _close_if(isinstance(event, m.Connect) and not event.address)


@breaks("session/8bit-helo")
class TakesHeloForText(Milter):
    def answer(self, event: m.CommandMessage) -> list[m.Reply]:
        if isinstance(event, m.MailFrom) and self.helo_is_odd:
            return [m.TempFail()]
        return super().answer(event)

    helo_is_odd = False

    def hear(self, event: m.CommandMessage) -> None:
        super().hear(event)
        if isinstance(event, m.Helo):
            self.helo_is_odd = not event.name.isascii()


@breaks("envelope/null-sender")
class DefersTheNullSender(Milter):
    def answer(self, event: m.CommandMessage) -> list[m.Reply]:
        if isinstance(event, m.MailFrom) and event.address == b"<>":
            return [m.TempFail()]
        return super().answer(event)


@breaks("envelope/rejected-recipients")
class KeepsRejectedRecipients(Milter):
    were_rejected = 0

    def hear(self, event: m.CommandMessage) -> None:
        super().hear(event)
        if isinstance(event, m.RcptTo):
            self.were_rejected += self.rejected
        if isinstance(event, m.EndOfMessage):
            self.recipients += self.were_rejected


@breaks("envelope/many-recipients")
class HoldsFewRecipients(Milter):
    def answer(self, event: m.CommandMessage) -> list[m.Reply]:
        many = isinstance(event, m.RcptTo) and self.recipients > 100
        return [m.Shutdown()] if many else super().answer(event)


@breaks("macros/usual", "macros/empty", "macros/empty-first", "macros/for-every-command")
class ClosesAtEmptyMacros(Milter):
    def hear(self, event: m.CommandMessage) -> None:
        super().hear(event)
        _close_if(isinstance(event, m.Macros) and not event.values)


@breaks("macros/absent", "macros/empty")
class NeedsMacros(Milter):
    known = False

    def hear(self, event: m.CommandMessage) -> None:
        super().hear(event)
        self.known = self.known or (isinstance(event, m.Macros) and bool(event.values))

    def judge(self) -> list[m.Reply]:
        return super().judge() if self.known else [m.TempFail()]


@breaks("macros/unknown-names", "envelope/international")
class ReadsMacrosAsText(Milter):
    def hear(self, event: m.CommandMessage) -> None:
        super().hear(event)
        if isinstance(event, m.Macros):
            _close_if(not all(value.isascii() for _, value in event.values))


# --- content ----------------------------------------------------------------------------


@breaks("header/latin-1")
class TakesHeadersForUtf8(Milter):
    def judge(self) -> list[m.Reply]:
        try:
            [each.value.decode() for each in self.heads]
        except UnicodeDecodeError:
            return [m.TempFail()]
        return super().judge()


@breaks("header/packet-65535", "header/packet-65536")
class DefersLongFields(Milter):
    def judge(self) -> list[m.Reply]:
        long = any(len(each.value) > 20_000 for each in self.heads)
        return [m.ReplyCode(b"452 4.3.1 too long")] if long else super().judge()


@breaks("header/none")
class NeedsFields(Milter):
    def judge(self) -> list[m.Reply]:
        return super().judge() if self.heads else [m.TempFail()]


@breaks("header/1000-fields")
class HoldsFewFields(Milter):
    def hear(self, event: m.CommandMessage) -> None:
        super().hear(event)
        _close_if(len(self.heads) > 500)


@breaks("body/empty", "body/empty-piece")
class NeedsABody(Milter):
    def judge(self) -> list[m.Reply]:
        return super().judge() if self.seen else [m.TempFail()]


@breaks("body/nul", "body/all-octets")
class StopsAtNul(Milter):
    def judge(self) -> list[m.Reply]:
        return [m.TempFail()] if b"\0" in self.body else super().judge()


@breaks("body/one-octet-pieces", "body/cut-line-ends")
class CountsPieces(Milter):
    pieces = 0

    def forget(self) -> None:
        super().forget()
        self.pieces = 0

    def hear(self, event: m.CommandMessage) -> None:
        super().hear(event)
        self.pieces += isinstance(event, m.BodyChunk)

    def judge(self) -> list[m.Reply]:
        return super().judge() if self.pieces < 3 else [m.Discard()]


# --- answers ----------------------------------------------------------------------------


_ANSWERED = ("connect", "helo", "mail", "rcpt", "header", "end-of-headers", "body")


@breaks(
    *("no-reply/kept-unknown", "events/*", "session/unknown-command"),
    *(f"no-reply/not-offered-{each}" for each in _ANSWERED),
)
class AnswersUnknownAllTheSame(Milter):
    protocol: ClassVar[Protocol] = Milter.protocol | Protocol.NR_UNKN

    def unasked(self, event: m.CommandMessage) -> bytes:
        return frame(b"c") if isinstance(event, m.Unknown) else b""


@breaks(
    *("no-reply/not-offered-header", "no-reply/none-offered", "replies/legal", "replies/once"),
    "negotiate/version-[2345]",
)
class NeverAnswersFields(Milter):
    def send(self, event: m.CommandMessage, replies: list[m.Reply]) -> bytes:
        octets = super().send(event, replies)
        return b"" if isinstance(event, m.Header) else octets


@breaks("skip/not-offered")
class SkipsUnasked(Milter):
    def send(self, event: m.CommandMessage, replies: list[m.Reply]) -> bytes:
        octets = super().send(event, replies)
        if isinstance(event, m.BodyChunk) and self.seen > 50_000:
            return frame(b"s")
        return octets


@breaks("skip/body-only")
class SkipsFields(Milter):
    protocol: ClassVar[Protocol] = Milter.protocol & ~Protocol.NR_HDR

    def answer(self, event: m.CommandMessage) -> list[m.Reply]:
        skips = Protocol.SKIP in self.wire.agreed_protocol
        if isinstance(event, m.Header) and event.name == b"Subject" and skips:
            return [m.Skip()]
        return super().answer(event)


@breaks("edits/negotiated")
class EditsAllTheSame(Milter):
    def send(self, event: m.CommandMessage, replies: list[m.Reply]) -> bytes:
        octets = super().send(event, replies)
        if isinstance(event, m.EndOfMessage) and octets == frame(b"c"):
            return m.AddHeaderReply(b"X-Lab", b"x").encode() + octets
        return octets


class _Edits(Milter):
    """Ends every good message with these octets, then continue."""

    octets = b""

    def send(self, event: m.CommandMessage, replies: list[m.Reply]) -> bytes:
        octets = super().send(event, replies)
        return self.octets + octets if isinstance(event, m.EndOfMessage) else octets


_EVERYTHING = Actions.ALL & ~Actions.SETSYMLIST


@breaks("edits/folds")
class FoldsWithCrlf(Milter):
    def judge(self) -> list[m.Reply]:
        replies = super().judge()
        return [
            replace(each, value=b"a\r\n\tb") if isinstance(each, m.AddHeaderReply) else each
            for each in replies
        ]


@breaks("edits/well-formed")
class BreaksFieldsInTwo(Milter):
    def judge(self) -> list[m.Reply]:
        replies = super().judge()
        return [
            replace(each, value=b"a\nBcc: b") if isinstance(each, m.AddHeaderReply) else each
            for each in replies
        ]


@breaks("replies/text")
class SaysALonePercent(Milter):
    def judge(self) -> list[m.Reply]:
        replies = super().judge()
        return [m.ReplyCode(b"550 5.7.1 100% no")] if len(replies) == 1 and self.body else replies


@breaks("replies/legal")
class ReportsProgressEarly(Milter):
    def send(self, event: m.CommandMessage, replies: list[m.Reply]) -> bytes:
        octets = super().send(event, replies)
        return frame(b"p") + octets if isinstance(event, m.RcptTo) else octets


# --- endings ----------------------------------------------------------------------------


@breaks("eof/after-body", "eof/after-end-of-message")
class StaysAfterBody(Milter):
    def at_end_of_file(self) -> bool:
        return not self.seen


@breaks("quit-nc/after-message")
class HearsNoNewClient(Milter):
    deaf = False

    def hear(self, event: m.CommandMessage) -> None:
        super().hear(event)
        self.deaf = self.deaf or isinstance(event, m.QuitNewConnection)

    def send(self, event: m.CommandMessage, replies: list[m.Reply]) -> bytes:
        octets = super().send(event, replies)
        return b"" if self.deaf else octets


# --- octets -----------------------------------------------------------------------------


@breaks("stream/fragments")
class TakesAReadForAPacket(Milter):
    def first(self, data: bytes) -> bytes:
        _close_if(len(data) == 1)
        return b""


@breaks("oversize/2-gib", "oversize/4-gib")
class BelievesAnyLength(Milter):
    limits = Limits(frame=2**32, backlog=2**32)


@breaks("order/bystander", jobs=1)
class OneProcessForAll(Milter):
    """It dies of what breaks the protocol, with all its connections, and is started again."""

    alive: ClassVar[set[asyncio.Task[None]]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self.alive.add(task)
        try:
            await super().serve(reader, writer)
        except PeerError:
            for each in self.alive - {task}:
                each.cancel()
            raise
        finally:
            self.alive.discard(task)


@breaks("packet/unknown-command")
class AnswersGarbage(Milter):
    def first(self, data: bytes) -> bytes:
        return b"\0\0\0\x01!" if data[4:5] == b"?" else b""


@breaks(
    *(
        "packet/[!c]*",
        "packet/connect-[!b]*",
        "packet/connect-bad-family",
        "order/[!b]*",
        "order/body-first",
        "oversize/*",
    ),
    *("macros/no-*", "macros/unknown-command", "negotiate/version-1", "negotiate/short-offer"),
)
class StaysAfterAnError(Milter):
    closes_on_error = False


# --- peers ------------------------------------------------------------------------------


@breaks("slow/*", "load/100-open", jobs=1)
class OneClientAtATime(Milter):
    lock: ClassVar[asyncio.Lock]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        if getattr(type(self), "loop", None) is not loop:
            type(self).loop, type(self).lock = loop, asyncio.Lock()
        async with self.lock:
            await super().serve(reader, writer)

    loop: ClassVar[asyncio.AbstractEventLoop]


@breaks("load/100-open", perhaps=("load/100-at-once",))
class RefusesTheSeventiethClient(Milter):
    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        type(self).connections += 1
        try:
            if type(self).connections < 70:
                await super().serve(reader, writer)
        finally:
            type(self).connections -= 1
