"""What becomes of the addresses of a mail before it is queued, as cleanup(8) does it.

In this order: standard form, sender_canonical or recipient_canonical, canonical, masquerading;
then blind copies; then the virtual aliases of every recipient, each recipient once.  Header
fields get the first four, and only where a rule changes an address: every other octet stays.
A field that a signature of the mail covers stays whole, unless it is told otherwise, for a
changed one would make a good signature a bad one.
"""

from __future__ import annotations

import enum
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
from smtpgw.address.virtual import Expansion, Virtual

_SIGNATURES = frozenset({b"dkim-signature", b"arc-message-signature", b"domainkey-signature"})
_SIGNED = re.compile(rb"(?:\A|;)\s*h\s*=\s*([^;]*)", re.DOTALL)


class Part(enum.Flag):
    """Where an address stands: what canonical_classes and masquerade_classes name."""

    ENVELOPE_SENDER = enum.auto()
    ENVELOPE_RECIPIENT = enum.auto()
    HEADER_SENDER = enum.auto()
    HEADER_RECIPIENT = enum.auto()

    SENDERS = ENVELOPE_SENDER | HEADER_SENDER
    RECIPIENTS = ENVELOPE_RECIPIENT | HEADER_RECIPIENT


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
    """The new envelope, and every step on the way to it."""

    envelope: Envelope
    steps: tuple[Expansion, ...] = ()


@dataclass(slots=True)
class _Work:
    steps: list[Expansion] = field(default_factory=list)
    recipients: dict[bytes, Recipient] = field(default_factory=dict)

    def add(self, recipient: Recipient) -> None:
        """Each address once: the first that leads to it counts."""
        self.recipients.setdefault(recipient.address.lower(), recipient)


@dataclass(frozen=True, slots=True)
class Rewriter:
    """The rules, ready for use."""

    options: RewriteOptions
    standard: Standard
    finder: Finder

    async def envelope(self, envelope: Envelope) -> Rewritten:
        """Raises Unavailable, Unreasonable: the mail is put off."""
        options, work = self.options, _Work()
        sender = form.internal(envelope.sender)
        if sender:
            sender = await self._address(sender, Part.ENVELOPE_SENDER, work)
        copies = [options.always_bcc] if options.always_bcc else []
        copies += await self._copies(options.sender_bcc_maps, sender)
        for each in envelope.recipients:
            address = await self._address(
                form.internal(each.address), Part.ENVELOPE_RECIPIENT, work
            )
            copies += await self._copies(options.recipient_bcc_maps, address)
            await self._expanded(each, address, work)
        for copy in copies:
            address = await self._address(form.internal(copy), Part.ENVELOPE_RECIPIENT, work)
            await self._expanded(
                Recipient(form.external(address), (b"NOTIFY=NEVER",)), address, work
            )
        new = replace(
            envelope,
            sender=form.external(sender),
            recipients=tuple(work.recipients.values()),
        )
        return Rewritten(new, tuple(work.steps))

    async def headers(
        self, fields: Sequence[HeaderField], *, local: bool
    ) -> tuple[HeaderField, ...]:
        """The header fields; `local` says that the mail is from one of
        local_header_rewrite_clients.  Raises Unavailable."""
        if not local and not self.options.remote_header_rewrite_domain:
            return tuple(fields)
        kept = frozenset[bytes]() if self.options.rewrite_signed_headers else signed(fields)
        return tuple([await self._field(each, kept, local=local) for each in fields])

    async def _field(
        self, each: HeaderField, kept: frozenset[bytes], *, local: bool
    ) -> HeaderField:
        name = each.name.strip(b" \t").lower()
        part = Part.HEADER_SENDER if name in SENDERS else Part.HEADER_RECIPIENT
        if name in kept or (name not in SENDERS and name not in RECIPIENTS):
            return each

        async def rewrite(address: bytes) -> bytes:
            return await self._address(address, part, _Work(), local=local)

        value = await rewritten(each.value, rewrite)
        return each if value == each.value else replace(each, value=value)

    async def _address(
        self, address: bytes, part: Part, work: _Work, *, local: bool = True
    ) -> bytes:
        options = self.options
        if local:
            address = self.standard.local(address)
        else:
            address = self.standard.remote(address, options.remote_header_rewrite_domain)
        if not address:
            return address
        for table, classes in (
            (options.sender_canonical, options.sender_canonical_classes),
            (options.recipient_canonical, options.recipient_canonical_classes),
            (options.canonical, options.canonical_classes),
        ):
            if table is not None and part in classes:
                address = await table.rewrite(address, work.steps.append)
        if options.masquerade is not None and part in options.masquerade_classes:
            address = options.masquerade.rewrite(address)
        return address

    async def _copies(self, maps: Maps | None, address: bytes) -> list[bytes]:
        if maps is None:
            return []
        hit = await self.finder.find(maps, address or b"")
        return [] if hit is None else [hit.value]

    async def _expanded(self, given: Recipient, address: bytes, work: _Work) -> None:
        """The recipient, or what its virtual aliases lead to, under its own parameters; ORCPT
        says whom the sender meant (RFC 3461 section 5.2.3)."""
        virtual = self.options.virtual
        those: Iterable[bytes] = (address,)
        if virtual is not None:
            those = await virtual.expand(address, work.steps.append)
        for each in those:
            new = form.external(each)
            args = given.args if new == given.address else _meant(given)
            work.add(Recipient(new, args))


def _meant(given: Recipient) -> tuple[bytes, ...]:
    if any(each.upper().startswith(b"ORCPT=") for each in given.args):
        return given.args
    kind = b"rfc822" if given.address.isascii() else b"utf-8"
    text = encode_xtext(given.address) if given.address.isascii() else given.address
    return (*given.args, b"ORCPT=%b;%b" % (kind, text))


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
