"""A disk whose power can be cut: an ext4 file system in a file, and copies of that file.

What a program wrote and did not sync is in the page cache of the mounted file system, not in
the file.  So a copy of the file, taken while nothing is being written to the device, is what a
power cut at that moment would have left; mounting it replays the journal.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.peers.process import directory, program, wait_for

SIZE = 64 * 1024 * 1024
_ROOM = 8 * SIZE
"""Octets that memory has to have free for images to be there and not on a disk."""
_WRITE_AND_WAIT = 7
"""SYNC_FILE_RANGE_WAIT_BEFORE, _WRITE, _WAIT_AFTER: data alone, no metadata, no journal."""


@dataclass
class Disk:
    """A mounted image."""

    image: Path
    root: Path

    @property
    def device(self) -> str:
        """The loop device's name."""
        for line in Path("/proc/self/mounts").read_text().splitlines():
            device, root, *_ = line.split()
            if root == str(self.root):
                return Path(device).name
        raise FileNotFoundError(f"{self.root} is not mounted")

    def copy(self, to: Path) -> None:
        """The disk as it is at one moment, which nobody may write to meanwhile.

        It is a new file each time.  A mount namespace made meanwhile, such as one that `ip netns
        exec` makes, may still have the last one mounted, with what became of it, and mount(8)
        would take the loop device of the same file.
        """
        to.unlink(missing_ok=True)
        stat = Path(f"/sys/block/{self.device}/stat")
        for _ in range(100):
            before = _writes(stat)
            run("cp", "--sparse=always", str(self.image), str(to))
            if before is not None and before == _writes(stat):
                return
        raise AssertionError("somebody writes to the disk all the time")

    def write_back(self, dice: random.Random) -> None:
        """What the kernel may do at any time without being asked: write some of the data that
        waits, commit the journal, both, or neither."""
        if dice.random() < 0.5:
            for path in self.root.rglob("*"):
                if path.is_file() and not path.is_symlink() and dice.random() < 0.5:
                    _write_data(path)
        if dice.random() < 0.3:
            other = self.root / "other"
            number = os.open(other, os.O_CREAT | os.O_WRONLY)
            os.write(number, b"x")
            os.fsync(number)
            os.close(number)


def _writes(stat: Path) -> int | None:
    """How many writes the device has completed; None while there are some under way."""
    fields = [int(each) for each in stat.read_text().split()]
    return None if fields[8] else fields[4]


def _write_data(path: Path) -> None:
    number = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    try:
        ctypes.CDLL(None).sync_file_range(
            number, ctypes.c_long(0), ctypes.c_long(0), _WRITE_AND_WAIT
        )
    finally:
        os.close(number)


@contextlib.contextmanager
def images() -> Iterator[Path]:
    """A directory for images; in memory if there is room, for they need no disk."""
    memory = Path("/dev/shm")
    with directory("disk") as home:
        if not memory.is_dir() or shutil.disk_usage(memory).free < _ROOM:
            yield home
            return
        place = memory / home.name
        place.mkdir()
        try:
            yield place
        finally:
            shutil.rmtree(place)


def make(image: Path) -> None:
    """An empty file system."""
    with image.open("wb") as file:
        file.truncate(SIZE)
    options = ("-q", "-F", "-b", "4096", "-E", "lazy_itable_init=0,lazy_journal_init=0")
    run(program("mkfs.ext4", "e2fsprogs"), *options, str(image))


@contextlib.contextmanager
def mounted(image: Path, root: Path) -> Iterator[Disk]:
    """The image, mounted; its loop device goes with it.  The journal is committed by itself
    only each 300 s."""
    root.mkdir(exist_ok=True)
    run("mount", "-t", "ext4", "-o", "loop,commit=300", str(image), str(root))
    try:
        yield Disk(image, root)
    finally:
        wait_for(lambda: _unmounted(root), f"{root} is unmounted", within=20)


def _unmounted(root: Path) -> bool:
    return subprocess.run(["umount", str(root)], check=False, capture_output=True).returncode == 0


def run(*command: str) -> None:
    """Run a command that has to succeed."""
    done = subprocess.run(command, check=False, capture_output=True, timeout=60)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.decode(errors='replace')}"
