"""The language of scenarios: what is read, what is written, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from milterd.lab.scenario import steps as s
from milterd.lab.scenario.format import format_scenario
from milterd.lab.scenario.parse import WORDS, parse
from milterd.wire import messages as m
from tests.lab.scenario.strategies import scenarios


def actions(text: str, **variables: bytes) -> list[s.Action]:
    return [each.action for each in parse(text.encode(), "x.milter", variables).steps]


def _after_end(*wishes: s.Wish) -> tuple[s.Action, ...]:
    return (s.Say(m.EndOfMessage()), *map(s.Expect, wishes))


@settings(max_examples=200, deadline=None)
@example(_after_end(s.EditIs("quarantine", value=b"/x/"), s.EditIs("quarantine", value=b" x ")))
@example(_after_end(s.EditIs("change-header", None, b"12"), s.EditIs("add-header", None, b"/x/")))
@example(_after_end(s.EditIs("change-header", 2, b"a:b", b"/x/"), s.ReplyIs("550", "", b"5.7.1 x")))
@example(_after_end(s.EditIs("add-header", None, b"X", b"  /x/ "), s.PacketIs(b"c", b"/x/")))
@given(scenarios)
def test_what_is_written_is_read(steps: tuple[s.Action, ...]) -> None:
    written = format_scenario(steps)
    assert written.isascii() or any(b"\xe4" in line for line in written.split(b"\n"))
    found = parse(written, "x.milter").steps
    assert [each.action for each in found] == list(steps)
    assert [each.line for each in found] == list(range(1, len(steps) + 1))


@settings(max_examples=200, deadline=None)
@given(
    st.binary(max_size=60)
    | st.lists(
        st.sampled_from([each.encode() for each in WORDS])
        | st.sampled_from(
            [b"edit", b"no", b"reply 550", b"/", b'"', b"<<X", b"@", b"\\x", b"1", b":"]
        )
        | st.sampled_from(
            [b"\n", b"expect", b"actions", b"macros", b"/(/", b"/a{9999999999}/", b"|"]
        )
        | st.binary(max_size=4),
        max_size=12,
    ).map(b" ".join)
)
def test_garbage_is_an_error_with_a_line(garbage: bytes) -> None:
    error = _mistake(garbage)
    if error is not None:
        assert 1 <= error.line <= garbage.count(b"\n") + 1
        assert str(error).startswith(f"x.milter:{error.line}: ")
        assert str(error).isprintable()


def _mistake(text: bytes) -> s.ScenarioError | None:
    try:
        parse(text, "x.milter")
    except s.ScenarioError as error:
        return error
    return None


def test_octets_in_every_form() -> None:
    assert actions(r"helo a\x00\xff\\\t") == [s.Say(m.Helo(b"a\0\xff\\\t"))]
    assert actions('helo "two words\\""') == [s.Say(m.Helo(b'two words"'))]
    assert actions('mail <"a"@x> SIZE=1') == [s.Say(m.MailFrom(b'<"a"@x>', (b"SIZE=1",)))]
    assert actions("helo ä") == [s.Say(m.Helo("ä".encode()))]
    assert actions("header Subject:  two  ") == [s.Say(m.Header(b"Subject", b"  two"))]
    assert actions(r"header X: a\n\tb") == [s.Say(m.Header(b"X", b" a\n\tb"))]
    assert actions('raw 00 0a0B "x y" ff') == [s.Raw(b"\x00\x0a\x0bx yff".replace(b"ff", b"\xff"))]


def test_lines_below() -> None:
    text = "body <<END\r\n  one \\x00\n# two\n\nEND\nend"
    assert actions(text) == [
        s.Body(s.Octets(b"  one \\x00\r\n# two\r\n\r\n")),
        s.Say(m.EndOfMessage()),
    ]
    assert parse(text.encode(), "x").steps[1].line == 6


def test_values_from_outside() -> None:
    found = actions(
        "socket unix:${dir}/s\nhelo ${a}${b}", dir=b"/run/my milter", a=b'"', b=b"\\x41"
    )
    assert found == [s.Socket(b"unix:/run/my milter/s"), s.Say(m.Helo(b'"\\x41'))]


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", 1, "expected an event, found none"),
        ("helo x\nhelo\n", 2, "expected a name, found the end of the line"),
        ("helo x\n\n# c\nexpekt reject", 4, 'found "expekt", perhaps expect'),
        ("helo x\nexpect rejekt", 2, 'called "rejekt", perhaps reject'),
        ("expect reject\nhelo x", 1, "expected an event before it"),
        ("helo x y", 1, 'expected the end of the line, found "y"'),
        ("helo x\nsocket unix:/x", 2, "expected socket before every event"),
        ("socket a\nsocket b", 2, "found a second socket"),
        ("header Subject", 1, "found no colon"),
        ('helo "x', 1, "expected a quote"),
        ('helo "x"y', 1, "expected a blank after the quote"),
        (r"helo \q", 1, r'found "\\q"'),
        (r"helo \xg0", 1, r'found "\\xg0"'),
        ("helo ${nobody}", 1, "--set nobody=VALUE"),
        ("body text", 1, 'expected "TEXT", @FILE or <<WORD, found "text"'),
        ("body <<END\nx", 1, 'expected a line "END"'),
        ('body "x" * 99999999', 1, "at most"),
        ('body "x" 3', 1, "expected * and a number"),
        ("connect x 192.0.2.1 65536", 1, "of at most 65535"),
        ("sleep -1", 1, "expected a time"),
        ("sleep 3601", 1, "to an hour"),
        ("offer actions ADDHDR", 1, "perhaps ADDHDRS"),
        ("offer ADDHDRS", 1, "expected version, actions or protocol"),
        ("macro nowhere i=1", 1, "expected one of connect"),
        ("macro mail i", 1, "expected NAME=VALUE"),
        ("raw 0", 1, "hexadecimal digits in pairs"),
        ("raw", 1, "found none"),
        ("packet AB 00", 1, "the letter of a packet"),
        ("end\nexpect reply 250", 2, "a code such as 550"),
        ("end\nexpect edit add-heder X: y", 2, "perhaps add-header"),
        ("end\nexpect edit add-header /x/", 2, "expected the name of a field before an expression"),
        ("end\nexpect edit add-header X: /(/", 2, "not a regular expression"),
        ("end\nexpect edit add-header X: /x", 2, "expected a / at the end"),
        ("end\nexpect edit replace-body x", 2, 'expected "TEXT" or /EXPRESSION/'),
        ("end\nexpect broken x", 2, "expected /EXPRESSION/"),
        ("end\nexpect no thing", 2, "expected edit, other edit, answer or violation"),
        ("end\nexpect actions ADDHDRS +CHGBODY", 2, "expected + or - before each"),
    ],
)
def test_mistakes_are_explained(text: str, line: int, message: str) -> None:
    with pytest.raises(s.ScenarioError) as caught:
        parse(text.encode(), "dir/x.milter")
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"dir/x.milter:{line}: ")
