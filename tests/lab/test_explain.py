"""`milterlab explain` says what our filters do with a mail, and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from milterd.config import load
from milterd.core.mail import Direction
from milterd.explain.command import explain as command
from milterd.explain.order import places
from milterd.lab.cli import app
from tests.filters.clamd_peer import eicar
from tests.filters.dkim_world import by_hand
from tests.peers.clamd import Clamd
from tests.peers.mail_dkim import verify
from tests.peers.opendkim import Key

run = CliRunner()
MAIL = (
    b"Received: from [203.0.113.9] by mail.example.net; Thu, 1 Jan 2026 00:00:00 +0000\r\n"
    b"From: joe@example.net\r\nX-Mailer: The Bat\r\nX-Virus-Status: Clean\r\n"
    b"Subject: gr\xc3\xbc\xc3\x9fe\r\n\r\nhello\r\n"
)
CLEAN = '[clamav]\noutcome = "clean"\n'


class Desk:
    """A settings file, a mail and a facts file, to be explained."""

    def __init__(self, home: Path, key: Path) -> None:
        self.home, self.key = home, key
        self.mail, self.config, self.facts = home / "m.eml", home / "g.toml", home / "f.toml"
        self.mail.write_bytes(MAIL)
        self.facts.write_text(CLEAN)
        self.configure()

    def configure(self, clamav: str = "", more: str = "") -> None:
        self.config.write_text(
            f'[milterd]\nsocket_group = ""\nsocket_directory = "{self.home}"\n'
            f'[filter.clamav]\nhostname = "mx.example.net"\n{clamav}\n'
            f"[filter.headers]\n[filter.dkim]\nsigning_table = [\n"
            f'{{ domain = "example.net", selector = "peer", key = "{self.key}" }},\n'
            f'{{ domain = "net", selector = "far", key = "{self.key}", subdomains = true }},\n'
            f'{{ domain = "example.org", selector = "o", key = "{self.key}" }},\n]\n{more}'
        )

    def explain(self, *options: str, facts: bool = True) -> Result:
        given = ["--facts", str(self.facts)] if facts else []
        arguments = ["explain", str(self.mail), "-c", str(self.config), *given, *options]
        return run.invoke(app, arguments)

    def values(self, *options: str, facts: bool = True) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.explain("--json", *options, facts=facts).stdout)
        return found


@pytest.fixture
def desk(tmp_path: Path, dkim_key: Key) -> Desk:
    return Desk(tmp_path, dkim_key.private)


INBOUND = ("--client", "mx.example.org[192.0.2.7]")


def of(values: dict[str, Any], name: str) -> dict[str, Any]:
    """One filter's part."""
    (found,) = (each for each in values["filters"] if each["filter"] == name)
    return dict(found)


def tried(values: dict[str, Any], name: str) -> dict[str, str]:
    return {each["rule"]: each["outcome"] for each in of(values, name)["tried"]}


def test_each_filter_in_its_order_sees_what_the_one_before_has_left(desk: Desk) -> None:
    out = desk.home / "out.eml"
    values = desk.values("--out", str(out))
    assert [each["filter"] for each in values["filters"]] == ["clamav", "headers", "dkim"]
    assert values["verdict"] == "continue"
    clamav = of(values, "clamav")["edits"]
    assert [each["edit"] for each in clamav] == ["delete header", "add header"]
    assert "+X-Virus-Scanned: clamav at mx.example.net" in "\n".join(of(values, "clamav")["diff"])
    octets = out.read_bytes()
    assert b"X-Mailer" not in octets
    assert b"X-Virus-Status" not in octets


def test_the_signature_made_is_good(desk: Desk, dkim_key: Key) -> None:
    out = desk.home / "out.eml"
    desk.configure()
    assert desk.explain("--out", str(out)).exit_code == 0
    (found,) = verify(out.read_bytes(), dkim_key.records)
    assert found["result"] == "pass"


def test_which_row_of_the_signing_table_and_why_not_the_others(desk: Desk) -> None:
    rows = tried(desk.values("--filter", "dkim"), "dkim")
    assert rows == {
        "originating mail is signed": "it is originating",
        "one From field with one address": "its domain is example.net",
        "signing table, row 1: example.net by peer": "signs",
        "signing table, row 2: net by far": "a nearer row signs",
        "signing table, row 3: example.org by o": "example.net is another domain",
    }
    desk.mail.write_bytes(MAIL.replace(b"example.net\r\nX-Mailer", b"sub.example.org\r\nX-Mailer"))
    values = desk.values("--filter", "dkim")
    assert tried(values, "dkim")["signing table, row 3: example.org by o"] == (
        "sub.example.org is below it, and subdomains is false"
    )
    assert of(values, "dkim")["reasons"][0]["facts"] == {
        "why": "no-key",
        "detail": "sub.example.org",
    }
    desk.mail.write_bytes(b"From: a@example.net\r\nFrom: b@example.net\r\n\r\n")
    assert tried(desk.values("--filter", "dkim"), "dkim")["one From field with one address"] == (
        "several-from: 2 From fields"
    )
    inbound = desk.values("--filter", "dkim", *INBOUND)
    assert tried(inbound, "dkim") == {"originating mail is signed": "it is inbound"}


def test_each_rule_and_each_field_it_looked_at(desk: Desk) -> None:
    found = of(desk.values("--filter", "headers"), "headers")
    by_name = {each["rule"]: each for each in found["tried"]}
    program = by_name["submission-privacy: program"]
    assert program["outcome"] == "1 changed"
    assert program["looked"] == [{"subject": "field 3, X-Mailer", "found": "removed"}]
    hygiene = by_name["inbound-hygiene: forged-authentication-results"]
    assert hygiene["outcome"] == "not for originating mail"
    assert by_name["edits_limit = 100"]["outcome"].endswith("within it")
    received = by_name["submission-privacy: client-in-received"]
    assert received["looked"] == [
        {"subject": "field 1, Received", "found": "its value does not match"}
    ]


RULES = """
name = "ours"
description = "for this test"
[[rule]]
name = "subject"
action = "replace"
header = "Subject"
value = "secret"
with = "open"
[[rule.example]]
direction = "inbound"
before = ["Subject: secret"]
after = ["Subject: open"]
[[rule]]
name = "same"
action = "replace"
header = "X-Same"
value = "keep"
with = "keep"
[[rule.example]]
direction = "inbound"
before = ["X-Same: keep"]
after = ["X-Same: keep"]
[[rule]]
name = "one-to"
action = "limit"
header = "X-To"
keep = "first"
[[rule.example]]
direction = "inbound"
before = ["X-To: a", "X-To: b"]
after = ["X-To: a"]
[[rule]]
name = "date"
action = "add"
header = "Date"
with = "now"
if_missing = true
[[rule.example]]
direction = "inbound"
before = []
after = ["Date: now"]
[[rule]]
name = "again"
action = "rename"
header = "X-Old"
with = "X-New"
[[rule.example]]
direction = "inbound"
before = ["X-Old: 1"]
after = ["X-New: 1"]
"""


def test_rules_of_every_kind(desk: Desk) -> None:
    rules = desk.home / "rules"
    rules.mkdir()
    (rules / "ours.toml").write_text(RULES)
    text = desk.config.read_text().replace(
        "[filter.headers]",
        f'[filter.headers]\nrules = ["ours"]\nrules_directory = "{rules}"\n'
        "check_signatures = false",
    )
    desk.config.write_text(text)
    desk.mail.write_bytes(
        b"DKIM-Signature: v=1; a=rsa-sha256; d=example.org; s=s; h=From:Date:X-Old;"
        b" bh=AA==; b=AA==\r\nX-To: a\r\nX-Old: 1\r\n"
        b"X-To: b\r\nSubject: secret\r\nX-Same: other\r\nX-Same: keep\r\n\r\nx\r\n"
    )
    found = of(desk.values("--filter", "headers", *INBOUND), "headers")
    looked = {
        each["rule"]: [(one["subject"], one["found"]) for one in each["looked"]]
        for each in found["tried"]
    }
    assert looked["ours: subject"] == [("field 5, Subject", "now Subject: open")]
    assert looked["ours: same"] == [
        ("field 6, X-Same", "its value does not match"),
        ("field 7, X-Same", "is as it should be"),
    ]
    assert looked["ours: one-to"] == [("field 2, X-To", "kept"), ("field 4, X-To", "removed")]
    assert looked["ours: date"] == [("Date", "a signature forbids another")]
    assert looked["ours: again"] == [
        ("field 3, X-Old", "kept: a signature covers it: DKIM d=example.org s=s")
    ]
    outcomes = {each["rule"]: each["outcome"] for each in found["tried"]}
    assert outcomes["ours: subject"] == "1 changed"
    assert outcomes["ours: date"] == "1 kept for a signature"


@pytest.mark.parametrize(
    ("fact", "setting", "verdict"),
    [
        ('outcome = "infected"\nsignature = "X"', 'infected = "reject"', "reject"),
        ('outcome = "unscannable"\nwhy = "limit"', 'unscannable = "tempfail"', "tempfail"),
        ('outcome = "too-large"\nsize = 9\nlimit = 8', 'too_large = "reject"', "reject"),
        ('outcome = "unavailable"\nwhy = "down"', 'unavailable = "tempfail"', "tempfail"),
    ],
)
def test_the_world_as_a_file_says_it_is(desk: Desk, fact: str, setting: str, verdict: str) -> None:
    desk.facts.write_text(f"[clamav]\n{fact}\n")
    result = desk.explain()
    assert result.exit_code == 1, result.output
    assert f"  tried: {setting}: this is it\n" in result.stdout
    assert result.stdout.count(": this is it\n") == 1
    assert "headers: not asked: clamav has ended it" in result.stdout
    assert f"m.eml: {verdict} " in result.stdout.splitlines()[-1]


def test_clamd_itself_is_asked(desk: Desk, clamd: Clamd) -> None:
    desk.configure(clamav=f'clamd = "unix:{clamd.socket}"')
    values = desk.values("--filter", "clamav", facts=False)
    assert of(values, "clamav")["facts"] == {"outcome": "clean"}
    assert not of(values, "clamav")["given"]
    desk.mail.write_bytes(b"Subject: x\r\n\r\n" + eicar() + b"\r\n")
    result = desk.explain("--filter", "clamav", facts=False)
    assert result.exit_code == 1
    assert "550 5.7.1 Message refused: infected with Eicar" in result.stdout
    desk.configure(clamav=f'clamd = "unix:{desk.home}/none"')
    values = desk.values("--filter", "clamav", facts=False)
    assert of(values, "clamav")["facts"]["why"] == "down"
    assert values["reply"] == "451 4.7.1 Virus scanner unavailable, try again later"


def test_what_was_saved_tells_the_same_again(desk: Desk) -> None:
    saved, out, again = (desk.home / name for name in ("s.toml", "1.eml", "2.eml"))
    first = desk.values("--save-facts", str(saved), "--out", str(out))
    desk.facts.write_text(saved.read_text())
    second = desk.values("--out", str(again))
    # The signature too, although it bears the time: nobody was asked for it.
    assert again.read_bytes() == out.read_bytes()
    for one, other in zip(first["filters"], second["filters"], strict=True):
        assert other["given"]
        assert other["facts"] == one["facts"]
        assert other["edits"] == one["edits"]


def test_bad_facts_show_every_mistake(desk: Desk) -> None:
    desk.facts.write_text('[clamav]\noutcome = "infekted"\n[dkimm]\n')
    result = desk.explain()
    assert result.exit_code == 2
    assert "did you mean 'infected'?" in result.stderr
    assert "did you mean 'dkim'?" in result.stderr
    assert desk.explain("--facts", f"{desk.home}/none", facts=False).exit_code == 2


def test_bad_settings_show_every_mistake(desk: Desk) -> None:
    desk.config.write_text('[filter.clamav]\ninfectd = "reject"\ntimeout = "soon"\n')
    result = desk.explain()
    assert result.exit_code == 2
    assert "did you mean 'infected'?" in result.stderr
    assert "filter.clamav.timeout" in result.stderr
    desk.configure()
    desk.key.chmod(0o644)
    result = desk.explain()
    assert result.exit_code == 2
    assert result.stderr.count("others can reach it") == 3
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--filter", "dkimm"], "there: clamav, headers, dkim"),
        (["--client", "nobody knows"], "is not IP"),
        (["--out", "/none/out.eml"], "cannot write /none/out.eml"),
        (["--save-facts", "/none/f.toml"], "cannot write /none/f.toml"),
    ],
)
def test_usage(desk: Desk, options: list[str], said: str) -> None:
    result = desk.explain(*options)
    assert result.exit_code == 2
    assert said in " ".join(result.output.replace("│", " ").split())


def test_more_usage(desk: Desk) -> None:
    desk.mail.write_bytes(b"Subject: a\0b\r\n\r\n")
    assert desk.explain().exit_code == 2
    desk.config.write_text("[milterd]\nsocket_group = ''\n")
    assert "nothing to ask" in desk.explain().output
    desk.mail.unlink()
    assert desk.explain().exit_code == 2


def test_the_direction_and_why(desk: Desk) -> None:
    for options, direction, why in [
        ((), "originating", "from a client in milterd.trusted_networks"),
        (INBOUND, "inbound", "not authenticated, and from no trusted network or daemon name"),
        ((*INBOUND, "--auth", "joe"), "originating", "authenticated"),
        (
            (*INBOUND, "--macro", "daemon_name=ORIGINATING"),
            "originating",
            "by a listener in milterd.daemon_names",
        ),
    ]:
        values = desk.values(*options)
        assert (values["direction"], values["why"]) == (direction, why)


def test_the_host_s_limits_hold(desk: Desk) -> None:
    text = desk.config.read_text()
    desk.config.write_text(text.replace("[milterd]", "[milterd]\nsize_limit = 100"))
    values = desk.values()
    assert values["reply"] == "552 5.3.4 Message too large for content filter"
    assert of(values, "clamav")["facts"] is None


GATEWAY = """
[[smtpgw.milter]]
name = "tidy"
address = "unix:{home}/headers.sock"
directions = ["originating"]
[[smtpgw.milter]]
name = "somebody-else-s"
address = "unix:/run/other.sock"
[[smtpgw.milter]]
name = "scan"
address = "unix:{home}/clamav.sock"
"""


def test_the_gateway_s_order_and_directions_where_it_has_any(desk: Desk) -> None:
    desk.configure(more=GATEWAY.format(home=desk.home))
    found = places(desk.config, load(desk.config))
    assert [each.name for each in found] == ["headers", "clamav", "dkim"]
    assert found[0].directions == (Direction.ORIGINATING,)
    result = desk.explain(*INBOUND)
    assert "headers: not asked: the gateway does not ask it about inbound mail" in result.stdout
    desk.configure(more='[smtpgw]\nmilter = [3, { address = "x" }, { name = "y" }]\n')
    assert places(desk.config, load(desk.config))[0].name == "clamav"


def test_a_filter_that_fails_is_answered_as_the_daemon_would(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    from milterd.filters.headers import HeadersFilter

    def broken(*_: object) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(HeadersFilter, "decide", broken)
    result = desk.explain("--filter", "headers")
    assert result.exit_code == 1
    assert "the filter failed: RuntimeError: a fault of ours" in result.stdout
    assert "451 4.3.0 Internal error" in result.stdout


def test_nothing_of_a_mail_reaches_the_terminal_raw(desk: Desk) -> None:
    desk.mail.write_bytes(b"From: a@example.net\r\nX-Mailer: \x1b[31mred\x07\r\n\r\n\x1b[2J\r\n")
    desk.facts.write_text('[clamav]\noutcome = "infected"\nsignature = "\\u001b[31m"\n')
    for options in ([], ["--json"]):
        text = desk.explain(*options).stdout
        assert "\x1b" not in text
        assert "\x07" not in text


def test_help_has_an_example_and_the_exit_codes() -> None:
    assert command.__doc__
    text = " ".join(run.invoke(app, ["explain", "--help"]).stdout.split())
    assert "Example: milterlab explain mail.eml" in text
    assert "Exit codes: 0 the mail passed, 1 it was refused, 2 wrong usage or settings" in text


SIGNED_RULES = """
name = "ours"
description = "One rule that forces its way, one that does not."
[[rule]]
name = "subject"
action = "replace"
header = "Subject"
with = "open"
on_signed = "force"
example = [{ direction = "inbound", before = ["Subject: x"], after = ["Subject: open"] }]
[[rule]]
name = "date"
action = "remove"
header = "Date"
example = [{ direction = "inbound", before = ["Date: x"], after = [] }]
"""


def test_each_signature_what_it_covers_and_whether_it_survives(desk: Desk) -> None:
    rules = desk.home / "rules"
    rules.mkdir()
    (rules / "ours.toml").write_text(SIGNED_RULES)
    text = desk.config.read_text().replace(
        "[filter.headers]",
        "[filter.headers]\ncheck_signatures = false\n"
        f'rules = ["ours"]\nrules_directory = "{rules}"',
    )
    desk.config.write_text(text)
    body = b"From: a@example.org\r\nSubject: one\r\nDate: then\r\n\r\nx\r\n"
    mail = by_hand(by_hand(body, h="from:from:date", s="kept").head() + b"x\r\n", l="2", s="lost")
    desk.mail.write_bytes(b"DKIM-Signature: v=2\r\n" + b"".join(mail.pieces()))
    found = desk.values("--filter", "headers", *INBOUND)["signatures"]
    assert [(each["selector"], each["survives"], each["broken_by"]) for each in found] == [
        ("", False, None),
        ("lost", False, "headers"),
        ("kept", True, None),
    ]
    assert found[0]["fault"] == "a= is missing or empty"
    assert found[2] == {
        "kind": "DKIM", "domain": "example.net", "selector": "kept",
        "covers": [{"field": 4, "name": "From"}, {"field": 6, "name": "Date"}],
        "forbids_another": ["from"], "body": "whole", "forms": "relaxed/relaxed",
        "fault": None, "survives": True, "broken_by": None,
    }  # fmt: skip
    shown = desk.explain("--filter", "headers", *INBOUND).stdout
    assert "  DKIM d=? s=?: can never be good: a= is missing or empty" in shown
    assert "  DKIM d=example.net s=lost: broken by headers" in shown
    assert "    body: its first 2 octets; form relaxed/relaxed" in shown
    assert "  DKIM d=example.net s=kept: survives" in shown
    assert "    covers From (field 4), Date (field 6)" in shown
    assert "    forbids another from" in shown
    assert "date: 1 kept for a signature" in shown
