"""The envelope and the header of a mail that was handed in.

What Postfix's cleanup(8) does to local mail and only the command can know: recipients from
the header, the name of the user.  Date and Message-ID are the gateway's to add.
"""

from __future__ import annotations

import binascii
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from milterd.core.mail import Envelope, HeaderField, Recipient
from smtpgw.address.mailboxes import addresses
from smtpgw.address.params import encode_xtext
from smtpgw.address.path import PathError, parse_path
from smtpgw.local.options import Options

EX_DATAERR, EX_NOUSER, EX_USAGE = 65, 67, 64

_TO = (b"to", b"cc", b"bcc")
_RESENT = tuple(b"resent-" + each for each in _TO)
_DROPPED = frozenset({b"bcc", b"resent-bcc", b"content-length", b"return-path"})
"""message_drop_headers (postconf(5))."""

_LONGEST_NAME = 200
_ENCODED = 10
"""Characters of an encoded word: with four octets each it stays below RFC 2047's 75."""


class Refused(Exception):  # noqa: N818 - the name says what happened
    """Not taken; `status` is the exit code (sysexits.h)."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True, slots=True)
class Identity:
    """Who hands in, and where: the login, the full name, and the domain for bare names."""

    login: str
    full_name: str
    myorigin: str


def checked(address: bytes, myorigin: str, *, null: bool = False) -> bytes:
    """An address with our domain if it has none.  Raises Refused (EX_NOUSER)."""
    inner = address.strip()
    if inner.startswith(b"<") and inner.endswith(b">"):
        inner = inner[1:-1]
    if inner and (b"@" not in inner or (inner[:1] == inner[-1:] == b'"')):
        inner += b"@" + myorigin.encode()
    try:
        path, rest = parse_path(b"<%b>" % inner, utf8=True, null=null)
    except PathError as error:
        raise Refused(EX_NOUSER, f"{os.fsdecode(address)}: {error.reason}") from None
    if rest:
        raise Refused(EX_NOUSER, f"{os.fsdecode(address)}: not an address")
    return path.address


def envelope(fields: tuple[HeaderField, ...], options: Options, who: Identity) -> Envelope:
    """From whom and to whom.  Raises Refused."""
    text = who.login if options.sender is None else options.sender
    sender = checked(os.fsencode(text), who.myorigin, null=True)
    found = [each for word in options.recipients for each in addresses(os.fsencode(word))]
    if options.from_header:
        found += _from_header(fields)
    if not found and options.from_header:
        raise Refused(EX_DATAERR, "no recipient addresses found in message header")
    if not found:
        raise Refused(
            EX_USAGE, "recipient addresses must be specified on the command line or via -t"
        )
    whole = dict.fromkeys(checked(each, who.myorigin) for each in found)
    args = () if options.notify is None else (b"NOTIFY=" + options.notify.encode(),)
    return Envelope(
        sender,
        tuple(_sender_args(options, [sender, *whole])),
        tuple(Recipient(each, args) for each in whole),
    )


def _sender_args(options: Options, those: Iterable[bytes]) -> Iterator[bytes]:
    if options.body is not None:
        yield b"BODY=" + options.body.encode()
    if not all(each.isascii() for each in those):
        yield b"SMTPUTF8"
    if options.ret is not None:
        yield b"RET=" + options.ret.encode()
    if options.envid is not None:
        yield b"ENVID=" + encode_xtext(options.envid.encode())


def _resent(fields: Iterable[HeaderField]) -> bool:
    return any(each.name.lower().startswith(b"resent-") for each in fields)


def _from_header(fields: tuple[HeaderField, ...]) -> list[bytes]:
    """Those of a mail that is sent again are in its Resent- fields (RFC 5322 section 3.6.6)."""
    names = _RESENT if _resent(fields) else _TO
    those = (each for each in fields if each.name.lower() in names)
    return [address for each in those for address in addresses(each.value)]


def complete(
    fields: tuple[HeaderField, ...], sender: bytes, who: Identity
) -> tuple[HeaderField, ...]:
    """The fields to queue: nobody's Bcc, and a From."""
    kept = tuple(each for each in fields if each.name.lower() not in _DROPPED)
    name = b"Resent-From" if _resent(fields) else b"From"
    if any(each.named(name) for each in fields):
        return kept
    return (*kept, HeaderField(name, b" " + _mailbox(sender, who)))


def _mailbox(sender: bytes, who: Identity) -> bytes:
    if not sender:
        return b"MAILER-DAEMON (Mail Delivery System)"
    name = _phrase(who.full_name)
    return b"%b <%b>" % (name, sender) if name else sender


def _phrase(name: str) -> bytes:
    """A display name: quoted where it has to be, encoded where it is not ASCII."""
    plain = re.sub(r"[\x00-\x1f\x7f]+", " ", name)[:_LONGEST_NAME].strip()
    if not plain.isascii():
        parts = [plain[at : at + _ENCODED] for at in range(0, len(plain), _ENCODED)]
        return b"\r\n ".join(map(_encoded_word, parts))
    if re.fullmatch(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~ -]*", plain):
        return plain.encode()
    return b'"' + re.sub(r'(["\\])', r"\\\1", plain).encode() + b'"'


def _encoded_word(part: str) -> bytes:
    octets = part.encode("utf-8", "replace")
    return b"=?utf-8?b?" + binascii.b2a_base64(octets, newline=False) + b"?="
