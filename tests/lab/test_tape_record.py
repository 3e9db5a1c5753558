"""`milterlab record`: nothing of a conversation is changed, and all of it is on the tape."""

from __future__ import annotations

import asyncio
import random
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from milterd.base import sockets
from milterd.lab import tape
from milterd.lab.cli import app
from milterd.lab.record import Ends, Recorded, Recorder
from milterd.lab.tape import Closed, Conversation
from milterd.wire.frames import frame
from tests.peers.process import Peer, daemon, directory, wait_for
from tests.wire.programs import pymilter

Peers = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
MILTERLAB = [sys.executable, "-c", "from milterd.lab.cli import main; main()"]


def _record(
    milter: Peers,
    mta: Callable[[str], Awaitable[None]],
    ends: Ends = Ends(connections=1),  # noqa: B008 - frozen
    after: Callable[[Recorder], None] = lambda _: None,
) -> tuple[Recorded, list[Conversation], list[str]]:
    """What `mta` and `milter` say through the proxy, as the tape has it."""
    told: list[str] = []

    async def run(home: Path) -> Recorded:
        server = await asyncio.start_unix_server(milter, home / "m")
        address = sockets.parse(f"unix:{home}/p")
        with tape.create(home / "tape") as writer:
            recorder = Recorder(sockets.parse(f"unix:{home}/m"), writer, told.append, ends)
            running = asyncio.ensure_future(recorder.run(sockets.listen(address)))
            async with server, asyncio.timeout(30):
                await mta(f"{home}/p")
                after(recorder)
                return await running

    with directory("rec") as home:
        done = asyncio.run(run(home))
        with tape.reading(home / "tape") as reader:
            found = list(tape.conversations(reader))
            assert reader.torn is None
    return done, found, told


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


def test_every_octet_goes_both_ways_and_onto_the_tape() -> None:
    """Garbage, in random pieces, more than any buffer holds, on many connections at once."""
    dice = random.Random(7)
    sent = [dice.randbytes(300_000) for _ in range(12)]

    async def one(path: str, octets: bytes) -> None:
        reader, writer = await asyncio.open_unix_connection(path)

        async def send() -> None:
            at = 0
            while at < len(octets):
                size = dice.choice([1, 100, 5000, 90_000])
                writer.write(octets[at : at + size])
                at += size
                await writer.drain()
            writer.write_eof()

        sending = asyncio.ensure_future(send())
        assert await reader.read() == octets
        await sending
        writer.close()

    async def mta(path: str) -> None:
        await asyncio.gather(*(one(path, each) for each in sent))

    done, found, _ = _record(_echo, mta, Ends(connections=len(sent)))
    assert done == Recorded(connections=len(sent))
    assert sorted(each.of("mta") for each in found) == sorted(sent)
    assert all(each.of("mta") == each.of("milter") for each in found)
    assert all([one.by for one in each.closed] == ["mta", "milter"] for each in found)


def test_packets_are_whole_and_in_their_order() -> None:
    packets = [frame(b"O", bytes(12)), frame(b"C", b"x" * 70_000), frame(b"Q")]

    async def mta(path: str) -> None:
        reader, writer = await asyncio.open_unix_connection(path)
        for each in packets:
            for piece in (each[:3], each[3:8], each[8:]):
                writer.write(piece)
                await writer.drain()
            assert await reader.readexactly(len(each)) == each
        writer.close()
        await reader.read()

    _, (found,), _ = _record(_echo, mta)
    assert found.turns == [turn for each in packets for turn in (("mta", each), ("milter", each))]
    assert all(each.whole for each in found.said)


def test_the_milter_may_close_first_and_the_mta_still_speak() -> None:
    heard: list[bytes] = []

    async def milter(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"last words")
        writer.write_eof()
        heard.append(await reader.read())
        writer.close()

    async def mta(path: str) -> None:
        reader, writer = await asyncio.open_unix_connection(path)
        assert await reader.read() == b"last words"
        writer.write(b"and mine")
        writer.close()

    _, (found,), _ = _record(milter, mta)
    assert heard == [b"and mine"]
    assert [each.by for each in found.closed] == ["milter", "mta"]


async def _write_on(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"x" * 1000)
        await writer.drain()


def test_a_milter_that_is_gone_is_gone_for_the_mta() -> None:
    async def milter(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        writer.close()

    async def mta(path: str) -> None:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"x")
        assert await reader.read() == b""
        with pytest.raises(OSError, match=r"Broken pipe|reset|lost"):
            await _write_on(writer)

    _, (found,), _ = _record(milter, mta)
    assert [each.by for each in found.closed] == ["milter", "recorder"]


def test_a_reset_is_handed_on() -> None:
    """Over TCP, where a reset can be told from an end."""
    broken: list[BaseException | None] = []

    def linger(end: socket.socket) -> None:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        end.close()

    async def run(home: Path) -> None:
        loop = asyncio.get_running_loop()
        behind, front = (sockets.listen(sockets.parse("inet:0@127.0.0.1")) for _ in range(2))
        behind.setblocking(False)
        target = sockets.parse(f"inet:{behind.getsockname()[1]}@127.0.0.1")
        client = socket.socket()
        client.setblocking(False)
        with tape.create(home / "tape") as writer:
            recorder = Recorder(target, writer, lambda _: None, Ends(connections=1))
            running = asyncio.ensure_future(recorder.run(front))
            await loop.sock_connect(client, front.getsockname())
            milter, _ = await loop.sock_accept(behind)
            milter.setblocking(False)
            await loop.sock_sendall(client, b"x")
            assert await loop.sock_recv(milter, 9) == b"x"
            linger(client)
            try:
                await loop.sock_recv(milter, 9)
            except OSError as error:
                broken.append(error)
            await running
            milter.close()
            behind.close()

    with directory("rec") as home:
        asyncio.run(asyncio.wait_for(run(home), 30))
        assert [type(each) for each in broken] == [ConnectionResetError]
        with tape.reading(home / "tape") as reader:
            (found,) = tape.conversations(reader)
    assert [(each.by, each.reset) for each in found.closed] == [("mta", True)]


def test_back_pressure() -> None:
    """A milter that does not read stops the MTA: the proxy holds a piece and no more."""
    sent, go = 0, asyncio.Event()

    async def milter(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        await go.wait()
        reader._transport.resume_reading()  # type: ignore[attr-defined]
        while await reader.read(1 << 20):
            pass
        writer.close()

    async def mta(path: str) -> None:
        nonlocal sent
        loop = asyncio.get_running_loop()
        end = socket.socket(socket.AF_UNIX)
        end.setblocking(False)
        await loop.sock_connect(end, path)
        while True:
            try:
                async with asyncio.timeout(1):
                    await loop.sock_sendall(end, bytes(65536))
            except TimeoutError:
                break
            sent += 65536
            assert sent < 8 * 1024 * 1024
        go.set()
        end.shutdown(socket.SHUT_WR)
        assert await loop.sock_recv(end, 1) == b""
        end.close()

    _, (found,), _ = _record(milter, mta)
    assert len(found.of("mta")) >= sent


def test_no_milter() -> None:
    async def run(home: Path) -> tuple[Recorded, bytes]:
        with tape.create(home / "tape") as writer:
            target = sockets.parse(f"unix:{home}/none")
            recorder = Recorder(target, writer, told.append, Ends(connections=1))
            listening = sockets.listen(sockets.parse(f"unix:{home}/p"))
            running = asyncio.ensure_future(recorder.run(listening))
            reader, peer = await asyncio.open_unix_connection(home / "p")
            heard = await reader.read()
            peer.close()
            return await running, heard

    told: list[str] = []
    with directory("rec") as home:
        done, heard = asyncio.run(run(home))
        assert heard == b""
        assert done == Recorded(connections=1, unreached=1)
        assert told == [
            f"no connection to the milter at unix:{home}/none: No such file or directory"
        ]
        with tape.reading(home / "tape") as reader:
            (found,) = tape.conversations(reader)
        assert found.notes == told


def test_stop_lets_conversations_end_and_hurry_does_not() -> None:
    async def mta(path: str) -> None:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"still here")
        await reader.readexactly(10)
        after.append(asyncio.ensure_future(_later(reader, writer)))

    async def _later(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # The recorder has been told to stop: this goes through all the same.
        writer.write(b", still")
        assert await reader.readexactly(7) == b", still"
        writer.close()

    after: list[asyncio.Future[None]] = []
    done, (found,), _ = _record(_echo, mta, Ends(), lambda recorder: recorder.stop.set())
    assert after[0].exception() is None
    assert found.of("mta") == b"still here, still"
    assert done.cut == 0

    def both(recorder: Recorder) -> None:
        recorder.stop.set()
        recorder.hurry.set()

    async def stay(path: str) -> None:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"x")
        await reader.readexactly(1)

    done, (found,), _ = _record(_echo, stay, Ends(), both)
    assert done.cut == 1
    assert found.closed == [Closed(1, found.closed[0].at, "recorder")]


@pytest.fixture(scope="module")
def peer() -> Iterator[str]:
    with pymilter() as (path, _):
        yield f"unix:{path}"


@contextmanager
def recording(home: Path, target: str, *options: str, before: str = "") -> Iterator[Peer]:
    """The program between unix:HOME/p and `target`, its tape HOME/tape; ended by SIGTERM."""
    command = [MILTERLAB[0], "-c", before + MILTERLAB[2], "record", f"unix:{home}/p", target]
    command += ["--tape", f"{home}/tape", *options]
    with daemon("record", command, home, lambda: "listening" in _said(home)) as proxy:
        yield proxy


def _said(home: Path) -> str:
    return (home / "record.log").read_text()


def _send(home: Path) -> str:
    (home / "mail.eml").write_bytes(b"Subject: x\r\nX-Ask: add\r\n\r\n" + b"text\r\n" * 99)
    sent = CliRunner().invoke(app, ["send", f"unix:{home}/p", f"{home}/mail.eml"])
    assert sent.exit_code == 0, sent.output
    return sent.output


def _exit(proxy: Peer) -> int:
    assert proxy.process
    return proxy.process.wait(20)


def test_a_full_disk_does_not_stop_the_mail(peer: str) -> None:
    """Files may not grow over 400 octets: the tape ends, the mail passes all the same."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (400, 400)); "
    with directory("rec") as home, recording(home, peer, before=limit) as proxy:
        for _ in range(2):
            assert "add header" in _send(home)
        proxy.process.send_signal(signal.SIGTERM)  # type: ignore[union-attr]
        assert _exit(proxy) == 2
        assert proxy.said().count("the tape takes no more: File too large; the mail goes") == 1
        with tape.reading(home / "tape") as reader:
            assert list(reader)
            assert reader.torn is None


def test_the_command(peer: str) -> None:
    with directory("rec") as home:
        with recording(home, peer, "--mode", "666", "--connections", "1") as proxy:
            assert (home / "p").stat().st_mode & 0o777 == 0o666
            _send(home)
            assert _exit(proxy) == 0
        assert "1 connections, " in proxy.said()
        assert not (home / "p").exists()
        again = CliRunner().invoke(
            app, ["record", f"unix:{home}/p", peer, "--tape", f"{home}/tape"]
        )
        assert again.exit_code == 2
        assert "is there already" in " ".join(again.output.split())
        (found,) = _read(home / "tape")
        assert found.said[-1].octets == frame(b"Q")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nonsense", "unix:/x"], "LISTEN"),
        (["unix:/none/p", "nonsense"], "TARGET"),
        (["unix:/none/p", "unix:/x"], "No such file"),
        (["unix:/none/p", "unix:/x", "--mode", "999"], "octal"),
    ],
)
def test_usage(tmp_path: Path, arguments: list[str], words: str) -> None:
    found = CliRunner().invoke(app, ["record", *arguments, "--tape", str(tmp_path / "t")])
    assert found.exit_code == 2
    assert words in " ".join(found.output.split())
    assert not (tmp_path / "t").exists()


def test_a_kill_leaves_a_readable_tape(peer: str) -> None:
    """Killed in the middle of a conversation: all that was said until then is there."""
    offer = frame(b"O", (6).to_bytes(4, "big") + bytes(8))
    with (
        directory("rec") as home,
        recording(home, peer) as proxy,
        socket.socket(socket.AF_UNIX) as mta,
    ):
        mta.connect(f"{home}/p")
        mta.sendall(offer)
        assert mta.recv(4096)[4:5] == b"O"
        mta.sendall(frame(b"A") * 3)
        wait_for(lambda: len(_read(home / "tape")[0].said) == 5, "all is written")
        proxy.process.kill()  # type: ignore[union-attr]
        _exit(proxy)
        (found,) = _read(home / "tape")
        assert found.said[0].octets == offer
        assert not found.closed


def _read(path: Path) -> list[Conversation]:
    with tape.reading(path) as reader:
        return list(tape.conversations(reader))
