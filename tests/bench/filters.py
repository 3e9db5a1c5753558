"""What each filter costs a mail, beside clamav-milter and OpenDKIM: python -m tests.bench.filters.

Each side is its own daemon as it is shipped, on a UNIX socket, with RSA-2048 for DKIM and one
clamd that both scanners share.  One client speaks to all of them as Postfix does: it waits for an
answer where the milter wants to give one, and no two bodies are the same, since clamd knows
bodies again.  Turns are short and run A B, B A; every figure is the median of the turns, every
ratio the median of the ratios of the pairs, beside it the quartiles: a median alone hides how far
pairs of the same two programs are apart.  Processor time is that of all processes of a side,
clamd's share among it; on a shared machine it is the steadier figure, and only ratios mean
something.  With --firm, client and milters have one processor and clamd another, before all other
work of the machine: so the pairs agree, but nobody wakes anybody on a processor that sleeps.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from milterd.core.mail import BytesBody, Direction, Envelope, HeaderField, Mail, Recipient, Session
from milterd.filters.headers import HeadersFilter, HeadersOptions
from milterd.wire import messages as m
from milterd.wire.frames import FrameDecoder
from tests.bench import sides
from tests.bench.hosts import HEADERS
from tests.bench.sides import Side
from tests.host.mta import Mta

SIZES = {"4 kB": 4_000, "100 kB": 100_000}
LINE = b"The quick brown fox jumps over the lazy dog, and then some more of it.\r\n"
MARK = b"0" * 16
"""Stands in every body where the mail's number goes."""
RULES_DO = {Direction.INBOUND: "no edit", Direction.ORIGINATING: "two edits"}
"""What the default rules find to do in the bench's mail."""
OTHERS = ("clamav-milter", "OpenDKIM")
FINAL = b"catrdy"
CPUCLOCK_SCHED = 2
"""The clock of a process other than this one, as clock_getcpuclockid(3) puts it together."""


@dataclass(frozen=True)
class Cost:
    """Milliseconds for one mail: processor time of a side, and time by the clock."""

    cpu: float
    wall: float


class Client:
    """One MTA connection to a milter, whose words are made once and said again and again."""

    def __init__(self, address: str, size: int) -> None:
        self._mta = Mta(address).greet()
        self._numbers = count(time.time_ns())
        self._steps: list[list[bytes]] = []
        self._pending = b""
        self.edits: Sequence[object] = ()
        """What the milter changed in the first mail."""
        self._say_all(size)

    def _say_all(self, size: int) -> None:
        """The first mail, by the rules of the protocol; what is said is kept."""
        # A whole last line: OpenDKIM leaves a body without one unsigned.
        text = (MARK + b"\r\n" + LINE * (size // len(LINE) + 1))[: size - 2] + b"\r\n"
        macros = ((b"{auth_type}", b"PLAIN"), (b"{auth_authen}", b"u"))
        self._say(m.MailFrom(b"<a@example.net>"), macros)
        self._say(m.RcptTo(b"<b@example.org>"))
        self._say(m.Data())
        for name, value in HEADERS:
            space = self._mta.wire.leading_space
            self._say(m.Header(name, (value if space else value[1:]).replace(b"\r\n", b"\n")))
        self._say(m.EndOfHeaders())
        for at in range(0, size, 65_535):
            self._say(m.BodyChunk(text[at : at + 65_535]))
        self._say(m.EndOfMessage(), ((b"i", b"4XYZ"),))
        self._abort = self._mta.wire.send(m.Abort())
        self._mta.socket.sendall(self._abort)

    def _say(self, event: m.CommandMessage, macros: Sequence[tuple[bytes, bytes]] = ()) -> None:
        wire = self._mta.wire
        self._pending += wire.send(event, macros)
        if wire.awaiting:
            self._mta.socket.sendall(self._pending)
            self._steps.append(self._pending.split(MARK))
            self._pending = b""
            replies = self._mta._replies()
            assert isinstance(replies[-1], m.Continue | m.Accept), replies
            self.edits = replies[:-1]

    def mail(self) -> None:
        """One more mail, with a number of its own, from MAIL to the abort that Postfix sends."""
        number = b"%016x" % next(self._numbers)
        send, frames = self._mta.socket.sendall, FrameDecoder(2**20)
        for step in self._steps:
            send(number.join(step))
            self._answer(frames)
        send(self._abort)

    def _answer(self, frames: FrameDecoder) -> None:
        while True:
            frames.feed(self._mta.socket.recv(65_536))
            while (found := frames.next_frame()) is not None:
                if found[0] in FINAL:
                    return

    def close(self) -> None:
        self._mta.close()


def cpu_seconds(pids: Sequence[int]) -> float:
    """Processor time that processes have used, to the nanosecond: a turn is some ticks long.
    Children are not among it; no milter here has any that it starts for a mail."""
    return sum(time.clock_gettime(~pid << 3 | CPUCLOCK_SCHED) for pid in pids)


def turn(side: Side, client: Client, seconds: float) -> Cost:
    """What a mail costs on one side now."""
    mails, before, began = 0, cpu_seconds(side.pids), time.perf_counter()
    while (now := time.perf_counter()) - began < seconds:
        client.mail()
        mails += 1
    return Cost((cpu_seconds(side.pids) - before) / mails * 1000, (now - began) / mails * 1000)


def compare(those: Sequence[Side], size: int, pairs: int, seconds: float) -> list[list[Cost]]:
    """Turns of each side, A B, B A, after a warm-up that is not counted."""
    clients = [Client(each.address, size) for each in those]
    if not all(client.edits for client in clients) and any(each.signs for each in those):
        raise RuntimeError("one of them does not sign: nothing could be compared")
    try:
        for client in clients:
            for _ in range(50):
                client.mail()
        found: list[list[Cost]] = [[] for _ in those]
        for number in range(pairs):
            order = range(len(those))
            for at in order if number % 2 else reversed(order):
                found[at].append(turn(those[at], clients[at], seconds))
    finally:
        for client in clients:
            client.close()
    return found


def firmly() -> None:
    """This process, and what it starts, before all other work, on the first processor."""
    os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def part(those: Sequence[Side]) -> None:
    """What the sides share, which is clamd, on the last processor."""
    for pid in set[int].intersection(*(set(each.pids) for each in those)):
        for task in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), {(os.cpu_count() or 1) - 1})


def median(costs: Sequence[Cost], what: Callable[[Cost], float]) -> float:
    return statistics.median(map(what, costs))


def ratio(ours: Sequence[Cost], theirs: Sequence[Cost], what: Callable[[Cost], float]) -> str:
    """The median of the pairs' ratios, and their quartiles."""
    those = [what(a) / what(b) for a, b in zip(ours, theirs, strict=True)]
    low, middle, high = statistics.quantiles(those, n=4, method="inclusive")
    return f"{middle:.2f} ({low:.2f}-{high:.2f})"


def rows(those: Sequence[Side], pairs: int, seconds: float) -> Iterator[tuple[str, ...]]:
    """The cells of the table for one filter; the last of `those` is the one we are held against."""
    for label, size in SIZES.items():
        found = compare(those, size, pairs, seconds)
        for side, costs in zip(those, found, strict=True):
            cells = [f"{median(costs, lambda each: each.cpu):.2f} ms"]
            cells += [f"{median(costs, lambda each: each.wall):.2f} ms"]
            held = those[-1].name in OTHERS and side is not those[-1]
            for what in (lambda each: each.cpu, lambda each: each.wall):
                cells.append(ratio(costs, found[-1], what) if held else "")
            yield (label, side.name, *cells)


def pure(built: HeadersFilter, size: int, direction: Direction) -> float:
    """Milliseconds of the header rules themselves, without a host: median of many mails."""
    headers = tuple(HeaderField(name, value.replace(b"\n\t", b"\r\n\t")) for name, value in HEADERS)
    envelope = Envelope(b"a@example.net", (), (Recipient(b"b@example.org"),))
    took = []
    for _ in range(3000):
        mail = Mail(Session(direction=direction), envelope, headers, BytesBody(bytes(size)))
        began = time.perf_counter_ns()
        built.decide(mail, built.gather(mail))
        took.append((time.perf_counter_ns() - began) / 1e6)
    return statistics.median(took[500:])


def main(
    pairs: Annotated[int, typer.Option(help="Turns of each side.", min=2)] = 40,
    seconds: Annotated[float, typer.Option(help="Length of a turn.", min=0.01)] = 0.15,
    firm: Annotated[bool, typer.Option("--firm", help="Before other work; needs root.")] = False,
    only: Annotated[str, typer.Option(help="One filter: clamav, dkim or headers.")] = "",
) -> None:
    """Measure every filter at every size and print one table."""
    if firm:
        firmly()
    table = Table("message", "milter", "CPU a mail", "time a mail", "CPU ratio", "time ratio")
    for start in (sides.clamav, sides.dkim, sides.headers):
        if only not in ("", start.__name__):
            continue
        with start() as those:
            if firm:
                part(those)
            for each in rows(those, pairs, seconds):
                table.add_row(*each)
        table.add_section()
    if only in ("", "headers"):
        rules_alone(table)
    Console(width=120).print(table)


def rules_alone(table: Table) -> None:
    """Rows of the header rules without a host."""
    parameters = {"authserv_id": ("mx.example.net",), "hostname": ("mx.example.net",)}
    built = HeadersFilter(HeadersOptions(parameters=parameters))
    for label, size in SIZES.items():
        for direction, work in RULES_DO.items():
            milliseconds = pure(built, size, direction)
            table.add_row(label, f"headers, rules alone, {work}", f"{milliseconds:.3f} ms")


if __name__ == "__main__":
    typer.run(main)
