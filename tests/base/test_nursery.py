"""A forked child is as one that was started: it has what it was given, and nothing else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest, multiprocess

ROOT = Path(__file__).parents[2]
_COMMAND = (sys.executable, "-m", "tests.base.nursery_maker")


def made(what: str, **environ: str) -> Any:
    """What the maker found, and what was said on standard error."""
    done = subprocess.run(
        [*_COMMAND, what],
        cwd=ROOT,
        capture_output=True,
        env={**os.environ, **environ},
        timeout=60,
        check=True,
    )
    return json.loads(done.stdout), done.stderr.decode()


def test_a_child_has_what_it_was_given_and_nothing_else() -> None:
    found, _ = made("born")
    for status, known, expected, seen in found:
        assert status == known == 7
        assert seen["open"] == expected
        assert seen["input"] == "/dev/null"
        assert seen["given"] == "this"
        assert seen["group"]
        assert seen["usual"]
        assert seen["threads"] == 1
        assert seen["title"] == f"look {seen['words'][0]}"
        assert seen["comm"] == seen["title"]


def test_every_end_is_known_and_a_lost_nursery_loses_no_child() -> None:
    (killed, again, failed, stopped, *asked, left, knows, gone, other), errors = made("ends")
    assert (killed, again) == (-9, "ended")
    assert failed == 70
    assert "ValueError: it cannot" in errors
    assert stopped == 1
    assert "no such place\n" in errors
    assert asked == [3, "TEXT", "said"]
    assert left == 255
    assert (knows, gone, other) == (False, "gone", "other\n")


def test_one_that_takes_too_long_is_ended() -> None:
    assert made("late")[0] == "late"


def test_numbers_of_children_are_summed(tmp_path: Path) -> None:
    assert made("counted", PLACE=str(tmp_path / "numbers"))[0] == [0, 0, 0]
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry, str(tmp_path / "numbers"))
    text = generate_latest(registry).decode()
    assert 'gatepost_mails_total{daemon="smtpgw",listener="mx",outcome="queued"} 4.0' in text
    assert "gatepost_shard_takeovers_total 2.0" in text


def test_the_nursery_ends_with_its_maker() -> None:
    with subprocess.Popen([*_COMMAND, "stays"], cwd=ROOT, stdout=subprocess.PIPE) as maker:
        assert maker.stdout is not None
        nursery, child = json.loads(maker.stdout.readline())
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(nursery, number)  # they mean the maker
        assert runs(nursery)
        maker.kill()
        maker.wait(10)
        until(lambda: not runs(nursery))
        assert runs(child)  # it learns of that in its own way
        os.kill(child, signal.SIGKILL)


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
