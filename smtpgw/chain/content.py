"""A message as milters are shown it: its frames are made once for all that hear them alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from milterd.core.mail import BytesBody, Envelope, HeaderField, Mail
from milterd.wire import bulk
from milterd.wire.constants import CHUNK
from milterd.wire.constants import Command as Code
from milterd.wire.messages import BodyChunk, EndOfHeaders, EndOfMessage, Header
from milterd.wire.states import CommandType
from smtpgw.chain.events import Hearing
from smtpgw.chain.macros import Chosen

WHOLE = 262_144
"""Octets of body that are written at once to a milter that is to get it all."""
_JOINED = 32_768
"""Octets of body that are copied, rather than written in pieces."""


Pieces = tuple[tuple[CommandType, ...], Sequence[bulk.Octets]]
"""Events of a message, and their frames."""


class Content:
    """A mail as milters are shown it, with the macros of its end of message.

    Macros of the header come with its first field and those of the body with its first piece: they
    hold until others come, and are the same for the fields and pieces behind.
    """

    __slots__ = (
        "_body",
        "_headers",
        "_older",
        "_older_shown",
        "_rests",
        "_size",
        "_strings",
        "_wholes",
        "envelope",
        "facts",
        "known",
        "mail",
        "shown",
        "small",
    )

    def __init__(
        self, mail: Mail, facts: Mapping[str, bytes], older: Content | None = None
    ) -> None:
        self.mail, self.facts = mail, facts
        self.envelope: Envelope = older.envelope if older else mail.envelope
        """As the client gave it: what milters make of it, others are not told."""
        self.shown = tuple([each for each in mail.headers if not each.hidden])
        """The fields that milters see."""
        self.known: dict[object, Any] = older.known if older else {}
        """What filters in this process have made of the message."""
        self._headers: dict[bool, list[bytes]] = {}
        self._wholes: dict[tuple[object, object], Pieces] = {}
        self._strings: dict[Chosen, tuple[bytes, bytes]] = older._strings if older else {}
        self._older: Mapping[bool, list[bytes]] = older._headers if older else {}
        self._older_shown: Sequence[HeaderField] = older.shown if older else ()
        same = older if older is not None and mail.body is older.mail.body else None
        self._size: int = same._size if same else mail.body.size
        self._body: list[bulk.Octets] = same._body if same else []
        self._rests: dict[object, Pieces] = same._rests if same else {}
        self.small = self._size <= WHOLE
        """Whether it may be written at once."""

    def edited(self, mail: Mail) -> Content:
        """The content after a milter's edits."""
        return Content(mail, self.facts, self)

    def packet(self, code: Code, hearing: Hearing) -> bytes:
        """The macros before an event."""
        chosen = hearing[code]
        known = self._strings
        if chosen not in known:
            strings = chosen.strings(self.facts)
            known[chosen] = bulk.macros_head(strings), strings
        head, strings = known[chosen]
        return head + code + strings if strings else b""

    def whole(self, hearing: Hearing) -> Pieces:
        """All of it, but for what the milter does not want; in one piece where that is small."""
        key = hearing.header, hearing.rest
        wholes = self._wholes
        if key in wholes:
            return wholes[key]
        rests = self._rests
        kinds, parts = made = rests[hearing.rest] if hearing.rest in rests else self._rest(hearing)
        if Header not in hearing.unsent and self.shown:
            header = self._frames(hearing.leading_space)
            told = self.packet(Code.HEADER, hearing), *header, parts[0]
            made = (Header, *kinds), [b"".join(told), *parts[1:]]
        wholes[key] = made
        return made

    def _rest(self, hearing: Hearing) -> Pieces:
        """What comes after the header."""
        kinds: tuple[CommandType, ...] = EndOfHeaders, EndOfMessage
        first = b"" if EndOfHeaders in hearing.unsent else self.end_of_headers(hearing)
        last = self.packet(Code.END_OF_MESSAGE, hearing) + bulk.END_OF_MESSAGE
        parts: list[bulk.Octets] = [first + last]
        if BodyChunk not in hearing.unsent and self._size > 0:
            kinds = EndOfHeaders, BodyChunk, EndOfMessage
            head, *rest = self._pieces()
            parts = [first + self.packet(Code.BODY, hearing) + head, *rest, last]
            if self._size <= _JOINED:
                parts = [b"".join(parts)]
        made = self._rests[hearing.rest] = kinds, parts
        return made

    def _pieces(self) -> Sequence[bulk.Octets]:
        """The body's frames."""
        made, body = self._body, self.mail.body
        if made:
            return made
        if self._size <= CHUNK and isinstance(body, BytesBody):
            made += bulk.body_head(self._size), body.octets
        else:
            made += [part for chunk in bulk.body(body, b"") for part in chunk]
        return made

    def headers(self, hearing: Hearing, leading_space: bool) -> bytes:
        """All header fields that milters see."""
        made = self._frames(leading_space)
        return b"".join((self.packet(Code.HEADER, hearing), *made)) if made else b""

    def _frames(self, leading_space: bool) -> list[bytes]:
        """The fields' frames."""
        headers = self._headers
        if leading_space not in headers:
            headers[leading_space] = self._header_frames(leading_space)
        return headers[leading_space]

    def _header_frames(self, leading_space: bool) -> list[bytes]:
        """Those of the mail as it was, but for the fields that are not the same objects."""
        new, old = self.shown, self._older_shown
        if leading_space not in self._older:
            return bulk.header_frames(new, leading_space, b"")
        made = self._older[leading_space]
        most = min(len(new), len(old))
        above = below = 0
        while above < most and new[above] is old[above]:
            above += 1
        while below < most - above and new[-1 - below] is old[-1 - below]:
            below += 1
        changed = bulk.header_frames(new[above : len(new) - below], leading_space, b"")
        return made[:above] + changed + made[len(made) - below :]

    def fields(self, hearing: Hearing, leading_space: bool) -> Iterator[bytes]:
        """The same one by one."""
        before = self.packet(Code.HEADER, hearing)
        for each in self.shown:
            yield from bulk.header_frames((each,), leading_space, before)
            before = b""

    def end_of_headers(self, hearing: Hearing) -> bytes:
        """The blank line."""
        return self.packet(Code.END_OF_HEADERS, hearing) + bulk.END_OF_HEADERS

    def chunks(self, hearing: Hearing) -> Iterator[tuple[bytes, bulk.Octets]]:
        """The body in pieces that one packet holds, each with what goes before it."""
        before = self.packet(Code.BODY, hearing)
        for head, piece in bulk.body(self.mail.body, b""):
            yield before + head, piece
            before = b""

    def end(self, hearing: Hearing) -> bytes:
        """The end of message."""
        return self.packet(Code.END_OF_MESSAGE, hearing) + bulk.END_OF_MESSAGE
