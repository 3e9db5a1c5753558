"""Interim."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from milterd.core.mail import Mail, body_octets
from milterd.lab.show import readable

Line = tuple[str, str]
"""A style of rich's, and a line of text."""


def difference(before: Mail, after: Mail) -> Iterator[Line]:
    """What became of the mail, as a unified diff of its lines."""
    if before.headers == after.headers and before.body is after.body:
        return
    one, other = (_mail_lines(each) for each in (before, after))
    for line in difflib.unified_diff(one, other, "before", "after", lineterm=""):
        style = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1], "")
        yield style, f"  {line}"


def _mail_lines(mail: Mail) -> list[str]:
    octets = mail.head() + body_octets(mail.body)
    return [readable(line) for line in octets.split(b"\r\n")]
