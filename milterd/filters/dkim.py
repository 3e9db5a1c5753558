"""The dkim filter: signs mail that originates here, and verifies what comes in, if asked to.

The one address in the one From field chooses the keys; where there is not exactly one,
or no key for it, the mail goes on unsigned and the log says why.  Signatures cover every
field that a forger would add or change: those are named one time more than they are
present, so that adding another breaks the signature (RFC 6376 sections 5.4.2, 8.15).
Inbound mail gets one Authentication-Results field (RFC 8601) about its signatures.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from milterd.core.actions import ChangeHeader, InsertHeader
from milterd.core.decision import Decision, Reason, Reply, Trace, Tried, Verdict
from milterd.core.filter import Need
from milterd.core.mail import Direction, Mail
from milterd.filters import dkim_results
from milterd.filters.dkim_author import OUR_FAULT, Author, NotSigned, author_of
from milterd.filters.dkim_choice import Chooser, Rows, Signer, SigningKey
from milterd.filters.dkim_lists import OVERSIGN, SIGN, lists
from milterd.filters.dkim_rotation import Rotation
from milterd.filters.dkim_sign import FIELD, Manner, TooManyNamesError, signatures
from milterd.filters.dkim_tables import OpendkimTables
from milterd.filters.dkim_verify import Outcome, Verified, Verifier, VerifyOptions
from milterd.filters.setup import SetupError
from milterd.ports.dkim_dns import DnsOptions, DnsTexts, TextSource
from milterd.ports.dkim_keys import KeyStore
from milterd.ports.dkim_state import StateError
from milterd.ports.dkim_tables import TableDownError
from milterd.ports.keys import KeyFileError
from milterd.signed.dkim_names import is_within

__all__ = ["OVERSIGN", "SIGN", "DkimFilter", "DkimOptions", "NotSigned", "Signed", "SigningKey"]

AT_ONCE = 262_144
"""Octets of a body that are hashed while other mail waits; more has a thread."""
HEADER_AT_ONCE = 16_384
"""Octets of a header for which the same is true; one of 1 MiB can take seconds to read."""


@dataclass(frozen=True, slots=True)
class Verifying:
    """Settings for verifying.  `authserv_id` is our name in Authentication-Results; with
    `remove_forged`, fields that came in this name go.  `defer`: mail whose key could not be
    asked for waits at the sender (RFC 6376 section 6.1.2), unless another signature is good."""

    authserv_id: str
    remove_forged: bool = True
    defer: bool = False
    options: VerifyOptions = field(default_factory=VerifyOptions)
    dns: DnsOptions = field(default_factory=DnsOptions)


@dataclass(frozen=True, slots=True)
class DkimOptions:
    """Settings of the dkim filter.

    Keys are looked for in `signing_table`, then in OpenDKIM's tables `tables` (KeyTable,
    SigningTable; `several` is MultipleSignatures), then in the state file of `milterd dkim
    rotate`, `rotation`; the first that knows one signs.  `lifetime`, in seconds, sets `x=`;
    0 leaves it out.  `key_groups` are the groups that may read key files, besides root.
    `oversign`, `sign` and `omit` are field names; From is oversigned whatever they say.
    `forms` are those of header and body, "simple" or "relaxed".  `sender_headers`: the first of
    them that a mail has decides who signs.  Without `third_party`, no domain signs but the
    author's and those above it.  `defer`: mail that cannot be signed by our own fault waits.
    """

    signing_table: tuple[SigningKey, ...] = ()
    lifetime: int = 0
    key_groups: frozenset[str] = frozenset()
    oversign: tuple[str, ...] = OVERSIGN
    sign: tuple[str, ...] = SIGN
    omit: tuple[str, ...] = ()
    forms: tuple[str, str] = ("relaxed", "relaxed")
    tables: tuple[str, str] | None = None
    several: bool = False
    rotation: Path | None = None
    sender_headers: tuple[str, ...] = ("From",)
    third_party: bool = True
    defer: bool = True
    verifying: Verifying | None = None


@dataclass(frozen=True, slots=True)
class Signed:
    """The signatures made: (selector, algorithm, value of the field) for each key."""

    domain: str
    signatures: tuple[tuple[str, str, bytes], ...]


@dataclass(frozen=True, slots=True)
class Checked:
    """What a mail's signatures are worth, top to bottom, how many more there are that were not
    looked at, and the fields that were forged in our name."""

    results: tuple[Verified, ...]
    ignored: int = 0
    forged: tuple[ChangeHeader, ...] = ()


Facts = Signed | NotSigned | Checked


class DkimFilter:
    """See the module's contract.

    Key files and text tables are read here, once; raises :class:`SetupError` with all that is
    wrong with them.  `clock` gives seconds since the epoch, for `t=` and `x=`.  `dns` is asked
    for keys instead of the name servers of the options.
    """

    name = "dkim"
    needs = Need.HEADERS | Need.BODY | Need.ADD_HEADERS

    def __init__(
        self,
        options: DkimOptions,
        clock: Callable[[], float] = time.time,
        ticks: Callable[[], float] = time.monotonic,
        dns: TextSource | None = None,
    ) -> None:
        self.options = options
        self._clock = clock
        self._choosers = _choosers(options)
        self._waits = any(each.waits for each in self._choosers)
        oversign, sign = lists(options.oversign, options.sign, options.omit)
        self._manner = Manner(oversign, sign, *options.forms, options.lifetime)
        self._senders = tuple(each.encode("ascii") for each in options.sender_headers)
        self._verifier: Verifier | None = None
        if options.verifying is not None:
            self.needs = self.needs | Need.CHANGE_HEADERS
            source = dns or DnsTexts(options.verifying.dns, ticks)
            self._verifier = Verifier(source, options.verifying.options, clock, ticks)

    def gather(self, mail: Mail, trace: Trace | None = None) -> Facts:
        """Sign or verify, or say why neither.  Reads the body once, a piece at a time."""
        if trace is not None:
            trace(Tried("originating mail is signed", f"it is {mail.session.direction.value}"))
        if mail.session.direction is Direction.ORIGINATING:
            return self._sign(mail, trace)
        if self._verifier is None or self.options.verifying is None:
            return NotSigned("inbound")
        return self._verify(mail, self._verifier, self.options.verifying, trace)

    def at_once(self, mail: Mail) -> Facts | None:
        """What `gather` gives, where neither a database nor a name server is asked and the mail
        is not long; None otherwise."""
        if mail.session.direction is Direction.ORIGINATING:
            if self._waits or mail.body.size > AT_ONCE or _has_long_header(mail):
                return None
            return self._sign(mail, None)
        if self._verifier is not None and (
            _has_long_header(mail) or any(each.named(FIELD) for each in mail.headers)
        ):
            return None
        return self.gather(mail)

    def decide(
        self,
        mail: Mail,  # noqa: ARG002  # Filter's signature
        facts: Facts,
        trace: Trace | None = None,  # noqa: ARG002  # all was tried in gather
    ) -> Decision:
        """Put the signatures on top, the first key's uppermost; or what was found out."""
        match facts:
            case NotSigned():
                return self._unsigned(facts)
            case Checked():
                return self._checked(facts)
        made = facts.signatures
        edits = tuple([InsertHeader(0, FIELD, value) for _, _, value in reversed(made)])
        keys = ", ".join([f"{selector} {algorithm}" for selector, algorithm, _ in made])
        reason = Reason(self.name, "signed", {"domain": facts.domain, "keys": keys})
        return Decision(edits=edits, reasons=(reason,))

    def check(self) -> tuple[str, ...]:
        """Problems that do not prevent starting: a filter without a key that only signs."""
        if self._choosers or self._verifier is not None:
            return ()
        return ("the signing table is empty: nothing will be signed",)

    def records(self) -> dict[str, str]:
        """The DNS names and TXT records that publish the keys in use, as far as they are known
        without an author."""
        return {
            f"{selector}._domainkey.{domain}": key.record
            for chooser in self._choosers
            for domain, selector, key in chooser.known()
        }

    def _sign(self, mail: Mail, trace: Trace | None) -> Signed | NotSigned:
        author = author_of(mail, self._senders)
        if trace is not None:
            trace(_author_tried(author))
        if isinstance(author, NotSigned):
            return author
        try:
            signers = self._signers(author, trace)
            if isinstance(signers, NotSigned):
                return signers
            made = signatures(mail, signers, self._manner, int(self._clock()))
        except TooManyNamesError as error:
            return NotSigned("too-many-fields", str(error))
        except (TableDownError, StateError) as error:
            return NotSigned("table-unavailable", str(error))
        except KeyFileError as error:
            return NotSigned("key-unavailable", str(error))
        return Signed(signers[0].domain, tuple(made))

    def _signers(self, author: Author, trace: Trace | None) -> tuple[Signer, ...] | NotSigned:
        """The signatures to make, by the first that knows a key."""
        for chooser in self._choosers:
            found = chooser.signers(author, trace)
            if not found:
                continue
            if self.options.third_party:
                return found
            own = tuple(each for each in found if is_within(author.domain, each.domain))
            return own or NotSigned("third-party", f"{found[0].domain} for {author.domain}")
        return NotSigned("no-key", author.domain)

    def _verify(
        self, mail: Mail, verifier: Verifier, verifying: Verifying, trace: Trace | None
    ) -> Checked:
        judgement = verifier.verify(mail)
        if trace is not None:
            for each in judgement.results:
                name = f"signature of {each.domain or '?'} by {each.selector or '?'}"
                trace(Tried(name, f"{each.outcome.value} {each.why}".rstrip()))
        name = verifying.authserv_id
        forged = dkim_results.forged(mail, name) if verifying.remove_forged else ()
        return Checked(judgement.results, judgement.ignored, tuple(forged))

    def _unsigned(self, facts: NotSigned) -> Decision:
        details = {"why": facts.why} | ({"detail": facts.detail} if facts.detail else {})
        reasons = (Reason(self.name, "not-signed", details),)
        if facts.why in OUR_FAULT and self.options.defer:
            reply = Reply(451, "4.3.0", "Message cannot be signed now, try again later")
            return Decision(Verdict.TEMPFAIL, reply=reply, reasons=reasons)
        return Decision(reasons=reasons)

    def _checked(self, facts: Checked) -> Decision:
        reasons = tuple(_reasons(self.name, facts))
        verifying = self.options.verifying
        assert verifying is not None  # noqa: S101  # gather checks only then
        if len(facts.forged) > dkim_results.FORGED_LIMIT:
            reply = Reply(550, "5.6.0", "Header has too many fields of kinds not allowed here")
            return Decision(Verdict.REJECT, reply=reply, reasons=reasons)
        found = {each.outcome for each in facts.results}
        if verifying.defer and Outcome.TEMPERROR in found and Outcome.PASS not in found:
            reply = Reply(451, "4.7.5", "Signature cannot be checked now, try again later")
            return Decision(Verdict.TEMPFAIL, reply=reply, reasons=reasons)
        results = dkim_results.value(verifying.authserv_id, facts.results, facts.ignored)
        added = InsertHeader(0, dkim_results.FIELD, results)
        return Decision(edits=(*facts.forged, added), reasons=reasons)


def _has_long_header(mail: Mail) -> bool:
    return sum([len(each.name) + len(each.value) for each in mail.headers]) > HEADER_AT_ONCE


def _reasons(name: str, found: Checked) -> Iterator[Reason]:
    """What the log says of each signature."""
    if not found.results:
        yield Reason(name, "none")
    for each in found.results:
        facts = {"domain": each.domain, "selector": each.selector, "why": each.why}
        yield Reason(name, each.outcome.value, {key: text for key, text in facts.items() if text})
    if found.ignored:
        yield Reason(name, "ignored", {"signatures": str(found.ignored)})


def _author_tried(author: Author | NotSigned) -> Tried:
    """How reading the author went."""
    if isinstance(author, NotSigned):
        detail = f"{author.why}: {author.detail}" if author.detail else author.why
        return Tried("one From field with one address", detail)
    return Tried("one From field with one address", f"its domain is {author.domain}")


def _choosers(options: DkimOptions) -> tuple[Chooser, ...]:
    """Who knows keys, in order.  Raises SetupError with all that is wrong."""
    store = KeyStore(options.key_groups)
    rows = Rows(options.signing_table, store)
    problems, found = list(rows.problems), list[Chooser]([rows] if rows else [])
    if options.tables is not None:
        tables = OpendkimTables(*options.tables, several=options.several, store=store)
        problems += tables.problems
        found.append(tables)
    if options.rotation is not None:
        rotation = Rotation(options.rotation, store)
        problems += rotation.problems
        found.append(rotation)
    if problems:
        raise SetupError(DkimFilter.name, problems)
    return tuple(found)
