"""The dkim filter: signs mail that originates here, and no other (RFC 6376, RFC 8463).

The domain of the one address in the one From field chooses the keys; where there
is not exactly one, or no key for it, the mail goes on unsigned and the log says
why.  A signature is made with each key of the domain (RSA and Ed25519 side by
side), relaxed/relaxed, over every field that a forger would add or change: those
are named one time more than they are present, so that adding another breaks the
signature (section 5.4.2, 8.15).
"""

from __future__ import annotations

import base64
import hashlib
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from milterd.core.actions import InsertHeader
from milterd.core.decision import Decision, Reason, Trace, Tried
from milterd.core.filter import Need
from milterd.core.mail import Body, Direction, HeaderField, Mail
from milterd.filters.mailbox import AddressError, mailboxes
from milterd.filters.setup import SetupError
from milterd.ports.canonical import RelaxedBody, relaxed_field, signed_fields
from milterd.ports.keys import KeyFileError, PrivateKey, load

FIELD = b"DKIM-Signature"
OVERSIGN = (
    "from",
    "sender",
    "reply-to",
    "to",
    "cc",
    "subject",
    "date",
    "message-id",
    "in-reply-to",
    "references",
    "mime-version",
    "content-type",
    "content-transfer-encoding",
)
"""Fields named one time more than they are present, even when absent."""
SIGN = (
    "content-disposition",
    "content-id",
    "content-description",
    "resent-date",
    "resent-from",
    "resent-sender",
    "resent-to",
    "resent-cc",
    "resent-message-id",
    "list-id",
    "list-help",
    "list-unsubscribe",
    "list-unsubscribe-post",
    "list-subscribe",
    "list-post",
    "list-owner",
    "list-archive",
    "autocrypt",
)
"""Fields named as often as they are present."""
NAMES_LIMIT = 300
"""Names in an `h=` tag; a mail that needs more is not signed."""
COLUMNS = 76


@dataclass(frozen=True, slots=True)
class SigningKey:
    """One row of the signing table.

    Mail from `domain` is signed under `selector` with the key in the file `key`;
    with `subdomains`, mail from any domain below it too, where no row of the
    table is nearer.
    """

    domain: str
    selector: str
    key: Path
    subdomains: bool = False


@dataclass(frozen=True, slots=True)
class DkimOptions:
    """Settings of the dkim filter.

    `lifetime`, in seconds, sets `x=`; 0 leaves it out.  `key_groups` are the
    groups that may read key files, besides root.  `oversign` and `sign` are field
    names; From is oversigned whatever they say.
    """

    signing_table: tuple[SigningKey, ...] = ()
    lifetime: int = 0
    key_groups: frozenset[str] = frozenset()
    oversign: tuple[str, ...] = OVERSIGN
    sign: tuple[str, ...] = SIGN


@dataclass(frozen=True, slots=True)
class Signed:
    """The signatures made: (selector, algorithm, value of the field) for each key."""

    domain: str
    signatures: tuple[tuple[str, str, bytes], ...]


@dataclass(frozen=True, slots=True)
class NotSigned:
    """Why there is no signature."""

    why: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class _Signer:
    domain: str
    selector: str
    subdomains: bool
    key: PrivateKey


class DkimFilter:
    """See the module's contract.

    Key files are read here, once; raises :class:`SetupError` with all that is
    wrong with them.  `clock` gives seconds since the epoch, for `t=` and `x=`.
    """

    name = "dkim"
    needs = Need.HEADERS | Need.BODY | Need.ADD_HEADERS

    def __init__(self, options: DkimOptions, clock: Callable[[], float] = time.time) -> None:
        self.options = options
        self._clock = clock
        self._signers = _load_table(options)
        self._oversign = tuple(_names(("from", *options.oversign)))
        self._sign = tuple(each for each in _names(options.sign) if each not in self._oversign)

    def gather(self, mail: Mail, trace: Trace | None = None) -> Signed | NotSigned:
        """Sign, or say why not.  Reads the body once, a piece at a time."""
        if trace is not None:
            trace(Tried("originating mail is signed", f"it is {mail.session.direction.value}"))
        if mail.session.direction is not Direction.ORIGINATING:
            return NotSigned("inbound")
        author = author_domain(mail)
        if trace is not None:
            trace(_author_tried(author))
        if isinstance(author, NotSigned):
            return author
        signers = self._signers_for(author)
        if trace is not None:
            self._tell_rows(author, signers, trace)
        if not signers:
            return NotSigned("no-key", author)
        fields = [each for each in mail.headers if not each.hidden]
        names = self._covered(fields)
        if len(names) > NAMES_LIMIT:
            return NotSigned("too-many-fields", f"{len(names)} names, limit {NAMES_LIMIT}")
        body_hash = base64.b64encode(_hash_body(mail.body))
        covered = b"".join(each + b"\r\n" for each in signed_fields(fields, names))
        signatures = [self._signature(each, names, body_hash, covered) for each in signers]
        return Signed(signers[0].domain, tuple(signatures))

    def decide(
        self,
        mail: Mail,  # noqa: ARG002  # Filter's signature
        facts: Signed | NotSigned,
        trace: Trace | None = None,  # noqa: ARG002  # all was tried in gather
    ) -> Decision:
        """Put the signatures on top, the first key's uppermost."""
        if isinstance(facts, NotSigned):
            details = {"why": facts.why} | ({"detail": facts.detail} if facts.detail else {})
            return Decision(reasons=(Reason(self.name, "not-signed", details),))
        edits = tuple(InsertHeader(0, FIELD, value) for _, _, value in reversed(facts.signatures))
        keys = ", ".join(f"{selector} {algorithm}" for selector, algorithm, _ in facts.signatures)
        reason = Reason(self.name, "signed", {"domain": facts.domain, "keys": keys})
        return Decision(edits=edits, reasons=(reason,))

    def check(self) -> tuple[str, ...]:
        """Problems that do not prevent starting: a table without a row signs nothing."""
        return () if self._signers else ("the signing table is empty: nothing will be signed",)

    def records(self) -> dict[str, str]:
        """The DNS names and TXT records that publish the keys in use."""
        return {
            f"{each.selector}._domainkey.{each.domain}": each.key.record for each in self._signers
        }

    def _signers_for(self, author: str) -> list[_Signer]:
        """The keys of the author's domain, or of the nearest one above that takes it in."""
        domain, rest = author, author
        while rest:
            found = [
                each
                for each in self._signers
                if each.domain == domain and (each.subdomains or domain == author)
            ]
            if found:
                return found
            _, _, rest = domain.partition(".")
            domain = rest
        return []

    def _tell_rows(self, author: str, signers: list[_Signer], trace: Trace) -> None:
        """Each row of the signing table, and why it signs for that author or does not."""
        for number, row in enumerate(self._signers, 1):
            if row in signers:
                outcome = "signs"
            elif not author.endswith(f".{row.domain}"):
                outcome = f"{author} is another domain"
            elif not row.subdomains:
                outcome = f"{author} is below it, and subdomains is false"
            else:
                outcome = "a nearer row signs"
            trace(Tried(f"signing table, row {number}: {row.domain} by {row.selector}", outcome))

    def _covered(self, fields: Iterable[HeaderField]) -> list[bytes]:
        """The names for `h=`, in lower case and a fixed order."""
        present = Counter(each.name.lower() for each in fields)
        names = [name for name in self._oversign for _ in range(present[name] + 1)]
        return names + [name for name in self._sign for _ in range(present[name])]

    def _signature(
        self, signer: _Signer, names: list[bytes], body_hash: bytes, covered: bytes
    ) -> tuple[str, str, bytes]:
        now = int(self._clock())
        tags = [
            b"v=1;",
            f"a={signer.key.algorithm};".encode("ascii"),
            b"c=relaxed/relaxed;",
            f"d={signer.domain};".encode("ascii"),
            f"s={signer.selector};".encode("ascii"),
            f"t={now};".encode("ascii"),
        ]
        if self.options.lifetime:
            tags.append(f"x={now + self.options.lifetime};".encode("ascii"))
        head = b"h=" + names[0]
        words = [*tags, *_joined([head, *names[1:]], b":"), b"bh=" + body_hash + b";", b"b="]
        value = _folded(words)
        # The signature covers its own field with an empty b= (section 3.7).
        digest = hashlib.sha256(covered + relaxed_field(FIELD, value)).digest()
        octets = base64.b64encode(signer.key.sign(digest))
        return signer.selector, signer.key.algorithm, value + _folded_base64(value, octets)


def _author_tried(author: str | NotSigned) -> Tried:
    """How reading the author went."""
    if isinstance(author, NotSigned):
        detail = f"{author.why}: {author.detail}" if author.detail else author.why
        return Tried("one From field with one address", detail)
    return Tried("one From field with one address", f"its domain is {author}")


def author_domain(mail: Mail) -> str | NotSigned:
    """The domain of the one author address, in lower case (RFC 6376 section 5.1)."""
    values = mail.values(b"From")
    if len(values) != 1:
        return NotSigned("no-from" if not values else "several-from", f"{len(values)} From fields")
    try:
        found = mailboxes(values[0])
    except AddressError as error:
        return NotSigned("unreadable-from", str(error))
    if len(found) != 1:
        return NotSigned("several-authors", f"{len(found)} addresses in From")
    if not found[0].domain.isascii():
        return NotSigned("unreadable-from", "the domain is not in ASCII (RFC 5890 A-labels)")
    return found[0].domain.decode("ascii")


def _hash_body(body: Body) -> bytes:
    digest, form = hashlib.sha256(), RelaxedBody()
    for piece in body.pieces():
        for settled in form.feed(piece):
            digest.update(settled)
    for settled in form.finish():
        digest.update(settled)
    return digest.digest()


def _names(names: Iterable[str]) -> Iterator[bytes]:
    """Field names as octets in lower case, each once."""
    return iter(dict.fromkeys(each.lower().encode("ascii") for each in names))


def _joined(words: list[bytes], separator: bytes) -> list[bytes]:
    """Words with the separator after each but the last, which ends its tag."""
    return [each + separator for each in words[:-1]] + [words[-1] + b";"]


def _folded(words: Iterable[bytes]) -> bytes:
    """Words as a field value with a fold before each one that would not fit."""
    lines = [b""]
    column = len(FIELD) + 1
    for word in words:
        glue = b"" if _continues(lines[-1], word) else b" "
        if column + len(glue) + len(word) > COLUMNS:
            lines.append(b"\t" + word)
            column = 8 + len(word)
        else:
            lines[-1] += glue + word
            column += len(glue) + len(word)
    return b"\r\n".join(lines)


def _continues(line: bytes, word: bytes) -> bool:
    """Within the h= list names need no space between them."""
    return line.endswith(b":") and not word.startswith(b"h=")


def _folded_base64(value: bytes, octets: bytes) -> bytes:
    """The base64 of a signature, folded so that it fits behind `value`."""
    last = value.rpartition(b"\r\n")[2]
    room = COLUMNS - len(last.replace(b"\t", b" " * 8))
    lines = [octets[:room]] if room > 0 else [b""]
    width = COLUMNS - 8
    lines += [octets[at : at + width] for at in range(max(room, 0), len(octets), width)]
    return b"\r\n\t".join(lines)


_DOMAIN = re.compile(r"(?=.{1,253}\Z)[a-z0-9_](?:[a-z0-9_-]{0,62})(?:\.[a-z0-9_-]{1,63})*")
_SELECTOR = re.compile(r"(?=.{1,128}\Z)[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?")


def _load_table(options: DkimOptions) -> tuple[_Signer, ...]:
    """Read every key; raises SetupError with all that is wrong."""
    signers: list[_Signer] = []
    problems: list[str] = []
    seen: set[tuple[str, str]] = set()
    for row in options.signing_table:
        domain = row.domain.lower()
        if not _DOMAIN.fullmatch(domain):
            problems.append(f"signing table: {row.domain!r} is not a domain name in ASCII")
        if not _SELECTOR.fullmatch(row.selector):
            problems.append(f"signing table: {row.selector!r} is not a selector")
        if (domain, row.selector) in seen:
            problems.append(f"signing table: {domain} has selector {row.selector} twice")
        seen.add((domain, row.selector))
        try:
            key = load(row.key, options.key_groups)
        except KeyFileError as error:
            problems.append(str(error))
        else:
            signers.append(_Signer(domain, row.selector, row.subdomains, key))
    if problems:
        raise SetupError(DkimFilter.name, problems)
    return tuple(signers)
