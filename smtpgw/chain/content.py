"""A message as milters are shown it: its frames are made once for all that hear them alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from milterd.core.mail import HeaderField, Mail
from milterd.wire import bulk
from milterd.wire.constants import Command as Code
from milterd.wire.messages import BodyChunk, EndOfHeaders, EndOfMessage, Header
from milterd.wire.states import CommandType
from smtpgw.chain.events import Frames, Hearing
from smtpgw.chain.macros import Chosen

WHOLE = 262_144
"""Octets of body that are written at once to a milter that is to get it all."""
_JOINED = 32_768
"""Octets of body that are copied, rather than written in pieces."""


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
        "_packets",
        "_rests",
        "_shown",
        "_size",
        "_strings",
        "_wholes",
        "facts",
        "mail",
        "small",
    )

    def __init__(
        self, mail: Mail, facts: Mapping[str, bytes], older: Content | None = None
    ) -> None:
        self.mail, self.facts = mail, facts
        self._shown = [each for each in mail.headers if not each.hidden]
        self._headers: dict[bool, list[bytes]] = {}
        self._wholes: dict[tuple[object, object], Frames] = {}
        self._packets: dict[tuple[Code, Chosen], bytes] = older._packets if older else {}
        self._strings: dict[Chosen, bytes] = older._strings if older else {}
        self._older: Mapping[bool, list[bytes]] = older._headers if older else {}
        self._older_shown: list[HeaderField] = older._shown if older else []
        same = older if older is not None and mail.body is older.mail.body else None
        self._size: int = same._size if same else mail.body.size
        self._body: list[bulk.Octets] = same._body if same else []
        self._rests: dict[object, Frames] = same._rests if same else {}
        self.small = self._size <= WHOLE
        """Whether it may be written at once."""

    def edited(self, mail: Mail) -> Content:
        """The content after a milter's edits."""
        return Content(mail, self.facts, self)

    def packet(self, code: Code, hearing: Hearing) -> bytes:
        """The macros before an event."""
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
        key = hearing.header, hearing.rest
        made = self._wholes.get(key)
        if made is not None:
            return made
        made = self._rests.get(hearing.rest) or self._rest(hearing)
        if Header not in hearing.unsent and self._shown:
            kinds, parts = made
            made = (Header, *kinds), [self.headers(hearing, hearing.leading_space), *parts]
        self._wholes[key] = made
        return made

    def _rest(self, hearing: Hearing) -> Frames:
        """What comes after the header."""
        kinds: list[CommandType] = [EndOfHeaders]
        parts: list[bulk.Octets] = []
        if EndOfHeaders not in hearing.unsent:
            parts.append(self.end_of_headers(hearing))
        if BodyChunk not in hearing.unsent and self._size > 0:
            kinds.append(BodyChunk)
            head, *rest = self._pieces()
            parts += [self.packet(Code.BODY, hearing) + head, *rest]
        kinds.append(EndOfMessage)
        parts.append(self.end(hearing))
        if self._size <= _JOINED:
            parts = [b"".join(parts)]
        made = self._rests[hearing.rest] = tuple(kinds), parts
        return made

    def _pieces(self) -> Sequence[bulk.Octets]:
        """The body's frames."""
        if not self._body:
            self._body += [part for chunk in bulk.body(self.mail.body, b"") for part in chunk]
        return self._body

    def headers(self, hearing: Hearing, leading_space: bool) -> bytes:
        """All header fields that milters see."""
        made = self._headers.get(leading_space)
        if made is None:
            made = self._headers[leading_space] = self._header_frames(leading_space)
        return b"".join((self.packet(Code.HEADER, hearing), *made)) if made else b""

    def _header_frames(self, leading_space: bool) -> list[bytes]:
        """Those of the mail as it was, but for the fields that are not the same objects."""
        new, old = self._shown, self._older_shown
        made = self._older.get(leading_space)
        if made is None:
            return bulk.header_frames(new, leading_space, b"")
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
        for each in self._shown:
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
