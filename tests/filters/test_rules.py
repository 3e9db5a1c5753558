"""Header rules: edits against a plain list, examples, conditions, and their limits."""

from __future__ import annotations

import fnmatch
import re
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milterd.core.actions import AddHeader, ChangeHeader, InsertHeader, Quarantine
from milterd.core.apply import apply
from milterd.core.decision import Tried, Verdict
from milterd.core.mail import (
    Direction,
    Envelope,
    HeaderField,
    Mail,
    Recipient,
    Session,
    split_header,
)
from milterd.filters import FILTERS, Clocks, build_headers
from milterd.filters.header_rules.compiled import RuleSet, compile_rules
from milterd.filters.header_rules.conditions import unfolded
from milterd.filters.header_rules.examples import check
from milterd.filters.header_rules.lines import folded
from milterd.filters.header_rules.model import RuleAction, RuleFile, When
from milterd.filters.header_rules.read import RuleError, find, read
from milterd.filters.header_rules.run import Limits, run
from milterd.filters.header_rules.values import masked, without_comments
from milterd.filters.headers import HeadersFilter, HeadersOptions, OnTimeout
from milterd.filters.setup import SetupError

OUT, IN = Direction.ORIGINATING, Direction.INBOUND
EXAMPLE = {"direction": "inbound", "before": [], "after": []}


def rule_set(*rules: dict[str, object], **parameters: tuple[str, ...]) -> RuleSet:
    texts = [{"name": f"r{at}", "example": [EXAMPLE]} | each for at, each in enumerate(rules)]
    file = RuleFile.model_validate({"name": "t", "description": "", "rule": texts})
    return compile_rules(file, parameters)


def mail_of(*lines: bytes, direction: Direction = OUT) -> Mail:
    headers, _, _ = split_header(b"".join(each + b"\r\n" for each in lines))
    return Mail(session=Session(direction=direction), headers=headers)


def after(mail: Mail, *rules: dict[str, object], **parameters: tuple[str, ...]) -> list[bytes]:
    outcome = run([rule_set(*rules, **parameters)], mail, Limits(), lambda: 0.0)
    return [each.raw for each in apply(mail, outcome.edits).headers]


# --- every action, against a plain list -----------------------------------------

NAMES = ["A", "a", "B", "X-1", "x-2", "X-Other"]
VALUES = [b" 1", b" 2 one", b"one", b" \r\n folded one", b"", b" ", b"\t\xff one\r\n\t two"]
FIELDS = st.builds(
    HeaderField,
    st.sampled_from([each.encode() for each in NAMES]),
    st.sampled_from(VALUES),
    hidden=st.sampled_from([False, False, False, True]),
)
GLOBS = ["A", "b", "X-*", "x-?", "*", "none"]
PATTERNS = st.sampled_from([None, "one", "^1$", "^$"])
RULES = st.one_of(
    st.fixed_dictionaries(
        {"action": st.just("remove"), "header": st.sampled_from(GLOBS), "value": PATTERNS}
    ),
    st.fixed_dictionaries(
        {
            "action": st.just("replace"),
            "header": st.sampled_from(GLOBS),
            "value": PATTERNS,
            "with": st.sampled_from(["new", "one", " "]),
        }
    ),
    st.fixed_dictionaries(
        {
            "action": st.just("rename"),
            "header": st.sampled_from(GLOBS),
            "value": PATTERNS,
            "with": st.sampled_from(NAMES),
        }
    ),
    st.fixed_dictionaries(
        {
            "action": st.just("limit"),
            "header": st.sampled_from(GLOBS),
            "keep": st.sampled_from(["first", "last"]),
        }
    ),
    st.fixed_dictionaries(
        {
            "action": st.just("add"),
            "header": st.sampled_from(NAMES),
            "with": st.just("added"),
            "at": st.sampled_from(["top", "bottom"]),
            "if_missing": st.booleans(),
        }
    ),
)
Plain = list[tuple[bytes, bytes]]


def plainly(fields: Plain, rule: dict[str, object]) -> Plain:
    """What a rule should do to a list of names and values, said as simply as can be."""
    glob, pattern, text = str(rule["header"]), rule.get("value"), str(rule.get("with", "")).encode()

    def meant(name: bytes, value: bytes) -> bool:
        flat = value.replace(b"\r\n", b"").strip()
        return fnmatch.fnmatch(name.decode().lower(), glob.lower()) and (
            pattern is None or re.search(str(pattern).encode(), flat) is not None
        )

    result: Plain = []
    match rule["action"]:
        case "remove":
            return [each for each in fields if not meant(*each)]
        case "rename":
            return [(text if meant(*each) else each[0], each[1]) for each in fields]
        case "add":
            if rule["if_missing"] and any(meant(*each) for each in fields):
                return fields
            new = (glob.encode(), b" " + text)
            return [new, *fields] if rule["at"] == "top" else [*fields, new]
        case "limit":
            order = fields if rule["keep"] == "first" else fields[::-1]
            seen: set[bytes] = set()
            for name, value in order:
                if not meant(name, value) or name.lower() not in seen:
                    result.append((name, value))
                if meant(name, value):
                    seen.add(name.lower())
            return result if rule["keep"] == "first" else result[::-1]
    for name, value in fields:
        flat = value.replace(b"\r\n", b"").strip()
        if meant(name, value):
            new_flat = text if pattern is None else re.sub(str(pattern).encode(), text, flat)
            if new_flat != flat:
                if new_flat.strip():
                    result.append((name, b" " + new_flat.strip()))
                continue
        result.append((name, value))
    return result


def spelled(fields: Plain) -> Plain:
    """Names of empty fields in lower case: there the vocabulary cannot change the spelling."""
    return [(name if value.strip() else name.lower(), value) for name, value in fields]


@given(st.lists(FIELDS, max_size=8), st.lists(RULES, min_size=1, max_size=4))
def test_edits_come_to_what_the_rules_say(
    fields: list[HeaderField], rules: list[dict[str, object]]
) -> None:
    mail = Mail(session=Session(direction=OUT), headers=tuple(fields))
    outcome = run([rule_set(*rules)], mail, Limits(10, 10), lambda: 0.0)
    result = apply(mail, outcome.edits)
    expected: Plain = [(each.name, each.value) for each in mail.visible()]
    for rule in rules:
        expected = plainly(expected, rule)
    found = [(each.name, each.value) for each in result.visible()]
    assert spelled(found) == spelled(expected)
    hidden = [each for each in mail.headers if each.hidden]
    assert [each for each in result.headers if each.hidden] == hidden
    if outcome.edits:
        assert any(each.changed for each in outcome.results)


@given(st.lists(FIELDS, max_size=8), st.lists(RULES, min_size=1, max_size=4), st.booleans())
def test_who_asks_why_hears_of_the_same(
    fields: list[HeaderField], rules: list[dict[str, object]], signed: bool
) -> None:
    """Without a trace, rules that look at names alone take a short way, each counted the same."""
    signature = SIGNED[0].replace(b"x-mailer", b"a:x-1")
    headers = (*mail_of(signature).headers, *fields) if signed else tuple(fields)
    mail = Mail(session=Session(direction=OUT), headers=headers)
    # The second asks for what the first has taken off.
    sets = [rule_set(*rules), rule_set({"action": "remove", "header": ["a", "b"]}, *rules)]
    told: list[Tried] = []
    assert run(sets, mail, Limits(10, 10), lambda: 0.0) == run(
        sets, mail, Limits(10, 10), lambda: 0.0, told.append
    )


@given(st.lists(FIELDS, max_size=8), st.lists(RULES, min_size=1, max_size=3))
def test_an_mta_that_hides_a_field_on_top_gets_the_same(
    fields: list[HeaderField], rules: list[dict[str, object]]
) -> None:
    """Postfix shows us all but its own Received; our edits still put things in their places."""
    shown = Mail(
        session=Session(direction=OUT),
        headers=tuple(HeaderField(each.name, each.value) for each in fields),
    )
    edits = run([rule_set(*rules)], shown, Limits(10, 10), lambda: 0.0).edits
    own = HeaderField(b"Received", b" from x by mta; now", hidden=True)
    delivered = apply(shown.with_headers((own, *shown.headers)), edits).headers
    below = [each.raw for each in delivered if each is not own]
    assert below == [each.raw for each in apply(shown, edits).headers]


PLACING = st.one_of(
    st.fixed_dictionaries(
        {
            "action": st.just("insert"),
            "header": st.sampled_from(NAMES),
            "position": st.integers(1, 6),
            "with": st.just("put in"),
        }
    ),
    st.fixed_dictionaries(
        {
            "action": st.just("prepend"),
            "header": st.sampled_from(GLOBS),
            "with": st.sampled_from(["X-New: above", "A: above"]),
        }
    ),
    st.fixed_dictionaries(
        {
            "action": st.just("remove"),
            "header": st.sampled_from(GLOBS),
            "nth": st.sampled_from([1, 2, -1, -2]),
        }
    ),
)


def placed(fields: Plain, rule: dict[str, object]) -> Plain:
    """The same for rules about places."""
    glob, text = str(rule["header"]).lower(), str(rule.get("with", "")).encode()
    hits = [at for at, each in enumerate(fields) if fnmatch.fnmatch(each[0].decode().lower(), glob)]
    match rule["action"]:
        case "insert":
            at = int(str(rule["position"])) - 1
            return [*fields[:at], (str(rule["header"]).encode(), b" " + text), *fields[at:]]
        case "remove":
            nth = int(str(rule["nth"]))
            wanted = hits[nth - 1 : nth] if nth > 0 else hits[nth:][:1] if len(hits) >= -nth else []
            return [each for at, each in enumerate(fields) if at not in wanted]
    name, _, value = text.partition(b":")
    result: Plain = []
    for at, each in enumerate(fields):
        result += [(name, value), each] if at in hits else [each]
    return result


@given(st.lists(FIELDS, max_size=8), st.lists(PLACING, min_size=1, max_size=3), st.booleans())
def test_what_is_put_in_between_stands_where_the_rule_says(
    fields: list[HeaderField], rules: list[dict[str, object]], told: bool
) -> None:
    """Whether or not we are told of what the MTA has on top."""
    own = HeaderField(b"Received", b" from x by mta; now", hidden=True)
    shown = tuple(HeaderField(each.name, each.value) for each in fields)
    session = Session(direction=OUT)
    seen = Mail(session=session, headers=(own, *shown) if told else shown)
    outcome = run([rule_set(*rules)], seen, Limits(10, 10), lambda: 0.0)
    result = apply(Mail(session=session, headers=(own, *shown)), outcome.edits).headers
    assert result[0] is own
    expected: Plain = [(each.name, each.value) for each in shown]
    for rule in rules:
        expected = placed(expected, rule)
    assert [(each.name, each.value) for each in result[1:]] == expected


def test_deletions_come_from_the_bottom() -> None:
    mail = mail_of(b"X: 1", b"Y: 2", b"x: 3")
    rule = {"action": "remove", "header": "X"}
    edits = run([rule_set(rule)], mail, Limits(), lambda: 0.0).edits
    assert edits == (ChangeHeader(b"x", 2, b""), ChangeHeader(b"X", 1, b""))


def test_the_vocabulary_of_each_action() -> None:
    mail = mail_of(b"A: 1", b"B: 2", b"C: 3")
    rules = (
        {"action": "replace", "header": "A", "with": "x"},
        {"action": "rename", "header": "B", "with": "D"},
        {"action": "add", "header": "E", "with": "5"},
        {"action": "add", "header": "F", "with": "6", "at": "top"},
        {"action": "add", "header": "G", "with": "7", "at": "top"},
    )
    assert run([rule_set(*rules)], mail, Limits(), lambda: 0.0).edits == (
        InsertHeader(2, b"D", b" 2"),
        ChangeHeader(b"B", 1, b""),
        ChangeHeader(b"A", 1, b" x"),
        AddHeader(b"E", b" 5"),
        InsertHeader(0, b"F", b" 6"),
        InsertHeader(0, b"G", b" 7"),
    )
    names = [each.split(b":")[0] for each in after(mail, *rules)]
    assert names == [b"G", b"F", b"A", b"D", b"C", b"E"]


@pytest.mark.parametrize(
    "rules",
    [
        [{"action": "remove", "header": "X"}],
        [{"action": "remove", "header": "B"}],
        [{"action": "remove", "header": "B", "direction": "inbound"}],
        [{"action": "remove", "header": "?"}],
        [{"action": "reject", "with": "5.7.1 no"}],
        [{"action": "reject", "header": "X", "with": "5.7.1 no"}],
        [{"action": "add", "header": "X", "with": "1"}],
        # What one set brings, the next one sees.
        [{"action": "rename", "header": "A", "with": "X"}, {"action": "remove", "header": "X"}],
        [{"action": "add", "header": "X", "with": "1"}, {"action": "remove", "header": "X"}],
    ],
)
def test_no_set_is_passed_over_that_would_do_something(rules: list[dict[str, object]]) -> None:
    """With somebody who looks on, none is passed over."""
    mail, sets = mail_of(b"A: 1", b"b: 2"), [rule_set(each) for each in rules]
    told: list[Tried] = []
    assert run(sets, mail, Limits(), lambda: 0.0) == run(
        sets, mail, Limits(), lambda: 0.0, told.append
    )
    assert len(told) == len(rules)


# --- conditions --------------------------------------------------------------------


def test_a_fold_hides_nothing_from_a_pattern() -> None:
    lines = (b"X: bad\r\n word", b"X: BAD word", b"X:\tbad\r\n\tword", b"X: badword")
    rule = {"action": "remove", "header": "X", "value": r"^bad\sword$"}
    assert after(mail_of(*lines), rule) == [b"X: badword"]


def test_parameters_are_literal_and_may_have_several_values() -> None:
    rule = {"action": "remove", "header": "X", "value": "^by @hostname@$"}
    mail = mail_of(b"X: by a.example", b"X: by b.example", b"X: by axexample")
    assert after(mail, rule, hostname=("a.example", "b.example")) == [b"X: by axexample"]
    with pytest.raises(RuleError, match=r"rule 'r0': needs the parameter 'hostname'"):
        rule_set(rule)
    with pytest.raises(RuleError, match="needs the parameter 'hostname'"):
        rule_set(rule, hostname=("",))


@pytest.mark.parametrize(
    "value",
    [
        b" mx.example.net; dkim=pass",
        b"MX.example.NET 1; dkim=pass",
        b" (a (b) \\) c)\r\n\tmx.example.net\r\n ;",
        b' "mx.example.net"; x',
        b' "mx\\.exam\\ple.net"; x',
        b" mx . example (c) . net; x",
        b" mx.example.net.; x",
        b" mx.example.net",
        b" (mx.example.net; dkim=pass",
        b' "mx.example.net; dkim=pass',
        b" mx.exam\0ple.net; dkim=pass",
        b"",
        b" ;",
    ],
)
def test_word_finds_an_identifier_in_every_disguise(value: bytes) -> None:
    rule = {"action": "remove", "header": "X", "word": "@authserv_id@"}
    assert after(mail_of(b"X:" + value), rule, authserv_id=("mx.example.net",)) == []


@pytest.mark.parametrize(
    "value", [b" mx.example.org; x", b" (mx.example.net) other; x", b" mx.example.net.evil; x"]
)
def test_word_leaves_other_identifiers(value: bytes) -> None:
    rule = {"action": "remove", "header": "X", "word": "@authserv_id@"}
    assert after(mail_of(b"X:" + value), rule, authserv_id=("mx.example.net",)) == [b"X:" + value]


def test_direction() -> None:
    rule = {"action": "remove", "header": "X", "direction": "inbound"}
    assert after(mail_of(b"X: 1"), rule) == [b"X: 1"]
    assert after(mail_of(b"X: 1", direction=IN), rule) == []


def test_what_a_replacement_takes_over_cannot_make_a_new_line() -> None:
    rule = {"action": "replace", "header": "X", "value": "^keep (.*) end$", "with": r"\1"}
    mail = mail_of(b"X: keep a\rBcc: b\n\0c end")
    assert after(mail, rule) == [b"X: aBcc: bc"]


@given(st.text("ab \t", max_size=300).map(str.encode))
def test_folding_changes_only_line_ends(text: bytes) -> None:
    value = folded(b"Name", text)
    assert unfolded(value) == text.strip(b" \t")
    lines = (b"Name:" + value).split(b"\r\n")
    assert not any(line.isspace() for line in lines)
    assert all(len(line) <= 76 or len(line.split()) <= 2 for line in lines[1:])


def test_a_verdict_ends_the_rules_and_names_itself() -> None:
    rules = (
        {"action": "remove", "header": "X"},
        {"action": "hold", "with": "look", "when": {"header": "From", "present": False}},
        {"action": "warn", "with": "odd", "header": "X"},
        {"action": "reject", "header": "Y", "nth": 2, "with": "4.7.1 later"},
        {"action": "discard"},
    )
    outcome = run([rule_set(*rules)], mail_of(b"X: 1", b"Y: 1"), Limits(), lambda: 0.0)
    assert (outcome.verdict, outcome.edits) == (Verdict.DISCARD, ())
    assert [each.outcome for each in outcome.results] == ["", "held", "discarded"]
    outcome = run([rule_set(*rules)], mail_of(b"Y: 1", b"Y: 2"), Limits(), lambda: 0.0)
    assert (outcome.verdict, outcome.reply) == (Verdict.TEMPFAIL, "4.7.1 later")
    outcome = run([rule_set(*rules[:2])], mail_of(b"X: 1"), Limits(), lambda: 0.0)
    removed, held = outcome.edits
    assert removed == ChangeHeader(b"X", 1, b"")
    assert isinstance(held, Quarantine)
    assert b"look" in held.reason


def test_rules_stop_where_they_say() -> None:
    first = rule_set(
        {"action": "remove", "header": "A", "stop": "set"}, {"action": "remove", "header": "B"}
    )
    second = rule_set({"action": "stop", "header": "C"}, {"action": "remove", "header": "D"})

    def left(*lines: bytes) -> list[bytes]:
        mail = mail_of(*lines)
        outcome = run([first, second], mail, Limits(), lambda: 0.0)
        return [each.name for each in apply(mail, outcome.edits).headers]

    assert left(b"A: 1", b"B: 1", b"D: 1") == [b"B"]
    assert left(b"B: 1", b"D: 1") == []
    assert left(b"A: 1", b"B: 1", b"C: 1", b"D: 1") == [b"B", b"C", b"D"]


def test_a_redirect_takes_the_place_of_all_recipients() -> None:
    rule = {"action": "redirect", "with": "x@example.net", "when": {"recipient": "b@*"}}
    people = (Recipient(b"a@example.org"), Recipient(b"b@example.org"))
    mail = replace(mail_of(b"A: 1"), envelope=Envelope(b"", (), people))
    edits = run([rule_set(rule)], mail, Limits(), lambda: 0.0).edits
    assert [each.address for each in apply(mail, edits).envelope.recipients] == [b"x@example.net"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"Fri (a (b) \\) c) 9:00 (UTC)", b"Fri 9:00"),
        (b'"a (no comment)" <a@b> (one)', b'"a (no comment)" <a@b>'),
        (b"open (never closed", b"open (never closed"),
        (b"closed) never (open)", b"closed) never (open)"),
        (b"(all)", b""),
    ],
)
def test_comments_come_out_where_they_are_some(text: bytes, expected: bytes) -> None:
    assert without_comments(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"from a (b [192.0.2.1]) by c with x; d", b"from l by c with x; d"),
        (b"from a (said by b) by c; d", b"from l by c; d"),
        (b"from a via by-name by c; d", b"from l by c; d"),
        (b"by c; d", b"by c; d"),
        (b"from a (never by c; d", b"from a (never by c; d"),
    ],
)
def test_a_client_is_masked_and_nothing_else(text: bytes, expected: bytes) -> None:
    assert masked(text, b"l") == expected


@given(st.binary(max_size=200))
def test_no_value_upsets_them(value: bytes) -> None:
    assert len(without_comments(value)) <= len(value)
    assert masked(value, b"l") == value or value[:4].lower() == b"from"


# --- signatures --------------------------------------------------------------------

SIGNED = (
    b"DKIM-Signature: v=1; a=rsa-sha256; d=x.example; s=s; h=from:x-mailer:cc; bh=AA==; b=AA==",
    b"X-Mailer: above",
    b"X-Mailer: covered",
    b"User-Agent: not covered",
)
CLEAN = (
    {"action": "remove", "header": ["X-Mailer", "User-Agent"]},
    {"action": "add", "header": "Cc", "with": "x@example.net"},
)


def test_mail_keeps_its_signatures_unless_told_otherwise() -> None:
    mail = mail_of(*SIGNED, direction=IN)
    assert after(mail, *CLEAN) == [SIGNED[0], SIGNED[2]]
    outcome = run([rule_set(*CLEAN)], mail, Limits(), lambda: 0.0)
    assert [(each.changed, each.spared) for each in outcome.results] == [(2, 1), (0, 1)]
    expected = [SIGNED[0], b"Cc: x@example.net"]
    assert after(mail_of(*SIGNED), *CLEAN) == [SIGNED[0], SIGNED[2]]
    told = [each | {"on_signed": "force"} for each in CLEAN]
    assert after(mail, *told) == expected
    kept = [each | {"on_signed": "skip"} for each in CLEAN]
    assert after(mail_of(*SIGNED), *kept) == [SIGNED[0], SIGNED[2]]
    for each in CLEAN:
        strict = [each | {"on_signed": "reject"}]
        outcome = run([rule_set(*strict)], mail, Limits(), lambda: 0.0)
        assert (outcome.verdict, outcome.edits) == (Verdict.REJECT, ())


@pytest.mark.parametrize(
    "rule",
    [
        {"action": "replace", "header": "X-Mailer", "with": "x"},
        {"action": "rename", "header": "X-Mailer", "with": "Y"},
        {"action": "rename", "header": "User-Agent", "with": "Cc"},
        {"action": "limit", "header": "X-Mailer", "keep": "first"},
        {"action": "add", "header": "Cc", "with": "x", "at": "top"},
        {"action": "remove", "header": "DKIM-Signature"},
    ],
)
def test_no_action_touches_what_is_covered(rule: dict[str, object]) -> None:
    result = after(mail_of(*SIGNED, direction=IN), rule)
    assert SIGNED[0] in result
    assert SIGNED[2] in result
    assert not any(each.startswith(b"Cc") for each in result)


# --- limits --------------------------------------------------------------------------

SLOW = {"action": "remove", "header": "X", "value": "^(a|a)+$"}
SLOW_MAIL = (b"X: " + b"a" * 60 + b"b", b"User-Agent: x")


def headers_filter(tmp_path: Path, on_timeout: OnTimeout, **settings: object) -> HeadersFilter:
    (tmp_path / "slow.toml").write_text(
        'name = "slow"\ndescription = ""\n'
        '[[rule]]\nname = "hang"\naction = "remove"\nheader = "X"\nvalue = "^(a|a)+$"\n'
        '[[rule.example]]\ndirection = "inbound"\nbefore = ["X: a"]\nafter = []\n'
        '[[rule]]\nname = "agent"\naction = "remove"\nheader = "User-Agent"\n'
        '[[rule.example]]\ndirection = "inbound"\nbefore = ["User-Agent: a"]\nafter = []\n'
    )
    options = HeadersOptions(
        ("slow",),
        tmp_path,
        match_time=0.05,
        on_timeout=on_timeout,
        **settings,  # type: ignore[arg-type]
    )
    return build_headers(options)


def test_a_slow_pattern_is_passed_over(tmp_path: Path) -> None:
    built, mail = headers_filter(tmp_path, OnTimeout.SKIP), mail_of(*SLOW_MAIL)
    assert built.check() == ()
    began = time.monotonic()
    decision = built.decide(mail, built.gather(mail))
    assert time.monotonic() - began < 10, "and not hours"
    assert [each.raw for each in apply(mail, decision.edits).headers] == [SLOW_MAIL[0]]
    assert [(each.source, each.outcome) for each in decision.reasons] == [
        ("headers: slow: hang", "timed-out"),
        ("headers: slow: agent", "applied"),
    ]


def test_or_the_mail_is_deferred(tmp_path: Path) -> None:
    built, mail = headers_filter(tmp_path, OnTimeout.TEMPFAIL), mail_of(*SLOW_MAIL)
    decision = built.decide(mail, built.gather(mail))
    assert (decision.verdict, decision.edits) == (Verdict.TEMPFAIL, ())
    assert str(decision.reply) == "451 4.3.0 Header rules took too long, try again later"


def test_a_mail_has_a_time_of_its_own() -> None:
    ticks = iter(range(1000))
    mail = mail_of(*[b"X: b"] * 30, b"Y: 1")
    rules = rule_set(SLOW, {"action": "remove", "header": "Y"})
    outcome = run([rules], mail, Limits(0.1, 20), lambda: float(next(ticks)))
    assert [(each.rule, each.timed_out, each.changed) for each in outcome.results] == [
        ("r0", True, 0),
        ("r1", False, 1),
    ]


def test_a_flood_of_fields_is_refused_and_takes_no_time(tmp_path: Path) -> None:
    built = headers_filter(tmp_path, OnTimeout.SKIP)
    signature = (
        b"DKIM-Signature: v=1; a=rsa-sha256; d=x.example; s=s; bh=AA==; b=AA==; h=from:"
        + b":".join([b"user-agent"] * 800)
    )
    mail = mail_of(signature, *[b"User-Agent: x"] * 8000, direction=IN)
    began = time.process_time()
    decision = built.decide(mail, built.gather(mail))
    assert time.process_time() - began < 2
    assert (decision.verdict, decision.edits) == (Verdict.REJECT, ())
    assert str(decision.reply)[:9] == "550 5.6.0"


# --- rule files ------------------------------------------------------------------------

OURS = ["header-examples", "inbound-hygiene", "submission-privacy"]
PARAMETERS = {"authserv_id": ("mx.example.net",), "hostname": ("mail.example.net",)}


@pytest.mark.parametrize("name", OURS)
def test_our_rule_sets_do_what_their_examples_say(name: str) -> None:
    assert check(read(find(name))) == []


def test_the_rules_of_the_page_do_what_their_examples_say(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs/headers.md").read_text()
    blocks = re.findall(r"^```toml rules\n(.*?)^```$", page, re.M | re.S)
    assert blocks
    for block in blocks:
        (tmp_path / "page.toml").write_text(block)
        assert check(read(tmp_path / "page.toml")) == []
    for name in (*When.model_fields, *(each.value for each in RuleAction)):
        assert f"`{name.rstrip('_')}`" in page, name


def test_our_rule_sets_together() -> None:
    built = build_headers(HeadersOptions(parameters=PARAMETERS))
    assert built.check() == ()
    lines = (
        b"Received: from [10.0.0.7] (unknown [192.0.2.7]) by mail.example.net with ESMTPSA",
        b"From: a@example.net",
        b"user-agent: x",
        b"X-Originating-IP: [192.0.2.7]",
        b"Authentication-Results: mx.example.net; auth=pass",
    )
    mail = mail_of(*lines)
    result = apply(mail, built.decide(mail, built.gather(mail)).edits)
    assert [each.raw for each in result.headers] == [
        b"Received: from localhost (localhost [127.0.0.1]) by mail.example.net with\r\n ESMTPSA",
        lines[1],
        lines[4],
    ]
    mail = mail_of(*lines, direction=IN)
    result = apply(mail, built.decide(mail, built.gather(mail)).edits)
    assert [each.raw for each in result.headers] == list(lines[:4])


def test_a_forger_cannot_sign_his_results_into_safety() -> None:
    built = build_headers(HeadersOptions(parameters=PARAMETERS))
    mail = mail_of(
        b"DKIM-Signature: v=1; a=rsa-sha256; d=evil.example; s=s; bh=AA==; b=AA==; "
        b"h=from:authentication-results",
        b"Authentication-Results: mx.example.net; dmarc=pass",
        direction=IN,
    )
    result = apply(mail, built.decide(mail, built.gather(mail)).edits)
    assert [each.name for each in result.headers] == [b"DKIM-Signature"]


GOOD = """
name = "good"
description = "d"
[[rule]]
name = "one"
action = "remove"
header = "X"
[[rule.example]]
direction = "inbound"
before = ["X: 1"]
after = []
"""


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('action = "remove"', 'action = "delete"', "rule.0.action (one): found 'delete'"),
        ('header = "X"', 'haeder = "X"', "unknown key; did you mean 'header'?"),
        ('header = "X"', "", "'header' is missing"),
        ('header = "X"', 'header = "X:"', "rule.0.header.0 (one): found 'X:'"),
        ('header = "X"', 'header = "X"\nwith = "y"', "takes no 'with'"),
        ('header = "X"', 'header = "X"\nkeep = "first"', "'keep' goes with action 'limit'"),
        ('"remove"', '"replace"', "action 'replace' needs 'with'"),
        ('"remove"', '"rename"\nwith = "a b"', "'with' 'a b' is not a field name"),
        ('"remove"', '"limit"', "'keep' goes with action 'limit'"),
        ('"remove"', '"add"\nwith = "x\\r\\ny"', "'with' holds a control character"),
        ('"remove"\nheader = "X"', '"add"\nheader = "X*"\nwith = "y"', "one exact name"),
        ('"inbound"', '"outbound"', "found 'outbound'"),
        ('header = "X"', 'header = "X"\nnth = 0', "'nth' counts from 1, or from -1"),
        ('header = "X"', 'header = "X"\nglob = "a"\nexact = "a"', "only one"),
        ('header = "X"', 'header = "X"\nwhen = {}', "an empty condition"),
        ('header = "X"', 'header = "X"\nwhen = { clinet = "::1" }', "did you mean 'client'?"),
        ('header = "X"', 'header = "X"\nwhen = { client = "::x" }', "expected a network such as"),
        ('header = "X"', 'header = "X"\nwhen = { larger = "x" }', "expected octets"),
        ('header = "X"', 'header = "X"\nwhen = { not = { value = "x" } }', "go with 'header'"),
        ('header = "X"', 'header = "X"\nkeep_signatures = true', 'on_signed = "skip"'),
        ('header = "X"', 'header = "X"\non_signed = "never"', "found 'never'"),
        ('"remove"', '"redirect"\nwith = "nobody"', "expected user@domain"),
        ('"remove"', '"prepend"\nwith = "no field"', 'expected "Name: value"'),
        ('"remove"', '"reject"\nwith = "2.1.1 no"', "expected an enhanced code 4.x.y or 5.x.y"),
        ('"remove"', '"insert"\nwith = "x"', "'position' goes with action 'insert'"),
        ('before = ["X: 1"]\n', "", "rule.0.example.0.before: missing"),
        ('name = "good"', 'name = "../good"', "name: found '../good'"),
        ('description = "d"', 'desciption = "d"', "did you mean 'description'?"),
        ("[[rule]]", "[[rule", "is not TOML"),
    ],
)
def test_a_wrong_rule_file_says_what_is_wrong(
    tmp_path: Path, old: str, new: str, problem: str
) -> None:
    path = tmp_path / "good.toml"
    path.write_text(GOOD.replace(old, new))
    with pytest.raises(RuleError) as caught:
        read(path)
    assert any(problem in each for each in caught.value.problems), caught.value.problems
    assert str(path) in str(caught.value)


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "good.toml"
    path.write_text(GOOD.replace("action", "actoin").replace("before", "befor"))
    with pytest.raises(RuleError) as caught:
        read(path)
    assert len(caught.value.problems) == 4


def problems_of(tmp_path: Path, text: str) -> Sequence[str]:
    path = tmp_path / "good.toml"
    path.write_text(text)
    return check(read(path))


def test_check_finds_examples_that_fail(tmp_path: Path) -> None:
    assert problems_of(tmp_path, GOOD) == []
    wrong = GOOD.replace("after = []", 'after = ["X: 2"]')
    assert problems_of(tmp_path, wrong) == [
        "rule set 'good': rule 'one': example 1: expected ['X: 2'], found []"
    ]
    idle = GOOD.replace("X: 1", "Y: 1").replace("after = []", 'after = ["Y: 1"]')
    assert problems_of(tmp_path, idle) == [
        "rule set 'good': rule 'one': no example shows it at work"
    ]
    broken = GOOD.replace('header = "X"', 'header = "X"\nvalue = "("')
    (problem,) = problems_of(tmp_path, broken)
    assert "rule 'one': the pattern in 'value', or 'with', is wrong" in problem
    unknown = GOOD.replace('header = "X"', 'header = "X"\nword = "@who@"')
    (problem,) = problems_of(tmp_path, unknown)
    assert "needs the parameter 'who'" in problem
    group = GOOD.replace('"remove"', '"replace"\nvalue = "1"\nwith = "\\\\2"')
    (problem,) = problems_of(tmp_path, group)
    assert "or 'with', is wrong" in problem


def test_a_directory_adds_to_our_sets_and_may_replace_one(tmp_path: Path) -> None:
    (tmp_path / "good.toml").write_text(GOOD)
    own = tmp_path / "inbound-hygiene.toml"
    own.write_text(GOOD.replace('"good"', '"inbound-hygiene"'))
    assert find("good", tmp_path) == tmp_path / "good.toml"
    assert find("inbound-hygiene", tmp_path) == own
    assert find("submission-privacy", tmp_path) == find("submission-privacy")


def test_a_set_that_is_not_there_is_named_with_its_neighbours() -> None:
    with pytest.raises(SetupError) as caught:
        FILTERS["headers"].build(HeadersOptions(("inbound-hygene", "../../etc/x")), Clocks())
    first, second, *rest = caught.value.problems
    assert "did you mean 'inbound-hygiene'?" in first
    assert "not found" in second
    assert rest == []
    with pytest.raises(SetupError, match="needs the parameter 'authserv_id'"):
        FILTERS["headers"].build(HeadersOptions(("inbound-hygiene",)), Clocks())
