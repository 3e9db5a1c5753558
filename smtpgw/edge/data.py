"""DATA and BDAT: from the client's octets to the sink, with no socket.

DATA ends at CR LF . CR LF and at nothing else (RFC 5321 section 4.1.1.4);
whatever else looks like an end is content, or damage.  Nobody walks line by
line here: every step is one search or one replacement over a whole piece.
"""

from __future__ import annotations

from smtpgw.edge.content import Content
from smtpgw.edge.framing import LineEnds
from smtpgw.edge.options import ContentOptions
from smtpgw.edge.road import Answer
from smtpgw.edge.sink import ContentSink

END_OF_DATA = b"\r\n.\r\n"

_UNDECIDED = (b"\r\n.\r", b"\r\n.", b"\r\n", b"\n", b"\r")
"""How a piece may end so that the next one decides what it means."""

DRAIN_FACTOR = 2
"""A refused message is read to its end up to this many times the size limit."""


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

    def _take(self, part: bytes, *, dots: bool, skip: int = 0) -> None:
        if not part or self._sink.fault is not None:
            return
        octets = self._ends.clean(part, dots=dots)
        if self._ends.fault is None:
            self._sink.write(octets[skip:])
        else:
            self._sink.refuse(self._ends.fault)


class DataReader(_Reader):
    """The octets after 354.  Feed until `finished`; then call :meth:`finish`."""

    def __init__(self, options: ContentOptions) -> None:
        super().__init__(options)
        self.finished = False
        self._held = b"\r\n"  # 354 stands at a line's start; these two are not content
        self._skip = 2

    def feed(self, data: bytes) -> int:
        """Take `data`; how many octets of it belong to the message.

        Fewer than all only once `finished`: the rest is the next command.
        """
        held = len(self._held)
        buffer = self._held + data if held else data
        end = buffer.find(END_OF_DATA)
        if end >= 0:
            self.finished = True
            self._held = b""
            self._received += end + len(END_OF_DATA) - held
            self._emit(buffer[: end + 2])
            return end + len(END_OF_DATA) - held
        self._received += len(data)
        self._held = _undecided(buffer)
        self._emit(buffer[: len(buffer) - len(self._held)])
        return len(data)

    def _emit(self, part: bytes) -> None:
        """Pass `part` on, without the line end that 354 stands for."""
        if part:
            self._take(part, dots=True, skip=self._skip)
            self._skip = 0


class BdatReader(_Reader):
    """The octets of BDAT chunks (RFC 3030): no dots, no end but the last chunk's."""

    def feed(self, data: bytes) -> None:
        """Take octets of a chunk; where chunks or pieces are cut does not matter."""
        self._received += len(data)
        buffer = self._held + data if self._held else data
        self._held = b"\r" if buffer.endswith(b"\r") else b""
        self._take(buffer[: len(buffer) - len(self._held)], dots=False)

    def finish(self) -> Content | Answer:
        """As for DATA; a CR that nothing follows is a bare one."""
        self._take(self._held, dots=False)
        return super().finish()


def _undecided(buffer: bytes) -> bytes:
    """The end of `buffer` that may begin the end of data, or half a line end."""
    for each in _UNDECIDED:
        if buffer.endswith(each):
            return each
    return b""
