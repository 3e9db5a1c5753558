"""Whether clients can log in: `smtpgw check`'s look at password files and Dovecots."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace

from milterd.base import logs
from smtpgw.config import Listener, Smtpgw
from smtpgw.finding import Finding
from smtpgw.sasl.dovecot.client import DovecotClient, DovecotOptions
from smtpgw.sasl.dovecot.link import Unavailable
from smtpgw.sasl.file import store
from smtpgw.sasl.file.judge import FileOptions
from smtpgw.wiring import sasl as wiring_sasl
from smtpgw.wiring import tls as wiring_tls

PATIENCE = 5.0
"""Seconds for Dovecot to answer."""


async def examine(settings: Smtpgw) -> list[Finding]:
    """Each judge once, and the listeners that can never offer AUTH."""
    judges: dict[FileOptions | DovecotOptions, list[str]] = {}
    for each in settings.listener:
        options = wiring_sasl.judge(settings, each)
        if options is not None:
            judges.setdefault(options, []).append(each.name)
    found = await asyncio.gather(*(_judge(each, names) for each, names in judges.items()))
    return [*found, *_without_tls(settings)]


async def _judge(options: FileOptions | DovecotOptions, listeners: Iterable[str]) -> Finding:
    subject = f"logins at {', '.join(listeners)}"
    if isinstance(options, FileOptions):
        return _file(subject, options)
    return await _dovecot(subject, options)


def _file(subject: str, options: FileOptions) -> Finding:
    if store.mark(options.path) is None:
        missing = f"{options.path}: no such file, so nobody can log in (see smtpgw passwd)"
        return Finding(subject, "warning", missing)
    try:
        known, _ = store.read(options.path)
    except store.FileError as error:
        return Finding(subject, "error", str(error))
    if known.problems:
        line, reason = known.problems[0]
        return Finding(subject, "warning", f"{options.path}:{line}: {reason}")
    return Finding(subject, "ok", f"{options.path}: {len(known.users)} users")


async def _dovecot(subject: str, options: DovecotOptions) -> Finding:
    client = DovecotClient(replace(options, connect=PATIENCE), logs.get("check"))
    try:
        await client.link()
    except Unavailable as error:
        return Finding(subject, "error", str(error))
    else:
        names = " ".join(each.name for each in await client.mechanisms() or ())
        return Finding(subject, "ok", f"{options.name} offers {names}")
    finally:
        await client.close()


def _without_tls(settings: Smtpgw) -> Iterable[Finding]:
    for each in settings.listener:
        if _never(settings, each):
            detail = "clients may log in over TLS only, and there is no certificate: AUTH is off"
            yield Finding(f"listener {each.name}", "warning", detail)


def _never(settings: Smtpgw, listener: Listener) -> bool:
    reception = settings.reception(listener)
    only = reception.smtpd_sasl_auth_enable and reception.smtpd_tls_auth_only
    return only and not wiring_tls.certificate_files(settings, listener)
