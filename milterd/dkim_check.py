"""Whether DNS has the public half of a private key: what `milterd dkim check` finds."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from milterd.filters.dkim_record import KeyRecord, RecordError, read
from milterd.ports.dkim_dns import Absent, NoAnswer, TextSource
from milterd.signed.dkim_tags import TagError, octets, tags

ASK = 10.0
"""Seconds for a question."""


class Published(enum.Enum):
    """What DNS has of a key."""

    YES = "published"
    NO = "missing"
    OTHER = "another key"
    REVOKED = "revoked"
    UNUSABLE = "unusable"
    UNKNOWN = "no answer"


@dataclass(frozen=True, slots=True)
class Finding:
    """One key's state in DNS; `notes` are what to know of a record that is there.  `ttl` is how
    many seconds resolvers keep it."""

    name: str
    state: Published
    why: str = ""
    notes: tuple[str, ...] = ()
    ttl: int = 0


def look(name: str, record: str, dns: TextSource) -> Finding:
    """Compare the record that a private key wants with what DNS has.  Never raises."""
    answer = dns.texts(name, ASK)
    if isinstance(answer, NoAnswer):
        return Finding(name, Published.UNKNOWN, answer.why)
    if isinstance(answer, Absent) or not answer.records:
        return Finding(name, Published.NO, "no TXT record", ttl=int(answer.ttl))
    if len(answer.records) > 1:
        why = f"{len(answer.records)} records where one should be"
        return Finding(name, Published.UNUSABLE, why, ttl=int(answer.ttl))
    return _compare(name, record.encode("ascii"), answer.records[0], int(answer.ttl))


def _compare(name: str, wanted: bytes, found: bytes, ttl: int) -> Finding:
    try:
        there = tags(found)
        if there.get(b"p") == b"":
            return Finding(name, Published.REVOKED, "p= is empty", ttl=ttl)
        read_record = read(found)
        same = octets(there[b"p"], "p") == octets(tags(wanted)[b"p"], "p")
    except (RecordError, TagError) as error:
        return Finding(name, Published.UNUSABLE, str(error), ttl=ttl)
    if not same or there.get(b"k", b"rsa") != tags(wanted).get(b"k", b"rsa"):
        return Finding(name, Published.OTHER, "p= or k= is not ours", ttl=ttl)
    return Finding(name, Published.YES, "", _notes(read_record), ttl)


def _notes(record: KeyRecord) -> tuple[str, ...]:
    notes = []
    if record.testing:
        notes.append("t=y: the key is said to be on trial, take it out")
    if record.strict:
        notes.append("t=s: no signature may have a subdomain in i=")
    if record.weak:
        notes.append(record.weak)
    elif record.kind == "rsa" and record.key is not None and record.key.bits < 2048:
        notes.append(f"{record.key.bits} bits: RFC 8301 asks signers for 2048")
    return tuple(notes)
