"""From the settings to how clients log in.  Pure.

Everything raises ConfigError for what cannot be used, naming the listener and the key.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from milterd.base.toml_file import ConfigError, Problem
from smtpgw import parameters
from smtpgw.address.clients import ClientElement, ClientList
from smtpgw.config import Listener, Smtpgw
from smtpgw.config.reception import Reception
from smtpgw.config.types import check_network
from smtpgw.edge.auth import Mechanism
from smtpgw.sasl.choice import MechanismFilter, chooser
from smtpgw.sasl.dovecot.client import DovecotOptions
from smtpgw.sasl.file.judge import FileOptions
from smtpgw.tables import spec

PASSWORD_FILE = Path("/etc/gatepost/passwd")
DOVECOT_SOCKET = "private/auth"

_NETWORKS = "smtpd_sasl_exceptions_networks"


def judge(settings: Smtpgw, listener: Listener) -> FileOptions | DovecotOptions | None:
    """Who judges a listener's logins; None where clients cannot log in."""
    reception = settings.reception(listener)
    if not reception.smtpd_sasl_auth_enable:
        return None
    text = _text(settings, listener, reception, "smtpd_sasl_path")
    if reception.smtpd_sasl_type == "file":
        domain = _text(settings, listener, reception, "smtpd_sasl_local_domain")
        return FileOptions(
            _path(settings, text) if text else PASSWORD_FILE, domain.lower().encode()
        )
    place: Path | tuple[str, int]
    if text.startswith("inet:"):
        host, _, port = text.removeprefix("inet:").rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            _wrong(listener, "smtpd_sasl_path", text, '"inet:host:port"')
        place = (host.strip("[]"), int(port))
    else:
        place = _path(settings, text.removeprefix("unix:") or DOVECOT_SOCKET)
    return DovecotOptions(place, reception.smtpd_sasl_service)


def password_files(settings: Smtpgw) -> list[Path]:
    """The password files that the listeners name, each once."""
    found = [judge(settings, each) for each in settings.listener]
    return sorted({each.path for each in found if isinstance(each, FileOptions)})


def _path(settings: Smtpgw, text: str) -> Path:
    return settings.queue.directory / text


Fits = Callable[[Mechanism], bool]


def mechanisms(settings: Smtpgw, listener: Listener) -> tuple[Fits, Fits]:
    """Which mechanisms a listener offers, without TLS and with it."""
    reception = settings.reception(listener)
    name = "smtpd_sasl_mechanism_filter"
    text = _text(settings, listener, reception, name)
    try:
        names = MechanismFilter.parse(text)
    except ValueError as error:
        _wrong(listener, name, text, str(error).removeprefix("expected "))
    plain = reception.smtpd_sasl_security_options
    over_tls = reception.smtpd_sasl_tls_security_options
    return chooser(plain, names), chooser(plain if over_tls is None else over_tls, names)


def silent(settings: Smtpgw, listener: Listener, mynetworks: ClientList) -> ClientList:
    """The clients that are not told of AUTH."""
    reception = settings.reception(listener)
    if getattr(reception, _NETWORKS).strip() == "$mynetworks":
        return mynetworks
    found = []
    for each in spec.split(_text(settings, listener, reception, _NETWORKS)):
        try:
            network = ipaddress.ip_network(check_network(each.removeprefix("!")))
        except ValueError:
            _wrong(listener, _NETWORKS, each, 'networks, or "$mynetworks" for those and its tables')
        found.append(ClientElement(network, negated=each.startswith("!")))
    return ClientList(tuple(found))


def _text(settings: Smtpgw, listener: Listener, reception: Reception, name: str) -> str:
    """A setting with every `$name` replaced."""
    values = settings.parameters(reception)
    try:
        return parameters.expand(str(getattr(reception, name)), values).strip()
    except parameters.ParameterError as error:
        _wrong(listener, name, error.found, error.expected)


def _wrong(listener: Listener, name: str, found: str, expected: str) -> NoReturn:
    where = f"listener {listener.name}: {name}"
    raise ConfigError([Problem("settings", 0, where, found, expected)])
