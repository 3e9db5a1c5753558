"""A connected socket as a transport: all arrives in its order, and the end is told once."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator, Sequence

import pytest

from smtpgw.chain.line import FULL, ROOM, Line
from tests.chain.scripted import until

BIG = bytes(range(256)) * 8192
"""More than two sockets hold."""


class Told(asyncio.Protocol):
    """What the line tells its protocol."""

    def __init__(self) -> None:
        self.came = b""
        self.said: list[object] = []
        self.transport: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.came += data

    def pause_writing(self) -> None:
        self.said.append("full")

    def resume_writing(self) -> None:
        self.said.append("room")

    def connection_lost(self, exc: Exception | None) -> None:
        self.said.append(type(exc))


@pytest.fixture(name="ends")
def _ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.settimeout(30)
    with ours, theirs:
        yield ours, theirs


def _line(ours: socket.socket) -> tuple[Line, Told]:
    told = Told()
    line = Line(asyncio.get_running_loop(), ours, told)
    assert told.transport is line
    return line, told


def _all_of(theirs: socket.socket) -> bytes:
    found = bytearray()
    while piece := theirs.recv(65_536):
        found += piece
    return bytes(found)


Ends = tuple[socket.socket, socket.socket]


def test_what_is_written_is_there_at_once(ends: Ends) -> None:
    async def main() -> None:
        line, told = _line(ends[0])
        line.write(b"one")
        line.writelines([b"two", memoryview(b"three")])
        assert ends[1].recv(100) == b"onetwothree"
        line.close()
        assert told.said == []
        assert ends[1].recv(100) == b""
        await until(lambda: told.said == [type(None)])
        line.write(b"more")
        line.close()
        line.abort()
        await asyncio.sleep(0)
        assert told.said == [type(None)]

    asyncio.run(main())


@pytest.mark.parametrize(
    "pieces", [[BIG], [b"head", BIG, b"tail"], [b"%d." % n for n in range(1500)]]
)
def test_what_the_peer_does_not_take_yet_follows_in_order(
    ends: Ends, pieces: Sequence[bytes]
) -> None:
    async def main() -> None:
        line, told = _line(ends[0])
        line.writelines(pieces)
        line.write(b"end")
        assert line.get_write_buffer_size() < sum(map(len, pieces)) + 3
        if BIG in pieces:
            assert told.said == ["full"]
            assert line.get_write_buffer_size() > FULL
        line.close()
        assert line.is_closing()
        taken = await asyncio.to_thread(_all_of, ends[1])
        assert taken == b"".join(pieces) + b"end"
        await until(lambda: told.said[-1:] == [type(None)])

    asyncio.run(main())


def test_a_protocol_that_paused_is_told_of_room(ends: Ends) -> None:
    async def main() -> None:
        line, told = _line(ends[0])
        line.write(BIG)
        while told.said != ["full", "room"]:
            await asyncio.to_thread(ends[1].recv, 65_536)
            await asyncio.sleep(0)
        assert line.get_write_buffer_size() <= ROOM
        line.abort()
        assert line.get_write_buffer_size() == 0
        await until(lambda: told.said[-1] is type(None))

    asyncio.run(main())


def test_nothing_is_read_while_reading_is_paused(ends: Ends) -> None:
    async def main() -> None:
        line, told = _line(ends[0])
        line.pause_reading()
        line.pause_reading()
        ends[1].sendall(b"later")
        for _ in range(5):
            await asyncio.sleep(0)
        assert told.came == b""
        line.resume_reading()
        line.resume_reading()
        await until(lambda: told.came == b"later")
        ends[1].close()
        await until(lambda: told.said == [type(None)])
        assert line.is_closing()
        line.resume_reading()

    asyncio.run(main())


@pytest.mark.parametrize("many", [False, True])
def test_a_peer_that_is_gone_is_told_in_a_turn_of_its_own(ends: Ends, many: bool) -> None:
    async def main() -> None:
        line, told = _line(ends[0])
        ends[1].close()
        if many:
            line.writelines([b"a", b"b"])
        else:
            line.write(b"a")
        assert told.said == []
        await until(lambda: told.said == [BrokenPipeError])

    asyncio.run(main())
