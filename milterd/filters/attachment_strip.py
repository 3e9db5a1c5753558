"""Taking attachments out: a note stands in their place, and every other octet stays.

A mail whose body is the attachment, without other parts, gets the note for a body and the header
fields that go with it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from milterd.core.actions import AddHeader, ChangeHeader, Edit, ReplaceBody
from milterd.core.mail import BytesBody, Mail, body_octets
from milterd.mime.leaves import Leaf, leaves
from milterd.ports.scanner import printable

_TYPE = b" text/plain; charset=us-ascii"
_ABOUT = (b"Content-Transfer-Encoding", b"Content-Disposition", b"Content-Description")


def strip(
    mail: Mail, those: Collection[int], limit: int, text: str, names: Sequence[str]
) -> tuple[Edit, ...]:
    """The edits that put a note in the place of the leaves with these numbers."""
    octets = body_octets(mail.body)
    found = leaves(mail.headers, octets, limit).those
    chosen = [each for number, each in enumerate(found) if number in those]
    note = _note(text, names)
    if any(each.begin < 0 for each in chosen):
        return (*_fields(mail), ReplaceBody(BytesBody(note)))
    return (ReplaceBody(BytesBody(b"".join(_pieces(octets, chosen, note)))),)


def _pieces(octets: bytes, chosen: Iterable[Leaf], note: bytes) -> Iterable[bytes]:
    at = 0
    for each in sorted(chosen, key=lambda leaf: leaf.begin):
        yield octets[at : each.begin]
        yield b"Content-Type:%b\r\nContent-Disposition: inline\r\n\r\n%b" % (_TYPE, note)
        at = max(each.start, each.end)
    yield octets[at:]


def _fields(mail: Mail) -> Iterable[Edit]:
    """The header of a mail that is nothing but a note now; deletions from the last one up."""
    for name in _ABOUT:
        for at in range(len(mail.values(name)), 0, -1):
            yield ChangeHeader(name, at, b"")
    count = len(mail.values(b"Content-Type"))
    for at in range(count, 1, -1):
        yield ChangeHeader(b"Content-Type", at, b"")
    yield ChangeHeader(b"Content-Type", 1, _TYPE) if count else AddHeader(b"Content-Type", _TYPE)


def _note(text: str, names: Sequence[str]) -> bytes:
    """The postmaster's words and the names, in lines that no reader can take for a boundary."""
    lines = [
        *(f" {each}" for each in text.splitlines()),
        *(f" * {printable(each)}" for each in names),
    ]
    return b"".join(each.encode("ascii", "replace") + b"\r\n" for each in lines)
