"""The Received field that we put on top of every mail (RFC 5321 section 4.4).

Made of facts of ours, and of the client's words made harmless: what it called
itself is written only in characters that a host name or an address literal can
have, and everything else as `?`.
"""

from __future__ import annotations

import functools
import re
from datetime import UTC, datetime
from email.utils import format_datetime

from milterd.core.mail import Client, Envelope, Family, HeaderField
from smtpgw.edge.road import Hello, Login, PeerCertificate, Tls

_HARMFUL = re.compile(rb"[^A-Za-z0-9._:\[\]-]")
_LOGIN = re.compile(rb"[^A-Za-z0-9!#$%&'*+/=?^_`{|}~.@-]")
_NOT_IN_COMMENT = re.compile(rb"[^A-Za-z0-9 ._:@*-]")
_PATH = re.compile(rb"[^ -~\x80-\xff]")

_LONGEST_NAME = 255


def received_field(
    client: Client,
    hello: Hello,
    envelope: Envelope,
    *,
    by: bytes,
    mail_name: bytes,
    queue_id: bytes,
    when: float,
    name_login: bool = False,
    tell_tls: bool = True,
) -> HeaderField:
    """The field, hidden from milters as Postfix's own is from its.

    `when` is seconds since 1970, and is written in UTC; `name_login` names who has logged in,
    `tell_tls` tells of encryption and of the client's certificate (smtpd_tls_received_header).
    The recipient is named only where there is one, so that nobody learns of the others
    (section 7.2).
    """
    kind = protocol(hello, envelope)
    start = _start(
        client.name, client.address, client.family, hello.name,
        hello.tls if tell_tls else None, hello.login if name_login else None,
        kind, by, mail_name,
    )  # fmt: skip
    whom = b""
    if len(envelope.recipients) == 1:
        whom = b"\r\n\tfor <%b>" % _PATH.sub(b"?", envelope.recipients[0].address)
    value = b"%b%b%b;\r\n\t%b" % (start, _plain(queue_id), whom, date_of(int(when)))
    return HeaderField(b"Received", value, hidden=True)


@functools.lru_cache(maxsize=256)
def _start(
    name: bytes,
    address: bytes,
    family: Family,
    helo: bytes,
    tls: Tls | None,
    login: Login | None,
    kind: bytes,
    by: bytes,
    mail_name: bytes,
) -> bytes:
    """The field up to the queue id: the same for all sessions of a client, whatever its port."""
    # Who has given no name is called by the one it has.
    said = _plain(helo) or name
    parts = [b" from %b (%b)" % (said, _client(name, address, family))]
    if tls is not None:
        parts.append(b"(using %b)" % _tls(tls))
        if tls.certificate is not None:
            parts.append(_certificate(tls.certificate))
    if login is not None:
        parts.append(b"(Authenticated sender: %b)" % _LOGIN.sub(b"?", login.name))
    parts.append(b"by %b (%b) with %b id " % (_plain(by), _plain(mail_name), kind))
    return b"\r\n\t".join(parts)


@functools.lru_cache(maxsize=8)
def date_of(second: int) -> bytes:
    """A second since 1970 as a date of RFC 5322 section 3.3, in UTC."""
    return format_datetime(datetime.fromtimestamp(second, UTC)).encode("ascii")


def protocol(hello: Hello, envelope: Envelope) -> bytes:
    """The `with` keyword (RFC 3848, RFC 6531 section 4.3), from facts and not from words."""
    args = envelope.sender_args
    utf8 = bool(args) and b"SMTPUTF8" in [each.upper() for each in args]
    if hello.lmtp:
        base = b"UTF8LMTP" if utf8 else b"LMTP"
    elif not hello.esmtp:
        return b"SMTP"
    else:
        base = b"UTF8SMTP" if utf8 else b"ESMTP"
    return base + (b"S" if hello.tls else b"") + (b"A" if hello.login is not None else b"")


def _client(name: bytes, address: bytes, family: Family) -> bytes:
    """The verified name and the address of the client, in RFC 5321's TCP-info form."""
    if family is Family.INET:
        return b"%b [%b]" % (_plain(name), _plain(address))
    if family is Family.INET6:
        return b"%b [IPv6:%b]" % (_plain(name), _plain(address))
    return _plain(name)


def _tls(tls: Tls) -> bytes:
    version, cipher = (_plain(each.encode()) for each in (tls.version, tls.cipher))
    return b"%b with cipher %b (%d bits)" % (version, cipher, tls.bits)


def _certificate(shown: PeerCertificate) -> bytes:
    """The client's certificate, in the words of smtpd(8)."""
    subject, issuer = (
        _NOT_IN_COMMENT.sub(b"?", each.encode()[:_LONGEST_NAME])
        for each in (shown.subject, shown.issuer)
    )
    verdict = b"verified OK" if shown.trusted else b"not verified"
    return b'(Client CN "%b", Issuer "%b" (%b))' % (subject, issuer, verdict)


def _plain(octets: bytes) -> bytes:
    return _HARMFUL.sub(b"?", octets[:_LONGEST_NAME]) or b"unknown"
