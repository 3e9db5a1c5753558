"""Certificates of the listeners, looked at before clients do: `smtpgw check`."""

from __future__ import annotations

from collections.abc import Iterator

from milterd.base.toml_file import ConfigError
from smtpgw.config import Listener, Smtpgw
from smtpgw.finding import Finding
from smtpgw.tls import chains
from smtpgw.tls.chains import ChainError
from smtpgw.tls.expiry import Shown, shown
from smtpgw.wiring import tls as wiring_tls

SOON = 14
"""Days before its end from which a certificate is worth a warning."""
_DAY = 86400


def examine(settings: Smtpgw, now: float) -> Iterator[Finding]:
    """How long each certificate is good for; `now` is seconds since the epoch."""
    for each in settings.listener:
        yield from _listener(settings, each, now)


def _listener(settings: Smtpgw, listener: Listener, now: float) -> Iterator[Finding]:
    subject = f"certificate {listener.name}"
    try:
        for chain in chains.read(wiring_tls.certificate_files(settings, listener)):
            yield _finding(subject, str(chain.path), shown(chain), now)
    except (ChainError, ConfigError) as error:
        yield Finding(subject, "error", str(error))


def _finding(subject: str, path: str, certificate: Shown, now: float) -> Finding:
    days = int((certificate.end - now) // _DAY)
    what = f"{path}: {certificate.kind}, {', '.join(certificate.names) or 'no name'}"
    if certificate.begin > now:
        return Finding(subject, "warning", f"{what}; not valid yet")
    if certificate.end <= now:
        return Finding(
            subject, "warning", f"{what}; expired {int((now - certificate.end) // _DAY)} days ago"
        )
    return Finding(subject, "warning" if days < SOON else "ok", f"{what}; {days} days left")
