"""What the lists of a usual MX cost a recipient that is taken: the hot road."""

from __future__ import annotations

import asyncio
import time

import pytest

from smtpgw.policy.engine import Review
from smtpgw.policy.ports import Ports
from tests.policy.site import STRANGER, policy

USUAL = """
smtpd_client_restrictions = [
    "permit_mynetworks", "check_client_access inline:{ {192.0.2.99 = REJECT} }",
    "reject_unknown_reverse_client_hostname",
]
smtpd_helo_restrictions = [
    "permit_mynetworks", "reject_invalid_helo_hostname", "reject_non_fqdn_helo_hostname",
]
smtpd_sender_restrictions = [
    "reject_non_fqdn_sender", "check_sender_access inline:{ {bad.example = REJECT} }",
]
smtpd_recipient_restrictions = [
    "reject_non_fqdn_recipient", "check_recipient_access inline:{ {no@local.example = REJECT} }",
]
"""
ENOUGH = 2000


def test_the_cost_of_a_usual_set_of_lists(capsys: pytest.CaptureFixture[str]) -> None:
    review = Review(policy(USUAL), Ports())

    async def many() -> float:
        best = 9.9
        for _ in range(3):
            began = time.process_time()
            for _ in range(ENOUGH):
                decision = await review.rcpt(STRANGER)
                assert decision.reply is None
            best = min(best, (time.process_time() - began) / ENOUGH)
        return best

    seconds = asyncio.run(many())
    with capsys.disabled():
        print(f"\nrestriction lists of an MX: {seconds * 1e6:.0f} µs of CPU a recipient")
    assert seconds < 0.005, "the hot road has become slow"
