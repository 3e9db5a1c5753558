"""Whether an address of ours has somebody behind it (reject_unlisted_recipient,
reject_unlisted_sender), asked once for each address, by a restriction or at the end of its list.
"""

from __future__ import annotations

from smtpgw.address.known import Known, Unknown
from smtpgw.address.resolve import AddressClass, Resolved
from smtpgw.policy import text as words
from smtpgw.policy.options import PolicyOptions
from smtpgw.policy.record import Outcome
from smtpgw.policy.run import Run
from smtpgw.tables.table import Unavailable


async def recipient_listed(run: Run) -> Outcome:
    """Raises Failed."""
    memory, facts = run.memory, run.facts
    if memory.recipient_listed or not facts.recipient:
        return Outcome.DUNNO
    memory.recipient_listed = not run.warning
    known = run.site.recipients
    return await _listed(run, known, facts.recipient, facts.sender, words.RECIPIENT)


async def sender_listed(run: Run) -> Outcome:
    """Raises Failed."""
    memory, facts = run.memory, run.facts
    if memory.sender_listed or not facts.sender:
        return Outcome.DUNNO
    memory.sender_listed = not run.warning
    return await _listed(run, run.site.senders, facts.sender, facts.recipient, words.SENDER)


async def _listed(
    run: Run, known: Known, address: bytes, other: bytes | None, what: str
) -> Outcome:
    resolved = await run.resolve(address, other)
    try:
        unknown = await known.check(resolved)
    except Unavailable as error:
        raise run.lookup_failure(address, error) from error
    if unknown is None:
        return Outcome.DUNNO
    for each in resolved.steps:
        run.asked(each.rule, words.shown(address), each.value, each.where)
    if unknown.rule:
        run.asked(unknown.rule, words.shown(resolved.recipient), "")
    code = _code(unknown, resolved, run.options)
    return run.refused(address, what, code, unknown.enhanced, unknown.text)


def _code(unknown: Unknown, resolved: Resolved, options: PolicyOptions) -> int:
    kind = resolved.address_class
    if not unknown.rule:
        alias = kind is AddressClass.VIRTUAL_ALIAS and unknown.code >= 500
        return options.unknown_virtual_alias_reject_code if alias else unknown.code
    match kind:
        case AddressClass.LOCAL:
            return options.unknown_local_recipient_reject_code
        case AddressClass.VIRTUAL_MAILBOX:
            return options.unknown_virtual_mailbox_reject_code
        case _:
            return options.unknown_relay_recipient_reject_code
