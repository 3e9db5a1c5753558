"""Who may send whither: clients that are ours, and destinations that are."""

from __future__ import annotations

from milterd.core.mail import Family
from smtpgw.address.resolve import AddressClass, Resolved
from smtpgw.policy import text as words
from smtpgw.policy.record import Outcome
from smtpgw.policy.registry import restriction
from smtpgw.policy.run import Rule, Run


@restriction("permit_mynetworks", settled=True)
async def permit_mynetworks(run: Run, _rule: Rule) -> Outcome:
    """Yes to clients in mynetworks, and to who comes by a UNIX socket."""
    if run.facts.client.family is Family.UNIX:
        return Outcome.PERMIT
    found = await run.trusted()
    if not found:
        return Outcome.DUNNO
    run.asked("mynetworks", run.facts.address, found)
    return Outcome.PERMIT


@restriction("permit_inet_interfaces", settled=True)
async def permit_inet_interfaces(run: Run, _rule: Rule) -> Outcome:
    """Yes to clients that come from an address of this machine."""
    address = run.facts.address
    own = address in run.site.own_addresses or address.encode() == run.facts.local_address
    return Outcome.PERMIT if own else Outcome.DUNNO


@restriction("permit_sasl_authenticated", settled=True)
async def permit_sasl_authenticated(run: Run, _rule: Rule) -> Outcome:
    """Yes to who has logged in, and not as nobody."""
    login = run.facts.login
    return Outcome.DUNNO if login is None or login.anonymous else Outcome.PERMIT


@restriction("permit_auth_destination", settled=True)
async def permit_auth_destination(run: Run, _rule: Rule) -> Outcome:
    """Yes to recipients whom anybody may send to."""
    recipient = run.facts.recipient
    if recipient is None:
        return Outcome.DUNNO
    resolved = await run.resolve(recipient, run.facts.sender)
    return Outcome.PERMIT if authorized(run, resolved) else Outcome.DUNNO


@restriction("reject_unauth_destination", settled=True)
async def reject_unauth_destination(run: Run, _rule: Rule) -> Outcome:
    """No to all others (relay_domains_reject_code)."""
    return await _unauthorized(run, run.options.relay_domains_reject_code, "5.7.1")


@restriction("defer_unauth_destination", settled=True)
async def defer_unauth_destination(run: Run, _rule: Rule) -> Outcome:
    """The same, not now."""
    return await _unauthorized(run, run.options.relay_domains_reject_code - 100, "4.7.1")


@restriction("check_relay_domains")
async def check_relay_domains(run: Run, _rule: Rule) -> Outcome:
    """Yes to clients in relay_domains and to recipients whom anybody may send to, no to others;
    Postfix warns of it too."""
    recipient = run.facts.recipient
    if recipient is None:
        return Outcome.DUNNO
    if await run.site.resolver.options.relay_domains.match(run.facts.names.name):
        return Outcome.PERMIT
    if authorized(run, await run.resolve(recipient, run.facts.sender)):
        return Outcome.PERMIT
    code = run.options.relay_domains_reject_code
    return run.refused(recipient, words.RECIPIENT, code, "5.7.1", "Relay access denied")


async def _unauthorized(run: Run, code: int, status: str) -> Outcome:
    recipient = run.facts.recipient
    if recipient is None:
        return Outcome.DUNNO
    resolved = await run.resolve(recipient, run.facts.sender)
    if authorized(run, resolved):
        return Outcome.DUNNO
    _tell(run, resolved)
    return run.reject(code, status, f"<{words.shown(recipient)}>: Relay access denied")


def authorized(run: Run, resolved: Resolved) -> bool:
    """Whether anybody may send there: an address of one of our classes that does not itself say
    how to send on (allow_untrusted_routing)."""
    if resolved.routed and not run.options.allow_untrusted_routing:
        return False
    return resolved.address_class is not AddressClass.DEFAULT and not resolved.wrong


def _tell(run: Run, resolved: Resolved) -> None:
    """Why not."""
    key = words.shown(resolved.recipient)
    if resolved.routed:
        run.asked("allow_untrusted_routing", key, "the local part says how to send on")
    elif resolved.address_class is AddressClass.DEFAULT:
        run.asked("relay_domains", key, "none of our domains")
    for each in resolved.steps:
        run.asked(each.rule, key, each.value, each.where)
