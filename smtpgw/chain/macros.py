"""Which Sendmail macros a milter is told at which stage, and what they are worth.

The default sets are those of Postfix (postconf(5), milter_connect_macros and its
like); a milter's own list for a stage takes the place of the default one.  Names
here are without braces; on the wire one-character names go bare and the others in
braces, as Sendmail writes them.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import MappingProxyType

from milterd.core import finding
from milterd.core.mail import Client, Family
from milterd.wire import bulk
from milterd.wire.constants import Command, Stage

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
        # every piece of body; we with the first of them.
        Command.HEADER: Stage.END_OF_HEADERS,
        Command.BODY: Stage.END_OF_MESSAGE,
        Command.END_OF_MESSAGE: Stage.END_OF_MESSAGE,
    }
)


class Chosen:
    """The macros that a milter hears at one stage; one object for all milters that hear the same.

    `names` are as the milter wrote them; `daemon_name`, unless empty, is its own {daemon_name}.
    """

    __slots__ = ("_daemon_name", "_pairs")

    def __init__(self, names: tuple[str, ...], daemon_name: str) -> None:
        plain = [bare(each) for each in names]
        self._pairs = [(each, braced(each)) for each in plain]
        self._daemon_name = daemon_name.encode() if "daemon_name" in plain else b""

    def packet(self, command: Command, facts: Mapping[str, bytes]) -> bytes:
        """The packet to send before `command`; a name with no fact is left out."""
        pairs = self._pairs
        if command is Command.MAIL and finding.MACRO in facts:
            # Asked for by nobody: only we send it.
            pairs = [*pairs, (finding.MACRO, braced(finding.MACRO))]
        return bulk.macros(command, self._strings(pairs, facts))

    def strings(self, facts: Mapping[str, bytes]) -> bytes:
        """Names and values as they stand in the packet; the same for all commands."""
        return self._strings(self._pairs, facts)

    def _strings(self, pairs: list[tuple[str, bytes]], facts: Mapping[str, bytes]) -> bytes:
        if self._daemon_name and "daemon_name" in facts:
            facts = {**facts, "daemon_name": self._daemon_name}
        strings, ends = b"", 0
        for name, wire in pairs:
            if name in facts:
                strings += b"%b\0%b\0" % (wire, facts[name])
                ends += 2
        if strings.count(b"\0") != ends:  # one in a value, which a C string cannot carry
            clean = {name: value.replace(b"\0", b"?") for name, value in facts.items()}
            told = [b"%b\0%b\0" % (wire, clean[name]) for name, wire in pairs if name in clean]
            strings = b"".join(told)
        return strings


NO_MACROS = Chosen((), "")


@functools.lru_cache(maxsize=512)
def _chosen(names: tuple[str, ...], daemon_name: str) -> Chosen:
    return Chosen(names, daemon_name)


def chosen(command: Command, wanted: Mapping[Stage, tuple[str, ...]], daemon_name: str) -> Chosen:
    """What a milter that asked for `wanted` hears before `command`."""
    stage = STAGES.get(command)
    if stage is None:
        return NO_MACROS
    return _chosen(wanted.get(stage, DEFAULTS[stage]), daemon_name)


def bare(name: str) -> str:
    """The name without braces."""
    return name[1:-1] if name.startswith("{") and name.endswith("}") else name


def braced(name: str) -> bytes:
    """The name as it stands on the wire."""
    return (name if len(name) == 1 else "{" + name + "}").encode("latin-1", "replace")


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
    return {"mail_addr": address, "mail_host": _domain(address), **given}


def recipient_facts(address: bytes, given: Mapping[str, bytes]) -> dict[str, bytes]:
    """The macros of one RCPT; the caller gives rcpt_host and rcpt_mailer where it knows."""
    return {"rcpt_addr": address, "rcpt_host": _domain(address), **given}


def _domain(address: bytes) -> bytes:
    return address.rpartition(b"@")[2] if b"@" in address else b""
