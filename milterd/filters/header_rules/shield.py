"""What the signatures of a mail forbid: the one place where rules ask about them.

Nothing is read of a signature before a rule would change something, since most mail leaves
this filter as it came.  A header is judged as it would become, whole: by the octets that each
signature hashes (see :mod:`milterd.signed.survive`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace

from milterd.core.mail import Body, HeaderField, Mail
from milterd.filters.header_rules.lines import Line
from milterd.signed.find import ARC_SET, DKIM
from milterd.signed.keep import Guard, Void, none_void
from milterd.signed.signature import Signature

_SIGNATURES = frozenset({DKIM, *ARC_SET})
_READ_FURTHER = _SIGNATURES | {b"content-type", b"content-transfer-encoding", b"mime-version"}
"""Fields that matter to signatures that do not mention them."""


class Shield:
    """The signatures of one mail, and what the rules so far have let go of.  `names` are those of
    its fields in lower case, where they are known."""

    __slots__ = ("_gone", "_guard", "_mail", "_mentions", "_moved", "_places", "_void")

    def __init__(
        self, mail: Mail, void: Void = none_void, names: Collection[bytes] | None = None
    ) -> None:
        # What the MTA put on top is no rule's, and rules' lists do not have it.
        seen = [at for at, each in enumerate(mail.headers) if not each.hidden]
        hides = len(seen) < len(mail.headers)
        self._mail = mail.with_headers(mail.visible()) if hides else mail
        self._places = {at: place for place, at in enumerate(seen)} if hides else None
        self._void = void
        self._guard: Guard | None = None
        self._gone: set[Signature] = set()
        self._moved: set[bytes] = set()
        signed = names is None or not _SIGNATURES.isdisjoint(names)
        self._mentions: bytes | None = None if signed else b""

    @property
    def guard(self) -> Guard:
        """Read on first need."""
        if self._guard is None:
            self._guard = Guard(self._mail, self._void)
        return self._guard

    def concerns(self, names: Iterable[bytes]) -> bool:
        """Whether a change to fields of these names might matter to a signature: a quick look."""
        return self.guard.held.names(names)

    def mentioned(self, names: Collection[bytes]) -> bool:
        """Whether any signature of the header mentions one of these, without reading what it
        says.  False is certain."""
        if self._mentions is None:
            headers = self._mail.headers
            values = [each.value for each in headers if each.name.lower() in _SIGNATURES]
            self._mentions = b" ".join(values).translate(None, b" \t\r\n").lower()
        if not _READ_FURTHER.isdisjoint(names):
            return True
        return bool(self._mentions) and any(each in self._mentions for each in names)

    def free(self, position: int) -> bool:
        """Whether the field at that place in the mail may go or change, for all that signatures
        say: a quick look.  True is certain."""
        name = self._mail.headers[self._place(position)].name.lower()
        return name not in self._moved and self.guard.held.free(self._place(position))

    def meets(
        self,
        old: Line | None,
        new: Sequence[Line],
        become: Callable[[], Iterable[Line]],
        *,
        sure: bool = True,
    ) -> tuple[Signature, ...]:
        """The good signatures that break when a line becomes these, after which the header is
        what `become` gives; with nothing broken, the change is taken for made."""
        names = {each.field.name.lower() for each in new if each is not old}
        if old is not None and old not in new:
            own = old.field.name.lower()
            if not self.mentioned(names | {own}):
                return ()
            free = old.origin is not None and names <= {own} and self.free(old.origin)
            names = set() if free else names | {own}
        if not names or not self.concerns(names):
            return ()
        found = self.broken(lambda: [line.field for line in become()], sure=sure)
        if not found or not sure:
            self.move(names)
        return found

    def _place(self, position: int) -> int:
        return position if self._places is None else self._places[position]

    def move(self, names: Iterable[bytes]) -> None:
        """Fields of these names were changed that were not free: which instances signatures
        cover may be others by now."""
        self._moved.update(map(bytes.lower, names))

    def broken(
        self, become: Callable[[], Iterable[HeaderField]], *, sure: bool = True
    ) -> tuple[Signature, ...]:
        """The good signatures that are broken once the mail has the header that `become` gives;
        not those that are given up.  Where it need not be `sure`, nobody is asked whether they
        are good."""
        if self.guard.exact:
            after = Mail(headers=tuple(become()), body=self._mail.body)
            found = self.guard.broken_as(after, sure=sure)
        else:
            found = self.guard.all(sure=sure)
        return tuple(each for each in found if each not in self._gone)

    def broken_body(self, body: Body) -> tuple[Signature, ...]:
        """The same, of another body under the header as it came."""
        found = self.guard.broken_as(replace(self._mail, body=body))
        return tuple(each for each in found if each not in self._gone)

    def give_up(self, signatures: Sequence[Signature]) -> None:
        """These are broken on purpose: later rules have nothing to keep whole there."""
        self._gone.update(signatures)
