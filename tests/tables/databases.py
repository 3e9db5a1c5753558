"""What the tests of databases share: the same rows everywhere, and Debian's postmap as judge."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from smtpgw.tables.catalogue import open_table
from smtpgw.tables.context import Context
from smtpgw.tables.table import Unavailable
from tests.peers.postfix import age
from tests.peers.process import program

TABLES = int(os.environ.get("GATEPOST_TABLES", "4"))
"""Generated tables of each database that are compared with Postfix's."""

USER, PASSWORD, DATABASE = "mail", 'it\'s \\ a "secret"', "gatepost"

ROWS: Sequence[tuple[str, str | None, int | None]] = [
    ("user@example.net", "box@example.org", 5),
    ("user@example.net", "second@example.org", 6),
    ("many@example.net", "a@example.org", 1),
    ("many@example.net", "", 2),
    ("many@example.net", None, None),
    ("many@example.net", "@nobody.example", 3),
    ("many@example.net", "unqualified", 4),
    ("o'brien@example.net", "o'brien@example.org", 7),
    ('"quoted one"@example.net', "quoted@example.org", 8),
    ("back\\slash@example.net", "b\\s@example.org", 9),
    ("per%cent_@example.net", "percent@example.org", 10),
    ("a'; DROP TABLE alias; --@example.net", "survivor@example.org", 11),
    ("two@signs@example.net", "two@signs@example.org", 12),
    ("user+tag@sub.example.net", "tagged@example.org", 13),
    ("@example.net", "everyone@example.org", 14),
    ("example.net", "smtp:[mx.example.org]", 15),
    ("user", "local@example.org", 16),
    ("5", "five", 17),
    ("müller@example.net", "grüße@example.org", 18),
    ("user@mail.sub.example.com", "deep@example.org", 19),
]

KEYS: Sequence[bytes] = [
    *dict.fromkeys(address.encode() for address, _, _ in ROWS),
    b"USER@Example.NET", b"missing@example.net", b"user@example.org", b"user@", b"@", b"x@y@",
    b"'", b"''", b"\\", b"\\'", b"' OR '1'='1", b"%", b"%s", b"_", b"%@example.net", b"\x80",
    b"\xff\xfe@example.net", b"caf\xc3\xa9@example.net", b"\xc3\x28@example.net", b"\x01\x7f",
    b"x" * 10_000, b"user@" + b"d" * 10_000, b"user@a..example..net", b"user@.example.net",
    b"user@example.net.", b"user@com", b"6", b"007", b"5@example.net", b"-5", b"5 OR 1=1",
    b'"', b"`", b"$1", b"?1", b":a", b"/*", b"--", b";", b"1e1", b"0x5",
]  # fmt: skip


def literal(value: object) -> str:
    """In standard SQL, for the tests' own rows."""
    if value is None:
        return "NULL"
    return str(value) if isinstance(value, int) else "'" + str(value).replace("'", "''") + "'"


def inserts(rows: Iterable[Sequence[object]] = ROWS, *, backslash: bool = False) -> str:
    """Statements that fill the table `alias`; `backslash`: as MySQL reads strings."""
    lines = (
        f"INSERT INTO alias VALUES ({', '.join(map(literal, (*row, *_apart(str(row[0])))))});"
        for row in rows
    )
    text = "\n".join(lines)
    return text.replace("\\", "\\\\") if backslash else text


def _apart(address: str) -> tuple[str, str]:
    local, _, domain = address.rpartition("@")
    return local, domain


CREATE = (
    "CREATE TABLE alias (address VARCHAR(250), goto VARCHAR(250), number INTEGER, "
    "local VARCHAR(250), domain VARCHAR(250));"
)


def sqlite_file(path: Path) -> Path:
    """A SQLite file with the rows."""
    with sqlite3.connect(path) as database:
        database.executescript(CREATE + inserts())
    database.close()
    return path


def stopped(thread: Path) -> bool:
    """SIGSTOP takes a moment until it has reached every thread."""
    return (thread / "stat").read_text().rpartition(") ")[2].startswith("T")


@dataclass(frozen=True)
class Database:
    """A type of table, and the settings that lead to the rows."""

    type: str
    settings: str
    directory: Path

    def cf(self, more: str, name: str = "table.cf", settings: str | None = None) -> str:
        """Write a .cf file; gives `type:file`."""
        path = self.directory / name
        given = self.settings if settings is None else settings
        path.write_bytes(f"{given}{more}".encode("utf-8", "surrogateescape"))
        age(path)
        return f"{self.type}:{path}"


@dataclass(frozen=True)
class Postmap:
    """Debian's postmap with a configuration of its own."""

    config: Path

    @classmethod
    def make(cls, config: Path) -> Postmap:
        config.mkdir(exist_ok=True)
        (config / "main.cf").write_text("compatibility_level = 3.6\nsmtputf8_enable = yes\n")
        age(config / "main.cf")
        return cls(config)

    def start(self, spec: str) -> subprocess.Popen[bytes]:
        """Asking for the keys on its standard input."""
        return subprocess.Popen(
            [program("postmap", "postfix"), "-c", str(self.config), "-q", "-", spec],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def find(self, spec: str, keys: Sequence[bytes]) -> tuple[dict[bytes, bytes], str]:
        """What it finds, and what it says if it fails (the keys behind that one are not asked)."""
        printed, told = self.start(spec).communicate(b"".join(key + b"\n" for key in keys), 60)
        pairs = (line.partition(b"\t") for line in printed.split(b"\n")[:-1])
        said = told.decode("utf-8", "replace")
        return {key: value for key, _, value in pairs}, said if "fatal:" in said else ""


async def ours(
    spec: str, keys: Sequence[bytes], context: Context | None = None
) -> tuple[dict[bytes, bytes], dict[bytes, str]]:
    """What our table finds, and for which keys it could not answer."""
    table = open_table(spec, context or Context())
    found, failed = {}, {}
    try:
        for key in keys:
            try:
                answer = await table.find(key)
            except Unavailable as error:
                failed[key] = error.reason
            else:
                if answer is not None:
                    found[key] = answer.value
    finally:
        await table.close()
    return found, failed


class Failures:
    """postmap asked for keys that it has to fail for, aside: it takes a second for each."""

    def __init__(self, judge: Postmap, most: int = 8) -> None:
        self._judge, self._most = judge, most
        self._running: list[tuple[str, subprocess.Popen[bytes]]] = []

    def expect(self, spec: str, key: bytes, why: str) -> None:
        """postmap must not answer for this key of this table either."""
        if len(self._running) >= self._most:
            self.check()
        process = self._judge.start(spec)
        assert process.stdin is not None
        process.stdin.write(key + b"\n")
        process.stdin.close()
        process.stdin = None
        self._running.append((f"{spec} {key!r}: {why}", process))

    def check(self) -> None:
        """Wait for all."""
        for what, process in self._running:
            out, said = process.communicate(timeout=60)
            assert b"fatal:" in said, f"we fail where postmap answers {out!r}: {what}"
        self._running.clear()


async def compare(
    spec: str, keys: Sequence[bytes], judge: Postmap, failures: Failures, sample: int = 1
) -> None:
    """Same answers, same class of error.  postmap ends at an error, so that of the keys that fail
    here the first `sample` are asked one by one."""
    found, failed = await ours(spec, keys)
    kept = [key for key in keys if key not in failed]
    told, said = judge.find(spec, kept)
    text = _content(spec)
    assert not said, f"{text}\npostmap fails where we answer: {said}"
    assert {key: told.get(key) for key in kept} == {key: found.get(key) for key in kept}, text
    for key in list(failed)[:sample]:
        failures.expect(spec, key, f"{text}\n{failed[key]}")


def _content(spec: str) -> str:
    return Path(spec.partition(":")[2]).read_text(errors="replace")
