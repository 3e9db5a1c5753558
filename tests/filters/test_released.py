"""A mail released from quarantine: the clamav filter passes over what it was told to, and finds
whatever else there is."""

from __future__ import annotations

import base64
from dataclasses import replace
from time import monotonic

import pytest

from milterd.core.actions import Quarantine
from milterd.core.apply import apply
from milterd.core.decision import Verdict
from milterd.core.finding import MACRO, macro_value
from milterd.core.mail import Mail, Session, parse_message
from milterd.filters.clamav import ClamavFilter, ClamavOptions
from milterd.filters.virus_policy import Action
from milterd.ports.beyond import Beyond
from milterd.ports.scanner import (
    Clean,
    Infected,
    Passed,
    ScanFact,
    TooLarge,
    Unavailable,
    Unscannable,
)
from milterd.ports.thorough import ReadingOptions

LIMIT = 5000


class FirstFound:
    """As clamd: it tells the first thing it finds, in base64 as well."""

    def __init__(self, *, down: bool = False) -> None:
        self.down, self.scans = down, 0

    def scan(self, mail: Mail, **_how: object) -> ScanFact:
        self.scans += 1
        octets = b"".join(mail.pieces())
        if self.down:
            return Unavailable("down")
        if len(octets) > LIMIT:
            return TooLarge(len(octets), LIMIT)
        for word in (b"VIRUS-ONE", b"VIRUS-TWO"):
            for each in (word, base64.b64encode(word * 9)[:20]):
                if each in octets:
                    return Infected(word.decode())
        return Unscannable("limit", "too deep") if b"DEEP" in octets else Clean()

    def version(self) -> str:
        return "1"


def build(**scanner: bool) -> ClamavFilter:
    one = FirstFound(**scanner)
    kept = Action.QUARANTINE
    options = ClamavOptions(
        infected=kept, unscannable=kept, too_large=kept, unavailable=kept, hostname="h"
    )
    return ClamavFilter(options, one, beyond=Beyond(one, ReadingOptions(), monotonic))


def mail(*parts: bytes, passing: tuple[str, ...] = (), pad: int = 0) -> Mail:
    text = b"padding\r\n" * pad
    for each in parts:
        lines = base64.encodebytes(each * 9).replace(b"\n", b"\r\n")
        text += b"--b\r\nContent-Transfer-Encoding: base64\r\n\r\n" + lines
    parsed = parse_message(
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + text + b"--b--\r\n"
    )
    return replace(parsed, session=Session(macros={MACRO: macro_value(passing)} if passing else {}))


def finding(one: ClamavFilter, given: Mail) -> bytes:
    """What it is quarantined for; nothing if it goes on."""
    decision = one.decide(given, one.gather(given))
    assert decision.verdict is Verdict.CONTINUE
    return b"".join(each.reason for each in decision.edits if isinstance(each, Quarantine))


def test_what_was_released_passes_as_if_it_were_clean() -> None:
    one, clean = build(), mail(b"HARMLESS!")
    given = mail(b"VIRUS-ONE", passing=("clamav/VIRUS-ONE",))
    assert finding(one, mail(b"VIRUS-ONE")) == b"clamav/VIRUS-ONE: infected"
    facts = one.gather(given)
    assert facts == Passed(Infected("VIRUS-ONE"))
    decision = one.decide(given, facts)
    assert decision.edits == one.decide(clean, Clean()).edits
    assert decision.reasons[0].outcome == "released"
    assert apply(given, decision.edits).body is given.body


def test_another_signature_behind_it_is_found() -> None:
    both = (b"VIRUS-ONE", b"VIRUS-TWO")
    assert finding(build(), mail(*both, passing=("clamav/VIRUS-ONE",))) == (
        b"clamav/VIRUS-TWO: infected"
    )
    passing = ("clamav/VIRUS-ONE", "clamav/VIRUS-TWO")
    assert finding(build(), mail(*both, passing=passing)) == b""


@pytest.mark.parametrize(
    "passing", ["clamav/VIRUS-TWO", "headers/VIRUS-ONE", "clamav/virus-one", "clamav/VIRUS-ON"]
)
def test_nothing_else_passes(passing: str) -> None:
    assert finding(build(), mail(b"VIRUS-ONE", passing=(passing,))) == b"clamav/VIRUS-ONE: infected"


def test_what_was_not_looked_into_is_looked_into_in_parts() -> None:
    keys = ("clamav/too-large",)
    assert finding(build(), mail(b"x", pad=900)) == b"clamav/too-large: not looked into"
    assert finding(build(), mail(b"VIRUS-ONE", pad=900, passing=keys)) == (
        b"clamav/VIRUS-ONE: infected"
    )
    assert finding(build(), mail(b"harmless", pad=900, passing=keys)) == b""


def test_a_scanner_that_is_down_is_asked_once() -> None:
    one = build(down=True)
    assert finding(one, mail(b"x")) == b"clamav/unavailable.down: not looked into"
    assert finding(one, mail(b"x", passing=("clamav/unavailable.down",))) == b""
    scanner = one._scanner
    assert isinstance(scanner, FirstFound)
    assert scanner.scans == 2
    # The release was of a scanner that is down: what it finds when it is up counts.
    assert finding(build(), mail(b"VIRUS-ONE", passing=("clamav/unavailable.down",)))


def test_a_quarantine_tells_who_was_to_get_it() -> None:
    one = build()
    decision = one.decide(mail(b"x"), Infected("VIRUS-ONE"))
    assert decision.reasons[0].facts["finding"] == "clamav/VIRUS-ONE"
    assert decision.reasons[0].facts["recipients"] == ""
