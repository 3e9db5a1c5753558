"""What Sendmail tells a milter, beside what Postfix does: its macros and its events.

Sources: milter.c of Sendmail 8.18, and the defaults of confMILTER_MACROS_* in its
cf/README.  Sendmail sends a list's packet even where no name in it has a value, and
none at all for a list that does not exist, so for DATA, header fields and body pieces.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from milterd.core.mail import Client, Direction, Envelope, Family, Mail
from milterd.lab.postfix import Pairs, client_literal, content_events, wire_name
from milterd.wire import messages as m
from milterd.wire.constants import STAGE_OF_COMMAND, Command, Stage
from milterd.wire.states import COMMAND_OF

__all__ = ["QUEUE_ID", "Macros", "content_events", "session_events"]

QUEUE_ID = b"0LabMail000001"
_DEFAULT_LISTS: Mapping[Stage, tuple[str, ...]] = {
    Stage.CONNECT: ("j", "_", "daemon_name", "if_name", "if_addr"),
    Stage.HELO: ("tls_version", "cipher", "cipher_bits", "cert_subject", "cert_issuer"),
    Stage.MAIL: (
        *("i", "auth_type", "auth_authen", "auth_ssf", "auth_author"),
        *("mail_mailer", "mail_host", "mail_addr"),
    ),
    Stage.RCPT: ("rcpt_mailer", "rcpt_host", "rcpt_addr"),
    Stage.END_OF_MESSAGE: ("msg_id",),
}


class Macros:
    """The macros of one mail; `wanted` are the milter's own lists.

    Values in `mail.session.macros` go before what Sendmail would say.
    """

    def __init__(self, mail: Mail, wanted: Mapping[Stage, tuple[str, ...]]) -> None:
        self._wanted = wanted
        self._given = mail.session.macros
        self._always = _session_values(mail) | _sender_values(mail.envelope)

    def refused(self) -> None:
        """The recipient told last was refused, which changes nothing: {i} comes with MAIL."""

    def before(self, event: m.CommandMessage) -> Pairs | None:
        """What to tell before `event`: known values only; None for no packet at all."""
        command = COMMAND_OF[type(event)]
        names = self._names(command)
        if names is None:
            return None
        values = dict(self._always)
        if isinstance(event, m.RcptTo):
            values |= _recipient_values(event.address[1:-1])
        if command not in (Command.CONNECT, Command.HELO):
            values["i"] = QUEUE_ID
        values |= self._given
        return tuple((wire_name(each), values[each]) for each in names if each in values)

    def _names(self, command: Command) -> tuple[str, ...] | None:
        stage = STAGE_OF_COMMAND.get(command)
        if stage is None:
            return None
        names = self._wanted.get(stage)
        if stage is Stage.END_OF_MESSAGE and Stage.END_OF_HEADERS not in self._wanted:
            # Sendmail looks whether there is a list for the end of the header (milter_data).
            names = None
        if names is None:
            names = _DEFAULT_LISTS.get(stage)
        return tuple(each.strip("{}") for each in names) if names else None


def _session_values(mail: Mail) -> dict[str, bytes]:
    client, session = mail.session.client, mail.session
    ours = session.direction is Direction.ORIGINATING
    values = {
        "j": b"localhost",
        "v": b"milterlab",
        "daemon_name": b"MSA" if ours else b"MTA",
        "if_name": b"localhost",
        "if_addr": b"127.0.0.1",
        "client_name": client.name,
        "client_addr": _address(client),
        "client_port": b"%d" % client.port,
    }
    for each in mail.values(b"Message-ID")[:1]:
        values["msg_id"] = each.strip()
    if client.family is not Family.UNKNOWN:
        values["_"] = client_literal(client)
    return values


def _sender_values(envelope: Envelope) -> dict[str, bytes]:
    domain = envelope.sender.rpartition(b"@")[2] if b"@" in envelope.sender else b""
    return {"mail_mailer": b"esmtp", "mail_host": domain, "mail_addr": envelope.sender}


def _recipient_values(address: bytes) -> dict[str, bytes]:
    domain = address.rpartition(b"@")[2] if b"@" in address else b""
    return {"rcpt_mailer": b"esmtp", "rcpt_host": domain, "rcpt_addr": address}


def _address(client: Client) -> bytes:
    """The address as Sendmail writes it, which marks that of IPv6 (RFC 5321 section 4.1.3)."""
    return b"IPv6:%b" % client.address if client.family is Family.INET6 else client.address


def session_events(mail: Mail) -> Iterator[m.CommandMessage]:
    """Connect and HELO."""
    client = mail.session.client
    yield m.Connect(client.name, client.family, client.port, _address(client))
    yield m.Helo(mail.session.helo)
