"""Whose sender address it is (smtpd_sender_login_maps)."""

from __future__ import annotations

from smtpgw.address.find import Hit
from smtpgw.policy import text as words
from smtpgw.policy.record import Outcome
from smtpgw.policy.registry import restriction
from smtpgw.policy.run import Rule, Run
from smtpgw.tables import spec
from smtpgw.tables.table import Unavailable


@restriction("reject_authenticated_sender_login_mismatch")
async def reject_authenticated_sender_login_mismatch(run: Run, _rule: Rule) -> Outcome:
    """No to who has logged in and does not own the sender address."""
    return await _not_owned(run, unknown=False)


@restriction("reject_unauthenticated_sender_login_mismatch")
async def reject_unauthenticated_sender_login_mismatch(run: Run, _rule: Rule) -> Outcome:
    """No to who has not logged in and uses a sender address that somebody owns."""
    return await _not_logged_in(run)


@restriction("reject_known_sender_login_mismatch")
async def reject_known_sender_login_mismatch(run: Run, _rule: Rule) -> Outcome:
    """Both, for sender addresses that somebody owns."""
    if run.facts.login is None:
        return await _not_logged_in(run)
    return await _not_owned(run, unknown=True)


async def _not_owned(run: Run, *, unknown: bool) -> Outcome:
    """`unknown`: an address that nobody owns may be used by everybody."""
    login, sender = run.facts.login, run.facts.sender
    if login is None or not sender or _off(run):
        return Outcome.DUNNO
    hit = await _owners(run, sender)
    name = words.shown(login.name)
    if hit is None and unknown:
        return Outcome.DUNNO
    owners = spec.split(hit.value.decode("utf-8", "replace")) if hit is not None else ()
    if any(each.casefold() == name.casefold() for each in owners):
        return Outcome.DUNNO
    text = f"<{words.shown(sender)}>: {words.SENDER} rejected: not owned by user {name}"
    return run.reject(553, "5.7.1", text)


async def _not_logged_in(run: Run) -> Outcome:
    sender = run.facts.sender
    if run.facts.login is not None or not sender or _off(run):
        return Outcome.DUNNO
    if await _owners(run, sender) is None:
        return Outcome.DUNNO
    text = f"<{words.shown(sender)}>: {words.SENDER} rejected: not logged in"
    return run.reject(553, "5.7.1", text)


def _off(run: Run) -> bool:
    """Where nobody can log in, nobody is refused for not having done so."""
    if run.options.smtpd_sasl_auth_enable:
        return False
    run.note("skipped", "smtpd_sasl_auth_enable is off")
    return True


async def _owners(run: Run, sender: bytes) -> Hit | None:
    """Who owns an address."""
    maps, site = run.site.smtpd_sender_login_maps, run.site
    if maps is None:
        return None
    resolved = await run.resolve(sender, run.facts.recipient)
    try:
        hit = await site.resolver.finder.find(maps, resolved.recipient.lower())
    except Unavailable as error:
        raise run.lookup_failure(sender, error) from error
    key = words.shown(resolved.recipient)
    if hit is None:
        run.asked("smtpd_sender_login_maps", key, "")
    else:
        run.asked("smtpd_sender_login_maps", key, words.shown(hit.value), hit.where)
    return hit
