"""`milterlab conform --mta` as a user runs it, against the gateway."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from milterd.base.sockets import SocketAddress
from tests.lab.cards.mtas import LIMIT, Prepared, graded_smtpgw
from tests.peers.process import free_port


@pytest.fixture(scope="module")
def gateway() -> Iterator[Prepared]:
    with graded_smtpgw() as prepared:
        yield prepared


def conform(*words: str) -> subprocess.CompletedProcess[str]:
    start = "from milterd.lab.cli import main; main()"
    command = [sys.executable, "-c", start, "conform", "--mta", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)


def _words(prepared: Prepared) -> list[str]:
    site, options = prepared

    def at(address: SocketAddress) -> str:
        return f"{address.host}:{address.port}"

    assert site.accepting is not None
    assert options.sink is not None
    return [
        *("--listen", options.listen, "--smtp", at(site.smtp), "--sink", options.sink),
        *("--smtp-accepting", at(site.accepting)),
        *("--command-timeout", str(LIMIT), "--content-timeout", str(LIMIT)),
    ]


def test_one_object_a_check(gateway: Prepared) -> None:
    done = conform(*_words(gateway), "--only", "offer", "--only", "*/lost-in-*", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [each["result"] for each in rows] == ["pass"] * len(rows)
    assert {"offer/version", "accepting/lost-in-body"} <= {each["id"] for each in rows}
    fields = {"id", "title", "rule", "source", "result", "seen", "stage", "octet"}
    assert all(set(each) == fields for each in rows)
    assert rows[0]["seen"] == "version 6"


def test_a_card_for_a_reader(gateway: Prepared) -> None:
    # That is not the gateway's limit, and so the lab's progress comes too late for it.
    limits = ["--content-timeout", "8"]
    done = conform(*_words(gateway), *limits, "--only", "progress/eom", "--only", "event/helo")
    assert done.returncode == 1
    assert "✗ progress/eom" in done.stdout
    assert "rule: Each one starts the MTA's limit anew." in done.stdout
    assert "✓ event/helo" in done.stdout
    assert done.stdout.endswith("1 passed, 1 failed, 0 not applicable\n")


def test_without_a_sink_some_checks_do_not_apply(gateway: Prepared) -> None:
    words = _words(gateway)
    at = words.index("--sink")
    done = conform(*words[:at], *words[at + 2 :], "--only", "edit/add", "--only", "text", "--json")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0
    by = {each["id"]: each for each in rows}
    assert by["edit/add"]["result"] == "n/a"
    assert "no sink" in by["edit/add"]["seen"]
    assert by["text/lines"]["result"] == "pass"


def test_an_mta_that_does_not_ask_its_milter_at_our_address(
    gateway: Prepared, peer_directory: Path
) -> None:
    words = _words(gateway)
    words[1] = f"unix:{peer_directory}/elsewhere"
    done = conform(*words)
    assert (done.returncode, done.stdout) == (5, "")
    assert f"did not come to its milter at {words[1]}" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "status", "why"),
    [
        ([], 2, "--smtp"),
        (["--smtp", "127.0.0.1:1"], 2, "--listen"),
        (["--smtp", "nonsense"], 2, "--smtp"),
        (["--smtp", "127.0.0.1:1", "--listen", "nonsense"], 2, "--listen"),
        (["--smtp", "127.0.0.1:1", "--listen", "unix:/nowhere/m"], 2, "No such file"),
        (["--only", "nothing"], 2, "--only"),
    ],
)
def test_wrong_usage(words: list[str], status: int, why: str) -> None:
    done = conform(*words)
    assert (done.returncode, done.stdout) == (status, "")
    assert why in done.stderr
    assert "Traceback" not in done.stderr


def test_no_mta(peer_directory: Path) -> None:
    port = free_port()
    done = conform("--smtp", f"127.0.0.1:{port}", "--listen", f"unix:{peer_directory}/m")
    assert done.returncode == 5
    assert "no SMTP session" in done.stderr
    assert not (peer_directory / "m").exists()


def test_the_checks_can_be_listed() -> None:
    done = conform("--list", "--json")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0
    assert all(set(each) == {"id", "title", "rule", "source"} for each in rows)
    assert len(rows) == len({each["id"] for each in rows}) > 100
