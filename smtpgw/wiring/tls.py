"""From the settings of a listener to its TLS."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from milterd.base import logs
from milterd.base.toml_file import ConfigError, Problem
from smtpgw import parameters
from smtpgw.config import Listener, Smtpgw
from smtpgw.config.reception import Reception
from smtpgw.tables import spec
from smtpgw.tls import ciphers, flags, versions
from smtpgw.tls.chains import ChainError
from smtpgw.tls.context import ContextError
from smtpgw.tls.names import SniMaps
from smtpgw.tls.options import CannotAskError, ClientOptions, Files, ServerOptions
from smtpgw.tls.server import Clocks, TlsServer

T = TypeVar("T")

FindNow = Callable[[bytes], bytes | None]

_CLOCKS = Clocks(time.monotonic, time.time)
_NO_CERTIFICATE = (
    "smtpd_tls_chain_files, or tls_cert and tls_key, of a certificate; or smtpd_tls_security_level "
    '= "none" (with smtpd_tls_wrappermode = false) for a listener in the clear'
)


@dataclass(frozen=True, slots=True)
class Doorway:
    """What TLS means to a listener; `server` is None where there is none."""

    server: TlsServer | None = None
    required: bool = False
    wrapper: bool = False
    certificate: bool = False


class _Reader:
    """The settings of one listener, every `$name` replaced.  Raises ConfigError."""

    def __init__(self, settings: Smtpgw, listener: Listener) -> None:
        self.listener, self.reception = listener, settings.reception(listener)
        self.base = settings.tables.directory
        self._values = settings.parameters(self.reception)

    def text(self, name: str) -> str:
        try:
            return parameters.expand(f"${name}", self._values)
        except parameters.ParameterError as error:
            raise self.wrong(name, error.found, error.expected) from error

    def words(self, name: str) -> list[str]:
        return list(spec.split(self.text(name)))

    def path(self, name: str) -> Path | None:
        """A file; None for "" and for "none", which is a word of Postfix's for it."""
        text = self.text(name)
        return None if text in ("", "none") else self.base / text

    def parsed(self, name: str, parse: Callable[[str], T]) -> T:
        text = self.text(name)
        try:
            return parse(text)
        except ValueError as error:
            raise self.wrong(name, text, str(error).rpartition("expected ")[2]) from error

    def wrong(self, name: str, found: str, expected: str) -> ConfigError:
        where = f"listener {self.listener.name}: {name}"
        return ConfigError([Problem("settings", 0, where, found, expected)])


def doorway(settings: Smtpgw, listener: Listener, names: FindNow | None = None) -> Doorway:
    """The TLS of a listener; `names` asks tls_server_sni_maps.  Reads certificates.

    Raises ConfigError.
    """
    reader = _Reader(settings, listener)
    reception = reader.reception
    level, wrapper = reception.smtpd_tls_security_level, reception.smtpd_tls_wrappermode
    if level == "none" and not wrapper:
        return Doorway()
    files = certificate_files(settings, listener)
    if not files:
        if level in ("may", "encrypt") or wrapper:
            found = f"{'smtpd_tls_wrappermode' if wrapper else level}, and no certificate"
            raise reader.wrong("smtpd_tls_security_level", found, _NO_CERTIFICATE)
        return Doorway()
    required = level == "encrypt" or wrapper
    maps = SniMaps(names, reader.base) if names is not None else None
    server = _server(reader, _options(reader, files, required), maps)
    return Doorway(server, required, wrapper, reception.smtpd_tls_req_ccert and required)


def certificate_files(settings: Smtpgw, listener: Listener) -> tuple[Files, ...]:
    """Where a listener's own certificates are.  Raises ConfigError."""
    reader = _Reader(settings, listener)
    if listener.tls_cert is not None and listener.tls_key is not None:
        return (Files(listener.tls_cert, listener.tls_key),)
    chains = [each for each in reader.words("smtpd_tls_chain_files") if each != "none"]
    if chains:
        return tuple(Files(reader.base / each) for each in chains)
    found = []
    for kind in ("", "ec"):
        chain = reader.path(f"smtpd_tls_{kind}cert_file")
        if chain is not None:
            found.append(Files(chain, reader.path(f"smtpd_tls_{kind}key_file") or chain))
    return tuple(found)


def _server(reader: _Reader, options: ServerOptions, maps: SniMaps | None) -> TlsServer:
    log = logs.get("tls").bind(listener=reader.listener.name)
    try:
        return TlsServer(options, log, _CLOCKS, maps)
    except ChainError as error:
        wanted = "a certificate chain and its key, both PEM"
        raise reader.wrong(_certificate_key(reader), str(error), wanted) from error
    except ContextError as error:
        raise reader.wrong(error.key, error.reason, "what OpenSSL takes") from error
    except CannotAskError as error:
        raise reader.wrong("smtpd_tls_ask_ccert", str(error), "false with this Python") from error
    except (OSError, ValueError) as error:
        wanted = "certificates of CAs in PEM"
        raise reader.wrong("smtpd_tls_CAfile", str(error), wanted) from error


def _certificate_key(reader: _Reader) -> str:
    """Which key the certificates are from."""
    if reader.listener.tls_cert is not None:
        return "tls_cert"
    chains = reader.text("smtpd_tls_chain_files")
    return "smtpd_tls_chain_files" if chains else "smtpd_tls_cert_file"


def _options(reader: _Reader, files: tuple[Files, ...], required: bool) -> ServerOptions:
    reception = reader.reception
    kind = "mandatory_" if required else ""
    grade = reader.text(f"smtpd_tls_{kind}ciphers")
    without = reader.words("smtpd_tls_exclude_ciphers")
    if required:
        without += reader.words("smtpd_tls_mandatory_exclude_ciphers")
    if reception.smtpd_tls_eecdh_grade == "none":
        without.append("kEECDH")
    return ServerOptions(
        files=files,
        versions=reader.parsed(f"smtpd_tls_{kind}protocols", versions.parse),
        ciphers=_ciphers(reader, grade, without),
        server_order=reception.tls_preempt_cipherlist,
        flags=reader.parsed("tls_ssl_options", lambda text: flags.parse(list(spec.split(text)))),
        curve=_curve(reader),
        dh_parameters=_dh_parameters(reader),
        lifetime=reception.smtpd_tls_session_cache_timeout,
        clients=_clients(reader, reception),
    )


def _ciphers(reader: _Reader, grade: str, without: list[str]) -> str:
    if grade not in ciphers.GRADES:
        raise reader.wrong("smtpd_tls_ciphers", grade, f"one of {', '.join(ciphers.GRADES)}")
    try:
        return ciphers.cipher_list(reader.text(f"tls_{grade}_cipherlist"), without)
    except ValueError as error:
        expected = str(error).rpartition("expected ")[2]
        raise reader.wrong("smtpd_tls_exclude_ciphers", ", ".join(without), expected) from error


def _curve(reader: _Reader) -> str:
    grade = reader.reception.smtpd_tls_eecdh_grade
    return reader.text(f"tls_eecdh_{grade}_curve") if grade in ("strong", "ultra") else ""


def _dh_parameters(reader: _Reader) -> Path | None:
    """A file; "auto" is what OpenSSL does when it is told so, which Python cannot tell it."""
    path = reader.path("smtpd_tls_dh1024_param_file")
    return None if path is None or path.name == "auto" else path


def _clients(reader: _Reader, reception: Reception) -> ClientOptions:
    return ClientOptions(
        ask=reception.smtpd_tls_ask_ccert or reception.smtpd_tls_req_ccert,
        ca_file=reader.path("smtpd_tls_CAfile"),
        ca_path=reader.path("smtpd_tls_CApath"),
        depth=reception.smtpd_tls_ccert_verifydepth,
        digest=reception.smtpd_tls_fingerprint_digest,
    )
