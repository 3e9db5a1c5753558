"""Line ends: CRLF and nothing else goes on (RFC 5321 section 2.3.8).

Smuggling lives on two servers seeing lines end in different places, so behind
the edge there is one line end only.  A bare LF is made CRLF or refused, a bare
CR and a NUL are refused.  Works on large pieces: a clean one is looked at twice
by C code and goes on uncopied.  That code looks at `text`, the same octets as a str, one a
character: str has the faster scanners.
"""

from __future__ import annotations

from io import IncrementalNewlineDecoder

from milterd.core.mail import CRLF
from smtpgw.edge.options import BareNewline
from smtpgw.edge.road import Answer

BARE_LF = Answer(550, "5.5.2", "Message contains a bare <LF>, lines must end in <CR><LF>")
BARE_CR = Answer(550, "5.5.2", "Message contains a bare <CR>, lines must end in <CR><LF>")
NUL = Answer(550, "5.6.0", "Message contains a NUL octet")

BARE_LF_NOTE = "bare LF normalised"

_CLEAN = (None, "\r\n")


class LineEnds:
    """Checks and normalises a stream given in parts, none of which ends in CR.

    `fault` is why the message must be refused, the first one found; `notes` what
    was changed.
    """

    def __init__(self, bare_newline: BareNewline) -> None:
        self.fault: Answer | None = None
        self.notes: tuple[str, ...] = ()
        self._normalize = bare_newline == "normalize"

    def clean(self, part: bytes, text: str) -> bytes:
        """`part` with CRLF line ends."""
        return part if self._is_clean(text) else self._repair(part)

    def unstuffed(self, part: bytes, text: str, *, dots: bool) -> bytes:
        """The same without transparency dots; `dots` says whether one stands after a CRLF.

        A dot goes after a bare LF too: whoever ends lines so stuffs them so.
        """
        if self._is_clean(text):
            return part.replace(b"\r\n.", CRLF) if dots else part
        return self._repair(part.replace(b"\n.", b"\n"))

    def _is_clean(self, text: str) -> bool:
        if "\0" in text:
            self.fault = self.fault or NUL
        return ends_clean(text)

    def _repair(self, part: bytes) -> bytes:
        if part.count(b"\r") != part.count(b"\r\n"):
            self.fault = self.fault or BARE_CR
        elif not self._normalize:
            self.fault = self.fault or BARE_LF
        else:
            self.notes = (BARE_LF_NOTE,)
            return part.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
        return part


def ends_clean(text: str) -> bool:
    """Whether no line ends otherwise than in CRLF."""
    scanner = IncrementalNewlineDecoder(None, translate=False)
    scanner.decode(text, final=True)
    return scanner.newlines in _CLEAN
