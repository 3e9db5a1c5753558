"""Show 7: mails of all sorts to four kinds of peer, each there once and equal to the octet.

A gateway of two workers gets them by SMTP and hands them on to Postfix's smtp-sink, to Postfix
(which stores them in a Maildir), to Dovecot by LMTP, and to a peer that follows a script: it
defers some at RCPT or after the dot and hangs up on others.  What a peer itself puts on top or
leaves away is known, and nothing else may differ.  300 mails, 10,000 at night.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import re
import shutil
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.delivery.peer import CLOSE, EXTENSIONS, Peer
from tests.gateway.gateway import Gateway
from tests.peers.dovecot import dovecot
from tests.peers.postfix import Postfix, postfix
from tests.peers.process import directory
from tests.peers.smtp_sink import smtp_sink
from tests.scenarios.mailbag import MARK, Letter, Mailbag, hand_in

MAILS = int(os.environ.get("GATEPOST_MAILS", "300"))
SEED = int(os.environ.get("GATEPOST_MAILS_SEED", "7"))
CLIENTS = 6
DOMAINS = ("sink.example", "postfix.example", "dovecot.example", "script.example")
_NAME = re.compile(rb"(?m)^([!-9;-~]+):")
_TOPS = {
    "sink.example": {"x-client-addr", "x-client-proto", "x-helo-args", "x-mail-args",
                     "x-rcpt-args", "received"},
    "postfix.example": {"return-path", "x-original-to", "delivered-to", "received"},
    "dovecot.example": {"return-path", "delivered-to", "received"},
    "script.example": {"received"},
}  # fmt: skip
"""What each peer puts above a mail, and the gateway: its trace."""


@dataclass
class Judge:
    """Compares what arrived with what was sent."""

    bag: Mailbag
    seen: dict[str, Counter[int]] = field(default_factory=dict)
    octets: int = 0
    wrong: list[str] = field(default_factory=list)

    def arrived(self, domain: str, mail: bytes, fold: int = 0) -> None:
        """A mail at one of the ends, with CRLF."""
        top, mark, rest = mail.partition(MARK)
        number = int(rest.partition(b"\r\n")[0].rpartition(b".")[2]) if mark else -1
        self.seen.setdefault(domain, Counter())[number] += 1
        self.octets += len(mail)
        letter = self.bag.letter(number)
        if mark + rest != letter.arriving(fold):
            self.wrong.append(f"{domain}: {number} ({letter.kind}) is not what was sent")
        names = [each.lower().decode() for each in _NAME.findall(top)]
        traces = top.count(b"by gw.example.net ")
        if not set(names) <= _TOPS[domain] or traces != 1:
            self.wrong.append(f"{domain}: {number} has on top {top!r}")

    def check(self, expected: Mapping[str, set[int]]) -> None:
        """Each letter came to its domains, once, as it was sent."""
        assert self.wrong == []
        for domain, numbers in expected.items():
            seen = self.seen[domain]
            assert numbers - set(seen) == set(), f"lost on the way to {domain}"
            assert set(seen) - numbers == set(), f"sent to {domain} by mistake"
            assert {n for n, count in seen.items() if count > 1} == set(), f"twice to {domain}"


class Script(Peer):
    """The peer of the test's own, which judges each mail before it takes it.

    Of seven mails it defers one by 450 at RCPT and one by 451 after the dot, and hangs up on one
    instead of 354, each the first time.
    """

    def __init__(self, judge: Judge) -> None:
        offers = EXTENSIONS.replace(b"250 SIZE", b"250-CHUNKING\r\n250 SIZE")
        super().__init__({"EHLO": offers, "BDAT": b"250 2.0.0 go on\r\n"})
        self.deferred: dict[int, str] = {}
        self._judge = judge
        self._now: dict[asyncio.StreamWriter, int] = {}

    def _defers(self, verb: str, writer: asyncio.StreamWriter) -> bool:
        number = self._now.get(writer, -1)
        if _MOODS.get(number % 7) != verb or number in self.deferred:
            return False
        self.deferred[number] = verb
        return True

    def _answer(self, verb: str, line: bytes, writer: asyncio.StreamWriter) -> bytes:
        if verb == "RCPT":
            self._now[writer] = int(line.partition(b"<r")[2].partition(b"@")[0])
        if self._defers(verb, writer):
            return _ANSWERS[verb]
        return super()._answer(verb, line, writer)

    async def _stored(self, writer: asyncio.StreamWriter, line: bytes) -> bool:
        mail = self.messages.pop()
        if self._defers("DOT", writer):
            return await self._say(writer, _ANSWERS["DOT"])
        if line.startswith(b"DATA"):
            mail = mail.removesuffix(b".\r\n").replace(b"\r\n..", b"\r\n.")
        self._judge.arrived("script.example", mail)
        return await super()._stored(writer, line)


_MOODS = {1: "RCPT", 2: "DATA", 3: "DOT"}
_ANSWERS = {"RCPT": b"450 4.2.0 later\r\n", "DATA": CLOSE, "DOT": b"451 4.3.0 not yet\r\n"}


@dataclass
class Town:
    """The gateway and those behind it."""

    gateway: Gateway
    relay: Postfix
    script: socket.socket
    """Where the script is to listen."""
    places: Mapping[str, Path]
    """Where the mails of a domain are, one in a file."""

    def delivered(self) -> bool:
        """Whether nobody has anything left to deliver."""
        command = [sys.executable, "-m", "smtpgw", "queue", "list", "--json", "--limit", "1"]
        command += ["-c", str(self.gateway.file)]
        listed = subprocess.run(command, capture_output=True, check=True, timeout=60)
        return not listed.stdout and "is empty" in self.relay.command("postqueue", "-p")


@contextmanager
def town() -> Iterator[Town]:
    """All of it, started."""
    with ExitStack() as stack:
        enter = stack.enter_context
        home, boxes = enter(directory("many")), enter(directory("boxes"))
        shutil.chown(boxes, "nobody")
        sink = enter(smtp_sink(enter(directory("sink"))))
        store = enter(dovecot({f"r{n}@dovecot.example": "" for n in range(4)}))
        relay = enter(postfix(_postfix(boxes)))
        script = enter(socket.create_server(("127.0.0.1", 0)))
        gateway = Gateway(home)
        gateway.configure(
            "workers = 2",
            tables=f"""
[smtpgw.transport]
"sink.example" = "smtp:[127.0.0.1]:{sink.port}"
"postfix.example" = "smtp:[127.0.0.1]:{relay.port}"
"dovecot.example" = "lmtp:unix:{store.socket}"
"script.example" = "smtp:[127.0.0.1]:{script.getsockname()[1]}"
""",
            delivery="error:5.7.1 no such domain",
            queue='minimal_backoff_time = "1s"\nmaximal_backoff_time = "2s"',
        )
        stack.callback(gateway.kill)
        gateway.start()
        places = {"sink.example": sink.directory, "postfix.example": boxes / "box"}
        yield Town(gateway, relay, script, places | {"dovecot.example": store.home / "mail"})


def _postfix(boxes: Path) -> dict[str, str]:
    owner = pwd.getpwnam("nobody")
    return {
        "virtual_mailbox_domains": "postfix.example",
        "virtual_mailbox_base": str(boxes),
        "virtual_mailbox_maps": "static:box/",
        "virtual_mailbox_limit": "0",
        "virtual_minimum_uid": "1",
        "virtual_uid_maps": f"static:{owner.pw_uid}",
        "virtual_gid_maps": f"static:{owner.pw_gid}",
        "message_size_limit": "30000000",
        "local_header_rewrite_clients": "",
    }


def _recipients(number: int) -> list[str]:
    """One domain for each mail, all four for every tenth."""
    domains = DOMAINS if number % 10 == 0 else DOMAINS[number % 4 :][:1]
    users = {"dovecot.example": number % 4}
    return [f"r{users.get(each, number)}@{each}" for each in domains]


def _stored(domain: str, place: Path) -> Iterator[bytes]:
    """The mails in a directory, with CRLF."""
    for each in place.rglob("*"):
        if each.is_file() and (domain == "sink.example" or each.parent.name == "new"):
            mail = each.read_bytes()
            assert b"\r" not in mail, f"{domain} has mixed line ends"
            if domain == "sink.example":
                mail = mail.removesuffix(b"\n")  # its own, between mails
            yield mail.replace(b"\n", b"\r\n")


def _numbered(bag: Mailbag) -> Iterator[tuple[Letter, list[str]]]:
    """What the clients share: each takes the next one."""
    for number in range(bag.count):
        yield bag.letter(number), _recipients(number)


async def _deliver(place: Town, script: Script, bag: Mailbag) -> None:
    """Hand all in, and wait until all is where it belongs."""
    server = await asyncio.start_server(script.serve, sock=place.script, limit=2**26)
    letters = _numbered(bag)
    sent = await asyncio.gather(*(hand_in(place.gateway.port, letters) for _ in range(CLIENTS)))
    assert sum(sent) == bag.count
    while not await asyncio.to_thread(place.delivered):  # noqa: ASYNC110 - others tell nobody
        await asyncio.sleep(0.5)
    server.close()


@pytest.mark.timeout(120 + MAILS // 2)
@pytest.mark.xdist_group("scenario-many")
def test_each_mail_is_there_once_and_equal_to_the_octet(
    record_property: Callable[[str, object], None],
) -> None:
    bag = Mailbag(SEED, MAILS)
    judge = Judge(bag)
    script = Script(judge)
    with town() as place:
        began = time.monotonic()
        asyncio.run(_deliver(place, script, bag))
        took = time.monotonic() - began
        for domain, where in place.places.items():
            for mail in _stored(domain, where):
                judge.arrived(domain, mail, 998 if domain == "sink.example" else 0)
        troubles = place.relay.troubles()
    moods = Counter(script.deferred.values())
    record_property(
        "measured",
        f"{MAILS} mails, seed {SEED}: {sum(map(Counter.total, judge.seen.values()))} delivered"
        f" ({judge.octets / 1e6:.0f} MB, {len(bag.large)} mails of 25 MiB) in {took:.0f} s:"
        f" { {each: count.total() for each, count in judge.seen.items()} };"
        f" deferred by the script {dict(moods)}; {len(judge.wrong)} differ",
    )
    judge.check({each: {n for n in range(MAILS) if _goes(n, each)} for each in DOMAINS})
    assert troubles == []
    assert set(moods) == set(_MOODS.values())


def _goes(number: int, domain: str) -> bool:
    return any(each.endswith(f"@{domain}") for each in _recipients(number))
