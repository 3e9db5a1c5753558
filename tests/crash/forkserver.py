"""The process that has imported the gateway and forks for every run of it: see forked.py.

    python -m tests.crash.forkserver NUMBER

NUMBER is a SOCK_SEQPACKET socket.  Each packet on it is a birth to be given, as JSON, with
three descriptors: a gate, the child's standard output and error, and its input, which for a
worker is the supervisor's channel.  The answer is {"born": pid}; {"dead": pid, "status": n}
comes once it has ended.  A child does nothing until an octet comes through the gate, so that
it can be traced from its first system call.  It then is what `python -m smtpgw.worker` or the
sendmail command is after its imports.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import faulthandler
import gc
import json
import os
import re
import select
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from milterd.base import logs
from smtpgw import config, control, supervisor, wiring, worker
from smtpgw.config import Smtpgw
from smtpgw.drop_room import DropRoom
from smtpgw.local import sendmail
from smtpgw.local_mail import Handed
from smtpgw.queue import schema
from smtpgw.queue.committer import CommitterOptions
from smtpgw.queue.sqlite import SqliteOptions, SqliteStore
from smtpgw.queue.states import MailState
from smtpgw.queue.store import NewMail, Settlement

INLINE = 20_000
"""Octets of a body from which on it gets a file, in these runs."""
SPOOLED = 40_000
"""Octets of a body from which on it comes in by way of a file, in these runs."""
CHECKPOINT = 150_000
"""Octets of the write-ahead log after which there is a checkpoint, in these runs."""
_PR_SET_PTRACER, _ANYBODY = 0x59616D61, ctypes.c_ulong(-1)
_PACKET = 65536


def _store(_settings: Smtpgw, number: int) -> SqliteOptions:
    """A shard in which little mail does all that much mail would."""
    return SqliteOptions(
        inline_limit=INLINE,
        queue_minfree=0,
        reserve=200_000,
        shard=number,
        committer=CommitterOptions(checkpoint=CHECKPOINT),
        log=CHECKPOINT,
    )


def _without_sync(of: re.Pattern[str]) -> Callable[[], None]:
    """os.fsync does nothing for files and directories of such names."""
    sync = os.fsync

    def careless(number: int) -> None:
        if not of.search(str(Path(f"/proc/self/fd/{number}").readlink())):
            sync(number)

    def apply() -> None:
        os.fsync = careless

    return apply


def _without_commit_sync() -> None:
    connect = schema.connect

    def careless(*words: Any, **options: Any) -> Any:
        db = connect(*words, **options)
        db.execute("PRAGMA synchronous=NORMAL")
        return db

    schema.connect = careless


def _answer_first() -> None:
    add = SqliteStore.add
    tasks: set[asyncio.Task[None]] = set()

    async def careless(self: SqliteStore, mail: NewMail) -> None:
        tasks.add(asyncio.ensure_future(add(self, mail)))

    SqliteStore.add = careless


def _settle_first() -> None:
    settle = SqliteStore.settle

    async def careless(self: SqliteStore, settlement: Settlement) -> MailState:
        state = await settle(self, replace(settlement, follow=()))
        for each in settlement.follow:
            await self.add(each)
        return state

    SqliteStore.settle = careless


def _remove_first() -> None:
    read = DropRoom.read

    def careless(self: DropRoom, name: str, *words: Any) -> Handed:
        handed = read(self, name, *words)
        self.remove([name])
        return handed

    DropRoom.read = careless


SLIPS = ("an answer before its commit", "a report after its settlement", "a file removed first")
"""Those of the faults that a kill brings to light."""
SYNCS = (
    "no sync of a body file",
    "no sync of the drop directory",
    "no sync of a commit",
    "no sync of a new name",
    "no sync of a Maildir",
)
"""Those that a power cut does."""
FAULTS: dict[str, Callable[[], None]] = {
    SLIPS[0]: _answer_first,
    SLIPS[1]: _settle_first,
    SLIPS[2]: _remove_first,
    # One that came in by way of a nameless file bears the name that the kernel gave it.
    SYNCS[0]: _without_sync(re.compile(r"/bodies/\w+$|/spool/#\d+")),
    SYNCS[1]: _without_sync(re.compile(r"/drop/new$")),
    SYNCS[3]: _without_sync(re.compile(r"/drop/new/[0-9a-f]{32}$")),
    SYNCS[4]: _without_sync(re.compile(r"/boxes/")),
    SYNCS[2]: _without_commit_sync,
}
"""What a child's program may be made to do wrong, to see that a test notices it."""


def _worker(channel: int, _words: list[str]) -> int:
    wiring.store = _store
    content = wiring.content
    wiring.content = lambda *given: replace(content(*given), spool_threshold=SPOOLED)
    return worker.main(["0"], {control.CHANNEL: str(channel)})


def _sendmail(_stdin: int, words: list[str]) -> int:
    return sendmail.main(["sendmail", *words])


def _supervisor(_stdin: int, words: list[str]) -> int:
    """All that it does before it starts workers."""
    path = Path(words[0])
    os.environ["RUNTIME_DIRECTORY"] = str(path.parent)  # for metrics; the test clears it away
    supervisor.Gateway(path, config.load(path)).open()
    return 0


KINDS = {"worker": _worker, "sendmail": _sendmail, "supervisor": _supervisor}


def _child(wanted: dict[str, Any], gate: int, output: int, given: int) -> NoReturn:
    status = 70
    try:
        os.dup2(output, 1)
        os.dup2(output, 2)
        if wanted["kind"] == "sendmail":
            os.dup2(given, 0)
        faulthandler.register(signal.SIGUSR1)  # says where each thread is, on standard error
        for number in (signal.SIGCHLD, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        if wanted["fault"]:
            FAULTS[wanted["fault"]]()
        if wanted["user"]:
            os.setuid(wanted["user"])
        ctypes.CDLL(None).prctl(_PR_SET_PTRACER, _ANYBODY)
        if os.read(gate, 1):
            status = KINDS[wanted["kind"]](given, wanted["words"])
            logs.flush()
    except SystemExit as end:
        status = int(end.code or 0)
    except BaseException:  # noqa: BLE001 - it is told, and the status says the rest
        sys.excepthook(*sys.exc_info())
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _reap(control_socket: socket.socket) -> None:
    with contextlib.suppress(ChildProcessError, BrokenPipeError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            control_socket.send(json.dumps({"dead": pid, "status": status}).encode())


def _bear(control_socket: socket.socket) -> bool:
    """Whether there was somebody to ask for it."""
    packet, numbers, _flags, _ = socket.recv_fds(control_socket, _PACKET, 3)
    if not packet:
        return False
    gate, output, given = numbers
    pid = os.fork()
    if not pid:
        control_socket.close()
        _child(json.loads(packet), gate, output, given)
    for each in numbers:
        os.close(each)
    control_socket.send(json.dumps({"born": pid}).encode())
    return True


def main() -> None:
    control_socket = socket.socket(fileno=int(sys.argv[1]))
    control_socket.set_inheritable(False)
    ears, mouth = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(mouth, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    gc.collect()
    gc.freeze()  # so that a child's collection does not copy every page
    while True:
        ready, _, _ = select.select([control_socket, ears], [], [])
        if ears in ready:
            os.read(ears, 512)
            _reap(control_socket)
        elif not _bear(control_socket):
            return


if __name__ == "__main__":
    main()
