"""The mails of a sweep: each way through the gateway once."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from milterd.core.mail import BytesBody, Envelope, HeaderField, Recipient
from milterd.core.mail import Mail as InnerMail
from smtpgw.intake import Intake
from smtpgw.local.drop import Ticket
from smtpgw.local.writer import DropFile
from smtpgw.queue.clock import QueueClock, SystemClock
from smtpgw.queue.sqlite import SqliteOptions, SqliteStore
from tests.crash.ledger import Key, Ledger, send_one
from tests.queue.support import make_first_version

SMALL, LARGE = 400, 60_000
"""Octets of a body in the database, and of one in a file."""
BOXES = "box.example.net"
"""The domain whose mail goes into Maildirs."""


@dataclass(frozen=True)
class Mail:
    """`good` are delivered, `late` at the second try, `bad` are refused, and the sender hears of
    it; `box` get it into a Maildir."""

    name: str
    size: int
    good: int = 1
    late: int = 0
    bad: int = 0
    box: int = 0

    @property
    def sender(self) -> str:
        return f"s-{self.name}@example.net"

    @property
    def rcpts(self) -> list[str]:
        kinds = ["good"] * self.good + ["late"] * self.late + ["bad"] * self.bad
        named = [f"{kind}{n}-{self.name}@example.net" for n, kind in enumerate(kinds)]
        return [*named, *self.boxes]

    @property
    def boxes(self) -> list[str]:
        return [f"box{n}-{self.name}@{BOXES}" for n in range(self.box)]

    @property
    def owed(self) -> tuple[str, ...]:
        """To whom the next hop is sent something once this is accepted."""
        taken = [each for each in self.rcpts if each.startswith(("good", "late"))]
        return (*taken, *([self.sender] if self.bad else []))


def message(name: str, size: int) -> bytes:
    """A mail without its last line end."""
    line = f"a line of {name}, to be kept to the octet\r\n"
    head = f"From: a@example.net\r\nTo: b@example.net\r\nX-Ledger: {name}\r\n\r\n"
    return (head + line * (size // len(line) + 1)).encode().removesuffix(b"\r\n")


@dataclass
class Moods:
    """What the sink refuses: `bad` always, `late` at the first try."""

    seen: set[str] = field(default_factory=set)

    def __call__(self, address: str) -> bytes | None:
        if address.startswith("bad"):
            return b"550 5.1.1 nobody here of that name\r\n"
        if address.startswith("late") and address not in self.seen:
            self.seen.add(address)
            return b"451 4.2.1 come again\r\n"
        return None


CLIENTS: Sequence[Sequence[Mail]] = (
    (Mail("a1", SMALL, good=2, box=1), Mail("a2", SMALL, bad=1), Mail("a3", LARGE, good=2)),
    (Mail("b1", LARGE), Mail("b2", SMALL, late=1), Mail("b3", LARGE, box=2, bad=1)),
)
HANDED_IN: Sequence[Mail] = (
    Mail("d1", SMALL, good=2),
    Mail("d2", LARGE),
    Mail("d3", SMALL, box=1, bad=1),
)
OLD: Sequence[Mail] = (Mail("v1", SMALL, good=2), Mail("v2", LARGE), Mail("v3", SMALL, bad=1))
MAILS = {each.name: each for some in (*CLIENTS, HANDED_IN, OLD) for each in some}
SIZES = {each.name: each.size for each in MAILS.values()}


async def send_all(ledger: Ledger, port: int) -> None:
    """All clients' mails, each client one after another, until the gateway breaks off."""
    await asyncio.gather(*(_client(ledger, port, each) for each in CLIENTS))


async def _client(ledger: Ledger, port: int, mails: Sequence[Mail]) -> None:
    for each in mails:
        octets = message(each.name, each.size)
        try:
            accepted = await send_one(port, each.rcpts, octets, each.sender)
        except (OSError, EOFError):
            ledger.broken += 1
            return
        if accepted:
            ledger.promised[each.name] = each.owed
            ledger.news.set()
        else:
            ledger.refused += 1


def hand_in(ledger: Ledger, directory: Path, mails: Sequence[Mail] = HANDED_IN) -> None:
    """Put mails in the drop directory, as the command does."""
    for each in mails:
        rcpts = tuple(Recipient(rcpt.encode()) for rcpt in each.rcpts)
        to = Envelope(each.sender.encode(), (), rcpts)
        with DropFile(str(directory), Ticket(to, 1_700_000_000.0)) as file:
            file.write(message(each.name, each.size) + b"\r\n")
            file.commit()
        ledger.promised[each.name] = each.owed


def first_version(shard: Path) -> None:
    """Make a shard of the queue's first version, with the mails of `OLD` in it."""

    async def fill() -> None:
        clock = QueueClock(SystemClock())
        options = SqliteOptions(inline_limit=20_000, queue_minfree=0, reserve=0)
        store = SqliteStore.open(shard, options, clock=clock)
        try:
            intake = Intake(store, clock)
            for each in OLD:
                await intake.accept(_mail(each), queue_id=intake.new_id())
        finally:
            await store.close()

    asyncio.run(fill())
    make_first_version(shard / "queue.db")


def _mail(each: Mail) -> InnerMail:
    fields, _, body = (message(each.name, each.size) + b"\r\n").partition(b"\r\n\r\n")
    rcpts = tuple(Recipient(rcpt.encode()) for rcpt in each.rcpts)
    return InnerMail(
        envelope=Envelope(each.sender.encode(), (), rcpts),
        headers=tuple(HeaderField(*line.split(b":", 1)) for line in fields.split(b"\r\n")),
        body=BytesBody(body),
    )


def altered(ledger: Ledger, sizes: Mapping[str, int]) -> list[str]:
    """The mails whose body is not what was sent."""
    return [
        name
        for name, octets in ledger.octets.items()
        if octets.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n")
        != message(name, sizes[name]).partition(b"\r\n\r\n")[2]
    ]


def not_in_boxes(boxes: Path, mails: Iterable[Mail]) -> set[Key]:
    """Whose Maildir does not hold the mail, once and whole."""
    wrong = set()
    for each in mails:
        body = message(each.name, each.size).partition(b"\r\n\r\n")[2].replace(b"\r\n", b"\n")
        for rcpt in each.boxes:
            files = (boxes / rcpt / "new").glob("*")
            if [file.read_bytes().partition(b"\n\n")[2] for file in files] != [body + b"\n"]:
                wrong.add((each.name, rcpt))
    return wrong


def size_of(name: str) -> int:
    """How large a mail of a steady load is: some have a body file."""
    return SMALL if zlib.crc32(name.encode()) % 4 else LARGE
