"""Fuzz targets of the attachments filter: names, parts and files as a stranger writes them."""

from __future__ import annotations

import sys
import time
from pathlib import Path

if __name__ == "__main__":
    # Run as a script: the project's root is not on the path then.
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from milterd.core.apply import apply
from milterd.core.decision import Verdict
from milterd.core.mail import HeaderField, body_octets, parse_message
from milterd.filters.attachment_names import extensions, forms, oddities
from milterd.filters.attachment_strip import strip
from milterd.filters.attachments import AttachmentsFilter, AttachmentsOptions
from milterd.mime.leaves import leaves
from milterd.mime.names import LIMIT, names
from milterd.ports.attached.archives import Inspection
from milterd.ports.attached.found import Limits, Look
from tests.fuzz.driver import Target, run

_LIMITS = Limits(octets=1_000_000, members=100)


class _Here:
    """Looks in this process."""

    def look(self, octets: bytes, end: float) -> Look:  # noqa: ARG002  # as the pool's
        return Inspection(_LIMITS).look(octets)


FILTER = AttachmentsFilter(AttachmentsOptions(), _Here(), time.monotonic)


def fuzz_attachment_name(data: bytes) -> None:
    """Any field gives names of bounded length, and each of them has its forms."""
    for each in names([HeaderField(b"Content-Disposition", data)]):
        assert len(each) <= LIMIT
        forms(each)
        oddities(each)
        assert extensions(each + ".exe") >= {"exe"}


def fuzz_attachment_parts(data: bytes) -> None:
    """Any mail has leaves within its body, in order; what is stripped leaves the rest."""
    mail = parse_message(data)
    octets = body_octets(mail.body)
    found = leaves(mail.headers, octets, 100).those
    for each in found:
        assert -1 <= each.begin <= each.start <= each.end <= len(octets)
        each.content(octets)
    for number, each in enumerate(found):
        if each.begin >= 0:
            after = body_octets(apply(mail, strip(mail, {number}, 100, "gone", ["x"])).body)
            assert after.startswith(octets[: each.begin])
            assert after.endswith(octets[each.end :])


def fuzz_attachment_file(data: bytes) -> None:
    """Any file has a look, within the limits."""
    look = Inspection(_LIMITS).look(data)
    assert look.things
    assert len(look.things) <= 4 * _LIMITS.members


def fuzz_attachment_mail(data: bytes) -> None:
    """Any mail has a decision."""
    mail = parse_message(data)
    decision = FILTER.decide(mail, FILTER.gather(mail))
    assert decision.verdict in Verdict


TARGETS: dict[str, Target] = {
    "attachment_name": fuzz_attachment_name,
    "attachment_parts": fuzz_attachment_parts,
    "attachment_file": fuzz_attachment_file,
    "attachment_mail": fuzz_attachment_mail,
}

if __name__ == "__main__":
    sys.exit(run(TARGETS, sys.argv))
