"""The diff of a mail: true, escaped, and bounded."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from milterd.core.mail import BytesBody, Envelope, HeaderField, Mail, Recipient
from milterd.lab import diff
from milterd.lab.diff import difference

_HUNK = re.compile(r"  @@ -(\d+),(\d+) \+(\d+),(\d+) @@")
_body = st.lists(st.sampled_from(["a", "b", "c", ""]), max_size=30)


def _mail(lines: list[str], end: bytes = b"\r\n") -> Mail:
    octets = "\r\n".join(lines).encode() + (end if lines else b"")
    return Mail(body=BytesBody(octets))


def _patched(one: list[str], shown: list[str]) -> list[str]:
    """`one` after the hunks of a diff, which must fit it."""
    found: list[str] = []
    at = 0
    for line in shown[2:]:
        hunk = _HUNK.fullmatch(line)
        if hunk:
            start = int(hunk[1]) - (1 if int(hunk[2]) else 0)
            found += one[at:start]
            at = start
            assert len(found) == int(hunk[3]) - (1 if int(hunk[4]) else 0)
            continue
        mark, text = line[2], line[3:]
        if mark in " -":
            assert one[at] == text
            at += 1
        if mark in " +":
            found.append(text)
    return found + one[at:]


@given(_body, _body, st.sampled_from([5, 400]))
def test_a_diff_makes_the_one_of_the_other(one: list[str], other: list[str], most: int) -> None:
    kept, diff.MOST_COMPARED = diff.MOST_COMPARED, most
    try:
        shown = [line for _, line in difference(_mail(one), _mail(other))]
    finally:
        diff.MOST_COMPARED = kept
    assert _patched(one, shown) == other
    assert bool(shown) is (one != other)


def test_the_same_mail_has_none() -> None:
    mail = _mail(["text"])
    assert not list(difference(mail, mail))
    assert not list(difference(mail, _mail(["text"])))


def test_each_part_by_itself() -> None:
    one = Mail(
        envelope=Envelope(b"a@x", (b"RET=HDRS",), (Recipient(b"b@x"),)),
        headers=(HeaderField(b"Subject", b" one\r\n\tfolded"), HeaderField(b"X", b" \x1b[31m")),
        body=BytesBody(b"text"),
    )
    other = Mail(
        envelope=Envelope(b"", (), (Recipient(b"b@x", (b"NOTIFY=NEVER",)),)),
        headers=(HeaderField(b"Subject", b" two"), HeaderField(b"X", b" \xff")),
        body=BytesBody(b"text\r\n"),
    )
    assert [line for _, line in difference(one, other)] == [
        "  --- envelope before",
        "  +++ envelope after",
        "  @@ -1,2 +1,2 @@",
        "  -from <a@x> RET=HDRS",
        "  -to <b@x>",
        "  +from <>",
        "  +to <b@x> NOTIFY=NEVER",
        "  --- header before",
        "  +++ header after",
        "  @@ -1,3 +1,2 @@",
        "  -Subject: one",
        r"  -\tfolded",
        r"  -X: \x1b[31m",
        "  +Subject: two",
        r"  +X: \\xff",
        "  --- body before",
        "  +++ body after",
        "  @@ -1,2 +1,1 @@",
        "   text",
        r"  -\\ no line end at the end",
    ]


def test_a_long_difference_is_bounded() -> None:
    one = _mail([f"line {number}" for number in range(100_000)])
    other = _mail([f"other {number % 7}" for number in range(100_000)])
    shown = list(difference(one, other))
    assert len(shown) == diff.MOST_SHOWN + 1
    assert shown[-1][1] == f"  [{200_003 - diff.MOST_SHOWN} more lines]"
