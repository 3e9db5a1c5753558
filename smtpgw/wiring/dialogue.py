"""From the settings of a listener to what may be said at it."""

from __future__ import annotations

import re

from milterd.base import sockets
from milterd.base.toml_file import ConfigError, Problem
from smtpgw import parameters
from smtpgw.config import Listener, Smtpgw
from smtpgw.config.reception import Reception
from smtpgw.door_tables import DoorTables
from smtpgw.edge.dialogue_options import DialogueOptions, UpstreamOptions

EHLO_KEYWORDS = frozenset({
    "8BITMIME", "AUTH", "CHUNKING", "DSN", "ENHANCEDSTATUSCODES", "ETRN", "PIPELINING", "SIZE",
    "SMTPUTF8", "STARTTLS", "VRFY", "XCLIENT", "XFORWARD", "SILENT-DISCARD",
})  # fmt: skip
_SMTP_PORT = 25
_BANNER = re.compile(r"[ -~]{1,400}\Z")


def dialogue(listener: Listener, reception: Reception, tables: DoorTables) -> DialogueOptions:
    """What may be said.  Raises ConfigError."""
    if listener.profile == "lmtp" and sockets.parse(listener.address).port == _SMTP_PORT:
        raise _wrong(listener, "address", "port 25", "another one for LMTP (RFC 2033 section 5)")
    discard = frozenset(each.upper() for each in reception.smtpd_discard_ehlo_keywords)
    if discard - EHLO_KEYWORDS:
        found, wanted = sorted(discard - EHLO_KEYWORDS)[0], ", ".join(sorted(EHLO_KEYWORDS)).lower()
        raise _wrong(listener, "smtpd_discard_ehlo_keywords", found.lower(), wanted)
    return DialogueOptions(
        lmtp=listener.profile == "lmtp",
        vrfy=not reception.disable_vrfy_command,
        smtputf8=reception.smtputf8_enable,
        forbidden=frozenset(each.upper() for each in reception.smtpd_forbidden_commands),
        noop=frozenset(each.upper() for each in reception.smtpd_noop_commands),
        discard=discard,
        discard_for=tables.ehlo_discard,
        command_filter=tables.command_filter,
        xclient=tables.xclient,
        xforward=tables.xforward,
    )


def banner(settings: Smtpgw, listener: Listener, reception: Reception) -> str:
    """The text after 220.  Raises ConfigError."""
    try:
        text = parameters.expand("$smtpd_banner", settings.parameters(reception)).strip()
    except parameters.ParameterError as error:
        raise _wrong(listener, "smtpd_banner", error.found, error.expected) from error
    if _BANNER.match(text) is None:
        raise _wrong(listener, "smtpd_banner", text, "one line of printable ASCII")
    return text


def upstream(
    listener: Listener, reception: Reception, tables: DoorTables
) -> UpstreamOptions | None:
    """The PROXY protocol, where it comes first.  Raises ConfigError."""
    if not reception.smtpd_upstream_proxy_protocol:
        return None
    if not reception.smtpd_upstream_proxy_hosts:
        key = "smtpd_upstream_proxy_hosts"
        raise _wrong(listener, key, "nobody", "the addresses of the load balancers")
    return UpstreamOptions(tables.upstream, reception.smtpd_upstream_proxy_timeout)


def _wrong(listener: Listener, key: str, found: str, expected: str) -> ConfigError:
    return ConfigError(
        [Problem("settings", 0, f"listener {listener.name}: {key}", found, expected)]
    )
