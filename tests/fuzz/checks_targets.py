"""Fuzz targets of Postfix's checks and of the digests in signatures, on what a stranger writes."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from pathlib import Path

if __name__ == "__main__":
    # Run as a script: the project's root is not on the path then.
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from milterd.core.apply import apply
from milterd.core.decision import Verdict
from milterd.core.mail import HeaderField, body_octets, parse_message
from milterd.filters.header_checks.options import ChecksOptions
from milterd.filters.header_checks.walk import Bounds, Walk
from milterd.filters.headers import HeadersFilter, HeadersOptions
from milterd.signed import pgp_digest, smime_digest
from milterd.signed.dkim_field import FieldError, read_seal
from tests.fuzz.driver import Target, run

_TABLE = """
/^X-Gone:/ IGNORE
/^X-New:(.*)/ REPLACE X-Now:$1
/^X-More:/ PREPEND X-Less: 1
/^stop/ REJECT no
"""


def _filter() -> HeadersFilter:
    with tempfile.TemporaryDirectory() as home:
        table = Path(home) / "checks"
        table.write_text(_TABLE)
        every = (f"regexp:{table}",)
        checks = ChecksOptions(
            header_checks=every,
            mime_header_checks=every,
            nested_header_checks=every,
            body_checks=every,
        )
        return HeadersFilter(HeadersOptions((), checks=checks))


FILTER = _filter()


def fuzz_checks_walk(data: bytes) -> None:
    """The pieces that are seen of any body stand in it, one after the other."""
    walk, mail = Walk(Bounds()), parse_message(data)
    for each in mail.headers:
        walk.field(each.name, each.value)
    octets, at = body_octets(mail.body), 0
    for seen in walk.body(mail.body):
        assert at <= seen.start <= seen.end <= len(octets)
        at = seen.end


def fuzz_checks_mail(data: bytes) -> None:
    """Any mail has a decision, whose edits can be made; no line that is to go is left."""
    mail = parse_message(data)
    decision = FILTER.decide(mail, FILTER.gather(mail))
    assert decision.verdict in Verdict
    if decision.verdict is Verdict.CONTINUE:
        after = apply(mail, decision.edits)
        assert not after.values(b"X-Gone")


def fuzz_signed_digests(data: bytes) -> None:
    """Any octets are of some content, or not, or unknown."""
    assert smime_digest.differs(b"x", data) in (True, False)
    assert pgp_digest.differs(b"x", data) in (True, False)
    with contextlib.suppress(FieldError):
        assert read_seal(HeaderField(b"ARC-Seal", data)).signature.domain


TARGETS: dict[str, Target] = {
    "checks_walk": fuzz_checks_walk,
    "checks_mail": fuzz_checks_mail,
    "signed_digests": fuzz_signed_digests,
}

if __name__ == "__main__":
    sys.exit(run(TARGETS, sys.argv))
