"""One command line: is it SMTP, is it clean, which verb, which argument.

Pure.  What is not SMTP at all (HTTP, TLS, SSH, a mail's body taken for
commands) gets an answer that closes the connection (RFC 5321 section 7.8).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass

from smtpgw.edge.road import Answer

COMMAND_LIMIT = 512
"""Octets of a command line with its CRLF (RFC 5321 section 4.5.3.1.4)."""

ROOM: Mapping[str, int] = {
    "MAIL": 26 + 17 + 10 + 107 + 500,  # SIZE, BODY, SMTPUTF8, RET and ENVID, AUTH
    "RCPT": 28 + 507,  # NOTIFY, ORCPT
    "AUTH": 12_288,  # an initial response
}
"""Octets more for a verb, as the extensions we offer add them."""

LONGEST = COMMAND_LIMIT + max(ROOM.values())

BAD_SYNTAX = Answer(500, "5.5.2", "Bad syntax")
TOO_LONG = Answer(500, "5.5.2", "Command line too long")
ENDLESS = Answer(500, "5.5.2", "Command line too long", hangup=True)
BARE_LF = Answer(500, "5.5.2", "Command line ends in bare <LF>", hangup=True)
NOT_SMTP = Answer(421, "4.7.0", "This is an SMTP server", hangup=True)

_FOREIGN = re.compile(
    rb"(?:GET|POST|PUT|HEAD|PATCH|DELETE|TRACE|CONNECT|OPTIONS|PRI)[ \t]"
    rb"|SSH-|[^ \t]+:|.*[ \t]HTTP/[0-9.]+\Z",
    re.IGNORECASE | re.DOTALL,
)
_WORD = re.compile(rb"[A-Za-z][A-Za-z0-9-]*\Z")
_PLAIN = re.compile(rb"[\t -~]*\Z")

_OFTEN = frozenset({b"EHLO", b"HELO", b"MAIL", b"RCPT", b"DATA", b"RSET", b"QUIT", b"NOOP"})
"""How lines begin that come again and again, and hold no secret."""
SHORT = 128
"""Octets of such a line that is kept."""

_OWN_RULES = frozenset({"MAIL", "RCPT"})
"""Verbs whose argument has a parser with an answer of its own for odd octets."""


@dataclass(frozen=True, slots=True)
class Command:
    """A verb in upper case and its argument, white space around it removed."""

    verb: str
    argument: bytes
    bare_lf: bool


def is_foreign_octet(first: bytes) -> bool:
    """Whether no command begins so; what does must not be waited for."""
    return bool(first) and not first.isalpha() and first not in (b"\r", b"\n")


def parse_command(line: bytes) -> Command | Answer:
    """The command in `line`, which ends in LF, or what to answer instead."""
    if line[:4] in _OFTEN and len(line) <= SHORT:
        return _usual(line)
    return _parsed(line)


def _parsed(line: bytes) -> Command | Answer:
    bare_lf = not line.endswith(b"\r\n")
    text = line[: -1 if bare_lf else -2]
    if not text:
        return BAD_SYNTAX
    if is_foreign_octet(text[:1]) or _FOREIGN.match(text):
        return NOT_SMTP
    word, argument = _cut(text)
    if _WORD.match(word) is None:
        return BAD_SYNTAX
    verb = word.decode("ascii").upper()
    if len(line) > COMMAND_LIMIT + ROOM.get(verb, 0):
        return TOO_LONG
    if verb not in _OWN_RULES and _PLAIN.match(argument) is None:
        return BAD_SYNTAX
    return Command(verb, argument, bare_lf)


_usual = functools.lru_cache(1000)(_parsed)
"""The same for a short line that comes again."""


def _cut(text: bytes) -> tuple[bytes, bytes]:
    word, _, argument = text.partition(b" ")
    if b"\t" in word:
        word = word.partition(b"\t")[0]
        argument = text[len(word) :]
    return word, argument.strip(b" \t")
