"""Show 3: the gateway before Debian's Dovecot, by LMTP over a UNIX socket, to the end of a
mail's life.  The gateway is a worker's rooms as they are, with a clock moved by hand."""

from __future__ import annotations

import asyncio
import email
import email.policy
import os
import shutil
import smtplib
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.message import EmailMessage
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import pytest

from milterd.base import logs, settings
from smtpgw import wiring
from smtpgw.app import App, spool
from smtpgw.chain.health import Health
from smtpgw.config import GatewaySettings
from smtpgw.control import Orders
from smtpgw.counting import Counting
from smtpgw.dns.changing import ChangingResolver
from smtpgw.plan import Means
from smtpgw.post import Post
from smtpgw.queue.states import MailState
from smtpgw.queue.store import Filter, QueuedMail
from smtpgw.road import GatewayRoad
from tests.peers.dovecot import Dovecot, dovecot
from tests.queue.support import FakeClock, run

pytestmark = pytest.mark.xdist_group("scenario-dovecot")
DAY = 86_400.0
USERS = {"u@example.net": "", "full@example.net": "5k", "a@example.org": ""}
MESSAGE = (
    b"From: a@example.org\r\nTo: u@example.net, full@example.net\r\n"
    b"Subject: gr\xc3\xb6\xc3\x9fe\r\nMessage-ID: <1@example.org>\r\n"
    b"Date: Fri, 21 Nov 2025 09:00:00 +0000\r\n"
    b"X-Long:  " + b"f" * 300 + b"\r\n\tand\r\n .\r\n\r\n" + b"..\r\n" + b"x" * 3000 + b"\r\n"
)
SETTINGS = """
[smtpgw]
myhostname = "mx.example.net"
mydestination = ["example.net"]
[[smtpgw.listener]]
name = "mx"
address = "127.0.0.1:0"
[smtpgw.queue]
directory = "{queue}"
queue_minfree = 0
minimal_backoff_time = "6h"
maximal_backoff_time = "12h"
maximal_queue_lifetime = "5d"
[smtpgw.delivery]
default = "lmtp:unix:{lmtp}"
"""


@dataclass
class Gateway:
    """A worker's rooms in this process."""

    post: Post
    clock: FakeClock
    port: int

    async def send(self, recipients: dict[str, list[str]]) -> str:
        """Send MESSAGE by SMTP with the DSN parameters of each recipient; the queue id."""
        return await asyncio.to_thread(self._send, recipients)

    def _send(self, recipients: dict[str, list[str]]) -> str:
        with smtplib.SMTP("127.0.0.1", self.port, timeout=20) as client:
            client.ehlo("client.example.org")
            assert client.mail("a@example.org", ["RET=HDRS", "ENVID=letter+2B1"])[0] == 250
            for address, options in recipients.items():
                assert client.rcpt(address, options)[0] == 250
            code, text = client.data(MESSAGE)
            assert code == 250
            return text.decode().rpartition(" ")[2]

    async def shown(self, queue_id: str) -> QueuedMail:
        return await self.post.store.show(queue_id)

    async def queued(self) -> dict[str, QueuedMail]:
        return {each.queue_id: each for each in await self.post.store.list(Filter())}

    async def settled(self, queue_id: str, attempts: int) -> None:
        """Until a mail has had so many attempts, or is gone."""

        def done(mail: QueuedMail | None) -> bool:
            waits = mail is not None and mail.state is MailState.DEFERRED
            return mail is None or (waits and mail.attempts >= attempts)

        async with asyncio.timeout(15):
            while not done((await self.queued()).get(queue_id)):  # noqa: ASYNC110 - as below
                await asyncio.sleep(0.01)

    async def until_due(self, queue_id: str) -> None:
        """Let time pass until a mail is tried again."""
        mail = await self.shown(queue_id)
        assert mail.due is not None
        self.clock.go(mail.due - self.clock.wall() + 1)
        self.post.intake.wake()
        await self.settled(queue_id, mail.attempts + 1)

    async def emptied(self) -> None:
        async with asyncio.timeout(15):
            while await self.queued():  # noqa: ASYNC110 - the store tells nobody
                await asyncio.sleep(0.01)


@asynccontextmanager
async def gateway(directory: Path, peer: Dovecot) -> AsyncIterator[Gateway]:
    """Run one that delivers everything to Dovecot."""
    text = SETTINGS.format(queue=directory / "queue", lmtp=peer.socket)
    loaded = settings.parse(text, GatewaySettings)
    clock = FakeClock()
    spool(loaded.smtpgw).mkdir(parents=True)
    post = await Post.open(0, loaded.smtpgw, clock, 0.0)
    means = Means(
        intake=post.intake,
        health=Health(clock.monotonic),
        log=logs.get("smtpd"),
        wall=clock.wall,
        clock=clock.monotonic,
    )
    resolver = ChangingResolver(wiring.dns(loaded.smtpgw), clock.monotonic)
    app = App(post, GatewayRoad(means, {}), clock, loaded.smtpgw, resolver, Counting(None))
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setblocking(False)
    port = listening.getsockname()[1]
    failures: list[BaseException] = []
    await app.apply(Orders(loaded, {"mx": listening}), failures.append)
    try:
        yield Gateway(post, clock, port)
    finally:
        await app.close(1.0)
        assert not failures


@pytest.fixture(params=[6000, 2000], ids=["refused-at-rcpt", "refused-after-the-data"])
def peer(request: pytest.FixtureRequest) -> Iterator[Dovecot]:
    """A mailbox that is over quota already, or one with too little room for our mail."""
    with dovecot(USERS) as one:
        fill(one.maildir("full@example.net"), request.param)
        yield one


def fill(maildir: Path, size: int) -> None:
    """Put a mail there that is so large, before Dovecot looks."""
    for each in ("new", "cur", "tmp"):
        (maildir / each).mkdir(parents=True)
    (maildir / "cur/1.first.host:2,S").write_bytes(b"Subject: x\n\n" + b"x" * size)
    owner = maildir.parent.stat()
    for path in (maildir, *maildir.rglob("*")):
        os.chown(path, owner.st_uid, owner.st_gid)


ORCPT = {
    "u@example.net": ["ORCPT=rfc822;First+40example.net"],
    "full@example.net": ["NOTIFY=FAILURE", "ORCPT=rfc822;Team+2BX@example.net"],
}


def test_one_of_two_is_delivered_and_the_other_returned_when_its_time_is_up(
    tmp_path: Path, peer: Dovecot
) -> None:
    async def scenario() -> tuple[str, float, float]:
        async with gateway(tmp_path, peer) as gw:
            began = gw.clock.wall()
            queue_id = await gw.send(ORCPT)
            await gw.settled(queue_id, 1)
            check_delivered(peer)
            check_deferred(await gw.shown(queue_id))
            while gw.clock.wall() < began + 5 * DAY:
                assert list(await gw.queued()) == [queue_id]
                assert peer.mails("a@example.org") == []
                await gw.until_due(queue_id)
            await gw.emptied()
            return queue_id, began, gw.clock.wall()

    queue_id, began, ended = run(scenario(), 60)
    assert began + 5 * DAY <= ended <= began + 5.5 * DAY + 10
    check_delivered(peer)  # only once
    assert peer.mails("full@example.net") == []
    (report,) = peer.mails("a@example.org")
    check_report(report, queue_id, began, ended)
    assert [*tmp_path.rglob("bodies/*"), *tmp_path.rglob("spool/*")] == []


def test_room_made_in_time_lets_the_mail_in_and_nobody_hears_of_it(
    tmp_path: Path, peer: Dovecot
) -> None:
    async def scenario() -> None:
        async with gateway(tmp_path, peer) as gw:
            queue_id = await gw.send(ORCPT)
            await gw.settled(queue_id, 1)
            await gw.until_due(queue_id)
            assert peer.mails("full@example.net") == []
            shutil.rmtree(peer.maildir("full@example.net"))
            await gw.until_due(queue_id)
            await gw.emptied()

    run(scenario(), 60)
    check_delivered(peer)
    assert len(peer.mails("full@example.net")) == 1
    assert peer.mails("a@example.org") == []


def check_delivered(peer: Dovecot) -> None:
    """The one with room has the mail, once, to the octet below the trace fields."""
    (mail,) = peer.mails("u@example.net")
    mail = mail.replace(b"\r\n", b"\n")
    start = mail.index(b"From: a@example.org\n")
    assert mail[start:] == MESSAGE.replace(b"\r\n", b"\n")
    assert b"by mx.example.net (Gatepost) with ESMTP" in b" ".join(mail[:start].split())


def check_deferred(mail: QueuedMail) -> None:
    """It waits for the other one alone, with Dovecot's reason."""
    assert mail.state is MailState.DEFERRED
    (waiting,) = mail.open
    assert waiting.address == b"full@example.net"
    assert waiting.enhanced == "4.2.2"
    assert waiting.text.startswith("452 4.2.2 <full@example.net> ")


def check_report(octets: bytes, queue_id: str, began: float, ended: float) -> None:
    """RFC 3464, as the sender got it from Dovecot."""
    report = email.message_from_bytes(octets, policy=email.policy.default)
    assert isinstance(report, EmailMessage)
    assert report["Return-Path"] == "<>" or report["Return-Path"] == "<MAILER-DAEMON>"
    assert report["To"] == "<a@example.org>" or report["To"] == "a@example.org"
    assert report["Auto-Submitted"] == "auto-replied"
    assert report.get_content_type() == "multipart/report"
    assert report.get_param("report-type") == "delivery-status"
    human, status, original = report.iter_parts()
    assert isinstance(human, EmailMessage)
    assert "full@example.net" in human.get_content()
    assert "u@example.net>" not in human.get_content()
    parts: Any = status.get_payload()
    whole, recipient = parts
    assert whole["Reporting-MTA"] == "dns; mx.example.net"
    assert whole["Original-Envelope-Id"] == "letter+1"
    assert whole["X-Gatepost-Queue-ID"] == queue_id
    assert parsedate_to_datetime(whole["Arrival-Date"]).timestamp() == int(began)
    assert recipient["Original-Recipient"] == "rfc822;Team+X@example.net"
    assert recipient["Final-Recipient"] == "rfc822; full@example.net"
    assert recipient["Action"] == "failed"
    assert recipient["Status"] == "4.4.7"
    words = " ".join(recipient["Diagnostic-Code"].split())
    assert words.startswith("smtp; 452 4.2.2 <full@example.net> ")
    assert "full" in words.rpartition(">")[2]
    assert parsedate_to_datetime(recipient["Last-Attempt-Date"]).timestamp() == int(ended)
    assert original.get_content_type() == "text/rfc822-headers"
    assert b"x" * 100 not in octets
