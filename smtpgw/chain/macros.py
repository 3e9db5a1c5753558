"""Which Sendmail macros a milter is told at which stage, and what they are worth.

The default sets are those of Postfix (postconf(5), milter_connect_macros and its
like); a milter's own list for a stage takes the place of the default one.  Names
here are without braces; on the wire one-character names go bare and the others in
braces, as Sendmail writes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from milterd.core import finding
from milterd.core.mail import Client, Family
from milterd.wire.constants import Command, Stage

Values = tuple[tuple[bytes, bytes], ...]

DEFAULTS: Mapping[Stage, tuple[str, ...]] = MappingProxyType(
    {
        Stage.CONNECT: ("j", "daemon_name", "daemon_addr", "v", "_"),
        Stage.HELO: ("tls_version", "cipher", "cipher_bits", "cert_subject", "cert_issuer"),
        Stage.MAIL: (
            "i",
            "auth_type",
            "auth_authen",
            "auth_author",
            "mail_addr",
            "mail_host",
            "mail_mailer",
        ),
        Stage.RCPT: ("i", "rcpt_addr", "rcpt_host", "rcpt_mailer"),
        Stage.DATA: ("i",),
        Stage.END_OF_HEADERS: ("i",),
        Stage.END_OF_MESSAGE: ("i",),
    }
)

STAGES: Mapping[Command, Stage] = MappingProxyType(
    {
        Command.CONNECT: Stage.CONNECT,
        Command.HELO: Stage.HELO,
        Command.MAIL: Stage.MAIL,
        Command.RCPT: Stage.RCPT,
        Command.DATA: Stage.DATA,
        Command.END_OF_HEADERS: Stage.END_OF_HEADERS,
        # Postfix tells the end-of-header set with every field, the end-of-data set with
        # every piece of body.
        Command.HEADER: Stage.END_OF_HEADERS,
        Command.BODY: Stage.END_OF_MESSAGE,
        Command.END_OF_MESSAGE: Stage.END_OF_MESSAGE,
    }
)


def select(
    command: Command, wanted: Mapping[Stage, Iterable[str]], facts: Mapping[str, bytes]
) -> Values:
    """The macros to send before `command`; a name with no fact is left out."""
    stage = STAGES.get(command)
    if stage is None:
        return ()
    names = wanted.get(stage, DEFAULTS[stage])
    plain = [bare(each) for each in names]
    if command is Command.MAIL and finding.MACRO in facts:
        plain.append(finding.MACRO)  # asked for by nobody: only we send it
    return tuple((braced(each), _safe(facts[each])) for each in plain if each in facts)


def bare(name: str) -> str:
    """The name without braces."""
    return name[1:-1] if name.startswith("{") and name.endswith("}") else name


def braced(name: str) -> bytes:
    """The name as it stands on the wire."""
    return (name if len(name) == 1 else "{" + name + "}").encode("latin-1", "replace")


def _safe(value: bytes) -> bytes:
    """A value that a C string can carry."""
    return value.replace(b"\0", b"?")


def client_facts(client: Client, given: Mapping[str, bytes]) -> dict[str, bytes]:
    """The macros that follow from who connected; what was `given` stands.

    A name in brackets means that none was verified: {client_name} is then
    `unknown`, as Postfix has it.
    """
    name = b"unknown" if client.name.startswith(b"[") else client.name
    facts = {"client_name": name}
    if client.family is not Family.UNKNOWN:
        facts["client_addr"] = client.address
        facts["client_port"] = b"%d" % client.port
    facts |= given
    reverse = facts.get("client_ptr", name)
    forged = b"" if reverse.lower() == name.lower() else b" (may be forged)"
    facts.setdefault("client_ptr", reverse)
    facts.setdefault("_", b"%b [%b]%b" % (reverse, client.address or b"unknown", forged))
    return facts


def sender_facts(address: bytes, given: Mapping[str, bytes]) -> dict[str, bytes]:
    """The macros of one MAIL; the caller gives mail_host and mail_mailer where it knows."""
    return {"mail_addr": address, "mail_host": _domain(address)} | dict(given)


def recipient_facts(address: bytes, given: Mapping[str, bytes]) -> dict[str, bytes]:
    """The macros of one RCPT; the caller gives rcpt_host and rcpt_mailer where it knows."""
    return {"rcpt_addr": address, "rcpt_host": _domain(address)} | dict(given)


def _domain(address: bytes) -> bytes:
    return address.rpartition(b"@")[2] if b"@" in address else b""
