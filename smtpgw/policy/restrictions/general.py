"""Restrictions that may stand in any list."""

from __future__ import annotations

from smtpgw.policy import text as words
from smtpgw.policy.facts import State
from smtpgw.policy.listed import recipient_listed, sender_listed
from smtpgw.policy.record import Outcome
from smtpgw.policy.registry import Argument, restriction
from smtpgw.policy.run import Rule, Run


@restriction("permit", settled=True)
async def permit(_run: Run, _rule: Rule) -> Outcome:
    """Yes."""
    return Outcome.PERMIT


@restriction("reject")
async def reject(run: Run, _rule: Rule) -> Outcome:
    """No (reject_code)."""
    scope = run.scope
    return run.refused(scope.name, scope.what, run.options.reject_code, "5.7.1", "Access denied")


@restriction("defer")
async def defer(run: Run, _rule: Rule) -> Outcome:
    """Not now (defer_code)."""
    scope = run.scope
    return run.refused(scope.name, scope.what, run.options.defer_code, "4.3.2", "Try again later")


@restriction("defer_if_permit")
async def defer_if_permit(run: Run, rule: Rule) -> Outcome:
    """Not now, if nothing refuses."""
    return run.defer_if_permit(450, "4.7.0", _requested(run, rule.name))


@restriction("defer_if_reject")
async def defer_if_reject(run: Run, rule: Rule) -> Outcome:
    """Not now, if something refuses."""
    return run.defer_if_reject(450, "4.7.0", _requested(run, rule.name))


def _requested(run: Run, name: str) -> str:
    return f"<{words.shown(run.scope.name)}>: {run.scope.what} rejected: {name} requested"


@restriction("sleep", argument=Argument.NUMBER)
async def sleep(run: Run, rule: Rule) -> Outcome:
    """Wait, as many seconds as the number says."""
    await run.ports.sleep(float(rule.argument))
    return Outcome.DUNNO


@restriction("reject_unauth_pipelining")
async def reject_unauth_pipelining(run: Run, _rule: Rule) -> Outcome:
    """No to who sends commands before it might."""
    if not run.facts.pipelining:
        return Outcome.DUNNO
    scope = run.scope
    why = "Improper use of SMTP command pipelining"
    return run.refused(scope.name, scope.what, 503, "5.5.0", why)


@restriction("reject_plaintext_session")
async def reject_plaintext_session(run: Run, _rule: Rule) -> Outcome:
    """No without TLS (plaintext_reject_code)."""
    if run.facts.tls is not None:
        return Outcome.DUNNO
    return run.reject(run.options.plaintext_reject_code, "4.7.1", "Session encryption is required")


@restriction("reject_multi_recipient_bounce")
async def reject_multi_recipient_bounce(run: Run, _rule: Rule) -> Outcome:
    """No to a mail from the null sender for several (multi_recipient_bounce_reject_code)."""
    facts, scope = run.facts, run.scope
    if facts.sender != b"" or facts.recipients <= (facts.state is not State.RCPT):
        return Outcome.DUNNO
    code = run.options.multi_recipient_bounce_reject_code
    return run.refused(scope.name, scope.what, code, "5.5.3", "Multi-recipient bounce")


@restriction("reject_unlisted_recipient", "check_recipient_maps", settled=True)
async def reject_unlisted_recipient(run: Run, _rule: Rule) -> Outcome:
    """No to a recipient of ours whom the list of his class has not."""
    return await recipient_listed(run)


@restriction("reject_unlisted_sender", settled=True)
async def reject_unlisted_sender(run: Run, _rule: Rule) -> Outcome:
    """No to a sender of ours whom the list of his class has not."""
    return await sender_listed(run)
