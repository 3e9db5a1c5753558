"""The commands of a delivery as octets: what the peer offers decides what is said.

Nothing from an envelope becomes syntax: an address or parameter that could end a
command line or a path is not sent (RFC 5321 section 4.1.2).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping, Sequence

from smtpgw.delivery.outcome import Job, Target
from smtpgw.delivery.replies import Reply

_UNSAFE = re.compile(rb'[\x00-\x1f\x7f]|^[^"]*[<> ]')
_QUOTED = re.compile(rb'"(?:[^"\\\x00-\x1f\x7f]|\\[^\x00-\x1f\x7f])*"@[^\x00-\x20\x7f<>"]+\Z')
_PARAMETER = re.compile(rb"(NOTIFY|ORCPT|RET|ENVID)=[!-~\x80-\xff]{1,500}\Z", re.IGNORECASE)
_NAME = re.compile(rb"[0-9A-Za-z](?:[0-9A-Za-z.-]{0,253}[0-9A-Za-z])?\Z|\[[0-9A-Fa-f:.IPv]+\]\Z")

Extensions = Mapping[bytes, bytes]


@functools.lru_cache(2000)
def sendable(address: bytes) -> bool:
    """Whether an address can stand between angle brackets without ending them."""
    if address.startswith(b'"'):
        return _QUOTED.match(address) is not None
    return _UNSAFE.search(address) is None and b'"' not in address


def extensions(reply: Reply) -> dict[bytes, bytes]:
    """What an EHLO or LHLO reply offers: keyword in capitals, its parameter."""
    found = {}
    for line in reply.lines[1:]:
        keyword, _, parameter = line.partition(b" ")
        found[keyword.upper()] = parameter
    return found


def most_octets(offered: Extensions) -> int:
    """The octets of a message that a peer takes (RFC 1870); 0 where it does not say."""
    limit = offered.get(b"SIZE", b"")
    return int(limit) if limit.isdigit() and len(limit) < 20 else 0


def host_name(reply: Reply, otherwise: str) -> str:
    """The name a peer gives itself in a greeting, or `otherwise`."""
    word = reply.lines[0].partition(b" ")[0]
    return word.decode() if _NAME.match(word) else otherwise


def mail_from(job: Job, offered: Extensions, *, eight_bit: bool, utf8: bool) -> bytes:
    """MAIL, with the parameters the peer knows."""
    line = b"MAIL FROM:<%b>" % job.sender
    if b"SIZE" in offered:
        line += b" SIZE=%d" % job.size
    if eight_bit and b"8BITMIME" in offered:
        line += b" BODY=8BITMIME"
    if utf8:
        line += b" SMTPUTF8"
    if job.sender_args and b"DSN" in offered:
        line += _parameters(job.sender_args, (b"RET", b"ENVID"))
    return line + b"\r\n"


def rcpt_to(target: Target, offered: Extensions) -> bytes:
    """RCPT, with the DSN parameters if the peer knows them."""
    line = b"RCPT TO:<%b>" % target.address
    if target.args and b"DSN" in offered:
        line += _parameters(target.args, (b"NOTIFY", b"ORCPT"))
    return line + b"\r\n"


def _parameters(args: Iterable[bytes], wanted: tuple[bytes, ...]) -> bytes:
    out = b""
    for each in args:
        match = _PARAMETER.match(each)
        if match is not None and match[1].upper() in wanted:
            out += b" " + each
    return out


def has_parameter(args: Sequence[bytes], name: bytes) -> bool:
    """Whether an ESMTP parameter of that name was given."""
    return any(each.partition(b"=")[0].upper() == name for each in args)


def declared_8bit(args: Sequence[bytes]) -> bool:
    """Whether BODY=8BITMIME was given."""
    return any(each.upper() == b"BODY=8BITMIME" for each in args)


def needs_utf8(job: Job) -> bool:
    """Whether only a peer with SMTPUTF8 can take this (RFC 6531 section 3.6)."""
    if not job.sender.isascii():
        return True
    for each in job.targets:
        if not each.address.isascii():
            return True
    said = job.sender_args and has_parameter(job.sender_args, b"SMTPUTF8")
    return bool(said) and not job.head.isascii()
