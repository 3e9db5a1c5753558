"""`smtpgw greylist`: what is listed, allowed and forgotten is what the gateway goes by."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from typer.testing import CliRunner

from smtpgw.cli import app
from smtpgw.greylist.keys import Triplet
from smtpgw.greylist.rules import GreylistOptions
from smtpgw.greylist.store import GreylistStore

RUNNER = CliRunner()
KNOWN = Triplet("192.0.2.0/24", "a@example.org", "u@example.net")


def run(config: Path, *words: str) -> tuple[int, str]:
    found = RUNNER.invoke(app, ["greylist", words[0], "-c", str(config), *words[1:]])
    return found.exit_code, found.output


def settings(directory: Path) -> Path:
    file = directory / "gatepost.toml"
    file.write_text(f'[smtpgw.queue]\ndirectory = "{directory}"\n')
    return file


def check(directory: Path, triplet: Triplet = KNOWN) -> str:
    """What a mail of this triplet comes to now."""

    async def ask() -> str:
        path = str(directory / "greylist.sqlite")
        store = GreylistStore(path, GreylistOptions(), lambda: 1_700_000_000.0)
        try:
            return (await store.check(triplet)).reason
        finally:
            await store.close()

    return asyncio.run(ask())


def test_before_there_was_any_mail(tmp_path: Path) -> None:
    status, said = run(settings(tmp_path), "list")
    assert status == 1
    assert "no mail" in said


def test_a_triplet_is_listed_and_forgotten(tmp_path: Path) -> None:
    config = settings(tmp_path)
    assert check(tmp_path) == "new"
    status, said = run(config, "list", "--json")
    assert status == 0
    assert json.loads(said) == {
        "network": "192.0.2.0/24",
        "sender": "a@example.org",
        "recipient": "u@example.net",
        "first": "2023-11-14T22:13:20+00:00",
        "last": "2023-11-14T22:13:20+00:00",
        "passes": False,
    }
    assert check(tmp_path) == "early"
    assert run(config, "remove", "--sender", "b@example.org")[0] == 1
    assert run(config, "remove", "--sender", "a@example.org") == (0, "1 forgotten\n")
    assert check(tmp_path) == "new"


def test_a_network_is_allowed_and_that_taken_back(tmp_path: Path) -> None:
    config = settings(tmp_path)
    check(tmp_path)
    assert run(config, "allow", "192.0.2.99")[0] == 0
    assert check(tmp_path) == "network"
    assert '"passed": "always"' in run(config, "list", "--networks", "--json")[1]
    assert run(config, "remove", "--network", "192.0.2.0/24")[0] == 0
    assert check(tmp_path) == "new"


def test_all_that_is_in_an_allowed_network_passes(tmp_path: Path) -> None:
    config = settings(tmp_path)
    check(tmp_path)
    assert run(config, "allow", "192.0.0.0/16")[0] == 0
    assert check(tmp_path) == "network"
    assert check(tmp_path, Triplet("192.1.0.0/24", "a@x", "u@y")) == "new"
    assert run(config, "allow", "2001:db8::/32")[0] == 0
    assert check(tmp_path, Triplet("2001:db8:1:2::/64", "a@x", "u@y")) == "network"
    assert len(run(config, "list", "--networks")[1].splitlines()) == 2
    assert run(config, "remove", "--network", "192.0.0.0/16")[0] == 0
    assert check(tmp_path) == "early"


def test_a_network_is_as_wide_as_the_settings_say(tmp_path: Path) -> None:
    config = settings(tmp_path)
    config.write_text(config.read_text() + "[smtpgw.greylist]\nipv4_prefix = 20\n")
    assert check(tmp_path, Triplet("192.0.0.0/20", "a@x", "u@y")) == "new"
    assert run(config, "allow", "192.0.2.99")[0] == 0
    assert check(tmp_path, Triplet("192.0.0.0/20", "a@x", "u@y")) == "network"


def test_a_network_that_would_never_be_asked_for_is_refused(tmp_path: Path) -> None:
    config = settings(tmp_path)
    check(tmp_path)
    status, said = run(config, "allow", "192.0.2.99/32")
    assert (status, "ipv4_prefix" in said) == (2, True)
    assert check(tmp_path) == "early"


def test_wrong_words(tmp_path: Path) -> None:
    config = settings(tmp_path)
    assert run(config, "allow", "here")[0] == 2
    assert run(config, "remove")[0] == 2


def test_a_broken_file_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "greylist.sqlite").write_bytes(b"no database" * 100)
    status, said = run(settings(tmp_path), "list")
    assert status == 1
    assert "not a database" in said
