"""A mail as Postfix tells it to a milter: the events in their order, and the macros.

Sources: milter8.c and smtpd_milter.c of Postfix 3.7, seen on the wire; the lists
of macros are the defaults of milter_connect_macros and its like in postconf(5).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from milterd.core.mail import Client, Direction, Envelope, Family, Mail
from milterd.wire import messages as m
from milterd.wire.constants import CHUNK, STAGE_OF_COMMAND, Command, Stage
from milterd.wire.convert import header_to_wire
from milterd.wire.states import COMMAND_OF

Pairs = tuple[tuple[bytes, bytes], ...]

QUEUE_ID = b"4LabMail00z1"
_DEFAULT_LISTS: Mapping[Stage, tuple[str, ...]] = {
    Stage.CONNECT: ("j", "daemon_name", "daemon_addr", "v", "_"),
    Stage.HELO: ("tls_version", "cipher", "cipher_bits", "cert_subject", "cert_issuer"),
    Stage.MAIL: (
        *("i", "auth_type", "auth_authen", "auth_author"),
        *("mail_addr", "mail_host", "mail_mailer"),
    ),
    Stage.RCPT: ("i", "rcpt_addr", "rcpt_host", "rcpt_mailer"),
    Stage.DATA: ("i",),
    Stage.END_OF_HEADERS: ("i",),
    Stage.END_OF_MESSAGE: ("i",),
}
_CONTENT_STAGES = {
    Command.HEADER: Stage.END_OF_HEADERS,
    Command.BODY: Stage.END_OF_MESSAGE,
}
"""Postfix sends macros with every field and body piece too."""
_NO_QUEUE_ID_YET = frozenset({Command.CONNECT, Command.HELO, Command.MAIL})


class Macros:
    """The macros of one mail.

    Values in `mail.session.macros` go before what Postfix would say.  `wanted`
    are the milter's own lists; a stage without one gets Postfix's default.
    """

    def __init__(self, mail: Mail, wanted: Mapping[Stage, tuple[str, ...]]) -> None:
        self._wanted = wanted
        self._given = mail.session.macros
        self._always = _session_values(mail) | _sender_values(mail.envelope)
        self._opened = self._open_before = False

    def refused(self) -> None:
        """The recipient told last was refused: Postfix opens no queue file for it."""
        self._opened = self._open_before

    def before(self, event: m.CommandMessage) -> Pairs:
        """What to tell before `event`: known values only."""
        command = COMMAND_OF[type(event)]
        values = dict(self._always)
        if isinstance(event, m.RcptTo):
            values |= _recipient_values(event.address[1:-1])
        if command not in _NO_QUEUE_ID_YET and self._opened:
            values["i"] = QUEUE_ID
        if isinstance(event, m.RcptTo):
            # The queue file, and with it the queue id, comes with the first recipient.
            self._open_before, self._opened = self._opened, True
        values |= self._given
        return tuple(
            (wire_name(name), values[name]) for name in self._names(command) if name in values
        )

    def _names(self, command: Command) -> Iterator[str]:
        if command is Command.UNKNOWN:
            return
        stage = _CONTENT_STAGES.get(command) or STAGE_OF_COMMAND[command]
        # A list without a name is none to Postfix (MILTER_MACRO_EVAL in milter.c).
        for name in self._wanted.get(stage) or _DEFAULT_LISTS[stage]:
            yield name.strip("{}")


def wire_name(name: str) -> bytes:
    """A macro's name in a packet: bare if it is one letter, else in braces."""
    octets = name.encode("ascii", "replace")
    return octets if len(octets) == 1 else b"{%b}" % octets


def _session_values(mail: Mail) -> dict[str, bytes]:
    client, session = mail.session.client, mail.session
    ours = session.direction is Direction.ORIGINATING
    values = {
        "j": b"localhost",
        "v": b"milterlab",
        "daemon_name": b"ORIGINATING" if ours else b"smtpd",
        "daemon_addr": b"127.0.0.1",
        "client_name": client.name,
        "client_addr": client.address,
        "client_port": b"%d" % client.port,
    }
    if client.family is not Family.UNKNOWN:
        values["_"] = client_literal(client)
    return values


def client_literal(client: Client) -> bytes:
    """The client as in {_}: a name and the address, or the address alone."""
    literal = b"[%b]" % client.address
    return literal if client.name == literal else b"%b %b" % (client.name, literal)


def _sender_values(envelope: Envelope) -> dict[str, bytes]:
    domain = envelope.sender.rpartition(b"@")[2] if b"@" in envelope.sender else b""
    return {"mail_addr": envelope.sender, "mail_host": domain, "mail_mailer": b"smtp"}


def _recipient_values(address: bytes) -> dict[str, bytes]:
    domain = address.rpartition(b"@")[2] if b"@" in address else b""
    return {"rcpt_addr": address, "rcpt_host": domain, "rcpt_mailer": b"local"}


def session_events(mail: Mail) -> Iterator[m.CommandMessage]:
    """Connect and HELO."""
    client = mail.session.client
    yield m.Connect(client.name, client.family, client.port, client.address)
    yield m.Helo(mail.session.helo)


def content_events(mail: Mail, leading_space: bool) -> Iterator[m.CommandMessage]:
    """The message itself: every visible field, the body in pieces, its end."""
    for each in mail.visible():
        yield header_to_wire(each, leading_space)
    yield m.EndOfHeaders()
    for piece in mail.body.pieces(CHUNK):
        yield m.BodyChunk(piece)
    yield m.EndOfMessage()
