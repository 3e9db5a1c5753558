"""A milter under test, for tests in plain Python: every call waits for its answer.

    with Milter("unix:/run/my.sock") as milter:
        result = milter.send(message, sender="a@example.net")
        assert result.edits == ["add-header X-Checked: yes"]
        with milter.session() as session:
            assert session.mail("<spam@example.net>").code == 550

Edits are strings in the language of scenarios (docs/lab/scenarios.md), and `actions`
are the same as values.  What the milter does wrong raises MilterError.  Not to be
called from a running event loop: use `milterd.lab.client` there.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from milterd.core.actions import Edit
from milterd.core.mail import (
    Client,
    Direction,
    Envelope,
    Family,
    Mail,
    Recipient,
    Session,
    parse_message,
)
from milterd.lab.client import play
from milterd.lab.conversation import Played
from milterd.lab.link import MilterError, Patience
from milterd.lab.mta_rules import RULES
from milterd.lab.scenario import steps as s
from milterd.lab.scenario.matching import edit_told, told
from milterd.lab.scenario.talk import Answer as Came
from milterd.lab.scenario.talk import Conversation, Manner
from milterd.wire import messages as m
from milterd.wire.constants import Command
from milterd.wire.replytext import parse_reply

__all__ = ["Answer", "Dialogue", "Milter", "MilterError", "Result"]

Text = str | bytes
T = TypeVar("T")
_BARE_LF = re.compile(rb"(?<!\r)\n")
_PATIENCE = Patience(answer=30.0, total=300.0)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a milter answered to one event.

    `verdict` is a word of the scenario language: `continue`, `accept`, `reject`,
    `tempfail`, `discard`, `skip`, `reply`..., or `nothing` where no answer was due.
    `code`, `enhanced` and `text` are those of an SMTP reply of the milter's own.
    """

    verdict: str
    code: int | None = None
    enhanced: str = ""
    text: str = ""
    edits: list[str] = field(default_factory=list)
    progress: int = 0
    actions: tuple[Edit, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a message.

    `verdict` is `continue`, `accept`, `reject`, `tempfail` or `discard`; `code` and
    `reply` are what the client is told, the MTA's own text included, None and "" where
    the message passes.  `edits` are those that count.  `message` is what the MTA has
    afterwards.  `refused` are recipients that the milter refused.
    """

    verdict: str
    code: int | None
    reply: str
    edits: list[str]
    refused: list[str]
    message: bytes = field(repr=False)
    played: Played = field(repr=False)

    @property
    def actions(self) -> tuple[Edit, ...]:
        """The edits as values."""
        return self.played.edits


class Milter:
    """The milter at `address`, `unix:PATH` or `inet:PORT@HOST`; a context manager.

    `answer` are the seconds to wait for each answer.
    """

    def __init__(self, address: str, *, answer: float = _PATIENCE.answer) -> None:
        self.address = address
        self._patience = Patience(answer, _PATIENCE.total)
        self._runner = asyncio.Runner()
        self._open: list[Dialogue] = []

    def __repr__(self) -> str:
        return f"Milter({self.address!r})"

    def send(
        self,
        message: Text | Path,
        *,
        sender: Text = "sender@example.org",
        recipients: Iterable[Text] = ("recipient@example.net",),
        client: Text = "localhost",
        client_address: str = "127.0.0.1",
        helo: Text = "localhost",
        auth: Text | None = None,
        macros: Mapping[str, Text] | None = None,
        mta: str = "postfix",
    ) -> Result:
        """Offer a message as `mta` ("postfix", "sendmail") does, on a connection of its own.

        `message` are its octets, or its file; bare LF is read as CRLF.  `auth` is a login:
        the client is then a user of ours.  Raises MilterError, and ValueError for an
        address that is none.
        """
        given = {name: _octets(value) for name, value in (macros or {}).items()}
        if auth is not None:
            given = {"auth_type": b"PLAIN", "auth_authen": _octets(auth), **given}
        direction = Direction.INBOUND if auth is None else Direction.ORIGINATING
        peer = Client(_octets(client), _family(client_address), client_address.encode(), 25000)
        envelope = Envelope(
            _bare(sender), recipients=tuple(Recipient(_bare(each)) for each in recipients)
        )
        octets = message.read_bytes() if isinstance(message, Path) else _octets(message)
        parsed = parse_message(_BARE_LF.sub(b"\r\n", octets))
        session = Session(peer, _octets(helo), direction, given)
        mail = Mail(session, envelope, parsed.headers, parsed.body, parsed.separator)
        playing = play(self.address, mail, patience=self._patience, rules=RULES[mta])
        return _result(self.run(playing))

    def session(
        self, *, version: int = 6, actions: int | None = None, protocol: int | None = None
    ) -> Dialogue:
        """A dialogue, negotiated with this offer; a context manager."""
        offer = s.Offer(version, actions, protocol)
        opening = Conversation.open(self.address, self._patience, offer, Manner())
        new = Dialogue(self, self.run(opening))
        self._open.append(new)
        new.negotiate()
        return new

    def run(self, doing: Coroutine[object, object, T]) -> T:
        """Wait for something on this milter's own event loop."""
        return self._runner.run(doing)

    def close(self) -> None:
        """End every dialogue that is still open."""
        while self._open:
            self._open.pop().close()
        self._runner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Dialogue:
    """One connection, event by event; `Milter.session` makes one.

    Octets go as they are given (addresses with their brackets), a `str` in UTF-8.  A
    client is connected by the first event if `connect` was not called before.
    """

    def __init__(self, milter: Milter, talk: Conversation) -> None:
        self._milter, self._talk = milter, talk
        self._macros: dict[Command, tuple[tuple[bytes, bytes], ...]] = {}
        self._connected = self._closed = False

    @property
    def agreed(self) -> tuple[int, int, int]:
        """Version, actions and protocol flags, as negotiated."""
        found = self._talk.agreed
        return (found.version, int(found.actions), int(found.protocol)) if found else (0, 0, 0)

    def negotiate(self) -> None:
        """Done by `Milter.session`."""
        self._milter.run(self._talk.negotiate())

    def macro(self, stage: str, **values: Text) -> None:
        """The macros before every event of a stage from here on: `i="QID", auth_authen="joe"`."""
        pairs = ((name.encode(), _octets(value)) for name, value in values.items())
        named = ((name if len(name) == 1 else b"{%b}" % name, value) for name, value in pairs)
        self._macros[s.EVENTS[stage]] = tuple(named)

    def connect(
        self, host: Text = "localhost", address: str = "127.0.0.1", port: int = 25000
    ) -> Answer:
        """An SMTP client, by host name and IP address; an empty address is an unknown one."""
        self._connected = True
        family = _family(address) if address else Family.UNKNOWN
        return self._say(m.Connect(_octets(host), family, port, address.encode()))

    def helo(self, name: Text) -> Answer:
        """HELO or EHLO."""
        return self._say(m.Helo(_octets(name)))

    def mail(self, address: Text, *args: Text) -> Answer:
        """MAIL, the address in its brackets."""
        return self._say(m.MailFrom(_octets(address), tuple(map(_octets, args))))

    def rcpt(self, address: Text, *args: Text) -> Answer:
        """RCPT, the address in its brackets."""
        return self._say(m.RcptTo(_octets(address), tuple(map(_octets, args))))

    def data(self) -> Answer:
        """DATA."""
        return self._say(m.Data())

    def header(self, name: Text, value: Text) -> Answer:
        """One field; a blank is put after the colon if there is none."""
        octets = _octets(value)
        octets = octets if octets[:1] in (b" ", b"\t") else b" " + octets
        return self._say(m.Header(_octets(name), octets))

    def eoh(self) -> Answer:
        """The end of the header."""
        return self._say(m.EndOfHeaders())

    def body(self, octets: Text) -> Answer:
        """A piece of the body, at most 65535 octets."""
        return self._say(m.BodyChunk(_octets(octets)))

    def end(self, octets: Text = b"") -> Answer:
        """The end of the message; its answer carries the edits."""
        return self._say(m.EndOfMessage(_octets(octets)))

    def unknown(self, line: Text) -> Answer:
        """An SMTP command that the MTA does not know."""
        return self._say(m.Unknown(_octets(line)))

    def abort(self) -> None:
        """The transaction is over."""
        self._say(m.Abort())

    def quit(self) -> None:
        """Say QUIT and close."""
        if not self._closed:
            self._milter.run(self._talk.send(m.Quit(), {}))
            self.close()

    def close(self) -> None:
        """Close without a word."""
        if not self._closed:
            self._closed = True
            self._milter.run(self._talk.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.quit()
        else:
            self.close()

    def _say(self, event: m.CommandMessage) -> Answer:
        __tracebackhide__ = True
        if not self._connected and not isinstance(event, m.Connect):
            self.connect()
        return _answer(self._milter.run(self._exchange(event)))

    async def _exchange(self, event: m.CommandMessage) -> Came:
        await self._talk.send(event, self._macros)
        return await self._talk.answer() if self._talk.due else Came()


def _answer(came: Came) -> Answer:
    edits = [edit_told(each, None) for each in came.edits]
    final = came.final
    if isinstance(final, m.ReplyCode):
        reply = parse_reply(final.text)
        return Answer(
            "reply", reply.code, reply.enhanced, reply.text, edits, came.progress, came.edits
        )
    verdict = "nothing" if final is None else told(came)
    return Answer(verdict, edits=edits, progress=came.progress, actions=came.edits)


def _result(played: Played) -> Result:
    reply = played.own_text
    if played.reply is not None:
        words = (str(played.reply.code), played.reply.enhanced, played.reply.text)
        reply = " ".join(each for each in words if each)
    return Result(
        played.verdict.value,
        int(reply[:3]) if reply[:3].isdigit() else None,
        reply,
        [edit_told(each, None) for each in played.edits],
        [each.decode("utf-8", "backslashreplace") for each in played.refused],
        b"".join(played.after.pieces()),
        played,
    )


def _octets(text: Text) -> bytes:
    return text.encode() if isinstance(text, str) else text


def _bare(address: Text) -> bytes:
    octets = _octets(address)
    return octets[1:-1] if octets.startswith(b"<") and octets.endswith(b">") else octets


def _family(address: str) -> Family:
    return Family.INET6 if ":" in address else Family.INET
