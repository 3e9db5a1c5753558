"""reject_unverified_sender and reject_unverified_recipient (ADDRESS_VERIFICATION_README)."""

from __future__ import annotations

from smtpgw.policy import text as words
from smtpgw.policy.ports import ServiceDown, Verified
from smtpgw.policy.record import Outcome
from smtpgw.policy.registry import restriction
from smtpgw.policy.run import Rule, Run

_TOLD = 250
"""Characters of what a host said that a client is told of a deferral (smtpd_check.c)."""


@restriction("reject_unverified_sender")
async def reject_unverified_sender(run: Run, _rule: Rule) -> Outcome:
    """Mail to the sender would be refused.  The null sender is not asked about."""
    options, sender = run.options, run.facts.sender
    if not sender:
        return Outcome.DUNNO
    codes = options.unverified_sender_defer_code, options.unverified_sender_reject_code
    return await _judged(
        run,
        _Subject(sender, words.SENDER, "4.1.7"),
        codes,
        options.unverified_sender_tempfail_action,
        options.unverified_sender_reject_reason,
    )


@restriction("reject_unverified_recipient")
async def reject_unverified_recipient(run: Run, _rule: Rule) -> Outcome:
    """Mail to the recipient would be refused."""
    options, recipient = run.options, run.facts.recipient
    if recipient is None:
        return Outcome.DUNNO
    codes = options.unverified_recipient_defer_code, options.unverified_recipient_reject_code
    return await _judged(
        run,
        _Subject(recipient, words.RECIPIENT, "4.1.1"),
        codes,
        options.unverified_recipient_tempfail_action,
        options.unverified_recipient_reject_reason,
    )


class _Subject:
    """Whose address it is."""

    def __init__(self, address: bytes, what: str, status: str) -> None:
        self.address, self.what, self.status = address, what, status

    def told(self, why: str) -> str:
        """A reply's text."""
        return f"<{words.shown(self.address)}>: {self.what} rejected: {why}"


async def _judged(
    run: Run, subject: _Subject, codes: tuple[int, int], action: str, reason: str
) -> Outcome:
    verifier, clock = run.ports.verifier, run.ports.clock
    began = clock()
    try:
        if verifier is None:
            raise ServiceDown("address verification is not there")  # noqa: TRY301 - told as others are
        found = await verifier.verify(subject.address, sender=subject.what == words.SENDER)
    except ServiceDown as error:
        run.asked("verify", words.shown(subject.address), str(error), took=clock() - began)
        text = subject.told("address verification problem")
        return run.defer_if_permit(450, subject.status, text, action)
    answer = f"{found.status} {found.text}".strip()
    run.asked("verify", words.shown(subject.address), answer, took=clock() - began)
    return _answered(run, subject, found, codes, action, reason)


def _answered(
    run: Run,
    subject: _Subject,
    found: Verified,
    codes: tuple[int, int],
    action: str,
    reason: str,
) -> Outcome:
    if found.status == "ok":
        return Outcome.DUNNO
    code = codes[1] if found.status == "bounced" else codes[0]
    why = reason or words.printable(found.text)
    if code // 100 == 2:
        return Outcome.DUNNO
    if code // 100 == 4:
        text = subject.told(f"unverified address: {why[:_TOLD]}")
        return run.defer_if_permit(code, subject.status, text, action)
    text = subject.told(f"undeliverable address: {why}")
    return run.reject(code, subject.status, text)
