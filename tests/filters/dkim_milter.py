"""A signing milter as an MTA sees it."""

from __future__ import annotations

import contextlib
import re

from milterd.core.actions import AddHeader, InsertHeader
from milterd.core.apply import apply
from milterd.core.mail import Mail, body_octets, parse_message
from milterd.wire.errors import LocalError
from tests.host.mta import Mta


def edits_by(socket: str, mail: Mail) -> Mail:
    """The mail after the edits of the milter there, which thinks it comes from our own user."""
    with Mta(socket) as mta, contextlib.suppress(LocalError):
        mta.greet()
        space = mta.wire.leading_space
        headers = [(each.name, _value(each.value, space=space)) for each in mail.headers]
        octets = body_octets(mail.body)
        pieces = [octets[at : at + 65_535] for at in range(0, len(octets), 65_535)]
        answer = mta.message(headers, body=pieces, macros=((b"{auth_authen}", b"u"),))
        assert all(isinstance(each, AddHeader | InsertHeader) for each in answer.edits), answer
        return apply(mail, answer.edits)
    return mail  # it was let go before its end: nothing more may be said to the milter


def _value(value: bytes, *, space: bool) -> bytes:
    """A field's value as Postfix sends it: LF in folds, the first space to who wants it."""
    return (value if space else value.removeprefix(b" ")).replace(b"\r\n", b"\n")


def signatures_by(socket: str, address: str) -> list[tuple[str, str, str]]:
    """d=, s= and i= of what the milter there makes for an author."""
    octets = f"From: {address}\r\nSubject: x\r\n\r\nhello\r\n".encode()
    signed = edits_by(socket, parse_message(octets))
    return [named(each) for each in signed.values(b"DKIM-Signature")]


def results_by(socket: str, mail: Mail) -> dict[str, str]:
    """What the verifying milter there says, by selector."""
    (text,) = edits_by(socket, mail).values(b"Authentication-Results")[:1]
    found = re.findall(rb"dkim=(\w+)[^;]*?header\.s=(\w+)", text)
    return {selector.decode(): word.decode() for word, selector in found}


def named(value: bytes) -> tuple[str, str, str]:
    """d=, s= and i= of a signature."""
    tags = dict(re.findall(rb"(\w+)=([^;]*)", re.sub(rb"\s", b"", value)))
    domain, selector, identity = (tags.get(each, b"").decode() for each in (b"d", b"s", b"i"))
    return domain, selector, identity
