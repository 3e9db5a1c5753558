"""The machine's part: message/delivery-status, or its form in UTF-8 (RFC 3464, RFC 6533)."""

from __future__ import annotations

import ipaddress
import re
from email.utils import formatdate

from smtpgw.dsn import envelope
from smtpgw.dsn.report import Action, DsnOptions, Report, Reported
from smtpgw.dsn.text import embedded, fold, is_utf8, one_line, plain

_HOST = re.compile(r"[0-9A-Za-z](?:[0-9A-Za-z.-]{0,253}[0-9A-Za-z])?\Z")
_LITERAL = re.compile(r"\[[0-9A-Fa-f:.IPv]{2,60}\]\Z")
_TYPE = re.compile(r"[0-9A-Za-z-]{1,40}\Z")


def date(when: float) -> str:
    """A wall time in RFC 5322's form."""
    return formatdate(when)


def status(report: Report, options: DsnOptions, *, wide: bool) -> bytes:
    """The fields of the mail, then those of each recipient, a blank line between.

    In ASCII, unless `wide`: then an internationalized address stands in UTF-8.
    """
    blocks = [_of_mail(report, options, wide)]
    blocks += [_of_recipient(each, report, wide) for each in report.recipients]
    return b"\r\n".join(b"".join(fold(each) for each in block) for block in blocks)


def _of_mail(report: Report, options: DsnOptions, wide: bool) -> list[str]:
    """RFC 3464 section 2.2."""
    found = []
    envelope_id = envelope.envelope_id(report.sender_args)
    if envelope_id is not None:
        found.append(f"Original-Envelope-Id: {plain(envelope_id, 200)}")
    found.append(f"Reporting-MTA: dns; {options.myhostname}")
    came_from = _mta(report.helo.decode("latin-1"))
    if came_from:
        found.append(f"Received-From-MTA: dns; {came_from}")
    found.append(f"Arrival-Date: {date(report.arrived)}")
    found.append(f"X-Gatepost-Queue-ID: {report.queue_id}")
    if report.sender:
        found.append(f"X-Gatepost-Sender: {_address(report.sender, wide)}")
    return found


def _of_recipient(each: Reported, report: Report, wide: bool) -> list[str]:
    """RFC 3464 section 2.3."""
    found = []
    original = envelope.original_recipient(each.args)
    if original is not None:
        found.append(f"Original-Recipient: {_original(*original, wide)}")
    found.append(f"Final-Recipient: {_address(each.address, wide)}")
    found.append(f"Action: {each.action.value}")
    found.append(f"Status: {each.enhanced}")
    remote = _mta(each.remote)
    if remote:
        found.append(f"Remote-MTA: dns; {remote}")
    words = one_line(each.text) if wide else plain(each.text)
    if words and (each.spoken or each.action in (Action.FAILED, Action.DELAYED)):
        found.append(f"Diagnostic-Code: {'smtp' if each.spoken else 'x-gatepost'}; {words}")
    if report.attempted is not None:
        found.append(f"Last-Attempt-Date: {date(report.attempted)}")
    if each.action in (Action.FAILED, Action.DELAYED, Action.DELIVERED):
        found.append(f"Final-Log-ID: {report.queue_id}")  # nobody had it after us
    if each.action is Action.DELAYED and report.retry_until is not None:
        found.append(f"Will-Retry-Until: {date(report.retry_until)}")
    return found


def _address(address: bytes, wide: bool) -> str:
    """An address with its type (RFC 3464 section 2.3.2, RFC 6533 section 3)."""
    if address.isascii() or not is_utf8(address):
        return f"rfc822; {plain(address)}"
    return _international(address, wide)


def _original(kind: bytes, address: bytes, wide: bool) -> str:
    shown = kind.decode("latin-1")
    if not _TYPE.match(shown):
        return f"unknown; {plain(address)}"
    if shown.lower() == "utf-8" and is_utf8(address):
        return _international(address, wide, shown)
    return f"{shown};{plain(address)}"


def _international(address: bytes, wide: bool, kind: str = "utf-8") -> str:
    text = one_line(address, 300)
    return f"{kind}; {text if wide else plain(embedded(text))}"


def _mta(name: str) -> str:
    """A host as mta-name-type "dns" writes it: a name, or an address in brackets."""
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return name if _HOST.match(name) or _LITERAL.match(name) else ""
    return f"[IPv6:{address}]" if address.version == 6 else f"[{address}]"
