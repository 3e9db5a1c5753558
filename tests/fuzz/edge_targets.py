"""Fuzz targets of the edge: whatever a client sends, the session ends, and nothing raises.

`fuzz_*(data)` as in :mod:`tests.fuzz.targets`: the first two octets choose, the
rest is what the client sends.  No socket: a transport in memory.
`python tests/fuzz/edge_targets.py NAME` runs one under atheris, where that is
installed, else the saved seeds.
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    # Run as a script: the project's root is not on the path then.
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import structlog

from milterd.base.deadlines import Deadlines
from milterd.core.mail import Client
from smtpgw.edge import forwarded, proxy
from smtpgw.edge.content import Content
from smtpgw.edge.data import BdatReader, DataReader
from smtpgw.edge.inbox import HIGH_WATER
from smtpgw.edge.options import ContentOptions, EdgeOptions, Limits
from smtpgw.edge.peer import client_of
from smtpgw.edge.prompt import PromptSession
from smtpgw.edge.promptly import PromptSMTP
from smtpgw.edge.road import Connection
from tests.edge.harness import Ledger, RecordingRoad
from tests.fuzz.driver import Target, run

CONTENT = ContentOptions(message_size_limit=300, header_size_limit=80, spool_threshold=64)
OPTIONS = EdgeOptions(content=CONTENT, limits=Limits(recipient_limit=3, error_sleep_time=0.0))

_REPLIES = re.compile(rb"(?:[2-5][0-9]{2}[ -][ -~]{0,506}\r\n)*\Z")
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
_BARE = re.compile(rb"\r(?!\n)|(?<!\r)\n|\0")


class MemoryTransport(asyncio.Transport):
    """A transport that keeps what is written, and tells its protocol when it is closed."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        super().__init__({"peername": ("192.0.2.1", 4711), "sockname": ("192.0.2.2", 25)})
        self.writes: list[bytes] = []
        self._protocol = protocol
        self._closing = False

    def write(self, data: Any) -> None:
        self.writes.append(bytes(data))

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)

    abort = close

    def pause_reading(self) -> None:
        """Nobody reads here."""

    def resume_reading(self) -> None:
        """Nobody reads here."""


def _raise(_logger: object, _name: str, event: Any) -> Any:
    """A structlog processor: our own faults must fail the target."""
    if "exc_info" in event:
        raise AssertionError(event)
    raise structlog.DropEvent


LOG = structlog.wrap_logger(structlog.PrintLogger(), processors=[_raise])


async def run_session(pieces: list[bytes], options: EdgeOptions) -> tuple[list[bytes], Ledger]:
    """What a session that is sent these pieces writes, and what its road was given."""
    ledger, loop, tasks = Ledger(), asyncio.get_running_loop(), set[asyncio.Task[Any]]()
    gone = asyncio.Event()

    def spawn(work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = loop.create_task(work)
        tasks.add(task)
        return task

    connection = Connection("fuzz", client_of(("192.0.2.1", 4711), unix=False))
    session = PromptSession(
        RecordingRoad(ledger, connection), options,
        spawn=spawn, new_trace=lambda: "trace", log=LOG, connection=connection,
        processing=Deadlines(options.deadlines.processing),
    )  # fmt: skip
    protocol = PromptSMTP(options, lambda *_: session, lambda _: gone.set(), LOG)
    transport = MemoryTransport(protocol)
    protocol.connection_made(transport)
    for each in pieces:
        if not transport.is_closing():
            protocol.data_received(each)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert len(protocol.inbox.unread) < HIGH_WATER * 2
    if not transport.is_closing():
        protocol.eof_received()
    await asyncio.wait_for(gone.wait(), 10)
    await session.close()
    await asyncio.gather(*tasks)
    return transport.writes, ledger


def fuzz_session(data: bytes) -> None:
    """A whole session, in pieces of one size: it ends, answers properly, keeps only clean mail."""
    if len(data) < 2:
        return
    bare = "reject" if data[0] & 1 else "normalize"
    options = replace(
        OPTIONS,
        content=replace(CONTENT, bare_newline=bare),  # type: ignore[arg-type] # one of two words
        forbid_unauth_pipelining=not data[0] & 2,
        strict_rfc821_envelopes=bool(data[0] & 4),
    )
    size, sent = data[1] % 64 or len(data), data[2:]
    pieces = [sent[at : at + size] for at in range(0, len(sent), size)]
    writes, ledger = asyncio.run(run_session(pieces, options))
    written = b"".join(writes)
    assert _REPLIES.match(written), written
    assert written.startswith(b"220 ")
    assert ledger.calls.count("close") == 1
    assert len(ledger.accepted) == ledger.calls.count("message")
    for mail in ledger.accepted:
        assert 0 < len(mail.envelope.recipients) <= 3
        assert not _BARE.search(mail.octets)
        assert len(mail.octets) <= CONTENT.message_size_limit + 32  # an X-Mailbox-Line, a CRLF


def fuzz_data(data: bytes) -> None:
    """DataReader and BdatReader: any cut gives the same message, or the same refusal."""
    if len(data) < 2:
        return
    cut, sent = data[1] * len(data[2:]) // 255, data[2:]
    for reader in (DataReader, BdatReader):
        one, two = reader(CONTENT), reader(CONTENT)
        one.feed(sent)
        two.feed(sent[:cut])
        if not getattr(two, "finished", False):
            two.feed(sent[cut:])
        first, second = one.finish(), two.finish()
        assert isinstance(first, Content) == isinstance(second, Content)
        for each in (first, second):
            if isinstance(each, Content):
                each.close()


def fuzz_proxy(data: bytes) -> None:
    """A header of the PROXY protocol: found, refused or not whole yet, and bounded."""
    for octets in (data, b"PROXY " + data, b"\r\n\r\n\0\r\nQUIT\n" + data):
        try:
            found = proxy.parse(octets)
        except proxy.ProxyError:
            continue
        if found is None:
            assert len(octets) < proxy.LONGEST
        else:
            assert found.size <= min(len(octets), proxy.LONGEST)
            assert proxy.parse(octets[: found.size]) == found


def fuzz_forwarded(data: bytes) -> None:
    """XCLIENT and XFORWARD: what is taken is clean, and makes a client that can be told of."""
    for command in ("XCLIENT", "XFORWARD"):
        try:
            values = forwarded.parse(data, command)
        except forwarded.AttributeFault as fault:
            if _REPLIES.match(fault.answer.encode()) is None:
                raise
            continue
        assert not any(_CONTROL.search(each) for each in values.values())
        if command == "XCLIENT":
            claim = forwarded.Claim(Connection("fuzz", Client())).changed(values)
            assert len(claim.connection.client.name) <= forwarded.LONGEST


TARGETS: dict[str, Target] = {
    "edge_proxy": fuzz_proxy,
    "edge_forwarded": fuzz_forwarded,
    "edge_session": fuzz_session,
    "edge_data": fuzz_data,
}


if __name__ == "__main__":
    sys.exit(run(TARGETS, sys.argv))
