"""Restrictions about names: the client's, that of HELO, the domains of the envelope."""

from __future__ import annotations

from smtpgw.address.names import host_name
from smtpgw.address.path import is_literal
from smtpgw.address.resolve import AddressClass
from smtpgw.dns.answers import Family, Found, TryAgain
from smtpgw.edge.names import NameStatus
from smtpgw.policy import asking, dns
from smtpgw.policy import text as words
from smtpgw.policy.record import Outcome
from smtpgw.policy.registry import restriction
from smtpgw.policy.run import Rule, Run

_FINAL = (AddressClass.LOCAL, AddressClass.VIRTUAL_ALIAS, AddressClass.VIRTUAL_MAILBOX)


@restriction("reject_unknown_client_hostname", "reject_unknown_client")
async def reject_unknown_client_hostname(run: Run, _rule: Rule) -> Outcome:
    """No where the client has no name that leads back to it (unknown_client_reject_code)."""
    names, options = run.facts.names, run.options
    if names.status is NameStatus.OK:
        return Outcome.DUNNO
    run.asked("client name", run.facts.address, names.reason)
    code = 450 if names.status is NameStatus.TEMP else options.unknown_client_reject_code
    text = f"{words.CLIENT} rejected: cannot find your hostname, [{run.facts.address}]"
    return run.reject(code, "4.7.25", text)


@restriction("reject_unknown_reverse_client_hostname")
async def reject_unknown_reverse_client_hostname(run: Run, _rule: Rule) -> Outcome:
    """No where the client has no name at all (unknown_client_reject_code)."""
    names, options = run.facts.names, run.options
    if names.reverse_status is NameStatus.OK:
        return Outcome.DUNNO
    run.asked("client name", run.facts.address, names.reason)
    permanent = names.reverse_status is NameStatus.PERM
    code = options.unknown_client_reject_code if permanent else 450
    text = f"{words.CLIENT} rejected: cannot find your reverse hostname, [{run.facts.address}]"
    return run.reject(code, "4.7.1", text)


# -- HELO --------------------------------------------------------------------------------


@restriction("reject_invalid_helo_hostname", "reject_invalid_hostname", settled=True)
async def reject_invalid_helo_hostname(run: Run, _rule: Rule) -> Outcome:
    """No to what is neither a name nor an address (invalid_hostname_reject_code)."""
    helo = run.facts.helo
    if helo is None:
        return Outcome.DUNNO
    if helo.startswith(b"["):
        return _literal(run, helo)
    name = _without_dot(helo)
    if (name.isascii() and host_name(name)) or asking.is_address(name):
        return Outcome.DUNNO
    code = run.options.invalid_hostname_reject_code
    return run.refused(helo, words.HELO, code, "5.5.2", "Invalid name")


@restriction("reject_non_fqdn_helo_hostname", "reject_non_fqdn_hostname", settled=True)
async def reject_non_fqdn_helo_hostname(run: Run, _rule: Rule) -> Outcome:
    """No to a name without a domain (non_fqdn_reject_code)."""
    helo = run.facts.helo
    if helo is None:
        return Outcome.DUNNO
    if helo.startswith(b"["):
        return _literal(run, helo)
    if _qualified(run, helo):
        return Outcome.DUNNO
    code = run.options.non_fqdn_reject_code
    return run.refused(helo, words.HELO, code, "5.5.2", "need fully-qualified hostname")


@restriction("reject_unknown_helo_hostname", "reject_unknown_hostname")
async def reject_unknown_helo_hostname(run: Run, _rule: Rule) -> Outcome:
    """No to a name without A, AAAA or MX record (unknown_hostname_reject_code)."""
    helo = run.facts.helo
    if helo is None:
        return Outcome.DUNNO
    if helo.startswith(b"["):
        return _literal(run, helo)
    name, unsure = words.shown(helo), False
    for family in (Family.IPV4, Family.IPV6):
        answer = await dns.address(run, name, family)
        if isinstance(answer, Found):
            return Outcome.DUNNO
        unsure = unsure or isinstance(answer, TryAgain)
    mx = await dns.exchangers(run, name)
    if isinstance(mx, Found):
        why = "Malformed DNS server reply"
        if mx.records:
            return Outcome.DUNNO
        return run.refused(helo, words.HELO, run.options.unknown_hostname_reject_code, "4.7.1", why)
    if unsure or isinstance(mx, TryAgain):
        text = f"<{name}>: {words.HELO} rejected: Host not found"
        action = run.options.unknown_helo_hostname_tempfail_action
        return run.defer_if_permit(450, "4.7.1", text, action)
    code = run.options.unknown_hostname_reject_code
    return run.refused(helo, words.HELO, code, "4.7.1", "Host not found")


@restriction("permit_naked_ip_address")
async def permit_naked_ip_address(run: Run, _rule: Rule) -> Outcome:
    """Yes to an address without brackets; Postfix warns of it too."""
    helo = run.facts.helo
    if helo is None or helo.strip(b"0123456789.:"):
        return Outcome.DUNNO
    return Outcome.PERMIT if asking.is_address(helo) else _bad_address(run, helo)


def _literal(run: Run, helo: bytes) -> Outcome:
    return Outcome.DUNNO if is_literal(helo) else _bad_address(run, helo)


def _bad_address(run: Run, helo: bytes) -> Outcome:
    code = run.options.invalid_hostname_reject_code
    return run.refused(helo, words.HELO, code, "5.5.2", "invalid ip address")


def _without_dot(name: bytes) -> bytes:
    """The name without one dot at its end."""
    return name[:-1] if name.endswith(b".") and not name.endswith(b"..") and name != b"." else name


def _qualified(run: Run, name: bytes) -> bool:
    name = _without_dot(name)
    return b"." in name and host_name(name) and (run.facts.utf8 or name.isascii())


# -- sender and recipient ------------------------------------------------------------------


@restriction("reject_non_fqdn_sender", settled=True)
async def reject_non_fqdn_sender(run: Run, _rule: Rule) -> Outcome:
    """No to a sender without a domain, or with one that is not whole (non_fqdn_reject_code)."""
    sender = run.facts.sender
    return _non_fqdn(run, sender, words.SENDER) if sender else Outcome.DUNNO


@restriction("reject_non_fqdn_recipient", settled=True)
async def reject_non_fqdn_recipient(run: Run, _rule: Rule) -> Outcome:
    """The same for the recipient."""
    recipient = run.facts.recipient
    return Outcome.DUNNO if recipient is None else _non_fqdn(run, recipient, words.RECIPIENT)


def _non_fqdn(run: Run, address: bytes, what: str) -> Outcome:
    domain = address.rpartition(b"@")[2] if b"@" in address else b""
    if (domain.startswith(b"[") and domain.endswith(b"]")) or _qualified(run, domain):
        return Outcome.DUNNO
    code = run.options.non_fqdn_reject_code
    return run.refused(address, what, code, "4.5.2", "need fully-qualified address")


@restriction("reject_unknown_sender_domain", "reject_unknown_address")
async def reject_unknown_sender_domain(run: Run, _rule: Rule) -> Outcome:
    """No to a sender whose domain has neither MX nor address, or takes no mail
    (unknown_address_reject_code)."""
    sender = run.facts.sender
    if not sender:
        return Outcome.DUNNO
    return await _unknown_domain(run, sender, run.facts.recipient, words.SENDER, "4.1.8")


@restriction("reject_unknown_recipient_domain")
async def reject_unknown_recipient_domain(run: Run, _rule: Rule) -> Outcome:
    """The same for the recipient."""
    recipient = run.facts.recipient
    if recipient is None:
        return Outcome.DUNNO
    return await _unknown_domain(run, recipient, run.facts.sender, words.RECIPIENT, "4.1.2")


async def _unknown_domain(
    run: Run, address: bytes, other: bytes | None, what: str, status: str
) -> Outcome:
    resolved = await run.resolve(address, other)
    domain = resolved.recipient.rpartition(b"@")[2]
    if resolved.address_class in _FINAL or domain.startswith(b"["):
        return Outcome.DUNNO
    name, code = words.shown(domain), run.options.unknown_address_reject_code
    mx = await dns.exchangers(run, name)
    if dns.null_mx(mx):
        why = f"Domain {name} does not accept mail (nullMX)"
        if what == words.SENDER:
            return run.refused(address, what, 550, "4.7.27", why)
        return run.refused(address, what, 556, "4.1.10", why)
    if isinstance(mx, Found):
        if mx.records:
            return Outcome.DUNNO
        return run.refused(address, what, code, status, "Malformed DNS server reply")
    unsure = isinstance(mx, TryAgain)
    for family in (Family.IPV4, Family.IPV6):
        answer = await dns.address(run, name, family)
        if isinstance(answer, Found):
            return Outcome.DUNNO
        unsure = unsure or isinstance(answer, TryAgain)
    if not unsure:
        return run.refused(address, what, code, status, "Domain not found")
    text = f"<{words.shown(address)}>: {what} rejected: Domain not found"
    return run.defer_if_permit(450, status, text, run.options.unknown_address_tempfail_action)
