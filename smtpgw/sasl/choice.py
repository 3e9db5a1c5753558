"""Which mechanisms may be offered: smtpd_sasl_security_options and smtpd_sasl_mechanism_filter
(postconf(5)).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass

from smtpgw.edge.auth import Mechanism

_MUST_NOT = {
    "noplaintext": "plaintext",
    "noactive": "active",
    "nodictionary": "dictionary",
    "noanonymous": "anonymous",
}
_MUST = {"forward_secrecy": "forward-secrecy", "mutual_auth": "mutual-auth"}
SECURITY_OPTIONS = (*_MUST_NOT, *_MUST)
"""The words of smtpd_sasl_security_options."""

_WORD = re.compile(r"!?(?:static:\S+|[A-Za-z0-9_-]{1,20})\Z")


@dataclass(frozen=True, slots=True)
class MechanismFilter:
    """The first pattern that fits decides; what fits none is left out.  Empty: all pass."""

    patterns: tuple[tuple[bool, str], ...] = ()

    @classmethod
    def parse(cls, text: str) -> MechanismFilter:
        """`!external, static:rest`.  Raises ValueError saying what was expected."""
        found = []
        for each in re.split(r"[\s,]+", text.strip()) if text.strip() else ():
            if _WORD.match(each) is None:
                raise ValueError(f'expected mechanisms, "!" before those that are not, or '
                                 f'"static:rest", not {each!r}')  # fmt: skip
            found.append((not each.startswith("!"), each.removeprefix("!").upper()))
        return cls(tuple(found))

    def passes(self, name: str) -> bool:
        """Whether a mechanism, in upper case, may be offered."""
        if not self.patterns:
            return True
        for wanted, pattern in self.patterns:
            if pattern.startswith("STATIC:") or pattern == name:
                return wanted
        return False


def chooser(options: Collection[str], names: MechanismFilter) -> Callable[[Mechanism], bool]:
    """Whether a mechanism has what these security options ask for, and passes the filter."""
    without = frozenset(_MUST_NOT[each] for each in options if each in _MUST_NOT)
    needed = frozenset(_MUST[each] for each in options if each in _MUST)

    def fits(mechanism: Mechanism) -> bool:
        has = mechanism.properties
        return not has & without and needed <= has and names.passes(mechanism.name)

    return fits
