"""What becomes of a whole mail's addresses before it is queued: cleanup(8)'s part for all mail,
local(8)'s for recipients that are aliases(5).

A recipient that resolves to the transport `local` and is an alias leaves the mail: what it stands
for gets a mail of its own, from the alias's owner if it has one, with `Delivered-To: ALIAS` on
top.  That line is the memory that ends circles: an alias that a mail has been to before bounces
it.  This happens once, here; a name that is left at the end is delivered as it is.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from milterd.core.mail import Client, Envelope, HeaderField, Mail, Recipient
from smtpgw.address import form
from smtpgw.address.aliases import Aliases, Expanded
from smtpgw.address.virtual import Expansion, Unreasonable
from smtpgw.delivery.local import is_local
from smtpgw.rewriting import meant, wants_success, without_success

if TYPE_CHECKING:  # settings and tables, of which those know nothing that only queue mail
    from smtpgw.addresses import Addresses

MOST_ALIASES = 100
"""Aliases that a mail goes through one after the other, by way of other tables."""
_LOCAL = b"local"
IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Copy:
    """A mail to be queued; `doomed` says, if it is not empty, why it is to be bounced."""

    mail: Mail
    doomed: str = ""


@dataclass(frozen=True, slots=True)
class Readdressed:
    """The mails that a mail became, one at least, and every step on the way.  `expanded` are
    recipients whose expansion the sender wants to hear of (RFC 3461 section 5.2.7.2)."""

    sender: bytes
    copies: tuple[Copy, ...]
    steps: tuple[Expansion, ...] = ()
    expanded: tuple[Recipient, ...] = ()


@dataclass(slots=True)
class _Work:
    """`trail`: the aliases that the header knows.  `own`: we wrote the mail, and its sender stays,
    so that no owner's trouble makes a notification of a notification without end."""

    mail: Mail
    trail: frozenset[bytes]
    own: bool
    copies: list[Copy] = field(default_factory=list)
    steps: list[Expansion] = field(default_factory=list)
    expanded: list[Recipient] = field(default_factory=list)

    def told(self, step: Expansion) -> None:
        """A step of an alias."""
        self.steps.append(replace(step, rule="alias_maps"))

    def add(self, envelope: Envelope, through: Sequence[bytes], doomed: str = "") -> None:
        """A mail for these, which came through these aliases."""
        if envelope == self.mail.envelope and not through:
            self.copies.append(Copy(self.mail, doomed))
        elif envelope.recipients:
            trace = [HeaderField(b"Delivered-To", b" " + each) for each in reversed(through)]
            headers = (*trace, *self.mail.headers)
            self.copies.append(Copy(replace(self.mail, envelope=envelope, headers=headers), doomed))


class AddressRules:
    """The rules of some settings, at work on whole mails."""

    def __init__(self, addresses: Addresses) -> None:
        self._addresses = addresses

    def header_stays(self, mail: Mail) -> bool:
        """Whether `headers` would change nothing, whoever the client is, and ask no table."""
        clients = self._addresses.header_clients
        if clients.maps is not None or clients.networks:
            return False
        return self._addresses.rewriter.header_stays(mail.headers)

    def envelope_stays(self, envelope: Envelope) -> bool:
        """Whether `mail` would change nothing, as far as that is known without a table."""
        return self._addresses.aliases is None and self._addresses.rewriter.stays(envelope)

    async def writes_here(self, client: Client, *, authenticated: bool) -> bool:
        """Whether a client is one of local_header_rewrite_clients.  Raises Unavailable."""
        clients = self._addresses.header_clients
        if clients.authenticated and authenticated:
            return True
        address = _ip(client.address)
        if address is None:
            return False
        if clients.interfaces and (address.is_loopback or is_local(address)):
            return True
        if clients.networks and await self._addresses.mynetworks.match(client.address):
            return True
        maps = clients.maps
        return maps is not None and await maps.find(str(address).encode()) is not None

    async def headers(self, mail: Mail, *, local: bool) -> tuple[Mail, tuple[Expansion, ...]]:
        """The mail with its header fields rewritten.  Raises Unavailable."""
        steps: list[Expansion] = []
        rewriter = self._addresses.rewriter
        headers = await rewriter.headers(mail.headers, local=local, told=steps.append)
        return (mail if headers == mail.headers else mail.with_headers(headers)), tuple(steps)

    async def bounced(self, mail: Mail) -> Readdressed:
        """A mail that goes back to its sender: its recipients stay as they were given.
        Raises Unavailable, Unreasonable."""
        given = replace(mail.envelope, recipients=())
        found = await self._addresses.rewriter.envelope(given, copies=False)
        envelope = replace(found.envelope, recipients=mail.envelope.recipients)
        return Readdressed(envelope.sender, (Copy(replace(mail, envelope=envelope)),), found.steps)

    async def mail(self, mail: Mail, *, own: bool = False) -> Readdressed:
        """Any other mail; `own` says that we wrote it: its sender stays, and nobody gets a
        blind copy, as with Postfix's bounce(8).  Raises Unavailable, Unreasonable."""
        rewriter = self._addresses.rewriter
        found = await rewriter.envelope(mail.envelope, sender=not own, copies=not own)
        aliases = self._addresses.aliases
        if aliases is None and found.envelope is mail.envelope:
            return Readdressed(mail.envelope.sender, (Copy(mail),))
        trail = frozenset[bytes]() if aliases is None else frozenset(_delivered(mail.headers))
        work = _Work(mail, trail, own)
        work.steps += found.steps
        work.expanded += found.expanded
        if aliases is None:
            work.add(found.envelope, ())
        else:
            await self._part(aliases, found.envelope, (), (), work)
        return Readdressed(
            found.envelope.sender, tuple(work.copies), tuple(work.steps), tuple(work.expanded)
        )

    # -- aliases -----------------------------------------------------------------------

    async def _part(
        self,
        aliases: Aliases,
        envelope: Envelope,
        final: Iterable[Recipient],
        through: tuple[bytes, ...],
        work: _Work,
    ) -> None:
        """A mail for all who are no alias, `final` among them, and others for each alias."""
        if len(through) > MOST_ALIASES:
            raise Unreasonable(f"aliases of {through[0]!r} lead too deep")
        kept = {each.address.lower(): each for each in final}
        found: list[tuple[Recipient, Expanded]] = []
        for each in envelope.recipients:
            expanded = await self._expanded(aliases, each, envelope.sender, work)
            if expanded is None:
                kept.setdefault(each.address.lower(), each)
            else:
                found.append((each, expanded))
        work.add(replace(envelope, recipients=tuple(kept.values())), through)
        for each, expanded in found:
            await self._forward(aliases, each, expanded, envelope, through, work)

    async def _expanded(
        self, aliases: Aliases, recipient: Recipient, sender: bytes, work: _Work
    ) -> Expanded | None:
        """What a recipient is an alias for; None where it is none, or only for itself."""
        address = form.internal(recipient.address)
        if not await self._is_local(address, sender):
            return None
        expanded = await aliases.expand(address, work.told)
        if expanded is not None and not expanded.refused:
            return None if expanded.recipients == (address,) else expanded
        return expanded

    async def _is_local(self, address: bytes, sender: bytes) -> bool:
        resolved = await self._addresses.resolver.resolve(address, form.internal(sender))
        return resolved.transport == _LOCAL and not resolved.wrong

    async def _forward(
        self,
        aliases: Aliases,
        recipient: Recipient,
        expanded: Expanded,
        envelope: Envelope,
        through: tuple[bytes, ...],
        work: _Work,
    ) -> None:
        name = _CONTROL.sub(b"?", recipient.address.lower())
        alone = replace(envelope, recipients=(recipient,))
        if name in work.trail or name in through:
            shown = name.decode("utf-8", "replace")
            work.add(alone, through, f"5.4.6 mail forwarding loop for {shown}")
            return
        owned = expanded.owner is not None and not work.own
        sender = form.external(expanded.owner or b"") if owned else envelope.sender
        refused = "; ".join(expanded.refused) or "an alias names nobody"
        if expanded.refused or not expanded.recipients:
            work.add(replace(alone, sender=sender), through, f"5.3.5 {refused}")
        if not expanded.recipients:
            return
        if wants_success(recipient):
            work.expanded.append(meant(recipient))
        args = without_success(meant(recipient)).args
        here: list[Recipient] = []
        elsewhere: list[Recipient] = []
        for each in expanded.recipients:
            new = Recipient(form.external(each), args)
            if expanded.owner is not None:
                # local(8) hands all of a list with an owner to cleanup(8), and looks for aliases
                # again then; but a list that names itself would go in circles.
                final = new.address.lower() == recipient.address.lower()
            else:
                final = await self._is_local(each, sender)
            (here if final else elsewhere).append(new)
        given = replace(envelope, sender=sender, recipients=tuple(elsewhere))
        found = await self._addresses.rewriter.envelope(
            given, sender=expanded.owner is not None, copies=False
        )
        work.steps += found.steps
        await self._part(aliases, found.envelope, here, (*through, name), work)


@functools.lru_cache(maxsize=1024)
def _ip(text: bytes) -> IpAddress | None:
    """The address that a client came from; None for one that came by something else."""
    try:
        given = ipaddress.ip_address(text.decode("ascii", "replace"))
    except ValueError:
        return None
    return getattr(given, "ipv4_mapped", None) or given


def _delivered(headers: Iterable[HeaderField]) -> Iterable[bytes]:
    """The aliases that a mail has been to."""
    return (each.value.strip().lower() for each in headers if each.named(b"Delivered-To"))
