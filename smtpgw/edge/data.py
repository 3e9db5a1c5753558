"""DATA and BDAT: from the client's octets to the sink, with no socket.

DATA ends at CR LF . CR LF and at nothing else (RFC 5321 section 4.1.1.4);
whatever else looks like an end is content, or damage.  Nobody walks line by
line here: every step is one search or one replacement over a whole piece.
"""

from __future__ import annotations

from milterd.core.mail import CRLF, split_header
from milterd.core.spooled import WholeBody
from smtpgw.edge.content import Content
from smtpgw.edge.framing import LineEnds, ends_clean
from smtpgw.edge.options import ContentOptions
from smtpgw.edge.road import Answer
from smtpgw.edge.sink import MAILBOX_LINES, ContentSink

_DOT = "\r\n."
_END = "\r\n.\r\n"
_LAST = _END.encode()
_BEHIND = 512
"""Octets at the end of what came, in which the end of a message is looked for first."""

_UNDECIDED = (b"\r\n.\r", b"\r\n.", b"\n", b"\r")
"""How a piece may end so that the next one decides what it means; of a line end that is whole it is
enough to know that it was there."""

_ODD = (b".", *MAILBOX_LINES)
"""What a message begins with that is not as it stands there."""

DRAIN_FACTOR = 2
"""A refused message is read to its end up to this many times the size limit."""


def whole(data: bytes, options: ContentOptions) -> tuple[Content, int] | None:
    """The message that `data` begins with, and how many octets of it that takes with the end of
    data; None where it is not all there, has much behind it, or there is anything about it that is
    to be refused, mended or noted: :class:`DataReader` sees to that, and makes the same of any
    other."""
    if _LAST not in data[-_BEHIND:]:  # the beginning of a longer one, mostly
        return None
    text = str(data, "latin-1")
    dot = end = text.find(_DOT)
    if dot >= 0 and not text.startswith(_END, dot):
        end = text.find(_END, dot + len(_DOT))
    size, after = end + 2, end + 5
    if end < 0 or size > options.message_size_limit or size > options.spool_threshold:
        return None
    if "\0" in text or not ends_clean(text[:after]) or data.startswith(_ODD):
        return None
    octets = data[:size]
    if dot < end:
        octets = octets.replace(b"\r\n.", CRLF)
    fields, separator, begins = split_header(octets)
    if not separator or begins > options.header_size_limit or len(fields) > options.hopcount_limit:
        return None
    return Content(fields, separator, WholeBody(octets[begins:]), len(octets)), after


class _Reader:
    """What both ways of sending a message share: line ends, size, the sink."""

    def __init__(self, options: ContentOptions) -> None:
        self._ends = LineEnds(options.bare_newline)
        self._sink = ContentSink(options)
        self._held = b""
        self._received = 0
        self._allowed = DRAIN_FACTOR * options.message_size_limit

    @property
    def overrun(self) -> bool:
        """Whether so much came that reading on is not worth a proper answer."""
        return self._received > self._allowed

    @property
    def fault(self) -> Answer | None:
        """Why the message will be refused, as far as is known."""
        return self._ends.fault or self._sink.fault

    def finish(self) -> Content | Answer:
        """The message, or why it is refused; to be called once, at its end."""
        if self._ends.fault is not None:
            self._sink.refuse(self._ends.fault)
        content = self._sink.finish()
        if isinstance(content, Answer) or not self._ends.notes:
            return content
        notes = content.notes + self._ends.notes
        return Content(content.headers, content.separator, content.body, content.size, notes)

    def discard(self) -> None:
        """Give the message up."""
        self._sink.discard()

    def _write(self, octets: bytes) -> None:
        """Keep what is clean now; what was not is a fault."""
        if self._ends.fault is None:
            self._sink.write(octets)
        else:
            self._sink.refuse(self._ends.fault)


class DataReader(_Reader):
    """The octets after 354.  Feed until `finished`; then call :meth:`finish`."""

    def __init__(self, options: ContentOptions) -> None:
        super().__init__(options)
        self.finished = False
        self._at_start = True  # of a line, as far as octets were passed on
        self._passed = 0  # octets of what is held that were passed on, or are no content

    def feed(self, data: bytes) -> int:
        """Take `data`; how many octets of it belong to the message.

        Fewer than all only once `finished`: the rest is the next command.
        """
        if self._at_start and data.startswith(b"."):
            # It is the line end before it that gives the dot its sense.
            self._held, self._passed = CRLF, len(CRLF)
        held = len(self._held)
        buffer = self._held + data if held else data
        text = str(buffer, "latin-1")
        # The end of data begins as a line with a transparency dot does: one search finds either.
        dot = end = text.find(_DOT)
        if dot >= 0 and not text.startswith(_END, dot):
            end = text.find(_END, dot + len(_DOT))
        if end >= 0:
            after = end + len(_END)
            self.finished = True
            self._received += after - held
            # What ends the data is clean: the scanners may see it too.
            self._emit(buffer, text[:after], end + len(CRLF), dots=dot < end)
            return after - held
        self._received += len(data)
        self._held = _undecided(buffer)
        self._at_start = not self._held and buffer.endswith(CRLF)
        size = len(buffer) - len(self._held)
        if size:
            self._emit(buffer, text[:size], size, dots=dot >= 0)
        return len(data)

    def _emit(self, buffer: bytes, text: str, size: int, *, dots: bool) -> None:
        """Pass on the first `size` octets."""
        passed, self._passed = self._passed, 0
        if size > passed and self._sink.fault is None:
            octets = self._ends.unstuffed(buffer[:size], text, dots=dots)
            self._write(octets[passed:])


class BdatReader(_Reader):
    """The octets of BDAT chunks (RFC 3030): no dots, no end but the last chunk's."""

    def feed(self, data: bytes) -> None:
        """Take octets of a chunk; where chunks or pieces are cut does not matter."""
        self._received += len(data)
        buffer = self._held + data if self._held else data
        self._held = b"\r" if buffer.endswith(b"\r") else b""
        self._take(buffer[: len(buffer) - len(self._held)])

    def finish(self) -> Content | Answer:
        """As for DATA; a CR that nothing follows is a bare one."""
        self._take(self._held)
        return super().finish()

    def _take(self, part: bytes) -> None:
        if part and self._sink.fault is None:
            self._write(self._ends.clean(part, str(part, "latin-1")))


def _undecided(buffer: bytes) -> bytes:
    """The end of `buffer` that may begin the end of data, or half a line end."""
    if buffer.endswith(CRLF):
        return b""
    for each in _UNDECIDED:
        if buffer.endswith(each):
            return each
    return b""
