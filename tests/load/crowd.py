"""Many clients in one process, each from an address of its own in 127.0.0.0/8.

    python -m tests.load.crowd '{"port": 2525, "kind": "idle", "clients": 5000}'

prints "ready" once all are connected, and stays until its standard input ends; with "kind":
"good" it sends `rate` mails a second for `seconds`, each over a new connection, and prints what
they took as JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import ssl
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass, field

import uvloop

from tests.steady import Running

MAIL = b"Subject: good\r\n\r\n" + b"a line of a good mail that is not long\r\n" * 50
CONNECTING = 50
"""Connections that are begun at once."""


@dataclass
class Task:
    """What a crowd does.  `pace` is seconds between two octets of a slow client."""

    port: int
    kind: str
    clients: int = 0
    rate: float = 0.0
    seconds: float = 0.0
    pace: float = 10.0
    net: int = 1
    """The second octet of the addresses the clients come from."""
    timeout: float = 60.0


@dataclass
class Result:
    """What good mails took, in seconds, and what became of those that were not taken."""

    times: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def percentile(self, share: float) -> float:
        """The time that so large a share of them did not exceed."""
        ordered = sorted(self.times)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class Refused(Exception):  # noqa: N818 - no error of ours
    """Another reply than the one that good mail gets."""


def addresses(net: int) -> Iterator[str]:
    """Addresses of this machine, each once."""
    for number in range(1, 250 * 250):
        yield f"127.{net}.{number // 250}.{number % 250 + 1}"


async def connect(task: Task, address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", task.port, local_addr=(address, 0))


async def reply(reader: asyncio.StreamReader, code: bytes) -> None:
    """The reply with this code; Refused for another one."""
    while True:
        line = await reader.readline()
        if line[:3] != code:
            raise Refused(line.decode("latin-1").strip() or "closed")
        if line[3:4] != b"-":
            return


async def say(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, line: bytes, code: bytes
) -> None:
    writer.write(line + b"\r\n")
    await reply(reader, code)


async def good(task: Task, address: str) -> None:
    """One mail, as a good client sends it."""
    reader, writer = await connect(task, address)
    try:
        await reply(reader, b"220")
        await say(reader, writer, b"EHLO good.example.com", b"250")
        await say(reader, writer, b"MAIL FROM:<a@good.example.com>", b"250")
        await say(reader, writer, b"RCPT TO:<u@example.net>", b"250")
        await say(reader, writer, b"DATA", b"354")
        await say(reader, writer, MAIL + b".", b"250")
        await say(reader, writer, b"QUIT", b"221")
    finally:
        writer.close()


async def stream(task: Task) -> Result:
    """Good mails at their rate, each begun in its time whether others are done or not."""
    loop, result = asyncio.get_running_loop(), Result()
    begin, running = loop.time(), set()
    source, stack = addresses(task.net), contextlib.ExitStack()
    # What is measured at length is measured as a client has it; else without the machine's stalls.
    clock = time.monotonic if "GATEPOST_LOAD" in os.environ else stack.enter_context(Running())

    async def one(address: str) -> None:
        began = clock()
        try:
            async with asyncio.timeout(task.timeout):
                await good(task, address)
        except (OSError, Refused, TimeoutError) as error:
            result.failures.append(f"{type(error).__name__} {error}")
        else:
            result.times.append(clock() - began)

    with stack:
        for number in range(int(task.rate * task.seconds)):
            await asyncio.sleep(max(0.0, begin + number / task.rate - loop.time()))
            running.add(asyncio.ensure_future(one(next(source))))
        await asyncio.gather(*running)
    return result


async def dribble(writer: asyncio.StreamWriter, octets: bytes, pace: float) -> None:
    """An octet at a time, until nobody takes them."""
    with contextlib.suppress(ConnectionError):
        for at in range(len(octets)):
            writer.write(octets[at : at + 1])
            await writer.drain()
            await asyncio.sleep(pace)


async def idle(
    _task: Task, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> asyncio.Task[None] | None:
    await say(reader, writer, b"EHLO idle.example.com", b"250")
    return None


async def slow_command(
    task: Task, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> asyncio.Task[None] | None:
    return asyncio.ensure_future(dribble(writer, b"EHLO " + b"x" * 400, task.pace))


async def slow_data(
    task: Task, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> asyncio.Task[None] | None:
    await _envelope(reader, writer)
    await say(reader, writer, b"DATA", b"354")
    return asyncio.ensure_future(dribble(writer, MAIL, task.pace))


async def slow_bdat(
    task: Task, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> asyncio.Task[None] | None:
    await _envelope(reader, writer)
    writer.write(b"BDAT 1000 LAST\r\n")
    return asyncio.ensure_future(dribble(writer, MAIL, task.pace))


async def slow_tls(
    task: Task, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> asyncio.Task[None] | None:
    await say(reader, writer, b"EHLO slow.example.com", b"250")
    await say(reader, writer, b"STARTTLS", b"220")
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls = context.wrap_bio(incoming, outgoing, server_hostname="gw.example.net")
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return asyncio.ensure_future(dribble(writer, outgoing.read(), task.pace))


async def _envelope(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await say(reader, writer, b"EHLO slow.example.com", b"250")
    await say(reader, writer, b"MAIL FROM:<a@slow.example.com>", b"250")
    await say(reader, writer, b"RCPT TO:<u@example.net>", b"250")


Kind = Callable[
    [Task, asyncio.StreamReader, asyncio.StreamWriter], Awaitable["asyncio.Task[None] | None"]
]
KINDS: dict[str, tuple[Kind, ...]] = {
    "idle": (idle,),
    "slow": (slow_command, slow_data, slow_bdat, slow_tls),
}


async def crowd(task: Task) -> None:
    """Connect all of them; those sent away come again, as long as there is a standard input."""
    gate, kept, there = asyncio.Semaphore(CONNECTING), set(), 0
    kinds = KINDS[task.kind]
    ready = asyncio.Event()

    async def one(number: int, address: str) -> None:
        nonlocal there
        first = True
        while True:
            try:
                async with gate:
                    reader, writer = await connect(task, address)
                    await reply(reader, b"220")
                    work = await kinds[number % len(kinds)](task, reader, writer)
            except (OSError, Refused):
                await asyncio.sleep(1)
                continue
            finally:
                if first:
                    first, there = False, there + 1
                    if there == task.clients:
                        ready.set()
            while await reader.read(1000):
                pass
            writer.close()
            if work is not None:
                work.cancel()

    for number, address in zip(range(task.clients), addresses(task.net), strict=False):
        kept.add(asyncio.ensure_future(one(number, address)))
    await ready.wait()
    print("ready", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    for each in kept:
        each.cancel()


async def main(task: Task) -> None:
    if task.kind == "good":
        result = await stream(task)
        print(json.dumps(asdict(result)), flush=True)
    else:
        await crowd(task)


if __name__ == "__main__":
    uvloop.run(main(Task(**json.loads(sys.argv[1]))))
