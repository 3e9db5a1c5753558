"""permit_mx_backup: mail for domains that name us as a backup mail exchanger."""

from __future__ import annotations

from collections.abc import Sequence

from smtpgw.address.resolve import AddressClass
from smtpgw.dns.answers import Found, Mx, TryAgain
from smtpgw.policy import dns
from smtpgw.policy import text as words
from smtpgw.policy.record import Outcome
from smtpgw.policy.registry import restriction
from smtpgw.policy.run import Rule, Run


@restriction("permit_mx_backup")
async def permit_mx_backup(run: Run, _rule: Rule) -> Outcome:
    """Yes for our own domains, and for those of which we are an exchanger but not a best one, if
    all best ones are in permit_mx_backup_networks, where that is set."""
    recipient = run.facts.recipient
    if recipient is None:
        return Outcome.DUNNO
    resolved = await run.resolve(recipient, run.facts.sender)
    if resolved.routed and not run.options.allow_untrusted_routing:
        return Outcome.DUNNO
    if resolved.address_class is not AddressClass.DEFAULT:
        return Outcome.PERMIT
    domain = resolved.recipient.rpartition(b"@")[2]
    if domain.startswith(b"["):
        return Outcome.DUNNO
    answer = await dns.exchangers(run, words.shown(domain))
    if isinstance(answer, TryAgain):
        why = f"Unable to look up mail exchanger information: {answer.reason}"
        return _later(run, recipient, why)
    if not isinstance(answer, Found) or dns.null_mx(answer) or not answer.records:
        return Outcome.DUNNO
    return await _backup(run, recipient, answer.records)


async def _backup(run: Run, recipient: bytes, records: Sequence[Mx]) -> Outcome:
    lowest = min(each.preference for each in records)
    best = [each.host for each in records if each.preference == lowest]
    others = [each.host for each in records if each.preference != lowest]
    if await _ours(run, recipient, best) or not await _ours(run, recipient, others):
        return Outcome.DUNNO
    if run.site.permit_mx_backup_networks is None:
        return Outcome.PERMIT
    for host in best:
        if not await _allowed(run, recipient, host):
            return Outcome.DUNNO
    return Outcome.PERMIT


async def _ours(run: Run, recipient: bytes, hosts: Sequence[str]) -> bool:
    """Whether one of the hosts is this one, by its name or by an address."""
    resolver, own = run.site.resolver, run.site.own_addresses
    for host in hosts:
        if await resolver.options.mydestination.match(host.encode()):
            return True
    for host in hosts:
        found, unsure = await dns.addresses(run, host)
        if any(str(each) in own for each in found):
            return True
        if not found and unsure:
            _later(run, recipient, f"Unable to look up mail exchanger host {host}")
    return False


async def _allowed(run: Run, recipient: bytes, host: str) -> bool:
    networks = run.site.permit_mx_backup_networks
    found, _unsure = await dns.addresses(run, host)
    if not found or networks is None:
        _later(run, recipient, f"Unable to look up host {host} as mail exchanger")
        return False
    for each in found:
        if not await networks.match(str(each).encode()):
            return False
    return True


def _later(run: Run, recipient: bytes, why: str) -> Outcome:
    text = f"<{words.shown(recipient)}>: {words.RECIPIENT} rejected: {why}"
    return run.defer_if_reject(450, "4.4.4", text)
