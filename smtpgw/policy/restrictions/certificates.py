"""Clients that are known by their certificates (relay_clientcerts)."""

from __future__ import annotations

from smtpgw.policy import text as words
from smtpgw.policy.record import Outcome
from smtpgw.policy.registry import restriction
from smtpgw.policy.run import Rule, Run


@restriction("permit_tls_clientcerts")
async def permit_tls_clientcerts(run: Run, _rule: Rule) -> Outcome:
    """Yes where relay_clientcerts has the fingerprint of the certificate or of its public key."""
    return await _listed(run)


@restriction("permit_tls_all_clientcerts")
async def permit_tls_all_clientcerts(run: Run, _rule: Rule) -> Outcome:
    """Yes to every certificate that a CA of ours vouches for, and to those of relay_clientcerts."""
    tls = run.facts.tls
    if tls is not None and tls.certificate is not None and tls.certificate.trusted:
        return Outcome.PERMIT
    return await _listed(run)


async def _listed(run: Run) -> Outcome:
    tls, maps = run.facts.tls, run.site.relay_clientcerts
    certificate = tls.certificate if tls is not None else None
    if certificate is None or maps is None:
        return Outcome.DUNNO
    for each in (certificate.fingerprint, certificate.public_key_fingerprint):
        found = await maps.find(each.encode())
        if found is not None:
            run.asked("relay_clientcerts", each, words.shown(found.value), found.where)
            return Outcome.PERMIT
        run.asked("relay_clientcerts", each, "")
    return Outcome.DUNNO
