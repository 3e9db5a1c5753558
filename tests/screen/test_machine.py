"""Screening without sockets: lists and scores, passes, the tests before the dialogue and in it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import IPv4Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpgw.dns.answers import Found, NoName, TryAgain
from smtpgw.edge.road import Answer
from smtpgw.screen.deep import BREAKS_RULES, Deep
from smtpgw.screen.dummy import Dummy, Wanted
from smtpgw.screen.early import DENIED, DROPPED, Access, Early
from smtpgw.screen.options import PROTOCOL_ERROR, UNAVAILABLE, Action, ScreenOptions
from smtpgw.screen.passes import NEW, OFF, Passes, Test, decode
from smtpgw.screen.score import Counting, Score
from smtpgw.screen.sites import Rule, Site, parse_entry, parse_pattern, parse_sites

NOW = 1_700_000_000.0


def found(*addresses: str, ttl: float = 0.0) -> Found[IPv4Address]:
    return Found(tuple(map(IPv4Address, addresses)), ttl=ttl)


# -- lists -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "fitting", "others"),
    [
        ("127.0.0.2", ["127.0.0.2"], ["127.0.0.3", "128.0.0.2"]),
        ("127.0.0.[2;4..6;9]", ["127.0.0.2", "127.0.0.5", "127.0.0.9"], ["127.0.0.3", "127.0.0.7"]),
        ("127.0.[0..255].0", ["127.0.0.0", "127.0.255.0"], ["127.0.7.1"]),
        ("[127].[0].0.[10..11]", ["127.0.0.10"], ["127.0.0.1"]),
    ],
)
def test_patterns(pattern: str, fitting: list[str], others: list[str]) -> None:
    """postscreen_dnsbl_sites."""
    parsed = parse_pattern(pattern)
    assert all(parsed.fits(IPv4Address(each)) for each in fitting)
    assert not any(parsed.fits(IPv4Address(each)) for each in others)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("spamrbl.imp.ch==127.0.0.5*2", "did you mean =127.0.0.5?"),
        ("a.example*", "behind *"), ("a.example*two", "behind *"), ("a.example*1*2", "behind *"),
        ("a b.example", "domain of a list"), ("", "domain of a list"),
        ("192.0.2.1", "domain of a list"), ("a.example=127.0.0", "four octets"),
        ("a.example=127.0.0.1.2", "behind the fourth"), ("a.example=127.0.0.256", "0 to 255"),
        ("a.example=127.0.0.[9..2]", "0 to 255"), ("a.example=127.0.0.[]", "0 to 255"),
        ("a.example=127.0.0.[2;]", "0 to 255"), ("a.example=127.0.0.[2", "a number or"),
        ("a.example=127.0.0.3[6..9]", "behind the fourth"), ("a.example=", "a number or"),
        ("a" * 2000, "1000 at most"),
    ],
)  # fmt: skip
def test_what_is_no_list(entry: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        parse_entry(entry)


@given(st.text("abc.*=[];0123456789-", max_size=40))
def test_the_parser_of_lists_says_no_in_one_way(text: str) -> None:
    try:
        domain, rule = parse_entry(text)
    except ValueError:
        return
    assert domain
    assert -(10**9) < rule.weight < 10**9


def test_a_domain_is_asked_once_and_all_its_rules_count() -> None:
    sites = parse_sites(["a.example*2", "b.example", "a.example=127.0.0.4*-5"])
    assert [each.domain for each in sites] == ["a.example", "b.example"]
    assert sites[0].question(ip_address("192.0.2.1")) == "1.2.0.192.a.example"
    six = sites[1].question(ip_address("2001:db8::1"))
    assert six == "1." + "0." * 23 + "8.b.d.0.1.0.0.2.b.example"
    counting = Counting(sites)
    counting.answered(sites[0], found("127.0.0.4", ttl=30))
    assert (counting.score.total, counting.score.complete) == (-3, False)
    counting.answered(sites[0], found("127.0.0.9"))
    counting.answered(sites[1], NoName("no such name", ttl=20.0))
    score = counting.score
    assert (score.total, score.domain, score.ttl, score.complete) == (-3, "a.example", 20, True)


def test_a_list_that_cannot_answer_counts_nothing() -> None:
    """F15."""
    sites = (Site("a.example", (Rule(5),)),)
    counting = Counting(sites)
    counting.answered(sites[0], TryAgain("no answer"))
    assert (counting.score.total, counting.score.complete, counting.score.ttl) == (0, True, 0)
    assert counting.score.listings[0].said == "no answer"


# -- passes ----------------------------------------------------------------------------


@given(st.lists(st.integers(0, 2**40), min_size=0, max_size=7))
def test_passes_are_read_as_they_were_written(times: list[int]) -> None:
    passes = Passes(dict(zip(Test, times, strict=False)))
    assert decode(passes.encode()).encode() == passes.encode()


def test_older_and_broken_entries() -> None:
    assert decode("7;8").until[Test.BARE_NEWLINE] == OFF
    for text in ("", "a", "1;-2", "1;;2", "9" * 30, "\u0661"):
        with pytest.raises(ValueError, match="no times"):
            decode(text)


def test_what_was_never_passed_and_is_off_makes_nobody_new() -> None:
    passes = Passes().passed({Test.PREGREET: NOW}, {Test.PREGREET})
    assert not passes.new
    assert passes.until[Test.DNSBL] == OFF
    assert Passes().passed({Test.PREGREET: NOW}, {Test.PREGREET, Test.DNSBL}).new
    assert passes.todo({Test.PREGREET, Test.DNSBL}, NOW - 1) == {Test.DNSBL}
    assert passes.until.get(Test.DNSBL, NEW) < passes.last


# -- before the dialogue -----------------------------------------------------------------

SITES = parse_sites(["bl.example*3"])


def options(actions: Mapping[Test, Action] | None = None, **more: object) -> ScreenOptions:
    given_options = {
        "greet_banner": "hello", "dnsbl_sites": SITES, "dnsbl_threshold": 3,
        "actions": actions or {}, "ttl": dict.fromkeys(Test, 100.0), **more,
    }  # fmt: skip
    return ScreenOptions(**given_options)  # type: ignore[arg-type] # names of fields


def early(use: ScreenOptions, access: Access = Access.DUNNO, passes: Passes | None = None) -> Early:
    return Early(use, "192.0.2.1", access, passes, NOW)


CLEAN, BAD = Score(complete=True), Score(3, "bl.example", 0.0, complete=True)


def test_a_silent_client_that_nobody_lists_passes() -> None:
    client = early(options())
    assert client.waiting
    verdict = client.conclude(CLEAN, NOW + 6)
    assert (verdict.part, verdict.refuse, verdict.deep) == (None, None, frozenset())
    assert client.until == {Test.PREGREET: NOW + 106, Test.DNSBL: NOW + 66}
    assert client.clean


@pytest.mark.parametrize("action", ["ignore", "enforce", "drop"])
def test_who_speaks_too_early(action: Action) -> None:
    """postscreen_greet_action."""
    client = early(options({Test.PREGREET: action}))
    client.talked()
    verdict = client.conclude(CLEAN, NOW + 6)
    expected = {
        "ignore": (None, None, True), "enforce": (None, PROTOCOL_ERROR, False),
        "drop": (DROPPED, None, True),
    }[action]  # fmt: skip
    assert (verdict.part, verdict.refuse, verdict.greet) == expected
    assert Test.PREGREET not in client.until
    assert client.clean is (action == "ignore")


@pytest.mark.parametrize("action", ["ignore", "enforce", "drop"])
def test_who_is_listed(action: Action) -> None:
    """postscreen_dnsbl_action, postscreen_dnsbl_threshold, postscreen_dnsbl_reply_map."""
    client = early(options({Test.DNSBL: action}, reply_names={"bl.example": "bl"}))
    client.scored(BAD, NOW)
    verdict = client.conclude(BAD, NOW)
    text = "Service unavailable; client [192.0.2.1] blocked using bl"
    said = {"drop": verdict.part, "enforce": verdict.refuse}.get(action)
    if action == "ignore":
        assert (verdict.part, verdict.refuse) == (None, None)
    else:
        assert said is not None
        assert (said.code, said.text) == (521 if action == "drop" else 550, text)
    assert Test.DNSBL not in client.until


def test_who_is_liked_passes_everything() -> None:
    """postscreen_dnsbl_allowlist_threshold: no waiting, and no test of the dialogue."""
    use = options(dnsbl_allowlist_threshold=-2, deep=frozenset({Test.PIPELINING}))
    client = early(use)
    client.scored(Score(-2, complete=True, ttl=70.0), NOW)
    assert not client.waiting
    assert client.conclude(CLEAN, NOW).deep == frozenset()
    assert client.until == dict.fromkeys(Test, NOW + 70)
    spoke = early(use)
    spoke.talked()
    spoke.scored(Score(-2, complete=True), NOW)
    assert spoke.conclude(CLEAN, NOW).deep == {Test.PIPELINING}


def test_the_access_list_is_before_everything() -> None:
    """postscreen_access_list, postscreen_denylist_action."""
    assert not early(options(), Access.PERMIT).todo
    known = Passes(dict.fromkeys(Test, int(NOW) + 50))
    assert not early(options(), Access.REJECT, known).todo, "ignored: it passed before"
    refused = early(options(denylist_action="enforce"), Access.REJECT, known)
    assert refused.todo
    assert refused.conclude(CLEAN, NOW).refuse == DENIED
    assert not refused.clean
    dropped = early(options(denylist_action="drop"), Access.REJECT)
    assert dropped.part is not None
    assert (dropped.part.code, dropped.waiting) == (521, False)


def test_where_nobody_becomes_known() -> None:
    """postscreen_allowlist_interfaces."""
    vetoed = Early(options(), "192.0.2.1", Access.DUNNO, None, NOW, veto=True)
    assert vetoed.conclude(CLEAN, NOW).refuse == UNAVAILABLE
    assert not vetoed.clean
    known = Passes(dict.fromkeys(Test, int(NOW) + 50))
    assert Early(options(), "192.0.2.1", Access.DUNNO, known, NOW, veto=True).refuse is None


# -- in the dialogue -----------------------------------------------------------------------

ALL = frozenset({Test.PIPELINING, Test.NON_SMTP, Test.BARE_NEWLINE})


def dummy(use: ScreenOptions, todo: frozenset[Test] = ALL) -> tuple[Dummy, Deep, list[Wanted]]:
    wanted: list[Wanted] = []

    def told(each: Wanted) -> Answer:
        wanted.append(each)
        return each.answer

    deep = Deep(use, todo)
    return Dummy(use, UNAVAILABLE, deep, lambda: NOW, told), deep, wanted


def test_every_recipient_is_refused_and_known_by_name() -> None:
    talk, deep, wanted = dummy(options())
    for line in (b"EHLO me\r\n", b'MAIL FROM:<@a,@b:"x y"@example.org> SIZE=3\r\n'):
        assert talk.feed(line).reply[:3] == b"250"
    assert talk.feed(b"RCPT TO:<u@example.net>\r\n").reply == UNAVAILABLE.encode()
    (one,) = wanted
    assert (one.helo, one.sender, one.recipient) == (b"me", b"x y@example.org", b"u@example.net")
    assert deep.until == dict.fromkeys(ALL, NOW + 100)
    assert talk.feed(b"DATA\r\n").ends


@pytest.mark.parametrize(
    ("test", "sent"),
    [(Test.PIPELINING, b"NOOP\r\nNOOP\r\n"), (Test.NON_SMTP, b"Subject: x\r\n"),
     (Test.NON_SMTP, b"\xff\r\n"), (Test.BARE_NEWLINE, b"NOOP\n")],
)  # fmt: skip
@pytest.mark.parametrize("action", ["ignore", "enforce", "drop"])
def test_offences(test: Test, sent: bytes, action: Action) -> None:
    """postscreen_pipelining_action, postscreen_non_smtp_command_action,
    postscreen_bare_newline_action."""
    talk, deep, _ = dummy(options({test: action}))
    output = talk.feed(sent)
    assert [each.test for each in output.offences] == [test]
    assert output.ends is (action == "drop")
    if action == "drop":
        part = BREAKS_RULES if test is Test.NON_SMTP else DROPPED
        assert output.reply == part.encode()
    assert talk.refuse == (PROTOCOL_ERROR if action == "enforce" else UNAVAILABLE)
    assert deep.until[test] == (OFF if action != "ignore" else NOW + 100)
    assert talk.feed(sent).offences == [], "once in a session"


def test_a_chunk_behind_its_command_is_no_offence() -> None:
    talk, _, _ = dummy(options({Test.PIPELINING: "drop"}))
    output = talk.feed(b"BDAT 3 LAST\r\nabc")
    assert output.offences == []
    assert output.reply.startswith(b"554 5.5.1 Error: need MAIL")


def test_a_dialogue_has_its_limits() -> None:
    """postscreen_command_count_limit, and lines without end."""
    talk, _, _ = dummy(options(command_count_limit=2), frozenset())
    output = talk.feed(b"NOOP\r\n" * 3)
    assert (output.ends, output.clipped) == (True, "command count")
    assert output.reply.endswith(b"421 localhost Service unavailable - try again later\r\n")
    talk, _, _ = dummy(options(), frozenset())
    assert not talk.feed(b"x" * 2000).ends
    assert talk.feed(b"x" * 2000).clipped == "command length"


def test_soft_bounce_makes_it_temporary() -> None:
    talk, _, _ = dummy(options({Test.BARE_NEWLINE: "drop"}, soft_bounce=True))
    assert talk.feed(b"NOOP\n").reply == b"421 4.5.1 Protocol error\r\n"
