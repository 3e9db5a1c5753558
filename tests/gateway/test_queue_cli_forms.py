"""What the queue's commands print, and what they refuse to understand."""

from __future__ import annotations

import json
import re
import string
import sys
from pathlib import Path

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from milterd.core.mail import Session
from smtpgw.cli import app
from smtpgw.queue.ages import MINUTES, Ages
from smtpgw.queue.states import MailState, RecipientState
from smtpgw.queue.store import QueuedMail, QueuedRecipient, Rest
from smtpgw.queue.tools import shard_directory
from smtpgw.queue_cli import chosen, listing, shape_plot, shape_table, top_view
from smtpgw.queue_cli.why import by_site, reason, why
from tests.queue.support import START
from tests.scale.fill import Plan, fill

MAILS = 300


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("forms")
    (root / "gatepost.toml").write_text(f'[smtpgw.queue]\ndirectory = "{root}/queue"\n')
    fill(shard_directory(root / "queue", 0), Plan(MAILS, START, destinations=4, step=60.0))
    return root


def command(place: Path, *words: str, stdin: str | None = None) -> tuple[int, str]:
    done = CliRunner().invoke(
        app, ["queue", *words, "--config", str(place / "gatepost.toml")], input=stdin
    )
    return done.exit_code, done.output


def lines(place: Path, *words: str) -> list[dict[str, object]]:
    code, output = command(place, *words, "--json")
    assert code == 0, output
    return [json.loads(line) for line in output.splitlines()]


def test_pages_follow_one_another(place: Path) -> None:
    everything = [each["queue_id"] for each in lines(place, "list")]
    assert len(everything) == MAILS
    found: list[object] = []
    after: list[str] = []
    while True:
        code, output = command(place, "list", "--limit", "70", *after)
        assert code == 0
        found += re.findall(r"^([0-9A-Za-z]{14})[ *!#?]", output, re.M)
        end = r"^-- \d+ Kbytes in \d+ Requests\.(?: More: --after (\S+))?$"
        more = re.search(end, output, re.M)
        assert more
        if more[1] is None:
            break
        after = ["--after", more[1]]
    assert found == everything


def test_filters_are_joined(place: Path) -> None:
    words = ("--state", "deferred", "--state", "hold", "--destination", "d1.", "--sender", "s1@")
    found = lines(place, "list", *words, "--sender", "s5@*")
    assert {each["sender"] for each in found} == {"s1@sender.example", "s5@sender.example"}
    assert lines(place, "list", *words, "--younger", "1h") == []
    assert len(lines(place, "list", *words, "--older", "1h")) == 1


@pytest.mark.parametrize(
    "words",
    [
        ("list", "--state", "waiting"), ("list", "--older", "soon"), ("list", "--after", "../x"),
        ("list", "--limit", "-1"), ("delete",), ("delete", "ALL", "0123456789abcd"),
        ("delete", "0123456789abcd", "--sender", "x"), ("flush",),
        ("flush", "ALL", "--site", "example.net"), ("shape", "--by", "size"),
        ("delete", "ALL"), ("hold", "--older", "1d"), ("bounce", "ALL"),
        ("requeue", "--sender", "x"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_and_nothing_changed(
    place: Path, words: tuple[str, ...]
) -> None:
    assert command(place, *words)[0] == 2
    assert len(lines(place, "list")) == MAILS


def test_ids_come_from_a_program_too(place: Path) -> None:
    code, _ = command(place, "delete", "-", stdin="0123456789abcd*  1 x\n\n../../etc/passwd\n")
    assert code == 2
    code, output = command(place, "delete", "-", stdin="0123456789abcd*  1 x\n")
    assert (code, output) == (1, "0123456789abcd: no such mail\n")


def test_ids_that_cannot_be_read_are_told_in_a_line(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = CliRunner().invoke(
        app, ["queue", "delete", "-", "-c", str(place / "gatepost.toml")], input=b"\xff\xfe\n"
    )
    assert (done.exit_code, "expected a queue id" in done.output) == (2, True)
    monkeypatch.setattr(sys, "stdin", None)  # as Python has it where it was closed
    with pytest.raises(typer.BadParameter, match="closed"):
        list(chosen.read(["-"]))
    with pytest.raises(typer.BadParameter, match="--yes"):
        chosen.confirm("Every mail?")


@pytest.mark.parametrize(
    "option",
    ["--sender", "--recipient", "--destination", "--reason", "--older", "--younger"],
)
@pytest.mark.parametrize("beside", [(), ("--state", "deferred")])
def test_a_filter_that_is_empty_does_not_mean_every_mail(
    place: Path, option: str, beside: tuple[str, ...]
) -> None:
    """As by a script whose variable is not set."""
    for kind in ("queue", "quarantine"):
        if kind == "queue" or not (beside or option in ("--destination", "--reason")):
            words = [
                kind,
                "delete",
                option,
                "",
                *beside,
                "--yes",
                "-c",
                str(place / "gatepost.toml"),
            ]
            done = CliRunner().invoke(app, words)
            assert (done.exit_code, "deleted" in done.output) == (2, False)
    assert len(lines(place, "list")) == MAILS


@pytest.mark.parametrize("option", ["--filter", "--rule"])
def test_an_empty_name_of_what_caught_a_mail_does_not_mean_all(place: Path, option: str) -> None:
    words = ["quarantine", "delete", option, "", "--yes", "-c", str(place / "gatepost.toml")]
    assert CliRunner().invoke(app, words).exit_code == 2


@pytest.mark.parametrize("verb", ["hold", "release", "requeue", "bounce", "flush", "delete"])
@pytest.mark.parametrize("nothing", ["", "\n \n"])
def test_a_program_that_names_no_mail_means_no_mail(place: Path, verb: str, nothing: str) -> None:
    """What says which mails found none, or failed: that is not every mail."""
    before = lines(place, "list")
    code, output = command(place, verb, "-", stdin=nothing)
    assert code == 0
    assert output.startswith("0 ")
    assert lines(place, "list") == before


def test_the_shape_is_told_in_three_ways(place: Path) -> None:
    found = lines(place, "shape")
    assert [each["destination"] for each in found] == sorted(f"smtp:d{n}.example" for n in range(4))
    assert sum(int(str(each["total"])) for each in found) == MAILS - MAILS // 100
    code, output = command(place, "shape", "--state", "hold", "--by", "sender")
    assert code == 0
    heading, total, *rest = output.splitlines()
    assert heading.split() == ["T", *map(str, MINUTES), "1280+"]
    assert total.split()[:2] == ["TOTAL", str(MAILS // 100)]
    assert [each.split()[:2] for each in rest] == [["sender.example", str(MAILS // 100)]]
    code, output = command(place, "shape", "--plot")
    assert (code, "A smtp:d" in output) == (0, True)


def test_top_is_told_once_where_nobody_watches(place: Path) -> None:
    code, output = command(place, "top", "--limit", "2")
    assert code == 0
    assert "DESTINATION" in output
    assert "... and 2 destinations more" in output
    assert len(lines(place, "top", "--limit", "3")) == 3


_TEXT = st.text(string.printable + "\x1b\x9b\u202e[]é", max_size=40)


@st.composite
def mails(draw: st.DrawFn) -> QueuedMail:
    """Mails with whatever a stranger may put into them."""
    recipients = tuple(
        QueuedRecipient(
            number,
            draw(st.binary(max_size=20)),
            state=draw(st.sampled_from([RecipientState.PENDING, RecipientState.DEFERRED])),
            text=draw(_TEXT),
        )
        for number in range(draw(st.integers(0, 3)))
    )
    return QueuedMail(
        queue_id="0PmbkXzQ1a00xy",
        state=draw(st.sampled_from([each for each in MailState if each is not MailState.DONE])),
        sender=draw(st.binary(max_size=20)),
        sender_args=(),
        session=Session(),
        size=draw(st.integers(0, 10**9)),
        arrived=START,
        born=START,
        due=draw(st.none() | st.just(START + 60)),
        attempts=0,
        warned=False,
        note=draw(_TEXT),
        reasons=(),
        recipients=recipients,
        site=draw(st.sampled_from(["", "smtp:slow", "smtp:fast"])),
        doomed=draw(st.just("") | _TEXT),
    )


RESTS = by_site([Rest("smtp:slow", START + 60, "no\x1broute"), Rest("smtp:slow", START + 9, "x")])


@settings(max_examples=200, deadline=None)
@given(mail=mails())
def test_nothing_waits_without_a_reason_and_nothing_harms_a_terminal(mail: QueuedMail) -> None:
    found = list(listing.entry(mail, RESTS, START))
    assert all(line.isprintable() for line in found)
    assert len([line for line in found if line.startswith("0Pmbk")]) == 1
    said = reason(mail, why(mail, RESTS, START))
    assert said.isprintable()
    if mail.state in (MailState.INCOMING, MailState.DEFERRED):
        assert said
        assert any(line.strip().startswith("(") for line in found)
        if mail.site == "smtp:slow" and not (mail.note or mail.doomed):
            assert "rests until 2023-11-14T22:14:20+00:00: no\\x1broute" in said
    json.dumps(listing.summary(mail, RESTS, START))


_SHAPES = st.lists(
    st.tuples(_TEXT, st.lists(st.integers(0, 10**6), min_size=10, max_size=10).map(Ages)),
    max_size=12,
)


@settings(max_examples=100, deadline=None)
@given(rows=_SHAPES)
def test_a_shape_keeps_its_columns_and_loses_nobody(rows: list[tuple[str, Ages]]) -> None:
    table = shape_table.table(rows, 0)
    assert len({len(line) for line in table}) == 1
    assert len(table) == len(rows) + 2
    bars = shape_plot.bars(rows)[: len(MINUTES) + 1]
    for at, bar in enumerate(bars):
        count = sum(each.counts[at] for _, each in rows)
        drawn = bar.plain[7:].partition(" ")[0]
        assert bool(drawn) == bool(count)
        assert len(drawn) <= 60


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(-1, "0s"), (59.9, "59s"), (60, "1m"), (7199, "1h"), (86400 * 5.5, "5d")],
)
def test_ages_are_short(seconds: float, shown: str) -> None:
    assert top_view.age(seconds) == shown
