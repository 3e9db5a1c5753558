"""What the signatures of a mail are worth (RFC 6376 section 6, RFC 8301, RFC 8463).

The uppermost signatures up to a limit are judged, each with an outcome in RFC 8601's words
and a reason; those beyond it are counted.  The body is read once for each canonical form,
whatever the number of signatures and of `l=` tags; questions to DNS share one deadline.
"""

from __future__ import annotations

import base64
import enum
import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from milterd.core.mail import HeaderField, Mail
from milterd.filters import arc_void
from milterd.filters.dkim_record import KeyRecord, RecordError, Records
from milterd.ports.dkim_dns import Absent, NoAnswer, TextSource
from milterd.ports.dkim_public import PublicKey
from milterd.signed.canonical import Header
from milterd.signed.dkim_field import (
    ALGORITHMS,
    FieldError,
    SignatureField,
    claimed,
)
from milterd.signed.dkim_field import read as read_field
from milterd.signed.dkim_hash import BodyHashes, covered, digest, hash_body

FIELD = b"DKIM-Signature"
SHOWN = 8
"""Characters of a signature that tell it from the others of a mail (RFC 6008 section 4)."""

ALONE = (
    b"from",
    b"sender",
    b"reply-to",
    b"to",
    b"cc",
    b"subject",
    b"date",
    b"message-id",
    b"mime-version",
    b"content-type",
    b"content-transfer-encoding",
)
"""Fields a mail has once (RFC 5322 section 3.6): another above the signed one is what a reader
may see in its place (RFC 6376 section 8.15)."""


class Outcome(enum.Enum):
    """A signature's result (RFC 8601 section 2.7.1).

    POLICY: the signature is right, and yet not to be relied on.
    """

    PASS = "pass"  # noqa: S105  # no password
    FAIL = "fail"
    POLICY = "policy"
    TEMPERROR = "temperror"
    PERMERROR = "permerror"


@dataclass(frozen=True, slots=True)
class Verified:
    """One signature's result.

    `position` is its place in the mail's header, from 0.  `why` is empty for a pass.  `domain`
    and `selector` are what it claims, empty where that is no name in DNS.  `identity` (`i=`),
    `algorithm` and `start`, the first characters of `b=`, are empty where it cannot be read.
    `testing`: the key's owner says that he only tries.
    """

    position: int
    outcome: Outcome
    why: str = ""
    domain: str = ""
    selector: str = ""
    identity: str = ""
    algorithm: str = ""
    start: str = ""
    testing: bool = False


@dataclass(frozen=True, slots=True)
class VerifyOptions:
    """`signatures`: how many of a mail's are judged.  `dns_time`: seconds for all questions of
    a mail.  `skew`: seconds by which clocks may differ.  `must_be_signed`: fields, in lower
    case, that a signature has to cover where a mail has them."""

    signatures: int = 10
    dns_time: float = 10.0
    skew: int = 300
    must_be_signed: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Judgement:
    """Every signature that was judged, top to bottom, and how many were left out."""

    results: tuple[Verified, ...]
    ignored: int = 0

    @property
    def passed(self) -> bool:
        """Whether one of them is good."""
        return any(each.outcome is Outcome.PASS for each in self.results)


class Verifier:
    """Judges signatures; keeps keys that it has read.  Several threads may use one.

    `clock` gives seconds since the epoch, `ticks` seconds that only grow.
    """

    def __init__(
        self,
        dns: TextSource,
        options: VerifyOptions = VerifyOptions(),
        clock: Callable[[], float] = time.time,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self._dns, self._options = dns, options
        self._clock, self._ticks = clock, ticks
        self._records = Records()

    def verify(self, mail: Mail) -> Judgement:
        """Judge the signatures of a mail.  Reads the body; may wait for DNS; never raises for
        what a mail or a name server may hold."""
        places = [at for at, each in enumerate(mail.headers) if each.named(FIELD)]
        judged = places[: self._options.signatures]
        if not judged:
            return Judgement((), len(places))
        fields = [(at, mail.headers[at]) for at in judged]
        work = _Work(mail, fields, self._ticks() + self._options.dns_time)
        results = [self._one(work, at, field) for at, field in fields]
        return Judgement(tuple(results), len(places) - len(judged))

    def void(self, mail: Mail) -> frozenset[int]:
        """The positions of the signatures, of DKIM and of ARC and among the first that are judged
        of each, that cannot be good whatever the body is, which is not read.  One whose key nobody
        can be asked for now, or is too weak to rely on, is not among them.  May wait for DNS."""
        places = [at for at, each in enumerate(mail.headers) if each.named(FIELD)]
        fields = [(at, mail.headers[at]) for at in places[: self._options.signatures]]
        work = _Work(mail, fields, self._ticks() + self._options.dns_time)
        own = (at for at, field in fields if self._is_void(work, field, work.read[at]))
        key = functools.partial(self._published, deadline=work.deadline)
        misfit = functools.partial(self._is_void, work)
        return frozenset(own) | arc_void.void(mail, key, misfit, self._options.signatures)

    def _published(self, found: SignatureField, deadline: float) -> KeyRecord | None:
        """For :data:`milterd.filters.arc_void.Key`."""
        record = self._record(found, deadline)
        if not isinstance(record, tuple):
            return record
        if record[0] is Outcome.PERMERROR:
            return None
        raise LookupError(record[1])

    def _is_void(self, work: _Work, field: HeaderField, found: SignatureField | FieldError) -> bool:
        if isinstance(found, FieldError):
            return True
        if found.algorithm == "rsa-sha1":
            return False  # others may still take it
        if found.expires is not None and found.expires + self._options.skew < self._clock():
            return True
        record = self._record(found, work.deadline)
        if isinstance(record, tuple):
            return record[0] is Outcome.PERMERROR
        return record.key is not None and not _fits(work, field, found, record.key)

    def _one(self, work: _Work, at: int, field: HeaderField) -> Verified:
        found = work.read[at]
        if isinstance(found, FieldError):
            domain, selector = claimed(field)
            return Verified(at, Outcome.PERMERROR, str(found), domain, selector)
        blank = _passed(at, found)
        early = self._at_sight(found)
        if early is not None:
            return replace(blank, outcome=early[0], why=early[1])
        record = self._record(found, work.deadline)
        if isinstance(record, tuple):
            return replace(blank, outcome=record[0], why=record[1])
        blank = replace(blank, testing=record.testing)
        outcome, why = self._judge(work, field, found, record)
        return replace(blank, outcome=outcome, why=why)

    def _at_sight(self, found: SignatureField) -> tuple[Outcome, str] | None:
        """What needs no key."""
        if found.algorithm == "rsa-sha1":
            return Outcome.POLICY, "signed with SHA-1 (RFC 8301)"
        now, skew = self._clock(), self._options.skew
        if found.expires is not None and found.expires + skew < now:
            return Outcome.FAIL, "signature expired"
        if found.made is not None and found.made - skew > now:
            return Outcome.FAIL, "signature made in the future"
        return None

    def _record(self, found: SignatureField, deadline: float) -> KeyRecord | tuple[Outcome, str]:
        """The published key, or what its absence means (RFC 6376 section 6.1.2)."""
        answer = self._dns.texts(found.key_name, deadline - self._ticks())
        if isinstance(answer, NoAnswer):
            return Outcome.TEMPERROR, f"key not available: {answer.why}"
        if isinstance(answer, Absent) or not answer.records:
            return Outcome.PERMERROR, "no key in DNS"
        if len(answer.records) > 1:
            return Outcome.PERMERROR, "several records where one key should be"
        try:
            record = self._records.read(answer.records[0])
        except RecordError as error:
            return Outcome.PERMERROR, str(error)
        if record.kind != ALGORITHMS[found.algorithm]:
            return Outcome.PERMERROR, "the key is for another algorithm"
        if record.strict and found.identity_domain != found.domain:
            return Outcome.PERMERROR, "the key allows no subdomain in i= (t=s)"
        return record

    def _judge(
        self, work: _Work, field: HeaderField, found: SignatureField, record: KeyRecord
    ) -> tuple[Outcome, str]:
        """Hashes and signature, then what a good signature may still lack."""
        hashes = work.body(found.body_form)
        whole = hashes.whole
        if found.length is not None:
            if found.length > hashes.size:
                return Outcome.PERMERROR, "l= is longer than the body"
            whole = hashes.first[found.length]
        if whole != found.body_hash:
            return Outcome.FAIL, "body was changed"
        if record.key is None:
            return Outcome.POLICY, record.weak
        if not _fits(work, field, found, record.key):
            return Outcome.FAIL, "signature does not fit"
        why = self._shortcoming(work, found, hashes)
        return (Outcome.POLICY, why) if why else (Outcome.PASS, "")

    def _shortcoming(self, work: _Work, found: SignatureField, hashes: BodyHashes) -> str:
        """Why a signature that fits must not be relied on; empty where nothing is wrong."""
        if found.length is not None and found.length < hashes.size:
            return f"{hashes.size - found.length} octets after l= are not signed"
        for name in ALONE:
            mentions = found.names.count(name)
            if 0 < mentions < work.header.count(name):
                return f"another {name.decode('ascii')} field than the signed one"
        for name in self._options.must_be_signed:
            if found.names.count(name) < work.header.count(name):
                return f"field {name.decode('ascii', 'replace')} is not signed"
        return ""


class _Work:
    """One mail while its signatures are judged: what several of them need is made once."""

    def __init__(
        self, mail: Mail, fields: Sequence[tuple[int, HeaderField]], deadline: float
    ) -> None:
        self.deadline = deadline
        self.header = Header(mail.visible())
        self.read = {at: _read(field) for at, field in fields}
        self._body = mail.body
        self._hashes: dict[str, BodyHashes] = {}

    def body(self, form: str) -> BodyHashes:
        """The body's hashes in a form, for every `l=` there is."""
        if form not in self._hashes:
            lengths = {
                each.length
                for each in self.read.values()
                if isinstance(each, SignatureField) and each.length is not None
            }
            self._hashes[form] = hash_body(self._body, form, lengths)
        return self._hashes[form]


def _fits(work: _Work, field: HeaderField, found: SignatureField, key: PublicKey) -> bool:
    """Whether the signature is of this header."""
    fields = covered(work.header, found.names, found.header_form)
    return key.verifies(found.signature, digest(fields, field, found.header_form))


def _passed(at: int, found: SignatureField) -> Verified:
    """The result of a signature that nothing is wrong with so far."""
    identity = found.identity.decode("utf-8", "replace")
    start = base64.b64encode(found.signature)[:SHOWN].decode("ascii")
    parts = (found.domain, found.selector, identity, found.algorithm, start)
    return Verified(at, Outcome.PASS, "", *parts)


def _read(field: HeaderField) -> SignatureField | FieldError:
    try:
        return read_field(field)
    except FieldError as error:
        return error
