"""A scanner that gives no attachment the benefit of the doubt, and one that remembers.

clamd reads MIME in its own way, and mail programs in theirs.  Where a mail has but one reading
(:mod:`milterd.mime.doubts`), a scan of the whole message says all.  Where it has more, each thing
that any of them could extract (:mod:`milterd.mime.decodings`) is scanned by itself as well, and
the worst answer counts.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import mmap
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from milterd.core.mail import BytesBody, FileBody, HeaderField, Mail, body_octets
from milterd.mime.decodings import Allowance, TooMuch, decodings
from milterd.mime.doubts import Octets, doubts, has_structure
from milterd.ports.clamds import BeginningScanner, Rest
from milterd.ports.scanner import (
    Clean,
    Infected,
    Meanwhile,
    ScanFact,
    Scanner,
    Unavailable,
    Unscannable,
)

_TAR_OVERHEAD = 1024
SIZE_AT_ONCE, LINES_AT_ONCE, MARKS_AT_ONCE = 16_384, 4000, 64
"""The structure of a body of at most so many octets, or so many lines of which so many may be where
a part begins, is looked at in an event loop: that takes it 8 ms at most.  Beyond, a thread does."""
Readings = Literal["one", "doubtful", "all"]


@dataclass(frozen=True, slots=True)
class ReadingOptions:
    """`readings`: only the scanner's own, all of mail with doubts, or all of every mail.
    `number` and `octets` bound what is scanned by itself, `timeout` is seconds for a mail.  Small
    things are scanned together, in archives of at most `archive` octets."""

    readings: Readings = "doubtful"
    number: int = 2000
    octets: int = 104_857_600
    archive: int = 4_194_304
    timeout: float = 120.0


@dataclass(slots=True)
class _Found:
    """The doubts of a mail, when they are known."""

    doubts: tuple[str, ...] | None = None


class Thorough:
    """See the module's contract."""

    def __init__(
        self, scanner: Scanner, options: ReadingOptions, clock: Callable[[], float]
    ) -> None:
        self._scanner, self._options, self._clock = scanner, options, clock
        self._beginning = scanner if isinstance(scanner, BeginningScanner) else None

    def scan(self, mail: Mail, *, meanwhile: Meanwhile | None = None) -> ScanFact:
        """See :meth:`Scanner.scan <milterd.ports.scanner.Scanner.scan>`."""
        end = self._clock() + self._options.timeout
        if self._options.readings == "one":
            return self._scanner.scan(mail, meanwhile=meanwhile)
        return self._judged(mail, *self._read(mail, meanwhile), end)

    def begin(
        self, mail: Mail, then: Callable[[ScanFact | Rest], None]
    ) -> Callable[[], None] | None:
        """See :meth:`Clamds.begin <milterd.ports.clamds.Clamds.begin>`."""
        scanner, end = self._beginning, self._clock() + self._options.timeout
        if scanner is None:
            return None
        if self._options.readings == "one":
            return scanner.begin(mail, then)
        found = _Found()

        def rest(fact: ScanFact | Rest) -> ScanFact:
            said = fact() if callable(fact) else fact
            if found.doubts is None and isinstance(said, Clean):
                found.doubts = _doubts(mail)
            return self._judged(mail, said, found.doubts or (), end)

        def came(fact: ScanFact | Rest) -> None:
            plain = found.doubts == () and self._options.readings != "all"
            then(fact if plain and isinstance(fact, Clean) else lambda: rest(fact))

        call_off = scanner.begin(mail, came)
        if call_off is not None and _is_simple(mail):
            with contextlib.suppress(Exception):  # raised again by what is left to do
                found.doubts = _doubts(mail)
        return call_off

    def _judged(self, mail: Mail, fact: ScanFact, found: tuple[str, ...], end: float) -> ScanFact:
        """What the scanner's answer to a mail with these doubts comes to."""
        if not isinstance(fact, Clean):
            return fact
        if "a message/partial" in found:
            return Unscannable("partial", "a piece of a message")
        if not found and self._options.readings != "all":
            return fact
        return self._others(body_octets(mail.body), end)

    def _read(self, mail: Mail, meanwhile: Meanwhile | None) -> tuple[ScanFact, tuple[str, ...]]:
        """What the scanner says, and of a clean mail its doubts.  A body in memory is looked at
        while the scanner works, which has processors of its own."""
        body, found = mail.body, _Found()
        if not isinstance(body, BytesBody):
            fact = self._scanner.scan(mail, meanwhile=meanwhile)
            return fact, _doubts(mail) if isinstance(fact, Clean) else ()

        def look() -> None:
            if found.doubts is None:
                found.doubts = doubts(mail.headers, body.octets)
            if meanwhile is not None:
                meanwhile()

        fact = self._scanner.scan(mail, meanwhile=look)
        if found.doubts is None and isinstance(fact, Clean):
            look()
        return fact, found.doubts or ()

    def _others(self, body: bytes, end: float) -> ScanFact:
        worst: ScanFact = Clean()
        allowance = Allowance(self._options.number, self._options.octets)
        try:
            for found in _together(decodings(body, allowance), self._options.archive):
                if self._clock() >= end:
                    return Unavailable("timeout", "more readings than there was time for")
                fact = self._scanner.scan(Mail(body=BytesBody(found), separator=b""))
                if isinstance(fact, Infected | Unavailable):
                    return fact
                if not isinstance(fact, Clean):
                    worst = fact
        except TooMuch as error:
            return Unscannable("limit", str(error))
        return worst

    def version(self) -> str | Unavailable:
        """The scanner's."""
        return self._scanner.version()


def _together(those: Iterable[bytes], limit: int) -> Iterator[bytes]:
    """The same in fewer pieces: a scanner looks into an archive at each of its files."""
    pieces: list[bytes] = []
    size = 0
    for each in those:
        if len(each) > limit:
            yield each
            continue
        if size + len(each) > limit:
            yield _archive(pieces)
            pieces, size = [], 0
        pieces.append(each)
        size += len(each) + _TAR_OVERHEAD
    if pieces:
        yield _archive(pieces)


def _archive(pieces: Sequence[bytes]) -> bytes:
    if len(pieces) == 1:
        return pieces[0]
    import tarfile  # here: few mails have several readings

    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for number, each in enumerate(pieces):
            entry = tarfile.TarInfo(f"{number}")
            entry.size = len(each)
            archive.addfile(entry, io.BytesIO(each))
    return target.getvalue()


def _is_simple(mail: Mail) -> bool:
    """Whether the structure of a mail in memory is soon looked at: it is short, has no parts, or
    has few lines."""
    if mail.body.size <= SIZE_AT_ONCE or not has_structure(mail.headers):
        return True
    octets = body_octets(mail.body)
    return octets.count(b"\r\n") <= LINES_AT_ONCE and octets.count(b"\n--") <= MARKS_AT_ONCE


def _doubts(mail: Mail) -> tuple[str, ...]:
    if isinstance(mail.body, BytesBody):
        return doubts(mail.headers, mail.body.octets)
    with _octets(mail) as (octets, start):
        return doubts(mail.headers, octets, start)


@contextlib.contextmanager
def _octets(mail: Mail) -> Iterator[tuple[Octets, int]]:
    """The body, mapped where it is in a file; and where in that it begins."""
    body = mail.body
    if isinstance(body, FileBody) and body.size:
        end = body.offset + body.size
        with mmap.mmap(body.file.fileno(), end, access=mmap.ACCESS_READ) as mapped:
            yield mapped, body.offset
    else:
        yield body_octets(body), 0


_ONCE = frozenset({
    b"received", b"date", b"message-id", b"to", b"cc", b"delivered-to", b"x-original-to",
    b"return-path", b"dkim-signature", b"arc-seal", b"arc-message-signature",
    b"arc-authentication-results", b"authentication-results",
})  # fmt: skip
"""Fields that make no two copies of a mail alike, and tell nobody how to read its body."""


@dataclass(frozen=True, slots=True)
class MemoryOptions:
    """At most `entries` clean mails are known again, for `lifetime` seconds each; a mail of less
    than `least` octets is scanned faster than it is looked up.  `fresh` is seconds for which it is
    believed that the scanner still has the signatures that it had."""

    entries: int = 0
    lifetime: float = 600.0
    least: int = 4096
    fresh: float = 30.0


class Remembering:
    """A scanner that is not asked again about a mail that it has found clean with the signatures
    that it has now.  Two mails are the same if their bodies are and all fields but those of the
    way they came; nothing but "clean" is kept."""

    def __init__(self, scanner: Scanner, options: MemoryOptions, clock: Callable[[], float]):
        self._scanner, self._options, self._clock = scanner, options, clock
        self._beginning = scanner if isinstance(scanner, BeginningScanner) else None
        self._known: OrderedDict[bytes, float] = OrderedDict()
        self._version, self._asked = "", -options.fresh
        self._lock = threading.Lock()

    def scan(self, mail: Mail, *, meanwhile: Meanwhile | None = None) -> ScanFact:
        """See :meth:`Scanner.scan <milterd.ports.scanner.Scanner.scan>`."""
        if not self._options.entries or mail.size < self._options.least:
            return self._scanner.scan(mail, meanwhile=meanwhile)
        key = self._key(mail)
        if key and self._remembers(key):
            return Clean()
        fact = self._scanner.scan(mail, meanwhile=meanwhile)
        if key and isinstance(fact, Clean):
            self._remember(key)
        return fact

    def begin(
        self, mail: Mail, then: Callable[[ScanFact | Rest], None]
    ) -> Callable[[], None] | None:
        """The same in an event loop, where nothing is remembered."""
        if self._options.entries or self._beginning is None:
            return None
        return self._beginning.begin(mail, then)

    def version(self) -> str | Unavailable:
        """The scanner's."""
        return self._scanner.version()

    def _key(self, mail: Mail) -> bytes:
        """A digest of the mail and of the signatures; empty where these are not known."""
        version = self._signatures()
        if not version:
            return b""
        digest = hashlib.blake2b(version.encode(), digest_size=32)
        for each in mail.headers:
            if each.name.lower() not in _ONCE:
                digest.update(_counted(each))
        digest.update(mail.separator + b"\0")
        for piece in mail.body.pieces():
            digest.update(piece)
        return digest.digest()

    def _signatures(self) -> str:
        now = self._clock()
        with self._lock:
            if now - self._asked < self._options.fresh:
                return self._version
            self._asked = now
        answer = self._scanner.version()
        self._version = answer if isinstance(answer, str) else ""
        return self._version

    def _remembers(self, key: bytes) -> bool:
        with self._lock:
            until = self._known.get(key, 0.0)
            return until > self._clock()

    def _remember(self, key: bytes) -> None:
        with self._lock:
            self._known[key] = self._clock() + self._options.lifetime
            self._known.move_to_end(key)
            while len(self._known) > self._options.entries:
                self._known.popitem(last=False)


def _counted(field: HeaderField) -> bytes:
    raw = replace(field, hidden=False).raw
    return b"%d:%b" % (len(raw), raw)
