"""Whether the signatures of a mail are good, as far as the header tells: what only good ones
forbid is asked of them before an edit is left out (see :mod:`milterd.signed.keep`).

A signature is void where its field cannot be read, its time is over, its key was revoked or
never was, or it does not fit the header.  Where the key cannot be asked for now, and whatever
the body is, it counts as good: an edit that was left out can be made up for, a signature not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from milterd.core.mail import Mail
from milterd.filters.dkim_verify import Verifier, VerifyOptions
from milterd.ports.dkim_dns import DnsOptions, DnsTexts, TextSource


@dataclass(frozen=True, slots=True)
class StandingOptions:
    """How signatures are checked, and whom to ask for keys."""

    verify: VerifyOptions = field(default_factory=VerifyOptions)
    dns: DnsOptions = field(default_factory=DnsOptions)


class MustWait(Exception):  # noqa: N818  # no error: what has to be done first
    """An answer needs a key from DNS."""


def not_now(_: Mail) -> frozenset[int]:
    """A :data:`milterd.signed.keep.Void` that may not wait.  Raises MustWait."""
    raise MustWait


class Standing:
    """A :data:`milterd.signed.keep.Void` that asks DNS.  Several threads may use one."""

    def __init__(
        self,
        options: StandingOptions,
        clock: Callable[[], float],
        ticks: Callable[[], float],
        dns: TextSource | None = None,
    ) -> None:
        source = dns or DnsTexts(options.dns, ticks)
        self._verifier = Verifier(source, options.verify, clock, ticks)

    def __call__(self, mail: Mail) -> frozenset[int]:
        """The positions of void signatures of DKIM and ARC, within the time of the options."""
        return self._verifier.void(mail)
