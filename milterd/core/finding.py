"""What a filter caught a mail for, in one form that people and programs read.

A milter can say of a quarantine nothing but a line of text.  Ours say `filter/rule: text`, such as
`clamav/Eicar-Test-Signature: infected`: the rule is a signature's name, or that of a filter's own
rule.  The gateway knows a finding again by `filter/rule`, its key, and a postmaster who releases a
mail has just that key excepted.  So a rule is named the same each time, whatever the mail.  A rule
that begins with :data:`AWAITED` says that the filter could not look into the mail: the gateway asks
it again and again until it could.

The gateway tells a filter what it has to pass over by the macro :data:`MACRO` at MAIL.  Macros
come from the MTA alone, and a filter never asks an MTA for this one, so that no other sends it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from milterd.core.actions import Quarantine
from milterd.core.mail import Mail

MACRO = "gatepost_release"
"""The macro's name without braces; its value is keys with spaces between them."""
REASON_LIMIT = 100
"""Octets of a quarantine reason; what is beyond them, MTAs do not keep."""
HOLD_QUEUE = "hold"
"""In place of a filter's name: what is meant is the MTA's hold queue, as by Postfix's HOLD, and not
the gateway's quarantine."""
RULE_LIMIT = 64
"""Characters of a rule in a key; a longer one is cut, and told apart by a digest."""
AWAITED = "?"
"""How a rule begins that stands for no finding: the filter could not look, and wants to."""
MOST_RELEASED = 50
"""Keys that are passed over for one mail."""

_FILTER = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}\Z")
_KEY = re.compile(r"([a-z0-9][a-z0-9_-]{0,31})/([!-$&-9;-~]|%[0-9A-F]{2})+\Z")
_UNFIT = re.compile(rb"[^!-$&-9;-~]")  # a space, a colon, a per cent sign, and what is not ASCII
_DIGEST = 8


@dataclass(frozen=True, slots=True)
class Finding:
    """`filter` is the filter's name, `rule` what of it found something, in any characters; `text`
    says more to people and tells no findings apart.  Raises ValueError for a name of a filter that
    is not one, and for no rule."""

    filter: str
    rule: str
    text: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if _FILTER.match(self.filter) is None:
            raise ValueError(f"{self.filter!r} is no name of a filter")
        if not self.rule:
            raise ValueError(f"{self.filter}: a finding without a rule")

    @property
    def key(self) -> str:
        """`filter/rule`, without spaces and colons: it stands for this finding."""
        return f"{self.filter}/{_token(self.rule)}"

    @property
    def reason(self) -> bytes:
        """The line of text for a quarantine: printable ASCII, at most REASON_LIMIT octets."""
        line = f"{self.key}: {self.text}" if self.text else self.key
        octets = line.encode("ascii", "replace")[:REASON_LIMIT]
        return bytes(each if 32 <= each < 127 else 63 for each in octets)

    def quarantine(self) -> Quarantine:
        """The edit by which a filter has the mail kept for this."""
        return Quarantine(self.reason)

    def released(self, mail: Mail) -> bool:
        """Whether a postmaster lets this mail pass in spite of this finding."""
        return self.key in released(mail)


@dataclass(frozen=True, slots=True)
class Found:
    """Why a milter stopped a mail, as an MTA knows it: the milter by its name in the settings, and
    `what` it found: the key that its reason has, or else all of its words, which are `text`."""

    milter: str
    what: str
    text: str = field(default="", compare=False)

    @classmethod
    def of(cls, milter: str, reason: str) -> Found:
        """From a quarantine's reason."""
        return cls(milter, key_of(reason) or reason, reason)

    @property
    def key(self) -> str:
        """The key, if one of our filters said it; else ''."""
        return self.what if _KEY.match(self.what) else ""

    @property
    def filter(self) -> str:
        """Who found it: the filter, if it is one of ours, or the milter."""
        return self.what.partition("/")[0] if self.key else self.milter

    @property
    def awaited(self) -> bool:
        """Whether nothing was found yet: the filter could not look."""
        return bool(self.key) and self.rule.startswith(AWAITED)

    @property
    def rule(self) -> str:
        """What of that found it."""
        return self.what.partition("/")[2] if self.key else self.what


def key_of(reason: str) -> str:
    """The key in a quarantine reason of our form; '' in any other text."""
    key = reason.partition(": ")[0]
    return key if _KEY.match(key) else ""


def released(mail: Mail) -> frozenset[str]:
    """The keys of the findings that this mail is to pass in spite of."""
    value = mail.session.macros.get(MACRO, b"").decode("ascii", "replace")
    return frozenset(each for each in value.split(" ")[:MOST_RELEASED] if _KEY.match(each))


def macro_value(keys: Iterable[str]) -> bytes:
    """What the gateway says by the macro."""
    fit = sorted({each for each in keys if _KEY.match(each)})
    return " ".join(fit[:MOST_RELEASED]).encode("ascii")


def _token(rule: str) -> str:
    """A rule's name in the characters that a key may have."""
    octets = rule.encode("utf-8", "surrogateescape")
    token = _UNFIT.sub(lambda found: b"%%%02X" % found[0][0], octets).decode("ascii")
    if len(token) <= RULE_LIMIT:
        return token
    digest = hashlib.blake2b(octets, digest_size=_DIGEST // 2).hexdigest()
    kept = token[: RULE_LIMIT - _DIGEST - 1]
    return f"{re.sub('%.?$', '', kept)}~{digest}"
