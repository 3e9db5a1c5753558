"""Transports whose answer is known beforehand: error(8), retry(8), discard(8), and hold."""

from __future__ import annotations

import re
from collections.abc import Sequence

from smtpgw.delivery.outcome import Deferred, Delivered, Destination, Failed, Held, Job, Outcome

_ENHANCED = re.compile(r"([45]\.\d{1,3}\.\d{1,3})\s+(.*)", re.DOTALL)


class Fixed:
    """A :class:`~smtpgw.delivery.outcome.Deliverer` that needs nobody.

    The nexthop is the text; an enhanced status code may stand before it.
    """

    async def deliver(self, destination: Destination, job: Job) -> Sequence[Outcome]:
        code, text = _parted(destination.nexthop)
        return [_outcome(destination.transport, each.number, text, code) for each in job.targets]

    async def close(self) -> None:
        return


def failed(number: int, text: str) -> Failed:
    """A recipient that is bounced for a reason, before which its enhanced status code may stand."""
    code, text = _parted(text)
    return Failed(number, text, "", f"5{code}")


def _parted(text: str) -> tuple[str, str]:
    """The code without its class, and the text."""
    match = _ENHANCED.match(text)
    return (match[1][1:], match[2]) if match else (".0.0", text)


def _outcome(transport: str, number: int, text: str, code: str) -> Outcome:
    if transport == "discard":
        return Delivered(number, f"discarded {text}".rstrip())
    if transport == "retry":
        return Deferred(number, text or "mail is kept for now", "", f"4{code}")
    if transport == "hold":
        return Held(number, text or "mail for this address is held", "", f"4{code}")
    return Failed(number, text or "mail for this address is bounced", "", f"5{code}")
