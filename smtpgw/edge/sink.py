"""Where a message is put while it comes in: header parsed once, body spooled, all bounded.

The sink takes octets with CRLF line ends in pieces of any size.  It refuses by
setting `fault`, the answer for the client, after which it keeps nothing and
takes no more; so memory is bounded whatever comes.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import BinaryIO, cast

from milterd.core.mail import CRLF, Body, HeaderField, split_header
from milterd.core.spooled import SeenBody, Watch, WholeBody
from smtpgw.edge.content import Content
from smtpgw.edge.options import ContentOptions
from smtpgw.edge.road import Answer

TOO_LARGE = Answer(552, "5.3.4", "Message size exceeds fixed limit")
HEADER_TOO_LARGE = Answer(552, "5.3.4", "Message header exceeds fixed limit")
TOO_MANY_HOPS = Answer(554, "5.4.6", "Too many hops")
NO_SPACE = Answer(452, "4.3.1", "Insufficient system storage")

MAILBOX_LINE_NOTE = "mbox From line made X-Mailbox-Line"
SEPARATOR_NOTE = "blank line after the header inserted"
FINAL_CRLF_NOTE = "final CRLF added"

MAILBOX_LINES = (b"From ", b">From ")
"""How the line begins that mbox files put before a message."""

_LONGEST_NAME = 1000
"""A line this long without a colon is no header field."""

_FILE_BUFFER = 65_536


class ContentSink:
    """Takes a message.  Call :meth:`write` any number of times, then :meth:`finish`
    or :meth:`discard`."""

    def __init__(self, options: ContentOptions) -> None:
        self.fault: Answer | None = None
        self._options = options
        self._size = 0
        self._added = 0  # octets of our own: they are not held against the client
        self._ends_line = True
        self._notes: list[str] = []
        self._head = bytearray()
        self._searched = 0
        self._undecided = 0
        self._fields: tuple[HeaderField, ...] | None = None
        self._separator = b""
        self._body = _Spool(options)

    def write(self, octets: bytes) -> None:
        """Take the next octets; does nothing once there is a fault."""
        if self.fault is not None or not octets:
            return
        self._size += len(octets)
        self._ends_line = octets.endswith(b"\n")
        if self._size > self._options.message_size_limit:
            self.refuse(TOO_LARGE)
        else:
            self._take(octets)

    def _take(self, octets: bytes) -> None:
        if self._fields is None:
            self._take_head(octets)
        else:
            self._take_body(octets)

    def refuse(self, fault: Answer) -> None:
        """Keep nothing of this message; the first fault stands."""
        self.fault = self.fault or fault
        self.discard()

    def finish(self) -> Content | Answer:
        """The message, or why it is refused."""
        if self.fault is None and not self._ends_line:
            self._notes.append(FINAL_CRLF_NOTE)
            self._added += len(CRLF)
            self._take(CRLF)
        if self.fault is None and self._fields is None:
            self._parse(bytes(self._head), b"")
        if self.fault is not None:
            return self.fault
        try:
            body = self._body.finish()
        except OSError:
            self.refuse(NO_SPACE)
            return NO_SPACE
        fields, notes = self._fields or (), tuple(self._notes)
        return Content(fields, self._separator, body, self._size + self._added, notes)

    def discard(self) -> None:
        """Give up what was kept."""
        self._head.clear()
        self._body.discard()

    def _take_head(self, octets: bytes) -> None:
        if not (self._head or octets.startswith(CRLF)):
            end = octets.find(b"\r\n\r\n") + 4
            if end > 4:  # a whole header, which need not be gathered first
                self._parse(octets[:end], octets[end:])
                return
        self._head += octets
        if self._head.startswith(CRLF):
            end = 2
        else:
            found = self._head.find(b"\r\n\r\n", max(0, self._searched - 3))
            end = found + 4 if found >= 0 else 0
        self._searched = len(self._head)
        if end:
            self._parse(bytes(self._head[:end]), bytes(self._head[end:]))
        elif len(self._head) > self._options.header_size_limit and self._decided():
            self._parse_unfinished(bytes(self._head))

    def _decided(self) -> bool:
        """Whether the line that may end the header has come far enough to say so.

        Keeps a client that sends octet by octet from having all parsed each time.
        """
        line = self._undecided
        whole = self._head.find(CRLF, line) >= 0
        return not line or whole or len(self._head) - line > _LONGEST_NAME

    def _parse_unfinished(self, block: bytes) -> None:
        """No blank line within the limit: the header ended without one, or is too large."""
        marked = _mailbox_line(block)
        fields, _, end = split_header(marked)
        rest = marked[end:]
        if CRLF in rest or len(rest) > _LONGEST_NAME:
            self._parse(block, b"")
        elif end > self._options.header_size_limit:
            self._check_hops(fields)
            self.refuse(HEADER_TOO_LARGE)
        else:
            self._undecided = len(block) - len(rest)

    def _parse(self, block: bytes, rest: bytes) -> None:
        """Take `block` as the header with what may follow it, and `rest` as body."""
        marked = _mailbox_line(block)
        fields, separator, end = split_header(marked)
        body = marked[end:] + rest
        self._added += len(marked) - len(block)
        if marked is not block:
            self._notes.append(MAILBOX_LINE_NOTE)
        if body and not separator:
            separator = CRLF
            self._added += len(CRLF)
            self._notes.append(SEPARATOR_NOTE)
        self._fields, self._separator = fields, separator
        self._head.clear()
        self._check_hops(fields)
        if end > self._options.header_size_limit:
            self.refuse(HEADER_TOO_LARGE)
        if self.fault is None:
            self._take_body(body)

    def _take_body(self, octets: bytes) -> None:
        try:
            self._body.write(octets)
        except OSError:  # whatever the disk's trouble is, the client may try again
            self.refuse(NO_SPACE)

    def _check_hops(self, fields: tuple[HeaderField, ...]) -> None:
        """Refuse what has been through too many hands (RFC 5321 section 6.3)."""
        limit = self._options.hopcount_limit
        if len(fields) > limit and sum(each.named(b"Received") for each in fields) > limit:
            self.refuse(TOO_MANY_HOPS)


def _mailbox_line(block: bytes) -> bytes:
    """Make a field of the line that mbox files put before a message, as Postfix does."""
    if block.startswith(MAILBOX_LINES):
        return b"X-Mailbox-Line: " + block
    return block


class _Spool:
    """A body being written: in memory, and beyond the threshold in an unlinked file.  What comes
    has whole lines, and nothing else in it of a line end (:mod:`smtpgw.edge.framing`)."""

    def __init__(self, options: ContentOptions) -> None:
        self._options = options
        self._memory: bytes | bytearray = b""
        self._file: BinaryIO | None = None
        self._watch = Watch()
        self._size = 0

    def write(self, octets: bytes) -> None:
        """Raises OSError where the file cannot take it."""
        self._size += len(octets)
        if self._file is None and self._size > self._options.spool_threshold:
            self._file = _nameless(self._options.spool_directory)
            octets, self._memory = bytes(self._memory) + octets, b""
        if self._file is not None:
            self._file.write(octets)
            self._watch.see(octets)
        elif not self._memory:
            self._memory = octets  # most mails come in one piece, which is then not copied
        else:
            if isinstance(self._memory, bytes):
                self._memory = bytearray(self._memory)
            self._memory += octets

    def finish(self) -> Body:
        """The body as written.  Raises OSError."""
        if self._file is None:
            return WholeBody(bytes(self._memory))
        self._file.flush()
        return SeenBody(self._file, 0, self._size, self._watch.seen())

    def discard(self) -> None:
        self._memory = b""
        file, self._file = self._file, None
        if file is not None:
            _close_unwritten(file)


def _nameless(directory: Path | None) -> BinaryIO:
    """A file without a name, which the queue may give one where the file system has such files: one
    of tempfile's never gets any.  Raises OSError."""
    if directory is not None:
        with contextlib.suppress(OSError):  # whatever it is, the next one meets it or does without
            number = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
            return os.fdopen(number, "w+b", buffering=_FILE_BUFFER)
    # The body is what closes the file, so there is no context manager here.
    file = tempfile.TemporaryFile(dir=directory, buffering=_FILE_BUFFER)  # noqa: SIM115
    return cast(BinaryIO, file)


def _close_unwritten(file: BinaryIO) -> None:
    """Close a file whose buffered octets may have no room on the disk, and matter no more."""
    try:
        file.close()
    except OSError:  # closing wrote the buffer first; the descriptor is closed all the same
        return
