"""`smtpgw lookup`: the answers and exit codes of postmap -q, and every key that was asked for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = (sys.executable, "-m", "smtpgw", "lookup")


def lookup(*words: str, keys: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*COMMAND, *words], input=keys, capture_output=True, check=False, timeout=60
    )


@pytest.fixture
def table(tmp_path: Path) -> str:
    (tmp_path / "virtual").write_bytes(b"# x\nu@x.example  v@y.example,\n  w\n@y.example z\n")
    return f"texthash:{tmp_path / 'virtual'}"


def test_a_value_or_nothing(table: str) -> None:
    found = lookup(table, "U@x.example")
    assert (found.returncode, found.stdout) == (0, b"v@y.example,  w\n")
    nothing = lookup(table, "nobody@x.example")
    assert (nothing.returncode, nothing.stdout) == (1, b"")


def test_an_answer_that_cannot_be_written_is_not_one_that_is_not_there(table: str) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*COMMAND, table, "u@x.example"], stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == 75
    assert done.stderr.startswith(b"[Errno 28]")


def test_keys_from_standard_input(table: str) -> None:
    keys = [b"u%d@x.example" % number for number in range(3000)]
    done = lookup(table, "-", keys=b"\n".join([*keys, b"u@x.example", b"@y.example"]) + b"\n")
    assert done.stdout == b"u@x.example\tv@y.example,  w\n@y.example\tz\n"
    assert done.returncode == 0
    assert lookup(table, "-", keys=b"a\nb\n").returncode == 1


@pytest.mark.parametrize(
    ("spec", "code", "said"),
    [
        ("fail:x", 75, "fail:x"),
        ("texthash:/no/such", 78, "/no/such"),
        ("texhash:x", 78, "texthash"),
    ],
)
def test_a_table_that_does_not_answer(spec: str, code: int, said: str) -> None:
    done = lookup(spec, "key")
    assert (done.returncode, done.stdout) == (code, b"")
    assert said in done.stderr.decode()


def test_all_keys_of_an_address_are_explained(table: str) -> None:
    done = lookup(
        table,
        "q+e@y.example",
        "--as",
        "address",
        "--recipient-delimiter",
        "+",
        "--explain",
        "--json",
    )
    assert [line.split(": ")[0] for line in done.stderr.decode().splitlines()] == [
        "q+e@y.example", "q@y.example", "@y.example",
    ]  # fmt: skip
    line = json.loads(done.stdout)
    assert line["found"] is True
    assert (line["value"], line["by"]) == ("z", "@y.example")
    assert line["where"].endswith("/virtual:4")
