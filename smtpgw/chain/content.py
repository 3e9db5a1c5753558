"""A message as milters are shown it: its frames are made once for all that hear them alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from milterd.core.mail import HeaderField, Mail
from milterd.wire import bulk
from milterd.wire.constants import Command as Code
from milterd.wire.messages import BodyChunk, EndOfHeaders, EndOfMessage, Header
from milterd.wire.states import CommandType
from smtpgw.chain.events import Hearing
from smtpgw.chain.macros import Chosen

WHOLE = 262_144
"""Octets of body that are written at once to a milter that is to get it all."""

Frames = tuple[tuple[CommandType, ...], Sequence[bulk.Octets]]
"""Events, those of one kind in a row once, and their frames."""


class Content:
    """A mail as milters are shown it, with the macros of its end of message."""

    __slots__ = (
        "_bodies",
        "_headers",
        "_older",
        "_older_shown",
        "_packets",
        "_shown",
        "_size",
        "_strings",
        "_tails",
        "_wholes",
        "facts",
        "mail",
        "small",
    )

    def __init__(
        self, mail: Mail, facts: Mapping[str, bytes], older: Content | None = None
    ) -> None:
        self.mail, self.facts = mail, facts
        same = older is not None and mail.body is older.mail.body
        self._size: int = older._size if older is not None and same else mail.body.size
        self.small = self._size <= WHOLE
        """Whether it may be written at once."""
        self._shown = [each for each in mail.headers if not each.hidden]
        self._headers: dict[tuple[bool, Chosen], list[bytes]] = {}
        self._wholes: dict[tuple[object, ...], Frames] = {}
        self._tails: dict[tuple[object, ...], Frames] = {}
        self._bodies: dict[Chosen, Sequence[bulk.Octets]] = {}
        if older is None:
            self._strings: dict[Chosen, bytes] = {}
            self._packets: dict[tuple[Code, Chosen], bytes] = {}
            self._older: Mapping[tuple[bool, Chosen], list[bytes]] = {}
            self._older_shown: list[HeaderField] = []
            return
        self._strings, self._packets = older._strings, older._packets
        self._older, self._older_shown = older._headers, older._shown
        if same:
            self._tails, self._bodies = older._tails, older._bodies

    def packet(self, code: Code, hearing: Hearing) -> bytes:
        """The macros before an event; the same for every header field and piece of body."""
        chosen = hearing[code]
        made = self._packets.get((code, chosen))
        if made is None:
            strings = self._strings.get(chosen)
            if strings is None:
                strings = self._strings[chosen] = chosen.strings(self.facts)
            made = self._packets[code, chosen] = bulk.macros(code, strings)
        return made

    def whole(self, hearing: Hearing) -> Frames:
        """All of it, but for what the milter does not want."""
        key = hearing.content
        made = self._wholes.get(key)
        if made is None:
            kinds, parts = self._tails.get(key) or self._tail(hearing)
            block = (
                b"" if Header in hearing.unsent else self.headers(hearing, hearing.leading_space)
            )
            made = self._wholes[key] = (
                ((Header, *kinds), (block, *parts)) if block else (kinds, parts)
            )
        return made

    def _tail(self, hearing: Hearing) -> Frames:
        """What comes after the header."""
        kinds: list[CommandType] = [EndOfHeaders]
        parts: list[bulk.Octets] = []
        if EndOfHeaders not in hearing.unsent:
            parts.append(self.end_of_headers(hearing))
        if BodyChunk not in hearing.unsent and self._size > 0:
            kinds.append(BodyChunk)
            parts += self._body(hearing)
        kinds.append(EndOfMessage)
        parts.append(self.end(hearing))
        made = self._tails[hearing.content] = tuple(kinds), parts
        return made

    def _body(self, hearing: Hearing) -> Sequence[bulk.Octets]:
        chosen = hearing[Code.BODY]
        made = self._bodies.get(chosen)
        if made is None:
            chunks = self.chunks(hearing)
            made = self._bodies[chosen] = [part for chunk in chunks for part in chunk]
        return made

    def headers(self, hearing: Hearing, leading_space: bool) -> bytes:
        """All header fields that milters see."""
        key = (leading_space, hearing[Code.HEADER])
        made = self._headers.get(key)
        if made is None:
            before = self.packet(Code.HEADER, hearing)
            made = self._headers[key] = self._header_frames(key, before)
        return b"".join(made)

    def _header_frames(self, key: tuple[bool, Chosen], before: bytes) -> list[bytes]:
        """Those of the mail as it was, but for the fields that are not the same objects."""
        new, old, leading_space = self._shown, self._older_shown, key[0]
        made = self._older.get(key)
        if made is None:
            return bulk.header_frames(new, leading_space, before)
        most = min(len(new), len(old))
        above = below = 0
        while above < most and new[above] is old[above]:
            above += 1
        while below < most - above and new[-1 - below] is old[-1 - below]:
            below += 1
        changed = bulk.header_frames(new[above : len(new) - below], leading_space, before)
        return made[:above] + changed + made[len(made) - below :]

    def edited(self, mail: Mail) -> Content:
        """The content after a milter's edits."""
        return Content(mail, self.facts, self)

    def fields(self, hearing: Hearing, leading_space: bool) -> Iterator[bytes]:
        """The same one by one."""
        before = self.packet(Code.HEADER, hearing)
        for each in self._shown:
            yield from bulk.header_frames((each,), leading_space, before)

    def end_of_headers(self, hearing: Hearing) -> bytes:
        """The blank line."""
        return self.packet(Code.END_OF_HEADERS, hearing) + bulk.END_OF_HEADERS

    def chunks(self, hearing: Hearing) -> Iterator[tuple[bytes, bulk.Octets]]:
        """The body in pieces that one packet holds, each with what goes before it."""
        return bulk.body(self.mail.body, self.packet(Code.BODY, hearing))

    def end(self, hearing: Hearing) -> bytes:
        """The end of message."""
        packet = self._packets.get((Code.END_OF_MESSAGE, hearing[Code.END_OF_MESSAGE]))
        if packet is None:
            packet = self.packet(Code.END_OF_MESSAGE, hearing)
        return packet + bulk.END_OF_MESSAGE
