"""lmdb: beside Debian's postmap, also while it writes."""

from __future__ import annotations

import asyncio
import fcntl
import os
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from smtpgw.tables.table import TableError, Unavailable
from tests.peers.postfix import age
from tests.peers.process import program
from tests.tables import ours
from tests.tables.postmap import Postmap

LINES = 20_000


@pytest.fixture
def home() -> Iterator[Path]:
    with TemporaryDirectory(dir="/dev/shm") as name:
        yield Path(name)


def write(file: Path, value: str, lines: int = 1) -> None:
    file.write_text("".join(f"k{number} {value}\n" for number in range(lines)))
    age(file)


def test_no_file(home: Path) -> None:
    with pytest.raises(TableError):
        ours.opened("lmdb:source", ours.context(home))


def test_no_database(home: Path) -> None:
    (home / "source.lmdb").write_bytes(b"no database" * 1000)
    with pytest.raises(TableError):
        ours.opened("lmdb:source", ours.context(home))


def test_every_change_counts_at_once(home: Path) -> None:
    judge, file = Postmap(home), home / "source"
    write(file, "one")
    judge.make(b"lmdb:%s" % os.fsencode(file))
    table = ours.opened("lmdb:source", ours.context(home))
    assert ours.now(table, b"K0") == b"one"
    write(file, "two", 10)
    judge.make(b"lmdb:%s" % os.fsencode(file))
    assert ours.now(table, b"k0") == b"two"
    assert ours.now(table, b"k9") == b"two"
    for key in (b"k0\0", b"k0\0x", b"k" * 600, b"", b"k"):
        assert ours.now(table, key) is None


def test_another_file_under_the_name(home: Path) -> None:
    judge, file, clock = Postmap(home), home / "source", ours.Clock()
    for name in ("source", "other"):
        write(home / name, name)
        judge.make(b"lmdb:%s" % os.fsencode(home / name))
    table = ours.opened("lmdb:source", ours.context(home, clock=clock))
    assert ours.now(table, b"k0") == b"source"
    (home / "other.lmdb").replace(file.with_name("source.lmdb"))
    clock.go(1)
    assert ours.now(table, b"k0") == b"other"


def test_lookups_while_postmap_writes(home: Path) -> None:
    """Each answer is of one content or the other, whole, however large the file has become."""
    judge, file = Postmap(home), home / "source"
    write(file, "v0")
    judge.make(b"lmdb:%s" % os.fsencode(file))
    table = ours.opened("lmdb:source", ours.context(home))
    command = [program("postmap", "postfix"), "-c", str(judge.config), f"lmdb:{file}"]

    async def go() -> int:
        answers = 0
        for turn in range(1, 4):
            # The last is larger than what was mapped of the file at first.
            write(file, f"v{turn}" + " and more" * 60 * (turn // 3), LINES * turn)
            process = await asyncio.create_subprocess_exec(
                *command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            done = asyncio.create_task(process.wait())
            while not done.done():
                found = await table.find(b"k0")
                assert found is not None
                assert found.value[:2] in (b"v%d" % (turn - 1), b"v%d" % turn)
                answers += 1
                await asyncio.sleep(0)
            assert await done == 0
            found = await table.find(b"k%d" % (LINES * turn - 1))
            assert found is not None
            assert found.value[:2] == b"v%d" % turn
        await table.close()
        return answers

    assert asyncio.run(go()) > 0


def test_a_lock_that_is_never_given_back(home: Path) -> None:
    """Unavailable in the end, never "not found"."""
    file = home / "source"
    write(file, "one")
    Postmap(home).make(b"lmdb:%s" % os.fsencode(file))
    clock = ours.Clock()
    table = ours.opened("lmdb:source", ours.context(home, clock=clock, query_limit=5))
    lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)

    async def go() -> None:
        with (home / "source.lmdb").open("r+b") as held:
            fcntl.fcntl(held, fcntl.F_OFD_SETLK, lock)
            asked = asyncio.create_task(table.find(b"k0"))
            await asyncio.sleep(0.05)
            assert not asked.done()
            clock.go(5)
            with pytest.raises(Unavailable):
                await asked
        found = await table.find(b"k0")
        assert found is not None

    asyncio.run(go())
