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
from hypothesis import given
from hypothesis import strategies as st

from milterd.base import logs
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
    event = logs.escape_values(None, "", {"event": "x", "value": value})
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
