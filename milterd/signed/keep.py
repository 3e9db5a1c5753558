"""Which of a filter's edits go on: what a rule's `on_signed` says where one breaks a signature.

A filter gives its edits as wishes, one for each rule or thing that it wants done, in order.
Wishes must not depend on one another's indexes: a header filter lists its changes from the
bottom up, as :func:`milterd.filters.rules.difference` does, so that one left out moves no other.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from milterd.core.actions import Edit
from milterd.core.apply import apply
from milterd.core.decision import Reason, Reply
from milterd.core.mail import Mail
from milterd.signed import find
from milterd.signed.signature import FieldSignature, Signature
from milterd.signed.survive import Held

EXACT_WORK = 50_000
"""Fields, and stretches of 50 octets of a body, that are looked at for one mail in comparing
octets; beyond, an edit that touches a name that is signed counts as breaking every signature.  So
a mail with thousands of fields to change costs a bounded time.  One question is always answered."""

REFUSED = Reply(550, "5.7.1", "Message needs changes that its signature does not allow")


class OnSigned(enum.Enum):
    """What becomes of an edit that would break a good signature: it is left out, it is made
    all the same, or the mail is refused."""

    SKIP = "skip"
    FORCE = "force"
    REJECT = "reject"


Void = Callable[[Mail], frozenset[int]]
"""Who knows which signatures of DKIM and ARC, by the position of their fields, are not good anyway:
those need no care.  One that cannot be checked now is not among them.  May read the body and wait.
"""


def none_void(_: Mail) -> frozenset[int]:
    """Takes every signature for a good one."""
    return frozenset()


class Guard:
    """What a mail's good signatures forbid.  `void` is asked once at most, and only when an
    edit would break a signature of the header."""

    def __init__(self, mail: Mail, void: Void = none_void) -> None:
        self.held = Held(mail)
        self._void, self._known = void, frozenset[int]()
        self._asked = False
        self._left = EXACT_WORK

    def broken(self, edits: Sequence[Edit]) -> tuple[Signature, ...]:
        """The good signatures that the edits, all together, would break."""
        if not self.held.touched(edits):
            return ()
        if not self.exact:
            return self.all()
        return self.broken_as(apply(self.held.mail, edits))

    def broken_as(self, after: Mail, *, sure: bool = True) -> tuple[Signature, ...]:
        """The same, of the mail as it would be; where it need not be `sure`, all count as good."""
        self._left -= len(after.headers)
        if after.body is not self.held.mail.body:
            self._left -= after.body.size // 50
        found = self.held.broken_as(after)
        return tuple(each for each in found if not sure or not self._is_void(each))

    @property
    def exact(self) -> bool:
        """Whether octets are still compared, or :meth:`all` is the answer by now."""
        return self._left > 0

    def all(self, *, sure: bool = True) -> tuple[Signature, ...]:
        """Every good signature of the header."""
        found = (each for each in self.held.in_header if not each.fault)
        return tuple(each for each in found if not sure or not self._is_void(each))

    def _is_void(self, signature: Signature) -> bool:
        if not isinstance(signature, FieldSignature):
            return False  # a signature in the body says itself that it is not good: its fault
        if not self._asked:
            self._known, self._asked = self._void(self.held.mail), True
        return signature.position in self._known


@dataclass(frozen=True, slots=True)
class Wish:
    """Edits that one rule wants, all or none; `source` is its name in log lines."""

    source: str
    edits: tuple[Edit, ...]
    on_signed: OnSigned = OnSigned.SKIP


@dataclass(frozen=True, slots=True)
class Kept:
    """The edits to make, and a reason for each wish that met a signature.

    `reply` is the answer where a wish was to refuse the mail; the edits are then void.
    """

    edits: tuple[Edit, ...]
    reasons: tuple[Reason, ...] = ()
    reply: Reply | None = None


def keep(guard: Guard, wishes: Iterable[Wish]) -> Kept:
    """Go through the wishes in order; what each meets is what the ones before it left whole."""
    edits: tuple[Edit, ...] = ()
    reasons: list[Reason] = []
    gone: set[Signature] = set()
    for wish in wishes:
        broken = [each for each in guard.broken((*edits, *wish.edits)) if each not in gone]
        if not broken:
            edits += wish.edits
            continue
        reasons.append(reason(wish.source, wish.on_signed, broken))
        if wish.on_signed is OnSigned.REJECT:
            return Kept((), tuple(reasons), REFUSED)
        if wish.on_signed is OnSigned.FORCE:
            gone.update(broken)
            edits += wish.edits
    return Kept(edits, tuple(reasons))


def own_marks(mail: Mail, source: str, forged: tuple[Edit, ...], marks: tuple[Edit, ...]) -> Kept:
    """For a filter that marks mail: what claims to be its own mark goes whatever signs it, and
    marks are left out where a signature forbids them.  Marks are fields that MIME does not know."""
    if not forged and (not marks or not find.may_sign(mail.headers)):
        return Kept(marks)
    wishes = (Wish(source, forged, OnSigned.FORCE), Wish(source, marks, OnSigned.SKIP))
    return keep(Guard(mail), wishes)


def reason(source: str, on_signed: OnSigned, broken: Sequence[Signature]) -> Reason:
    """Why, for the log: what was done about the signatures, and which they are."""
    outcome = {
        OnSigned.SKIP: "kept-for-signature",
        OnSigned.FORCE: "breaks-signature",
        OnSigned.REJECT: "refused-for-signature",
    }[on_signed]
    return Reason(source, outcome, {"signature": ", ".join(map(str, broken))})
