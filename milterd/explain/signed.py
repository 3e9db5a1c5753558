"""The signatures of a mail on its road: what each covers, and which filter breaks it, if one does.

What is said here is what verifiers find once the mail is delivered: the octets that each hashes
are compared.  Whether a signature was good to begin with is the dkim filter's to say.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from milterd.core.mail import Mail
from milterd.explain.road import Road
from milterd.lab.diff import Line
from milterd.signed.cover import Cover, cover, shown
from milterd.signed.signature import FieldSignature, Signature
from milterd.signed.survive import Held


@dataclass(frozen=True, slots=True)
class Fate:
    """A signature of the mail as it came; `broken_by` is a filter's name, or empty."""

    signature: Signature
    cover: Cover
    broken_by: str = ""

    @property
    def fault(self) -> str:
        """Why no verifier takes it, whatever becomes of the mail."""
        return self.signature.fault if isinstance(self.signature, FieldSignature) else ""


def fates(road: Road) -> tuple[Fate, ...]:
    """Every signature that the mail came with."""
    mail = road.stops[0].before
    held = Held(mail)
    broken: dict[Signature, str] = {}
    for stop in road.stops:
        if stop.after is stop.before:
            continue
        now = held.broken_as(stop.after)
        # What a later filter puts back as it was is whole again.
        broken = {each: broken.get(each, stop.name) for each in now}
    signatures: tuple[Signature, ...] = (*held.in_header, *held.in_body)
    return tuple(Fate(each, cover(mail, each), broken.get(each, "")) for each in signatures)


def lines(road: Road) -> Iterator[Line]:
    """For a reader; nothing where the mail came without signatures."""
    mail = road.stops[0].before
    found = fates(road)
    if not found:
        return
    yield "bold", "signatures:"
    for each in found:
        if each.fault:
            yield "yellow", f"  {each.signature}: can never be good: {each.fault}"
            continue
        fate = f"broken by {each.broken_by}" if each.broken_by else "survives"
        yield "red" if each.broken_by else "green", f"  {each.signature}: {fate}"
        yield from (("dim", f"    {text}") for text in _covered(mail, each.cover))


def _covered(mail: Mail, found: Cover) -> Iterator[str]:
    if found.fields:
        names = (f"{_name(mail, at)} (field {at + 1})" for at in found.fields)
        yield f"covers {', '.join(names)}"
    if found.closed:
        yield f"forbids another {', '.join(found.closed)}"
    yield f"body: {found.body}" + (f"; form {found.forms}" if found.forms else "")


def values(road: Road) -> list[dict[str, object]]:
    """For a program."""
    mail = road.stops[0].before
    return [
        shown(each.signature)
        | {
            "covers": [{"field": at + 1, "name": _name(mail, at)} for at in each.cover.fields],
            "forbids_another": list(each.cover.closed),
            "body": each.cover.body,
            "forms": each.cover.forms,
            "fault": each.fault or None,
            "survives": not each.fault and not each.broken_by,
            "broken_by": each.broken_by or None,
        }
        for each in fates(road)
    ]


def _name(mail: Mail, at: int) -> str:
    return mail.headers[at].name.decode("ascii", "backslashreplace")
