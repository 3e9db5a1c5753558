"""Whether signatures survive is what we said: generated mails and rules, the mail taken through
Postfix with the headers filter, and OpenDKIM asked about what arrives.

GATEPOST_SIGNED says how many, GATEPOST_SEED which.
"""

from __future__ import annotations

import os
import random
import re
import smtplib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from milterd.base import sockets
from milterd.core.actions import AddHeader, ChangeHeader, Edit, InsertHeader, ReplaceBody
from milterd.core.apply import apply
from milterd.core.decision import Decision, Verdict
from milterd.core.filter import Need
from milterd.core.mail import BytesBody, Mail, body_octets, parse_message
from milterd.filters.dkim_verify import VerifyOptions
from milterd.filters.header_rules.outcome import Outcome
from milterd.filters.headers import HeadersFilter, HeadersOptions
from milterd.filters.standing import StandingOptions
from milterd.host.judge import Judge, Surroundings
from milterd.host.native import NativeHost
from milterd.host.options import Options
from milterd.signed.signature import FieldSignature
from milterd.signed.survive import as_delivered, predict
from tests.filters.dkim_milter import edits_by
from tests.filters.dkim_world import RSA, Dns, write_key
from tests.peers import opendkim
from tests.peers.milter import Milter
from tests.peers.postfix import Postfix
from tests.peers.process import directory, wait_for
from tests.peers.smtp_sink import SmtpSink
from tests.signed.generated import (
    NAMES,
    RECORDS,
    Case,
    Signer,
    body,
    case,
    dkimpy,
    ours,
    plain,
    value,
)

COUNT = int(os.environ.get("GATEPOST_SIGNED", "60"))
SEED = int(os.environ.get("GATEPOST_SEED", "7489"))
PATIENCE = 60.0


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    with directory("signed") as found:
        write_key(found / "k.pem", RSA)
        yield found


@pytest.fixture(scope="module")
def signers(home: Path) -> Iterator[list[Signer]]:
    """Ours, dkimpy, and OpenDKIM as it is set up where nobody adds or repeats a field."""
    private = (home / "k.pem").read_bytes()
    key = opendkim.Key(home / "k.pem", RSA.record)
    settings = {"Canonicalization": "relaxed/simple", "OversignHeaders": "From,Subject,To"}
    (home / "signer").mkdir()
    with opendkim.opendkim(home / "signer", "s", key=key, **settings) as peer:

        def theirs(mail: Mail, _: random.Random) -> Mail:
            return edits_by(str(peer.socket), mail)

        yield [ours("a"), ours("b"), ours("c"), dkimpy(private), theirs]


@pytest.fixture(scope="module")
def judge(home: Path) -> Iterator[Milter]:
    (home / "judge").mkdir()
    with opendkim.opendkim(
        home / "judge", "v", records=RECORDS, MaximumSignaturesToVerify="10"
    ) as peer:
        yield peer


def verdicts(judge: Milter, mail: Mail) -> dict[str, bool]:
    """What OpenDKIM says of each selector's signature."""
    if not mail.values(b"DKIM-Signature"):
        return {}
    (text,) = edits_by(str(judge.socket), mail).values(b"Authentication-Results")[:1]
    found: dict[str, bool] = {}
    for word, selector in re.findall(rb"dkim=(\w+)[^;]*?header\.s=(\w+)", text):
        name = selector.decode()
        found[name] = found.get(name, False) or word == b"pass"
    return found


class ByCase:
    """The headers filter with the rules of each mail's own case; keeps what it was asked."""

    name = "headers"
    needs = Need.HEADERS | Need.ADD_HEADERS | Need.CHANGE_HEADERS

    def __init__(self, cases: list[Case], rules: Path) -> None:
        dns, standing = Dns(RECORDS), StandingOptions(VerifyOptions(10, 5.0))
        self._filters = {}
        for each in cases:
            name = f"case{each.number}"
            (rules / f"{name}.toml").write_text(each.rules, "utf-8")
            options = HeadersOptions((name,), rules, edits_limit=10_000, standing=standing)
            self._filters[each.number] = HeadersFilter(options, lambda: 0.0, time.time, dns)
        self.seen: dict[int, tuple[Mail, Decision]] = {}

    def gather(self, mail: Mail) -> tuple[int, Outcome]:
        number = case_of(mail)
        return number, self._filters[number].gather(mail)

    def decide(self, mail: Mail, facts: tuple[int, Outcome]) -> Decision:
        number, outcome = facts
        decision = self._filters[number].decide(mail, outcome)
        self.seen[number] = mail, decision
        return decision


def case_of(mail: Mail) -> int:
    return int(mail.values(b"X-Case")[0])


class Silent:
    """A log."""

    def info(self, event: str, **facts: object) -> None: ...

    warning = error = exception = info


@contextmanager
def served(filter_: ByCase, path: Path) -> Iterator[None]:
    """The native host, in a thread of ours."""
    listener = sockets.listen(sockets.parse(f"unix:{path}"))
    path.chmod(0o666)
    around = Surroundings(Silent(), lambda: "x")
    host = NativeHost(Judge(filter_, Options(threads=0), around), listener, around)
    thread = threading.Thread(target=host.serve)
    thread.start()
    try:
        yield
    finally:
        host.stop(1.0)
        thread.join(PATIENCE)


def test_what_arrives_is_as_good_as_was_said(
    signers: list[Signer], judge: Milter, home: Path, postfix: Postfix, smtp_sink: SmtpSink
) -> None:
    chance = random.Random(SEED)
    cases = [case(number, signers, chance) for number in range(COUNT)]
    (home / "rules").mkdir()
    filter_ = ByCase(cases, home / "rules")
    where = postfix.queue / "signed"
    where.mkdir(exist_ok=True)
    before, refused = len(smtp_sink.mails()), set[int]()
    postfix.set({
        "smtpd_milters": "unix:signed/headers.sock",
        "default_transport": f"smtp:[127.0.0.1]:{smtp_sink.port}",
        "local_header_rewrite_clients": "",
    })  # fmt: skip
    try:
        with served(filter_, where / "headers.sock"):
            with smtplib.SMTP("127.0.0.1", postfix.port) as client:
                for each in cases:
                    if send(client, each.mail) == 550:
                        refused.add(each.number)
            wanted = before + COUNT - len(refused)
            wait_for(lambda: len(list(smtp_sink.directory.iterdir())) == wanted, "mails arrive")
            wait_for(lambda: len(smtp_sink.mails()) == wanted, "all mails arrive")
    finally:
        postfix.set({
            "smtpd_milters": "", "local_header_rewrite_clients": "permit_inet_interfaces"
        })  # fmt: skip
    arrived = {}
    for octets in smtp_sink.mails()[before:]:
        mail = parse_message(octets.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))
        arrived[case_of(mail)] = mail
    tally = [0, 0]
    for each in cases:
        seen, decision = filter_.seen[each.number]
        assert (decision.verdict is Verdict.REJECT) == (each.number in refused)
        if each.number not in refused:
            broken = compare(each, seen, decision, arrived[each.number], judge)
            tally[bool(broken)] += 1
    assert min(tally) > COUNT // 20, tally
    assert refused


def send(client: smtplib.SMTP, mail: Mail) -> int:
    """Postfix's code for the mail."""
    octets = b"".join(mail.pieces())
    try:
        client.sendmail("a@example.net", ["b@example.org"], octets, ["BODY=8BITMIME"])
    except smtplib.SMTPDataError as error:
        return error.smtp_code
    return 250


def compare(each: Case, seen: Mail, decision: Decision, arrived: Mail, judge: Milter) -> set[str]:
    """Hold OpenDKIM's word against ours; the good signatures that are broken."""
    good = {name for name, fine in verdicts(judge, each.mail).items() if fine}
    now = {name for name, fine in verdicts(judge, arrived).items() if fine}
    said = survivors(as_delivered(seen), decision.edits)
    context = (each.rules, b"".join(each.mail.pieces()), arrived.head(), decision)
    assert now == good & said, context
    forced = " ".join(one.facts.get("breaks-signature", "") for one in decision.reasons)
    owned = {name for name in good if f"s={name}," in f"{forced},".replace(" ", ",")}
    assert good - now <= owned, context
    return good - now


def survivors(mail: Mail, edits: tuple[Edit, ...]) -> set[str]:
    found = set()
    for each in predict(mail, edits):
        assert isinstance(each.signature, FieldSignature)
        assert not each.signature.fault
        if each.survives:
            found.add(each.signature.selector)
    return found


def random_edits(mail: Mail, chance: random.Random) -> tuple[Edit, ...]:
    """Any edits, to the body as well."""
    found: list[Edit] = []
    for _ in range(chance.choice((1, 1, 2, 3))):
        name = chance.choice((*NAMES, "From", "DKIM-Signature")).encode()
        nth = chance.randrange(1, 3)
        there = mail.values(name)
        again = chance.choice(there) if there else b" x@example.org"
        spaced = b" " + b" ".join(again.split()) + b" "
        new = chance.choice((b"", b" new", value(chance), again, spaced))
        if name == b"DKIM-Signature":  # of one that is malformed OpenDKIM says nothing at all
            new = chance.choice((b"", again, spaced))
        if name == b"From":  # of a mail whose first author has no address it says nothing either
            new = chance.choice((b"", b" b@example.org", again, spaced))
        body_ = body_octets(mail.body)  # no bare CR may come of it, which no MTA sends on
        cut = chance.randrange(len(body_) + 1)
        bodies = (
            body_ + b"\r\n", body_ + b"footer\r\n",
            body_[:cut].removesuffix(b"\r") + b"\r\n", body(chance),
            body_.replace(b" ", b"  "), body_.replace(b"\r\n", b" \r\n"),
        )  # fmt: skip
        edits: tuple[Edit, ...] = (
            ChangeHeader(name, nth, new),
            ChangeHeader(name, nth, new),
            AddHeader(name, new or again),
            InsertHeader(chance.randrange(8), name, new or again),
            ReplaceBody(BytesBody(chance.choice(bodies))),
        )
        found.append(chance.choice(edits))
    return tuple(found)


def test_any_edits_do_to_signatures_what_was_said(signers: list[Signer], judge: Milter) -> None:
    chance = random.Random(SEED + 1)
    tally = [0, 0]
    for number in range(COUNT):
        mail = plain(chance, number)
        for sign in chance.sample(signers, chance.choice((1, 2))):
            mail = sign(mail, chance)
        good = {name for name, fine in verdicts(judge, mail).items() if fine}
        edits = random_edits(mail, chance)
        after = apply(mail, edits)
        now = {name for name, fine in verdicts(judge, after).items() if fine}
        assert now == good & survivors(mail, edits), (b"".join(mail.pieces()), edits, after.head())
        tally[bool(good - now)] += 1
    assert min(tally) > COUNT // 5, tally
