"""Our checks do to mail what Debian's cleanup(8) does with the same tables.

A failure prints the seed.  GATEPOST_CHECKS: how many tables and mails are made up.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from milterd.core.actions import Quarantine
from milterd.core.apply import apply
from milterd.core.decision import Decision, Verdict
from milterd.core.mail import Envelope, HeaderField, Mail, Recipient
from milterd.filters.header_checks.options import ChecksOptions
from milterd.filters.headers import HeadersFilter, HeadersOptions
from milterd.signed.keep import OnSigned
from tests.filters.cleanup import LISTS, OWN, Cleanup, Result, cleanup
from tests.filters.make_checks import Trial, trial
from tests.peers.milterd import prepare
from tests.peers.postfix import age

COUNT = int(os.environ.get("GATEPOST_CHECKS", "40"))
SEED = int(os.environ.get("GATEPOST_SEED", "20261122"))
pytestmark = pytest.mark.timeout(120 + COUNT)
HIDDEN = HeaderField(b"Received", b" from client by mta; now", hidden=True)


@pytest.fixture(scope="module")
def judge() -> Iterator[Cleanup]:
    with cleanup() as running:
        for kind in ("regexp", "pcre"):
            (running.tables / kind).mkdir()
            for each in LISTS:
                (running.tables / kind / each).touch()
        both = {
            each: [f"{kind}:{running.tables}/{kind}/{each}" for kind in ("regexp", "pcre")]
            for each in LISTS
        }
        running.mta.set({f"gatepost_{each}": " ".join(specs) for each, specs in both.items()})
        yield running


def ours(home: Path, one: Trial, mail: Mail, **options: object) -> tuple[Mail, Decision]:
    """What the filter makes of the mail, as an MTA with a field of its own on top delivers it."""
    specs = {}
    for name, table in one.tables.items():
        (home / name).write_bytes(table)
        specs[name] = (f"{one.kind}:{home / name}",)
    checks = ChecksOptions(**specs, on_signed=OnSigned.FORCE, **options)  # type: ignore[arg-type]
    built = HeadersFilter(HeadersOptions((), checks=checks, edits_limit=10_000))
    envelope = Envelope(b"sender@example.net", (), tuple(map(Recipient, one.recipients)))
    mail = replace(mail, envelope=envelope)
    decision = built.decide(mail, built.gather(mail))
    delivered = apply(mail.with_headers((HIDDEN, *mail.headers)), decision.edits)
    assert delivered.headers[0] is HIDDEN
    return delivered.with_headers(delivered.headers[1:]), decision


def told(result: Result) -> tuple[object, ...]:
    """What Postfix made of it, to be compared."""
    if not result.reply.startswith(b"250"):
        return (result.reply,)
    if result.mail is None:
        return ("discarded",)
    return (result.held, sorted(result.recipients), b"".join(result.mail.pieces()))


def said(mail: Mail, decision: Decision) -> tuple[object, ...]:
    """The same of ours."""
    if decision.reply is not None:
        return (str(decision.reply).encode(),)
    if decision.verdict is Verdict.DISCARD:
        return ("discarded",)
    held = any(isinstance(each, Quarantine) for each in decision.edits)
    people = sorted(each.address for each in mail.envelope.recipients)
    return (held, people, b"".join(mail.pieces()))


def lay(judge: Cleanup, one: Trial) -> None:
    """Put the tables where cleanup(8) finds them."""
    for name in LISTS:
        text = one.tables.get(name)
        if text is None:
            default = "header_checks" if name != "body_checks" else None
            text = one.tables[default] if default else b""
        if name == "header_checks":
            text = OWN + text
        for kind in ("regexp", "pcre"):
            file = judge.tables / kind / name
            file.write_bytes(text if kind == one.kind else b"")
            age(file)


@pytest.mark.parametrize("start", range(0, COUNT, 20))
def test_the_same_becomes_of_mail(judge: Cleanup, tmp_path: Path, start: int) -> None:
    wrong = []
    for number in range(start, min(COUNT, start + 20)):
        one = trial(Random(f"{SEED}-{number}"))
        lay(judge, one)
        seen = judge.plainly(one.message, *one.recipients)
        expected = told(judge.checked(one.message, *one.recipients))
        found = said(*ours(tmp_path, one, seen))
        if found != expected:
            wrong.append((number, one, expected, found))
    for number, one, expected, found in wrong:
        print(f"--- seed {SEED}-{number}: {one.kind}")
        for name, table in one.tables.items():
            print(f"{name}:\n{table.decode()}")
        print("sent:", one.message, "expected:", expected, "found:", found, sep="\n")
    assert not wrong


ROAD = {
    "header_checks": b"/^Subject: (.*)red/ PREPEND X-New: $1\n/^X-One:/ REPLACE X-Uno: changed\n"
    b"/^X-Two:/ REPLACE X-Two: by name\n/^X-Mailer:/ IGNORE\n/^List-Id:/ PREPEND Subject: new\n"
    b"/^Comments:.*green/ HOLD\n/^Comments:.*blue/ REJECT 5.7.9 no blue\n",
    "body_checks": b"/green/ REPLACE was green\n/blue/ PREPEND before blue\n/%/ IGNORE\n",
}


def test_the_same_comes_of_it_as_a_milter(judge: Cleanup) -> None:
    """Each edit lands where cleanup(8) makes it, with Postfix's own field on top."""
    lay(judge, Trial("regexp", ROAD, b"", ()))
    lists = []
    for name, table in ROAD.items():
        (judge.milter / name).write_bytes(table)
        lists.append(f'{name} = ["regexp:{judge.milter / name}"]\n')
    settings = "".join(lists) + 'rules = []\nchecks_on_signed = "force"\nhostname = "x"\n'
    with prepare(judge.milter, "headers", "native", settings).run() as milter:
        milter.socket.chmod(0o666)
        held = 0
        for number in range(15):
            one = trial(Random(f"{SEED}-road-{number}"))
            expected = told(judge.checked(one.message, *one.recipients))
            assert told(judge.asked(one.message, *one.recipients)) == expected, one.message
            held += expected[0] is True
        assert held
