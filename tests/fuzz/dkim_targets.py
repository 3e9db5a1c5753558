"""Fuzz targets of the dkim filter: what a stranger writes into a mail or into DNS."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

if __name__ == "__main__":
    # Run as a script: the project's root is not on the path then.
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from milterd.core.actions import AddHeader, ChangeHeader, InsertHeader, ReplaceBody
from milterd.core.mail import BytesBody, HeaderField, body_octets, parse_message
from milterd.filters.dkim_record import RecordError, read
from milterd.filters.dkim_results import forged, value
from milterd.filters.dkim_verify import Verifier
from milterd.ports.dkim_dns import Answer, Texts
from milterd.signed.cover import cover
from milterd.signed.keep import Guard, Wish, keep
from milterd.signed.survive import Held
from tests.fuzz.driver import Target, run


class _Dns:
    """One record for every name."""

    def __init__(self, record: bytes) -> None:
        self._record = record

    def texts(self, name: str, limit: float) -> Answer:  # noqa: ARG002  # a TextSource
        return Texts((self._record,), 60)


def fuzz_dkim_record(data: bytes) -> None:
    """A key record is read, or refused with a reason."""
    with contextlib.suppress(RecordError):
        read(data)


def fuzz_dkim_mail(data: bytes) -> None:
    """Any mail and any record have a result, and the result is well-formed."""
    record, _, octets = data.partition(b"\n\n")
    mail = parse_message(octets)
    signature = HeaderField(b"DKIM-Signature", octets[:500])
    mail = mail.with_headers((signature, *mail.headers))
    found = Verifier(_Dns(record)).verify(mail)
    assert not found.passed
    text = value("mx.example.net", found.results, found.ignored)
    assert all(each in b"\r\n\t" or 32 <= each < 127 for each in text)
    forged(mail, "mx.example.net")


def fuzz_signed_edits(data: bytes) -> None:
    """Any mail has signatures that are held or not, and any edit an answer; none is no harm."""
    value_, _, octets = data.partition(b"\n\n")
    mail = parse_message(octets)
    edits = (
        ChangeHeader(b"Subject", 1, value_),
        InsertHeader(0, b"ARC-Seal", value_),
        AddHeader(b"DKIM-Signature", value_),
        ReplaceBody(BytesBody(body_octets(mail.body) + value_)),
    )
    held = Held(mail)
    same = ReplaceBody(BytesBody(body_octets(mail.body)))
    assert held.broken((same,)) == ()
    broken = held.broken(edits)
    for each in (*held.in_header, *held.in_body):
        cover(mail, each)
        assert str(each).isprintable()
    assert set(broken) <= {*held.in_header, *held.in_body}
    keep(Guard(mail), [Wish("x", (each,)) for each in edits])


TARGETS: dict[str, Target] = {
    each.__name__.removeprefix("fuzz_"): each
    for each in (fuzz_dkim_record, fuzz_dkim_mail, fuzz_signed_edits)
}

if __name__ == "__main__":
    sys.exit(run(TARGETS, sys.argv))
