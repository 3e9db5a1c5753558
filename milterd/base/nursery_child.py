"""What a child of the nursery does between the fork and its program."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from milterd.base import logs, metrics

Program = Callable[[Sequence[str]], int]
"""A program's words after its name, and its exit status."""

_SOFTWARE = 70
"""EX_SOFTWARE of sysexits(3): it ended by an error of ours."""


def run(
    packet: bytes,
    numbers: Sequence[int],
    programs: Mapping[str, Program],
    ignored: Sequence[signal.Signals],
) -> NoReturn:
    """Be the process that the packet asks for; `numbers` are the descriptors that came with it,
    and `ignored` the signals that the nursery does not want to hear, blocked since the fork."""
    status = _SOFTWARE
    try:
        os.setpgid(0, 0)
        wanted = json.loads(packet)
        for each in ignored:
            usual = signal.default_int_handler if each == signal.SIGINT else signal.SIG_DFL
            signal.signal(each, usual)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ignored)
        _place(dict(zip(wanted["numbers"], numbers, strict=True)))
        os.environ.update(wanted["environ"])
        if metrics.DIRECTORY in wanted["environ"]:
            metrics.share()
        status = _call(programs, wanted)
    except SystemExit as end:
        status = _status(end)
    except BaseException:  # noqa: BLE001 - it is told, and the status says the rest
        sys.excepthook(*sys.exc_info())
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        metrics.flush()
        logs.flush()
        os._exit(status)


def _call(programs: Mapping[str, Program], wanted: dict[str, Any]) -> int:
    module, *words = wanted["words"]
    sys.argv = [module, *words]
    show(" ".join(sys.argv))
    return programs[module](words)


def _status(end: SystemExit) -> int:
    """As Python does it: text is said, and means 1."""
    if end.code is None or isinstance(end.code, int):
        return end.code or 0
    sys.stderr.write(f"{end.code}\n")
    return 1


def _place(found: Mapping[int, int]) -> None:
    """Give descriptors the numbers that they shall have, and keep nothing else."""
    # First out of each other's way.
    beyond = max((*found, *found.values(), 2)) + 1
    moved = {want: fcntl.fcntl(have, fcntl.F_DUPFD, beyond) for want, have in found.items()}
    for want, have in moved.items():
        os.dup2(have, want)
    hold_only(*found)


def hold_only(*numbers: int) -> None:
    """Close every descriptor but these and the standard ones; standard input, if it is not among
    them, is empty from now on."""
    if 0 not in numbers:
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
    kept = {0, 1, 2, *numbers}
    for each in Path("/proc/self/fd").iterdir():
        if int(each.name) not in kept:
            with contextlib.suppress(OSError):  # the directory itself, which is closed by now
                os.close(int(each.name))


def show(title: str) -> None:
    """Let ps(1) and pgrep(1) say what this process is (proc(5): cmdline, comm)."""
    with contextlib.suppress(OSError, ValueError, IndexError):  # a hidden /proc: only looks suffer
        own = Path("/proc/self")
        fields = (own / "stat").read_bytes().rpartition(b")")[2].split()
        start, end = int(fields[45]), int(fields[46])
        with (own / "mem").open("r+b", buffering=0) as memory:
            memory.seek(start)
            memory.write(title.encode()[: end - start - 1].ljust(end - start, b"\0"))
        (own / "comm").write_bytes(title.encode()[:15])
