"""check_..._access: what a table says of the client, its HELO, the envelope, its certificate, its
login name, or of who is asked about by ETRN."""

from __future__ import annotations

import itertools

from smtpgw.address.keys import Key
from smtpgw.policy import asking
from smtpgw.policy import text as words
from smtpgw.policy.access import Subject
from smtpgw.policy.record import Outcome
from smtpgw.policy.registry import Argument, restriction
from smtpgw.policy.run import Rule, Run

_FINGERPRINTS = ("cert_fingerprint", "pubkey_fingerprint")


@restriction("check_client_access", argument=Argument.TABLE)
async def check_client_access(run: Run, rule: Rule) -> Outcome:
    """The client's name, the domains above it, its address, the networks it is in."""
    facts = run.facts
    keys = itertools.chain(
        asking.of_domain(run, facts.names.name), asking.of_address(facts.address.encode())
    )
    subject = Subject(facts.shown.encode(), words.CLIENT)
    return await asking.ask(run, rule, keys, subject) or Outcome.DUNNO


@restriction("check_reverse_client_hostname_access", argument=Argument.TABLE)
async def check_reverse_client_hostname_access(run: Run, rule: Rule) -> Outcome:
    """The same by the name that nobody has confirmed, which may permit nothing."""
    facts = run.facts
    reverse = facts.names.reverse
    keys = itertools.chain(
        asking.of_domain(run, reverse), asking.of_address(facts.address.encode())
    )
    outcome = await asking.ask(run, rule, keys, Subject(reverse, words.REVERSE_CLIENT))
    return never_permit(run, rule, outcome, reverse)


@restriction("check_helo_access", argument=Argument.TABLE)
async def check_helo_access(run: Run, rule: Rule) -> Outcome:
    """The name behind EHLO or HELO, and the domains above it."""
    helo = run.facts.helo
    if helo is None:
        return Outcome.DUNNO
    keys = asking.of_domain(run, helo)
    return await asking.ask(run, rule, keys, Subject(helo, words.HELO)) or Outcome.DUNNO


@restriction("check_sender_access", argument=Argument.TABLE)
async def check_sender_access(run: Run, rule: Rule) -> Outcome:
    """The sender; the null sender by smtpd_null_access_lookup_key."""
    sender = run.facts.sender
    if sender is None:
        return Outcome.DUNNO
    subject = Subject(sender, words.SENDER)
    if not sender:
        key = Key(run.options.smtpd_null_access_lookup_key)
        return await asking.ask(run, rule, (key,), subject) or Outcome.DUNNO
    resolved = await run.resolve(sender, run.facts.recipient)
    return await asking.ask_mail(run, rule, resolved.recipient, subject) or Outcome.DUNNO


@restriction("check_recipient_access", argument=Argument.TABLE)
async def check_recipient_access(run: Run, rule: Rule) -> Outcome:
    """The recipient.  One that says how to send on is never permitted by a table."""
    recipient = run.facts.recipient
    if recipient is None:
        return Outcome.DUNNO
    resolved = await run.resolve(recipient, run.facts.sender)
    subject = Subject(recipient, words.RECIPIENT)
    outcome = await asking.ask_mail(run, rule, resolved.recipient, subject) or Outcome.DUNNO
    suspicious = resolved.routed and not run.options.allow_untrusted_routing
    if outcome is Outcome.PERMIT and suspicious:
        return Outcome.DUNNO
    return outcome


@restriction("check_etrn_access", argument=Argument.TABLE)
async def check_etrn_access(run: Run, rule: Rule) -> Outcome:
    """The domain behind ETRN, and those above it."""
    node = run.facts.etrn
    if node is None:
        return Outcome.DUNNO
    keys = asking.of_domain(run, node)
    return await asking.ask(run, rule, keys, Subject(node, words.ETRN)) or Outcome.DUNNO


def _search_order(argument: str) -> tuple[str, ...]:
    """What stands in `{ type:name, search_order = ... }`.  Raises ValueError."""
    _, found, order = argument.partition("search_order")
    named = tuple(order.replace("=", " ").replace(",", " ").replace("}", " ").split())
    if found and (not named or any(each not in _FINGERPRINTS for each in named)):
        raise ValueError(f"{' and '.join(_FINGERPRINTS)} behind search_order")
    return named or _FINGERPRINTS


@restriction("check_ccert_access", argument=Argument.TABLE, prepare=_search_order)
async def check_ccert_access(run: Run, rule: Rule) -> Outcome:
    """The fingerprints of the client's certificate and of its public key, in this order unless
    search_order says otherwise."""
    tls = run.facts.tls
    certificate = tls.certificate if tls is not None else None
    if certificate is None:
        return Outcome.DUNNO
    prints = {
        "cert_fingerprint": certificate.fingerprint,
        "pubkey_fingerprint": certificate.public_key_fingerprint,
    }
    subject = Subject(certificate.subject.encode(), words.CCERT)
    for each in _search_order(rule.argument):
        keys = (Key(prints[each].encode()),)
        outcome = await asking.ask(run, rule, keys, subject) or Outcome.DUNNO
        if outcome is not Outcome.DUNNO:
            return outcome
    return Outcome.DUNNO


@restriction("check_sasl_access", argument=Argument.TABLE)
async def check_sasl_access(run: Run, rule: Rule) -> Outcome:
    """The login name."""
    login = run.facts.login
    if login is None or not login.name:
        return Outcome.DUNNO
    subject = Subject(login.name, words.SASL_USER)
    return await asking.ask(run, rule, (Key(login.name),), subject) or Outcome.DUNNO


def never_permit(run: Run, rule: Rule, outcome: Outcome | None, name: bytes) -> Outcome:
    """A yes by what anybody can write into DNS is a mistake of the postmaster's."""
    if outcome is Outcome.PERMIT and not run.memory.actions.discard:
        detail = f"{rule.text} says OK of {words.shown(name)}: say DUNNO to make an exception"
        raise run.misconfigured(detail)
    return outcome or Outcome.DUNNO
