"""The attachments filter: what it finds in files, and what it does about it."""

from __future__ import annotations

import gzip
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from milterd.core.actions import ReplaceBody
from milterd.core.apply import apply
from milterd.core.decision import Decision, Tried, Verdict
from milterd.core.finding import MACRO
from milterd.core.mail import Direction, Mail, body_octets
from milterd.filters.attachment_options import AttachmentsOptions
from milterd.filters.attachments import STATUS, AttachmentsFilter
from milterd.filters.setup import SetupError
from milterd.filters.virus_policy import Action, Outcome
from milterd.ports.attached.found import Limits
from milterd.ports.attached.pool import Pool
from milterd.signed.keep import OnSigned
from tests.attachments import makers as make

LIMITS = Limits(octets=20_000_000, members=500)


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    made = Pool(LIMITS, 2, time.monotonic)
    yield made
    made.close()


Decide = Callable[..., Decision]


@pytest.fixture
def decide(pool: Pool) -> Decide:
    def ask(mail: Mail, **options: Any) -> Decision:
        found = AttachmentsFilter(replace(AttachmentsOptions(), **options), pool)
        return found.decide(mail, found.gather(mail))

    return ask


def outcomes(decision: Decision) -> set[str]:
    return {each.outcome for each in decision.reasons}


REFUSED = {
    "by its name": make.with_file(b"x", "a.exe"),
    "in capitals": make.with_file(b"x", "A.EXE"),
    "with dots and spaces behind": make.with_file(b"x", "a.exe. . "),
    "RFC 2231": make.message(make.part(b"x", "filename*=utf-8''a%2Eexe")),
    "RFC 2231 in pieces": make.message(
        make.part(b"x", "filename*1*=%65xe; filename*0*=utf-8'en'a.")
    ),
    "RFC 2231 in pieces of both kinds": make.message(
        make.part(b"x", 'filename*0="a."; filename*1="e"; filename*2*=%78%65')
    ),
    "an encoded word": make.message(make.part(b"x", "filename==?utf-8?b?YS5leGU=?=")),
    "two encoded words": make.with_file(b"x", "=?utf-8?q?a=2Ee?= =?utf-8?q?xe?="),
    "only in Content-Type": make.message(
        make.part(b"x", "", 'application/octet-stream; name="a.exe"')
    ),
    "two names": make.message(
        make.part(b"x", 'filename="a.txt"', 'application/octet-stream; name="a.exe"')
    ),
    "NUL": make.message(make.part(b"x", "filename*=utf-8''a.exe%00.txt")),
    "right to left": make.message(make.part(b"x", "filename*=utf-8''photo%E2%80%AEgpj.ace")),
    "zero width": make.message(make.part(b"x", "filename*=utf-8''a.e%E2%80%8Bxe")),
    "a stream of NTFS": make.with_file(b"x", "a.exe:$DATA"),
    "two extensions": make.with_file(b"x", "invoice.pdf      .zzz"),
    "by its content": make.message(make.part(make.PROGRAM, 'filename="a.jpg"', "image/jpeg")),
    "without a name": make.message(make.part(make.PROGRAM, "")),
    "in a zip": make.with_file(make.zipped({"docs/a.scr": b"x"}), "a.zip"),
    "in a zip by its content": make.with_file(make.zipped({"a": make.PROGRAM}), "a.zip"),
    "three deep": make.with_file(make.nested(3), "a.zip"),
    "behind a picture": make.with_file(
        b"\x89PNG\r\n\x1a\n" + bytes(50) + make.zipped({"a.exe": b"x"}), "a.png"
    ),
    "left out of the directory": make.with_file(make.hidden_zip("a.txt", "b.exe"), "a.zip"),
    "in tar.gz": make.with_file(make.tarred({"x/a.js": b"x"}), "a.tgz"),
    "in tar": make.with_file(make.tarred({"x/a.js": b"x"}, "w:"), "a.tar"),
    "in tar.xz": make.with_file(make.tarred({"x/a.js": b"x"}, "w:xz"), "a.txz"),
    "packed": make.with_file(gzip.compress(b"text"), "a.vbs.gz"),
    "in a mail in the mail": make.message(
        b"Content-Type: message/rfc822\r\n\r\n"
        + b"".join(make.with_file(b"x", "a.exe").pieces())
    ),
    "our own users' too": make.with_file(b"x", "a.exe", inbound=False),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_program_is_refused(name: str, decide: Decide) -> None:
    decision = decide(REFUSED[name])
    assert decision.verdict is Verdict.REJECT, decision
    assert str(decision.reply).startswith("550 5.7.1 Attachment not accepted here: ")
    assert outcomes(decision) & {"programs", "programs-by-content", "deceiving-names"}


PASSED = {
    "text": make.message(),
    "no MIME": make.directed(b"Subject: a.exe\r\n\r\nfilename=see the docs\r\n"),
    "a document": make.with_file(make.plain_document(), "a.doc"),
    "a zip of texts": make.with_file(make.zipped({"a.txt": b"x", "b/": b""}), "a.zip"),
    "the words": make.with_file(b"MZ is how programs begin", "exe.txt"),
    "photos": make.with_file(b"\xff\xd8\xff\xe0" + bytes(100), "holiday.2026.jpg"),
    "a PDF": make.with_file(b"%PDF-1.7\n1 0 obj\n", "v1.2.pdf"),
}


@pytest.mark.parametrize("name", PASSED)
def test_the_rest_passes_untouched(name: str, decide: Decide) -> None:
    decision = decide(PASSED[name])
    assert (decision.verdict, decision.edits) == (Verdict.CONTINUE, ()), decision


def mark(decision: Decision) -> bytes:
    return b"".join(getattr(each, "value", b"") for each in decision.edits)


@pytest.mark.parametrize(
    "document", [make.macro_document(), make.macro_workbook(), make.old_macros()]
)
def test_macros_are_marked(document: bytes, decide: Decide) -> None:
    assert mark(decide(make.with_file(document, "a.doc"))).startswith(b" macros (a.doc)")
    inside = make.with_file(make.zipped({"b.xls": document}), "a.zip")
    assert mark(decide(inside)).startswith(b" macros (b.xls in an archive)")
    assert decide(make.with_file(document, "a.doc", inbound=False)).edits == ()


ENCRYPTED = [
    make.with_file(make.encrypted_zip(), "a.zip"),
    make.with_file(make.zipped({"b.zip": make.encrypted_zip()}), "a.zip"),
    make.with_file(make.encrypted_document(), "a.docx"),
    make.with_file(b"%PDF-1.7\ntrailer << /Encrypt 5 0 R >>\n", "a.pdf"),
]


@pytest.mark.parametrize("mail", ENCRYPTED)
def test_what_is_encrypted_is_an_outcome_of_its_own(mail: Mail, decide: Decide) -> None:
    assert b"encrypted (" in mark(decide(mail))
    decision = decide(
        mail, general=AttachmentsOptions().general | {Outcome.ENCRYPTED: Action.REJECT}
    )
    assert str(decision.reply).startswith("550 5.7.1 Attachments cannot be looked into: encrypted")


def test_names_in_an_encrypted_zip_are_seen(decide: Decide) -> None:
    mail = make.with_file(make.encrypted_zip("a.exe"), "a.zip")
    assert outcomes(decide(mail)) == {"programs", "encrypted"}


UNSEEN = {
    Outcome.UNSCANNABLE: {
        "7z": make.with_file(b"7z\xbc\xaf\x27\x1c" + bytes(30), "a.7z"),
        "damaged": make.with_file(make.zipped({"a": bytes(999)})[:60], "a.zip"),
        "deep": make.with_file(make.nested(100, b"x", "a"), "a.zip"),
        "many": make.with_file(make.zipped({f"{each}": b"" for each in range(600)}), "a.zip"),
        "parts": make.message(*[make.part(b"x", "")] * 10_000),
        "partial": make.directed(
            b"Content-Type: message/partial; id=a; number=1; total=2\r\n\r\nMZ\r\n"
        ),
        "an OLE that is none": make.with_file(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1zzz", "a.doc"),
    },
    Outcome.TOO_LARGE: {
        "zeros": make.with_file(make.zipped({"a": bytes(30_000_000)}), "a.zip"),
        "packed zeros": make.with_file(make.packed_zeros(10_000), "a.gz"),
        "zeros of 10 GB": make.with_file(make.zipped_zeros(10_000), "a.zip"),
    },
}


@pytest.mark.parametrize(
    ("outcome", "name"), [(outcome, name) for outcome, those in UNSEEN.items() for name in those]
)
def test_what_cannot_be_seen_has_the_action_of_the_matrix(
    outcome: Outcome, name: str, pool: Pool
) -> None:
    mail = UNSEEN[outcome][name]
    began = time.monotonic()
    facts = AttachmentsFilter(AttachmentsOptions(), pool).gather(mail)
    assert time.monotonic() - began < 20

    def decided(action: Action) -> Decision:
        rows = {Direction.INBOUND: {outcome: action}}
        return AttachmentsFilter(AttachmentsOptions(directions=rows), pool).decide(mail, facts)

    verdicts = {
        Action.REJECT: Verdict.REJECT,
        Action.TEMPFAIL: Verdict.TEMPFAIL,
        Action.DISCARD: Verdict.DISCARD,
        Action.ACCEPT: Verdict.CONTINUE,
        Action.TAG: Verdict.CONTINUE,
    }
    for action, verdict in verdicts.items():
        assert decided(action).verdict is verdict
        assert outcome.value in outcomes(decided(action))
    reason = decided(Action.QUARANTINE).edits[-1].reason
    assert reason.startswith(b"attachments/%b: " % outcome.value.encode())


def test_a_mail_over_the_limit_is_not_looked_at(decide: Decide) -> None:
    options = AttachmentsOptions()
    mail = make.with_file(b"x" * 5000, "a.exe")
    reach = replace(options.reach, max_size=4000)
    assert outcomes(decide(mail, reach=reach)) == {"too_large"}


def test_time_has_an_end(pool: Pool) -> None:
    ticks = iter(range(0, 10_000, 20))
    found = AttachmentsFilter(AttachmentsOptions(), pool, lambda: float(next(ticks)))
    mail = make.message(*[make.part(b"x", "")] * 50)
    decision = found.decide(mail, found.gather(mail))
    assert (decision.verdict, outcomes(decision)) == (Verdict.TEMPFAIL, {"too_slow"})


# --- taken out ------------------------------------------------------------------------------

RULE = """
name = "own"
description = "for a test"
[[rule]]
name = "no-dat"
action = "{action}"
extensions = "dat"
[[rule.example]]
file = "a.dat"
"""


def own(directory: Path, action: str) -> dict[str, Any]:
    (directory / "own.toml").write_text(RULE.format(action=action))
    return {"rules": "own", "directory": directory}


def test_what_is_stripped_leaves_a_note_and_every_other_octet(
    decide: Decide, tmp_path: Path
) -> None:
    first, out, last = (make.part(bytes([each]) * 300, f'filename="{name}"') for each, name in
                        ((1, "a.txt"), (2, "b.dat"), (3, "c.txt")))  # fmt: skip
    mail = make.message(first, out, last, more=b"X-Attachment-Status: forged\r\n")
    decision = decide(mail, **own(tmp_path, "strip"))
    after = apply(mail, decision.edits)
    before, octets = body_octets(mail.body), body_octets(after.body)
    at = before.index(out.rstrip(b"\r\n"))
    assert octets.startswith(before[:at])
    assert octets.endswith(before[at + len(out.rstrip(b"\r\n")) :])
    note = octets[at : len(octets) - len(before) + at + len(out.rstrip(b"\r\n"))]
    assert note == (
        b"Content-Type: text/plain; charset=us-ascii\r\nContent-Disposition: inline\r\n\r\n"
        b" An attachment was taken out of this message by the mail server:\r\n * b.dat\r\n"
    )
    assert after.values(STATUS) == [b" no-dat (b.dat)"]
    assert [each.raw for each in after.headers[:-1]] == [
        each.raw for each in mail.headers if not each.named(STATUS)
    ]


def test_a_mail_that_is_the_file_becomes_a_note(decide: Decide, tmp_path: Path) -> None:
    mail = make.directed(b"MIME-Version: 1.0\r\nSubject: x\r\n" + make.part(b"x", "filename=a.dat"))
    after = apply(mail, decide(mail, **own(tmp_path, "strip")).edits)
    assert body_octets(after.body).endswith(b"\r\n * a.dat\r\n")
    assert after.values(b"Content-Type") == [b" text/plain; charset=us-ascii"]
    assert not after.values(b"Content-Transfer-Encoding") + after.values(b"Content-Disposition")


def test_where_parts_are_in_doubt_a_file_cannot_be_taken_out(
    decide: Decide, tmp_path: Path
) -> None:
    mail = make.message(
        make.part(b"x", "filename=a.dat"), more=b"Content-Transfer-Encoding: 8bit\r\n" * 2
    )
    assert decide(mail, **own(tmp_path, "strip")).verdict is Verdict.REJECT
    # A rule about what a part says of itself finds nothing in the other readings.
    rule = RULE.format(action="strip").replace("extensions", "declared")
    (tmp_path / "own.toml").write_text(rule.replace('"dat"', '"application/octet-stream"'))
    found = decide(mail, rules="own", directory=tmp_path)
    assert (found.verdict, outcomes(found)) == (Verdict.REJECT, {"no-dat"})


@pytest.mark.parametrize(
    ("on_signed", "stripped"), [(OnSigned.FORCE, True), (OnSigned.SKIP, False)]
)
def test_signatures_of_the_body(
    on_signed: OnSigned, stripped: bool, decide: Decide, tmp_path: Path
) -> None:
    signed = (
        b"DKIM-Signature: v=1; a=rsa-sha256; d=example.net; s=s; h=from; bh=AAAA; b=AAAA\r\n"
        b"From: a@example.net\r\n"
    )
    mail = make.message(make.part(b"x", "filename=a.dat"), more=signed)
    decision = decide(mail, **own(tmp_path, "strip"), on_signed=on_signed)
    assert any(isinstance(each, ReplaceBody) for each in decision.edits) is stripped
    assert b"no-dat (a.dat)" in mark(decision)
    refused = decide(mail, **own(tmp_path, "strip"), on_signed=OnSigned.REJECT)
    assert refused.verdict is Verdict.REJECT


# --- rules ------------------------------------------------------------------------------------


def test_quarantine_and_release(decide: Decide, tmp_path: Path) -> None:
    options = own(tmp_path, "quarantine")
    mail = make.message(make.part(b"x", "filename=a.dat"))
    assert decide(mail, **options).edits[-1].reason == b"attachments/no-dat: a.dat"
    session = replace(mail.session, macros={MACRO: b"attachments/no-dat"})
    assert decide(replace(mail, session=session), **options).edits == ()


def test_wrong_rules_are_refused_with_place_and_cure(pool: Pool, tmp_path: Path) -> None:
    def said(text: str) -> str:
        (tmp_path / "own.toml").write_text(text)
        with pytest.raises(SetupError) as raised:
            AttachmentsFilter(AttachmentsOptions("own", tmp_path), pool)
        return str(raised.value)

    good = RULE.format(action="mark")
    assert "rule.0.action: found 'x', expected 'reject', 'quarantine'" in said(
        RULE.format(action="x")
    )
    assert "rule.0.extension: found an unknown key" in said(good.replace("extensions", "extension"))
    assert "found no condition, expected names" in said(good.replace('extensions = "dat"', ""))
    assert "expected TOML" in said("a = [")
    with pytest.raises(SetupError, match="did you mean 'attachments'"):
        AttachmentsFilter(AttachmentsOptions("atachments"), pool)
    (tmp_path / "own.toml").write_text(good.replace("a.dat", "a.txt"))
    found = AttachmentsFilter(AttachmentsOptions("own", tmp_path), pool)
    assert found.check() == ("rule 'no-dat': example 1: 'a.txt' is not meant",)


def test_the_rules_that_come_with_us_do_as_their_examples_say(pool: Pool) -> None:
    assert AttachmentsFilter(AttachmentsOptions(), pool).check() == ()


def test_it_tells_what_it_tried(pool: Pool) -> None:
    told: list[Tried] = []
    found = AttachmentsFilter(AttachmentsOptions(), pool)
    mail = make.with_file(make.zipped({"a.exe": b"x"}), "a.zip")
    found.decide(mail, found.gather(mail, told.append), told.append)
    assert any(each.outcome == "programs: reject" for each in told)
    assert any(each.rule.startswith("encrypted: ") for each in told)
