"""What a virus scanner can answer, as frozen values, and what one looks like.

"Not infected" has six meanings that must never be confused: looked at and
clean, looked at in part, not looked at for its size, not looked at at all,
not meant to be looked at, and let pass by a postmaster.
Each is a type of its own here, so that a caller has to handle each.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from milterd.core.mail import Mail

WhyUnscannable = Literal["limit", "encrypted", "error", "partial"]
WhyUnavailable = Literal["down", "timeout", "empty", "garbled", "resources"]


@dataclass(frozen=True, slots=True)
class Clean:
    """Scanned wholly, as far as the scanner says, and nothing found."""


@dataclass(frozen=True, slots=True)
class Infected:
    """A signature matched.  The name is as the scanner gave it: untrusted text."""

    signature: str


@dataclass(frozen=True, slots=True)
class Unscannable:
    """The scanner works, but could not look into this mail.

    `why`: a scanner limit was reached, something in it is encrypted, the scanner
    answered an error, or the mail is a piece of one (message/partial, RFC 2046
    section 5.2.2).  `text` is the scanner's own: untrusted.
    """

    why: WhyUnscannable
    text: str = ""


@dataclass(frozen=True, slots=True)
class TooLarge:
    """Larger than the configured limit, in octets; not given to the scanner at all."""

    size: int
    limit: int


@dataclass(frozen=True, slots=True)
class Unavailable:
    """No answer that can be used.

    `why`: not reachable or gone in mid-scan, too slow, closed without an answer,
    answered nonsense, or this host lacks memory or descriptors.  Retrying later
    may help.
    """

    why: WhyUnavailable
    text: str = ""


@dataclass(frozen=True, slots=True)
class Skipped:
    """Not scanned because the settings say so: the sender or all recipients are exempt."""

    why: Literal["sender", "recipients"]


@dataclass(frozen=True, slots=True)
class Passed:
    """What was found and a postmaster let pass in this mail, in which there is nothing else."""

    found: Trouble


Trouble = Infected | Unscannable | TooLarge | Unavailable
ScanFact = Clean | Infected | Unscannable | TooLarge | Unavailable | Skipped | Passed


Meanwhile = Callable[[], object]
"""Work for the time in which a scanner has the mail.  It is called while the scanner is at work:
for each scanner that is asked in vain before another, again; for one that fails at once, not."""


class Scanner(Protocol):
    """A virus scanner.  Safe to use from several threads at once."""

    def scan(self, mail: Mail, *, meanwhile: Meanwhile | None = None) -> ScanFact:
        """Look at the whole message, header and body.  Never raises for the scanner's faults."""
        ...

    def version(self) -> str | Unavailable:
        """What answers, with the age of its signatures; or why nothing does."""
        ...


_UNPRINTABLE = re.compile(r"[^A-Za-z0-9 ._:/+@,=\[\]-]")


def printable(text: str, limit: int = 100) -> str:
    """A scanner's words made safe for a reply, a header and a log line.

    Only letters, digits and harmless signs stay; the rest, of which `%` means
    something to MTAs and line ends to everybody, becomes `_`.
    """
    return _UNPRINTABLE.sub("_", text[:limit])
