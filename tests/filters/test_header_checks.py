"""Postfix's checks: reading tables, limits, verdicts, signatures, and the body they leave."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milterd.core.actions import AddRecipient, DeleteRecipient, Quarantine
from milterd.core.apply import apply
from milterd.core.decision import Decision, Tried, Verdict
from milterd.core.filter import Need
from milterd.core.mail import BytesBody, Envelope, Mail, Recipient, parse_message
from milterd.filters.header_checks.options import ChecksOptions
from milterd.filters.header_checks.records import records
from milterd.filters.header_checks.spliced import SplicedBody
from milterd.filters.header_checks.tokens import items
from milterd.filters.header_checks.walk import Bounds, Kind, Walk
from milterd.filters.header_rules.outcome import Splice
from milterd.filters.headers import HeadersFilter, HeadersOptions, OnTimeout
from milterd.filters.setup import SetupError
from milterd.signed.keep import OnSigned

MAIL = (
    b"From: a@example.net\r\nSubject: one\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"
    b"--b\r\nContent-Type: text/plain\r\nX-Part: two\r\n\r\nhello\r\nworld\r\n"
    b"--b\r\nContent-Type: message/rfc822\r\n\r\nSubject: inner\r\n\r\nhello\r\n--b--\r\n"
)


def built(home: Path, *, kind: str = "regexp", **given: object) -> HeadersFilter:
    """A filter with a table for each list that is given as text."""
    options: dict[str, object] = {}
    for name, text in given.items():
        options[name] = text
        if isinstance(text, str):
            (home / name).write_text(text)
            options[name] = (f"{kind}:{home / name}",)
    late = options.pop("on_timeout", OnTimeout.SKIP)
    checks = ChecksOptions(**options)  # type: ignore[arg-type]
    return HeadersFilter(HeadersOptions((), checks=checks, match_time=0.05, on_timeout=late))  # type: ignore[arg-type]


def decide(filter_: HeadersFilter, octets: bytes = MAIL) -> tuple[Mail, Decision]:
    people = (Recipient(b"b@example.org"), Recipient(b"c@example.org"))
    mail = replace(parse_message(octets), envelope=Envelope(b"a@example.net", (), people))
    decision = filter_.decide(mail, filter_.gather(mail))
    return mail, decision


def test_lines_are_for_the_table_postfix_has_for_them(tmp_path: Path) -> None:
    seen: list[tuple[str, str]] = []

    def note(tried: Tried) -> None:
        seen.extend(tried.looked)

    tables = dict.fromkeys(
        ("mime_header_checks", "nested_header_checks", "body_checks"), "/./ DUNNO"
    )
    filter_ = built(tmp_path, header_checks="/./ DUNNO", **tables)
    filter_.gather(parse_message(MAIL), note)
    assert seen == [
        ("header_checks", "From: a@example.net"),
        ("header_checks", "Subject: one"),
        ("mime_header_checks", "Content-Type: multipart/mixed; boundary=b"),
        ("body_checks", "--b"),
        ("mime_header_checks", "Content-Type: text/plain"),
        ("mime_header_checks", "X-Part: two"),
        ("body_checks", "hello"),
        ("body_checks", "world"),
        ("body_checks", "--b"),
        ("mime_header_checks", "Content-Type: message/rfc822"),
        ("nested_header_checks", "Subject: inner"),
        ("body_checks", "hello"),
        ("body_checks", "--b--"),
    ]


def test_the_body_is_asked_for_and_changed_only_where_a_table_says_so(tmp_path: Path) -> None:
    nothing = built(tmp_path).needs
    assert Need.BODY not in nothing
    assert Need.CHANGE_BODY not in nothing
    only = built(
        tmp_path, header_checks="/x/ IGNORE", mime_header_checks=(), nested_header_checks=()
    ).needs
    assert Need.BODY not in only
    looks = built(tmp_path, header_checks="/x/ REJECT").needs
    assert Need.BODY in looks
    assert Need.CHANGE_BODY not in looks
    assert Need.CHANGE_BODY in built(tmp_path, header_checks="/x/ IGNORE").needs
    assert Need.CHANGE_RECIPIENTS in built(tmp_path, body_checks="/x/ REDIRECT a@b").needs
    assert Need.QUARANTINE in built(tmp_path, body_checks="/x/ HOLD").needs


def test_parts_change_and_nothing_else(tmp_path: Path) -> None:
    filter_ = built(
        tmp_path,
        header_checks="/^Subject: (.*)/ REPLACE Subject: [$1]",
        body_checks="/^hello/ PREPEND before\n/^world/ IGNORE",
    )
    mail, decision = decide(filter_)
    after = b"".join(apply(mail, decision.edits).pieces())
    expected = MAIL.replace(b": one", b": [one]").replace(b": inner", b": [inner]")
    expected = expected.replace(b"hello\r\n", b"before\r\nhello\r\n").replace(b"world\r\n", b"")
    assert after == expected


@pytest.mark.parametrize(
    ("action", "verdict", "reply"),
    [
        ("REJECT", Verdict.REJECT, "550 5.7.1 message content rejected"),
        ("REJECT no", Verdict.REJECT, "550 5.7.1 no"),
        ("reject 5.2.1 no", Verdict.REJECT, "550 5.2.1 no"),
        ("REJECT 4.2.1 later", Verdict.TEMPFAIL, "451 4.2.1 later"),
        ("DISCARD", Verdict.DISCARD, "None"),
        ("DUNNO", Verdict.CONTINUE, "None"),
    ],
)
def test_verdicts(tmp_path: Path, action: str, verdict: Verdict, reply: str) -> None:
    _, decision = decide(built(tmp_path, body_checks=f"/^hello/ {action}"))
    assert (decision.verdict, str(decision.reply)) == (verdict, reply)
    assert decision.edits == ()


def test_envelope_and_hold(tmp_path: Path) -> None:
    _, decision = decide(built(tmp_path, header_checks="/^Subject: one/ REDIRECT x@example.com"))
    assert decision.edits == (
        AddRecipient(b"x@example.com"),
        DeleteRecipient(b"b@example.org"),
        DeleteRecipient(b"c@example.org"),
    )
    tables = "/^Subject: one/ HOLD look\n/^From/ BCC x@example.com"
    _, decision = decide(built(tmp_path, header_checks=tables))
    assert decision.edits == (
        AddRecipient(b"x@example.com", (b"NOTIFY=NEVER",)),
        Quarantine(b"hold/header_checks: look"),
    )
    (copied, held) = decision.reasons
    assert copied.outcome == "copied"
    assert held.source.endswith("header_checks:1")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("/a/ FROBNICATE", "an action, one of BCC, DISCARD"),
        ("/a/ REPLACE", "a text behind REPLACE"),
        ("/a/ REDIRECT nobody", "user@domain behind REDIRECT"),
        ("/a/ FILTER smtp", "transport:destination"),
        ("/a(/ REJECT", "unmatched ("),
        ("/a REJECT", "a second '/' behind the pattern"),
        ("/a/ REPLACE $2", "no $2"),
    ],
)
def test_a_bad_line_is_refused_with_its_place(tmp_path: Path, line: str, expected: str) -> None:
    with pytest.raises(SetupError) as caught:
        built(tmp_path, header_checks=f"# good\n/x/ DUNNO\n{line}\n")
    (problem,) = caught.value.problems
    assert "header_checks:3: found" in problem
    assert expected in problem


def test_a_table_that_is_not_there_or_no_such_type(tmp_path: Path) -> None:
    with pytest.raises(SetupError) as caught:
        built(tmp_path, header_checks=(f"pcre:{tmp_path}/none", "hash:/x"))
    first, second = caught.value.problems
    assert "cannot be read (No such file or directory)" in first
    assert "expected regexp:/file or pcre:/file" in second


def test_a_pattern_that_takes_too_long_is_decided(tmp_path: Path) -> None:
    octets = MAIL.replace(b"hello", b"a" * 1500 + b"!")
    slow = {"kind": "pcre", "body_checks": "/^(a|aa)+$/ REJECT"}
    _, decision = decide(built(tmp_path, **slow), octets)  # type: ignore[arg-type]
    assert decision.verdict is Verdict.CONTINUE
    assert decision.reasons[0].outcome == "timed-out"
    late = built(tmp_path, on_timeout=OnTimeout.TEMPFAIL, **slow)  # type: ignore[arg-type]
    assert decide(late, octets)[1].verdict is Verdict.TEMPFAIL


def test_a_signature_of_the_body_forbids_its_change(tmp_path: Path) -> None:
    hashed = base64.b64encode(hashlib.sha256(MAIL.partition(b"\r\n\r\n")[2]).digest())
    tags = b"v=1; a=rsa-sha256; d=a.example; s=s; h=from:subject; b=YQ==; bh=" + hashed
    signed = b"DKIM-Signature: " + tags + b"\r\n" + MAIL
    tables = {"header_checks": "/^Subject: one/ IGNORE", "body_checks": "/^world/ IGNORE"}
    _, decision = decide(built(tmp_path, **tables), signed)
    assert (decision.verdict, decision.edits) == (Verdict.CONTINUE, ())
    assert [each.outcome for each in decision.reasons] == ["kept", "kept"]
    _, decision = decide(built(tmp_path, on_signed=OnSigned.REJECT, **tables), signed)
    assert decision.verdict is Verdict.REJECT
    mail, decision = decide(built(tmp_path, on_signed=OnSigned.FORCE, **tables), signed)
    after = b"".join(apply(mail, decision.edits).pieces())
    assert b"world" not in after
    assert b"Subject: one" not in after


def test_parts_in_parts_end_at_the_limit(tmp_path: Path) -> None:
    deep = "".join(
        f"Content-Type: multipart/mixed; boundary=b{n}x\r\n\r\n--b{n}x\r\n" for n in range(200)
    )
    _, decision = decide(built(tmp_path, header_checks="/none/ DUNNO"), b"A: b\r\n" + deep.encode())
    assert str(decision.reply) == "550 5.6.0 MIME nesting exceeds safety limit"


def test_a_mail_has_a_time_of_its_own(tmp_path: Path) -> None:
    """Also where no line of it comes to a table."""
    filter_ = built(tmp_path, header_checks="/none/ REJECT", on_timeout=OnTimeout.TEMPFAIL)
    part = b"--b\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n"
    octets = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + part * 300_000
    began = time.process_time()
    _, decision = decide(filter_, octets)
    assert time.process_time() - began < 4
    assert decision.verdict is Verdict.TEMPFAIL
    assert filter_.at_once(parse_message(octets)) is None


def test_what_is_told_is_bounded(tmp_path: Path) -> None:
    _, decision = decide(
        built(tmp_path, body_checks="/./ WARN seen"), b"A: b\r\n\r\n" + b"line\r\n" * 5000
    )
    assert len(decision.reasons) == 50


OCTETS = st.lists(st.sampled_from([b"a", b"\r", b"\n", b"\r\n", b"--b", b" ", b":", b"\0"])).map(
    b"".join
)


class Pieces(BytesBody):
    """A body that comes in pieces of one size."""

    def pieces(self, limit: int = 3) -> Iterator[bytes]:
        limit = min(limit, 3)
        return (self.octets[at : at + limit] for at in range(0, len(self.octets), limit))


@given(OCTETS, st.integers(2, 9))
def test_records_are_the_body_however_it_comes(octets: bytes, limit: int) -> None:
    found = list(records(Pieces(octets), limit))
    assert found == list(records(BytesBody(octets), limit))
    assert [each.start for each in found[1:]] == [each.end for each in found[:-1]]
    whole = b"".join(
        each.text + (b"\r\n" if each.end - each.start > len(each.text) else b"") for each in found
    )
    assert whole == octets
    assert all(len(each.text) <= limit for each in found)


@given(
    OCTETS, st.lists(st.tuples(st.integers(0, 40), st.integers(0, 9), OCTETS)), st.integers(1, 9)
)
def test_a_spliced_body_is_the_body_with_its_splices(
    octets: bytes, wanted: list[tuple[int, int, bytes]], limit: int
) -> None:
    splices, at, expected = [], 0, b""
    for gap, length, new in wanted:
        start = min(at + gap + 1, len(octets))
        end = min(start + length, len(octets))
        if start <= at and splices:
            break
        splices.append(Splice(start, end, new))
        expected += octets[at:start] + new
        at = end
    expected += octets[at:]
    body = SplicedBody(BytesBody(octets), splices)
    pieces = list(body.pieces(limit))
    assert b"".join(pieces) == expected
    assert body.size == len(expected)
    assert all(len(each) <= limit for each in pieces)


@given(st.binary(max_size=300), OCTETS)
def test_no_octets_upset_the_walk(value: bytes, body: bytes) -> None:
    list(items(value))
    walk = Walk(Bounds(header_size_limit=50, line_length_limit=8))
    assert walk.field(b"Content-Type", b"Content-Type: multipart/x; boundary=b") is Kind.MIME
    seen = list(walk.body(BytesBody(body)))
    assert all(first.end <= second.start for first, second in pairwise(seen))
