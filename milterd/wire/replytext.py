"""The SMTP reply inside a ReplyCode message: read with suspicion, and made.

libmilter sends `ddd d.d.d text`, several lines as `ddd-...` and a last `ddd ...`
with CRLF between them, and doubles every percent sign.  Only 4xx and 5xx are
replies here (RFC 5321 section 4.2.1 knows others; a milter may not send them).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from milterd.wire.errors import LocalError, PeerError
from milterd.wire.limits import Limits
from milterd.wire.replies import ReplyCode

_LINE = re.compile(rb"([45][0-9]{2})(?:([ -])(.*))?\Z", re.DOTALL)
_ENHANCED = re.compile(rb"([245]\.[0-9]{1,3}\.[0-9]{1,3})(?: |\Z)")
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
_PERCENT = re.compile(rb"%(%?)")
_DEFAULT = Limits()


@dataclass(frozen=True, slots=True)
class SmtpReply:
    """A reply of the 4xx or 5xx kind.

    `enhanced` is the enhanced status code (RFC 3463), or empty where the milter
    gave none; `lines` are the text lines without codes, in printable ASCII.
    """

    code: int
    enhanced: str
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        """The lines as one, apart by spaces."""
        return " ".join(each for each in self.lines if each)


def parse_reply(text: bytes, limits: Limits = _DEFAULT) -> SmtpReply:
    """Read what a milter wants the client to be told.

    A doubled percent sign is one, a single one vanishes, as in Postfix; a tab
    becomes a space and an octet outside ASCII a question mark.  Raises PeerError
    for a code that is not 4xx or 5xx, an enhanced code of another class, other
    control characters, lines whose codes differ, and anything over the limits.
    """
    raw = text.split(b"\r\n")
    if len(raw) > limits.reply_lines:
        raise PeerError(f"reply of {len(raw)} lines, allowed are {limits.reply_lines}")
    code, enhanced = b"", b""
    lines: list[str] = []
    for number, line in enumerate(raw, 1):
        found, rest = _split_line(line, number == len(raw), limits.reply_line)
        if number > 1 and found != code:
            raise PeerError("reply with different codes on its lines")
        code = found
        status, rest = _split_enhanced(code, rest)
        enhanced = enhanced or status
        lines.append(rest.decode("ascii", "replace").replace("\ufffd", "?"))
    return SmtpReply(int(code), enhanced.decode("ascii"), tuple(lines))


def _split_line(line: bytes, last: bool, limit: int) -> tuple[bytes, bytes]:
    """The code and the text of one line."""
    if len(line) > limit:
        raise PeerError(f"reply line of {len(line)} octets, allowed are {limit}")
    line = line.replace(b"\t", b" ")
    if _CONTROL.search(line):
        raise PeerError("reply with a control character")
    match = _LINE.match(line)
    if match is None:
        raise PeerError("reply that is not 4xx or 5xx and a text")
    if match[2] is not None and (match[2] == b" ") is not last:
        raise PeerError("reply whose last line is not marked as such, or whose other line is")
    if match[2] is None and not last:
        raise PeerError("reply line without a hyphen after its code")
    return match[1], _PERCENT.sub(rb"\1", match[3] or b"")


def _split_enhanced(code: bytes, text: bytes) -> tuple[bytes, bytes]:
    """The enhanced code, or nothing, and what is left of the text."""
    match = _ENHANCED.match(text)
    if match is None:
        return b"", text
    if match[1][0] != code[0]:
        raise PeerError("reply whose enhanced code is of another class than its code")
    return match[1], text[match.end() :]


def make_reply(
    code: int, enhanced: str, lines: Sequence[str] | str, limits: Limits = _DEFAULT
) -> ReplyCode:
    """The message that has a client told `code`, `enhanced` (may be empty) and `lines`.

    Raises LocalError for what `parse_reply` would refuse or not give back.
    """
    texts = [lines] if isinstance(lines, str) else list(lines) or [""]
    prefix = f"{enhanced} " if enhanced else ""
    made = []
    for number, line in enumerate(texts, 1):
        mark = " " if number == len(texts) else "-"
        made.append(f"{code}{mark}{prefix}{line.replace('%', '%%')}")
    try:
        text = "\r\n".join(made).encode("ascii")
        understood = parse_reply(text, limits)
    except UnicodeEncodeError:
        raise LocalError("reply text outside ASCII") from None
    except PeerError as error:
        raise LocalError(error.reason) from None
    if (understood.code, understood.enhanced, understood.lines) != (code, enhanced, tuple(texts)):
        raise LocalError("reply text that would be read as something else")
    return ReplyCode(text)
