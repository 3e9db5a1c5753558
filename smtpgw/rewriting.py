"""What becomes of the addresses of a mail before it is queued, as cleanup(8) does it.

In this order: standard form, sender_canonical or recipient_canonical, canonical, masquerading;
then blind copies; then the virtual aliases of every recipient, each recipient once.  Header
fields get the first four, and only where a rule changes an address: every other octet stays.
A field that a signature of the mail covers stays whole, unless it is told otherwise, for a
changed one would make a good signature a bad one.
"""

from __future__ import annotations

import enum
import functools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from milterd.core.mail import Envelope, HeaderField, Recipient
from smtpgw.address import form
from smtpgw.address.canonical import Canonical
from smtpgw.address.find import Finder, Maps
from smtpgw.address.headers import RECIPIENTS, SENDERS, rewritten
from smtpgw.address.masquerade import Masquerade
from smtpgw.address.params import encode_xtext
from smtpgw.address.standard import Standard
from smtpgw.address.virtual import Expansion, Told, Virtual
from smtpgw.dsn import envelope as dsn

_SIGNATURES = frozenset({b"dkim-signature", b"arc-message-signature", b"domainkey-signature"})
_SIGNED = re.compile(rb"(?:\A|;)\s*h\s*=\s*([^;]*)", re.DOTALL)

_PHRASE = rb"[^\"()<>@,;:\\\[\]]*"
_ADDRESS = rb"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+"
_ONE = rb'(?:%b(?:"[^"\\]*"%b)?<%b>\s*|\s*%b\s*)' % (_PHRASE, _PHRASE, _ADDRESS, _ADDRESS)
_COMPLETE = re.compile(rb"%b(?:,%b)*" % (_ONE, _ONE))
"""Addresses, each with a whole domain, as nearly all fields have them: standard form is what they
have.  It reads a value in one way only, so it needs time in proportion to the length."""


KNOWN = 10_000
"""Addresses that are remembered to stay as they are, beside those of one envelope."""


class Part(enum.Flag):
    """Where an address stands: what canonical_classes and masquerade_classes name."""

    ENVELOPE_SENDER = enum.auto()
    ENVELOPE_RECIPIENT = enum.auto()
    HEADER_SENDER = enum.auto()
    HEADER_RECIPIENT = enum.auto()

    SENDERS = ENVELOPE_SENDER | HEADER_SENDER
    RECIPIENTS = ENVELOPE_RECIPIENT | HEADER_RECIPIENT


_FIELDS = dict.fromkeys(SENDERS, Part.HEADER_SENDER) | dict.fromkeys(
    RECIPIENTS, Part.HEADER_RECIPIENT
)


_SHORT = 64
"""Octets of names of fields that are remembered."""


def _part(name: bytes) -> Part | None:
    """Whose addresses a field of this name has."""
    return _FIELDS.get(name.strip(b" \t").lower())


_part_of = functools.lru_cache(maxsize=1000)(_part)


@dataclass(frozen=True, slots=True)
class RewriteOptions:
    """Postfix's parameters of the same names (postconf(5)); a table that is not there is None.

    `rewrite_signed_headers` (ours): change fields that a signature covers, too.
    `remote_header_rewrite_domain`: of header fields of others' mail; empty leaves those alone.
    """

    canonical: Canonical | None = None
    canonical_classes: Part = Part.SENDERS | Part.RECIPIENTS
    sender_canonical: Canonical | None = None
    sender_canonical_classes: Part = Part.SENDERS
    recipient_canonical: Canonical | None = None
    recipient_canonical_classes: Part = Part.RECIPIENTS
    masquerade: Masquerade | None = None
    masquerade_classes: Part = Part.SENDERS | Part.HEADER_RECIPIENT
    virtual: Virtual | None = None
    always_bcc: bytes = b""
    sender_bcc_maps: Maps | None = None
    recipient_bcc_maps: Maps | None = None
    remote_header_rewrite_domain: bytes = b""
    rewrite_signed_headers: bool = False


@dataclass(frozen=True, slots=True)
class Rewritten:
    """The new envelope, and every step on the way to it.  `expanded` are recipients that became
    several and whose sender wants to hear of their success: that of the several is not told."""

    envelope: Envelope
    steps: tuple[Expansion, ...] = ()
    expanded: tuple[Recipient, ...] = ()


@dataclass(slots=True)
class _Work:
    steps: list[Expansion] = field(default_factory=list)
    recipients: dict[bytes, Recipient] = field(default_factory=dict)
    expanded: list[Recipient] = field(default_factory=list)

    def add(self, recipient: Recipient) -> None:
        """Each address once: the first that leads to it counts."""
        self.recipients.setdefault(recipient.address.lower(), recipient)

    def by(self, rule: str) -> Told:
        """Whom a rule tells of its steps."""
        return lambda step: self.steps.append(replace(step, rule=rule))

    def step(self, rule: str, address: bytes, became: bytes, where: str = "") -> None:
        """One address became another."""
        if became != address:
            self.steps.append(Expansion(address, (became,), where or rule, rule))


@dataclass(frozen=True, slots=True)
class Rewriter:
    """The rules, ready for use."""

    options: RewriteOptions
    standard: Standard
    finder: Finder
    _tables: dict[Part, list[tuple[str, Canonical]]] = field(init=False, repr=False, compare=False)
    _masks: dict[Part, Masquerade | None] = field(init=False, repr=False, compare=False)
    _fixed: bool = field(init=False, repr=False, compare=False)
    _leaves: bool = field(init=False, repr=False, compare=False)
    _stays: set[bytes] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Found out once: to ask a flag what is in it takes long for what is asked so often.
        options = self.options
        masks = {
            part: options.masquerade if part in options.masquerade_classes else None
            for part in Part
        }
        object.__setattr__(self, "_tables", {part: self._of(part) for part in Part})
        object.__setattr__(self, "_masks", masks)
        object.__setattr__(self, "_fixed", self._is_fixed())
        ruled = (Part.HEADER_SENDER, Part.HEADER_RECIPIENT)
        leaves = not any(self._tables[each] or masks[each] for each in ruled)
        object.__setattr__(self, "_leaves", leaves)
        object.__setattr__(self, "_stays", set())

    def _is_fixed(self) -> bool:
        """Whether an envelope's addresses depend on no table and have no copies."""
        options = self.options
        maps = options.sender_bcc_maps, options.recipient_bcc_maps, options.virtual
        parts = (Part.ENVELOPE_SENDER, Part.ENVELOPE_RECIPIENT)
        rules = any(self._tables[each] or self._masks[each] for each in parts)
        return not (options.always_bcc or rules or any(each is not None for each in maps))

    def stays(self, envelope: Envelope) -> bool:
        """Whether all its addresses are known to stay as they are, each of them once."""
        those, known = envelope.recipients, self._stays
        if not self._fixed or envelope.sender not in known:
            return False
        if len(those) == 1:
            return those[0].address in known
        if not all(each.address in known for each in those):
            return False
        return len({each.address.lower() for each in those}) == len(those)

    def _learn(self, envelope: Envelope) -> None:
        """All its addresses stay as they are under these options."""
        if len(self._stays) > KNOWN:
            self._stays.clear()
        self._stays.add(envelope.sender)
        self._stays.update(each.address for each in envelope.recipients)

    def _of(self, part: Part) -> list[tuple[str, Canonical]]:
        """The tables that rewrite addresses there, in their order."""
        options = self.options
        rules = (
            ("sender_canonical_maps", options.sender_canonical, options.sender_canonical_classes),
            (
                "recipient_canonical_maps",
                options.recipient_canonical,
                options.recipient_canonical_classes,
            ),
            ("canonical_maps", options.canonical, options.canonical_classes),
        )
        return [(rule, table) for rule, table, classes in rules if table and part in classes]

    async def envelope(
        self, envelope: Envelope, *, sender: bool = True, copies: bool = True
    ) -> Rewritten:
        """Not the sender without `sender`, and no blind copies without `copies`: mail of our own.
        Raises Unavailable, Unreasonable: the mail is put off."""
        if self.stays(envelope):
            return Rewritten(envelope)
        work = _Work()
        origin = form.internal(envelope.sender)
        if origin and sender:
            origin = await self._address(origin, Part.ENVELOPE_SENDER, work)
        blind = await self._from_sender(origin, work) if copies else []
        for each in envelope.recipients:
            address = await self._address(
                form.internal(each.address), Part.ENVELOPE_RECIPIENT, work
            )
            if copies:
                maps = self.options.recipient_bcc_maps
                blind += await self._copies("recipient_bcc_maps", maps, address, work)
            await self._expanded(each, address, work)
        for copy in blind:
            address = await self._address(form.internal(copy), Part.ENVELOPE_RECIPIENT, work)
            await self._expanded(
                Recipient(form.external(address), (b"NOTIFY=NEVER",)), address, work
            )
        new = Envelope(
            form.external(origin) if sender else envelope.sender,
            envelope.sender_args,
            tuple(work.recipients.values()),
        )
        if self._fixed and sender and not work.steps and new == envelope:
            self._learn(envelope)
        return Rewritten(new, tuple(work.steps), tuple(work.expanded))

    async def _from_sender(self, sender: bytes, work: _Work) -> list[bytes]:
        options = self.options
        found = [options.always_bcc] if options.always_bcc else []
        for each in found:
            work.step("always_bcc", b"", each)
        return found + await self._copies("sender_bcc_maps", options.sender_bcc_maps, sender, work)

    def header_stays(self, fields: Sequence[HeaderField]) -> bool:
        """Whether `headers` would change nothing, wherever the mail is from: no rule is about
        addresses of the header, and all there are have what standard form asks for."""
        if not self._leaves:
            return False
        for each in fields:
            name = each.name
            part = _part_of(name) if len(name) < _SHORT else _part(name)
            if part is not None and _COMPLETE.fullmatch(each.value) is None:
                return False
        return True

    async def headers(
        self, fields: Sequence[HeaderField], *, local: bool, told: Told | None = None
    ) -> tuple[HeaderField, ...]:
        """The header fields; `local` says that the mail is from one of
        local_header_rewrite_clients.  Raises Unavailable."""
        if not local and not self.options.remote_header_rewrite_domain:
            return tuple(fields)
        work = _Work()
        kept: frozenset[bytes] | None = None
        found = list(fields)
        for number, each in enumerate(fields):
            part = _part(each.name)
            if part is None:
                continue
            if kept is None:
                signs = not self.options.rewrite_signed_headers
                kept = signed(fields) if signs else frozenset[bytes]()
            if each.name.strip(b" \t").lower() not in kept:
                found[number] = await self._field(each, part, work, local=local)
        if told is not None:
            for step in work.steps:
                told(step)
        return tuple(found)

    async def _field(
        self, each: HeaderField, part: Part, work: _Work, *, local: bool
    ) -> HeaderField:
        async def rewrite(address: bytes) -> bytes:
            return await self._address(address, part, work, local=local)

        if self._leaves and _COMPLETE.fullmatch(each.value):
            return each
        value = await rewritten(each.value, rewrite)
        return each if value == each.value else replace(each, value=value)

    async def _address(
        self, address: bytes, part: Part, work: _Work, *, local: bool = True
    ) -> bytes:
        options, given = self.options, address
        if local:
            address = self.standard.local(given)
        else:
            address = self.standard.remote(given, options.remote_header_rewrite_domain)
        work.step("standard form", given, address)
        if not address:
            return address
        for rule, table in self._tables[part]:
            address = await table.rewrite(address, work.by(rule))
        masquerade = self._masks[part]
        if masquerade is not None:
            given, address = address, masquerade.rewrite(address)
            work.step("masquerade_domains", given, address)
        return address

    async def _copies(
        self, rule: str, maps: Maps | None, address: bytes, work: _Work
    ) -> list[bytes]:
        if maps is None or not address:
            return []  # the null sender has no copies
        hit = await self.finder.find(maps, address)
        if hit is None:
            return []
        work.step(rule, address, hit.value, hit.where)
        return [hit.value]

    async def _expanded(self, given: Recipient, address: bytes, work: _Work) -> None:
        """The recipient, or what its virtual aliases lead to, under its own parameters; ORCPT
        says whom the sender meant (RFC 3461 section 5.2.3)."""
        virtual = self.options.virtual
        if virtual is None and address == given.address:
            work.add(given)
            return
        those: tuple[bytes, ...] = (address,)
        if virtual is not None:
            those = await virtual.expand(address, work.by("virtual_alias_maps"))
        several = len(those) > 1
        if several and wants_success(given):
            work.expanded.append(Recipient(form.external(address), meant(given).args))
        for each in those:
            new = form.external(each)
            found = replace(given if new == given.address else meant(given), address=new)
            work.add(without_success(found) if several else found)


def meant(given: Recipient) -> Recipient:
    """A recipient whose address is to be changed, with ORCPT saying whom the sender meant."""
    if any(each.upper().startswith(b"ORCPT=") for each in given.args):
        return given
    kind = b"rfc822" if given.address.isascii() else b"utf-8"
    text = encode_xtext(given.address) if given.address.isascii() else given.address
    return replace(given, args=(*given.args, b"ORCPT=%b;%b" % (kind, text)))


def wants_success(given: Recipient) -> bool:
    """Whether the sender wants to hear of this recipient's success (RFC 3461 section 4.1)."""
    return b"SUCCESS" in (dsn.notify(given.args) or ())


def without_success(given: Recipient) -> Recipient:
    """A recipient of whose success nobody is told: of what it was expanded from, they are
    (RFC 3461 section 5.2.7.2, cleanup(8))."""
    if not wants_success(given):
        return given
    words = (dsn.notify(given.args) or frozenset()) - {b"SUCCESS"}
    notify = b"NOTIFY=" + b",".join(sorted(words or {b"NEVER"}))
    args = tuple(notify if each.upper().startswith(b"NOTIFY=") else each for each in given.args)
    return replace(given, args=args)


def signed(fields: Iterable[HeaderField]) -> frozenset[bytes]:
    """Names of fields that a signature of the mail covers, in lower case (RFC 6376 3.5, h=)."""
    found: set[bytes] = set()
    for each in fields:
        if each.name.strip(b" \t").lower() in _SIGNATURES:
            match = _SIGNED.search(each.value)
            names = match[1].split(b":") if match else []
            found.update(b"".join(name.split()).lower() for name in names)
            found.add(b"from")
    return frozenset(found)
