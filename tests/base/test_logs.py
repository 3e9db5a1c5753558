"""A log line is one line, whoever wrote what is in it."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from milterd.base import log_json, logs
from milterd.base.escaping import escape


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    yield
    logs.setup("text", stream=sys.__stderr__)


def written(format: logs.Format, **values: object) -> str:
    stream = io.StringIO()
    logs.setup(format, stream=stream, daemon="smtpgw")
    logs.get("edge").info("mail queued", **values)
    logs.flush()
    return stream.getvalue()


def test_json_has_what_was_given() -> None:
    line = json.loads(written("json", queue_id="abc", size=7, outcome=None, who=(b"a", b"b")))
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "info",
        "room": "edge",
        "event": "mail queued",
        "daemon": "smtpgw",
        "queue_id": "abc",
        "size": 7,
        "outcome": None,
        "who": ["a", "b"],
    }


def test_text_is_for_reading() -> None:
    line = written("text", queue_id="abc", reason="two words")
    assert line.endswith(
        'info    edge: mail queued daemon=smtpgw queue_id=abc reason="two words"\n'
    )


@pytest.mark.parametrize("format", ["text", "json"])
@pytest.mark.parametrize(
    "value",
    [
        "a\nlevel=error event=forged",
        "\x1b]0;title\x07",
        "a\u202eb",
        "a\u2028b\x85c",
        "\0",
        "\ud800",
        b"\xff\n",
    ],
)
def test_strangers_cannot_write_lines_or_drive_a_terminal(
    format: logs.Format, value: object
) -> None:
    text = written(format, helo=value)
    assert text.count("\n") == 1
    assert text.endswith("\n")
    assert text[:-1].isprintable()


@given(st.text() | st.binary())
def test_any_value_is_one_printable_line(value: str | bytes) -> None:
    event = log_json.escape_values(None, "", {"event": "x", "value": value})
    assert str(event["value"]).isprintable()


def test_an_escape_cannot_be_forged() -> None:
    assert escape("\\n") != escape("\n")


def test_long_values_are_cut() -> None:
    line = written("json", subject="x" * 2**20, many=["y"] * 1000)
    assert len(line) < 2000
    assert "[1048576 characters]" in line


def test_a_traceback_is_in_its_line() -> None:
    stream = io.StringIO()
    logs.setup("json", stream=stream)
    try:
        {}["secret\npath"]
    except KeyError:
        logs.get("edge").exception("failed", trace="abc")
    logs.flush()
    line = json.loads(stream.getvalue())
    assert "KeyError: 'secret" in line["exception"]
    assert stream.getvalue().count("\n") == 1


def test_libraries_log_in_the_same_form() -> None:
    stream = io.StringIO()
    logs.setup("json", stream=stream)
    logging.getLogger("asyncio").warning("slow %s", "a\nb")
    logs.flush()
    line = json.loads(stream.getvalue())
    assert (line["room"], line["level"], line["event"]) == ("asyncio", "warning", "slow a\\nb")


def test_the_level_is_kept() -> None:
    stream = io.StringIO()
    logs.setup("json", "warning", stream=stream)
    logs.get("x").info("no")
    logs.get("x").warning("yes")
    logs.flush()
    assert "yes" in stream.getvalue()
    assert "no" not in stream.getvalue().replace("yes", "")


def test_a_full_disk_costs_lines_and_nothing_else() -> None:
    before = logs.dropped()
    with Path("/dev/full").open("w") as full:
        logs.setup("json", stream=full)
        for _ in range(3):
            logs.get("x").info("y" * 8192)
        logs.flush()
        logs.setup("json", stream=io.StringIO())
    assert logs.dropped() > before


_STUCK = """
import sys
from milterd.base import logs
from milterd.base.escaping import escape
logs.setup("json")
log = logs.get("x")
for number in range(logs.MAX_WAITING + 3000):
    log.info("x" * 200, n=number)
print(logs.dropped())
"""


def test_a_reader_who_stopped_reading_does_not_stop_the_daemon() -> None:
    read, write = os.pipe()
    try:
        done = subprocess.run(
            [sys.executable, "-c", _STUCK],
            stderr=write,
            stdout=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    finally:
        os.close(read)
        os.close(write)
    assert done.returncode == 0
    assert int(done.stdout) > 0


_WORDS = st.text(max_size=30) | st.text(st.characters(min_codepoint=32, max_codepoint=127))
_VALUES = (
    _WORDS
    | st.binary(max_size=30)
    | st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from(["x" * 600, b"y" * 600, "\x7f", '"', Path("/a\n"), logging.INFO])
    | st.lists(_WORDS | st.binary(max_size=5), max_size=40)
    | st.dictionaries(_WORDS, _WORDS, max_size=3)
)
_ODD = st.sampled_from(["time", "level", "room", "daemon", "k\n", "exc_info"])
_EVENTS = st.dictionaries(st.sampled_from("abcd"), _VALUES, max_size=3)


_MEMBERS = _EVENTS | st.dictionaries(st.sampled_from("ab") | _ODD, _VALUES, max_size=6)


@settings(max_examples=300, deadline=None)
@example({"room": []}, [{}], "info", "x")
@given(
    _EVENTS | st.dictionaries(st.sampled_from("cd") | _ODD, _VALUES, max_size=2),
    st.lists(_MEMBERS, min_size=1, max_size=3),
    st.sampled_from(["info", "warning", "error"]),
    st.sampled_from(["x", "two words", 'quo"te', "\x7f", "line\n", "long" * 200]),
)
def test_the_short_way_writes_what_the_long_one_does(
    context: dict[str, object], events: list[dict[str, object]], method: str, name: str
) -> None:
    bound: dict[str, object] = {"daemon": "smtpgw", "path": Path("/a\n")}
    stream = io.StringIO()
    logs.setup("json", stream=stream, **bound)
    log = logs.get("edge").bind(**context)
    for event in events:  # the first line of its kind goes the long way
        getattr(log, method)(name, **event)
    logs.flush()
    lines = stream.getvalue().splitlines()
    for event, line in zip(events, lines, strict=True):
        told: dict[str, object] = {"room": "edge", **context, **event, "event": name}
        for each in logs.usual(bound):
            told = each(None, method, told)  # type: ignore[assignment,arg-type]
        found = json.loads(line)
        if "time" not in {**context, **event}:
            found["time"] = told["time"]
        assert json.dumps(found) == json.dumps(told, default=str)


@settings(max_examples=200, deadline=None)
@given(
    _EVENTS,
    st.dictionaries(st.sampled_from("ef") | _ODD, _VALUES, min_size=1, max_size=2),
    st.lists(st.tuples(_VALUES, _VALUES), min_size=1, max_size=3),
    st.sampled_from(["info", "warning"]),
    st.sampled_from(["json", "text"]),
)
def test_lines_told_together_are_those_told_one_by_one(
    context: dict[str, object],
    values: dict[str, object],
    those: list[tuple[object, object]],
    level: str,
    format: logs.Format,
) -> None:
    stream = io.StringIO()
    logs.setup(format, level, stream=stream, daemon="smtpgw")
    log = logs.get("edge").bind(**context)
    again = [log_json.Again({"g": one, "h": two}) for one, two in those]
    for _ in range(2):  # the first time they go the long way
        for each in again:
            log.info("known", **values, **each.values)
        log_json.tell_each(log, "known", again, **values)
    logs.flush()
    lines = [_without_time(each, format) for each in stream.getvalue().splitlines()]
    assert lines == lines[: len(those)] * 4 if level == "info" else not lines


def _without_time(line: str, format: logs.Format) -> str:
    return line[12:] if format == "text" else line.replace(line[: line.find(", ")], "", 1)


@pytest.mark.parametrize("harmless", [True, False])
def test_what_comes_again_is_looked_at_once(
    monkeypatch: pytest.MonkeyPatch, harmless: bool
) -> None:
    stream = io.StringIO()
    logs.setup("json", stream=stream)
    log = logs.get("edge").bind(session="s")
    again = log_json.Again({"outcome": "x" if harmless else "\n", "reason": {"stage": "eom"}})
    for _ in range(2):
        log_json.tell_each(log, "decision", [again, again], queue_id="abc")
    if harmless:
        monkeypatch.setattr(log_json, "escape", None)  # what the long way cannot do without
        monkeypatch.setattr(again, "values", {"a": 1})
    log_json.tell_each(log, "decision", [again, again], queue_id="abc")
    logs.flush()
    found = [json.loads(each) for each in stream.getvalue().splitlines()]
    outcome = "x" if harmless else "\\n"
    assert [(each["queue_id"], each["outcome"]) for each in found] == [("abc", outcome)] * 6


def test_a_plain_line_goes_the_short_way(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    logs.setup("json", stream=stream, daemon="smtpgw")
    log = logs.get("edge").bind(client=b"127.0.0.1")
    values = {"queue_id": "abc", "sender": b"a@example.com", "notes": (), "edits": {"dkim": 1}}
    log.info("message", **values)
    monkeypatch.setattr(log_json, "escape", None)  # what the long way cannot do without
    log.info("message", **values)
    logs.flush()
    first, second = (json.loads(each) for each in stream.getvalue().splitlines())
    assert first.pop("time") <= second.pop("time")
    assert first == second


@pytest.mark.parametrize(
    "value",
    ["y" * 600, b"y" * 600, ["y" * 600], {"a": b"y" * 600}, [[]], {b"a": 1}, {1: "a"}, ["n"] * 33,
     b"\xff", ["\n"], Path("/"), logging.INFO, {"a": {"b": "c"}}, ("\x7f",)],
)  # fmt: skip
def test_what_is_long_or_odd_goes_the_long_way_also_in_a_line_that_is_known(value: object) -> None:
    stream = io.StringIO()
    logs.setup("json", stream=stream, daemon="smtpgw")
    log = logs.get("edge")
    for each in ("plain", "plain", value):
        log.info("known", value=each)
    logs.flush()
    line = json.loads(stream.getvalue().splitlines()[-1])
    assert line["value"] == log_json.escape_values(None, "", {"value": value})["value"]


def test_a_logger_goes_by_the_latest_settings() -> None:
    log, stream = logs.get("edge"), io.StringIO()
    logs.setup("json", "error", stream=io.StringIO())
    log.info("unheard")
    logs.setup("json", "info", stream=stream)
    log.info("heard")
    logs.flush()
    assert json.loads(stream.getvalue())["event"] == "heard"
