"""Delivery to Debian's Dovecot and to Postfix's smtp-sink, to the octet."""

from __future__ import annotations

import asyncio
import email
import email.policy
import random
from pathlib import Path

import pytest

from smtpgw.delivery.outcome import Destination
from smtpgw.queue.schedule import ScheduleOptions
from smtpgw.queue.states import MailState, RecipientState
from smtpgw.queue.store import Filter
from tests.delivery.peer import road
from tests.peers.dovecot import dovecot
from tests.peers.process import directory
from tests.peers.smtp_sink import smtp_sink
from tests.queue.support import message, run, until

_DAY = 86400.0


def _bodies(count: int) -> list[bytes]:
    """Bodies with dots, 8-bit, empty lines and a size over the inline limit."""
    chance = random.Random(5)
    words = [b".", b"..", b"", b".x", b"\xe9t\xe9", b"From here", b"x" * 500, b"\ttab "]
    bodies = []
    for n in range(count):
        lines = [chance.choice(words) for _ in range(2500 if n == 0 else chance.randrange(1, 40))]
        bodies.append(b"%d\r\n" % n + b"\r\n".join(lines) + b"\r\n")
    return bodies


def _after_top(octets: bytes) -> bytes:
    """The mail below what the peer put above it."""
    return octets[octets.index(b"From: a@example.com") :]


@pytest.mark.parametrize("by", ["unix", "inet"])
def test_dovecot_stores_what_was_queued(tmp_path: Path, by: str) -> None:
    with dovecot({"u@example.net": "", "v@example.net": ""}) as peer:
        nexthop = f"unix:{peer.socket}" if by == "unix" else f"inet:127.0.0.1:{peer.port}"
        bodies = _bodies(60)

        async def scenario() -> None:
            async with road(tmp_path, Destination("lmtp", nexthop)) as way:
                rcpts = (b"u@example.net", b"v@example.net", b"nobody@example.net")
                await asyncio.gather(
                    *(way.accept(message(each, rcpts=rcpts, sender=b"")) for each in bodies)
                )
                await way.wait_empty()
                assert way.seen.count(("lmtp", "delivered")) == 120
                assert way.seen.count(("lmtp", "failed")) == 60
                assert way.pool.opened <= 20

        run(scenario())
        wanted = sorted(b"".join(message(each).pieces()) for each in bodies)
        for user in ("u@example.net", "v@example.net"):
            got = [_after_top(each) for each in peer.mails(user)]
            assert sorted(each.replace(b"\r\n", b"\n") for each in got) == [
                each.replace(b"\r\n", b"\n") for each in wanted
            ]


@pytest.mark.parametrize("at_rcpt", [True, False])
def test_one_over_quota_is_deferred_and_bounces_when_its_time_is_up(
    tmp_path: Path, at_rcpt: bool
) -> None:
    users = {"u@example.net": "", "full@example.net": "1k", "a@example.com": ""}
    with dovecot(users, check_quota_at_rcpt=at_rcpt) as peer:

        async def scenario() -> None:
            where = Destination("lmtp", f"unix:{peer.socket}")
            schedule = ScheduleOptions(minimal_backoff_time=40_000, maximal_backoff_time=80_000)
            async with road(tmp_path, where, schedule=schedule) as way:
                rcpts = (b"u@example.net", b"full@example.net")
                queue_id = await way.accept(message(b"x" * 3000 + b"\r\n", rcpts=rcpts))
                await until(lambda: len(way.seen) == 2 and not way.courier.active)
                shown = await way.store.show(queue_id)
                assert shown.state is MailState.DEFERRED
                assert [each.state for each in shown.recipients] == [
                    RecipientState.DELIVERED,
                    RecipientState.DEFERRED,
                ]
                assert shown.recipients[1].enhanced == "4.2.2"
                while any(m.queue_id == queue_id for m in await way.store.list(Filter())):
                    await way.settled()
                    way.clock.go(40_000)
                    await way.settled()
                await way.wait_empty()
                assert len(peer.mails("u@example.net")) == 1
                assert peer.mails("full@example.net") == []

        run(scenario())
        (dsn,) = peer.mails("a@example.com")
        report = email.message_from_bytes(dsn, policy=email.policy.default)
        _, status, original = report.iter_parts()  # type: ignore[attr-defined]
        recipient = status.get_payload()[1]
        assert recipient["Final-Recipient"] == "rfc822; full@example.net"
        assert recipient["Status"] == "4.4.7"
        assert "4.2.2" in recipient["Diagnostic-Code"]
        assert "Subject: " in original.get_content()


@pytest.mark.parametrize(
    ("transport", "options"), [("lmtp", ["-L"]), ("smtp", []), ("smtp", ["-p"])]
)
def test_smtp_sink_takes_what_was_queued(
    tmp_path: Path, transport: str, options: list[str]
) -> None:
    """Once with and, by `-p`, once without PIPELINING."""
    with directory("sink") as home, smtp_sink(home, "-8", *options) as peer:
        peer_bodies = [each.decode("latin-1").encode("ascii", "replace") for each in _bodies(40)]

        async def scenario() -> None:
            where = Destination(transport, f"[127.0.0.1]:{peer.port}")
            async with road(tmp_path, where) as way:
                head = b"From: a@example.com\r\n\r\n"
                await asyncio.gather(
                    *(way.accept(message(each, head=head)) for each in peer_bodies)
                )
                await way.wait_empty()

        run(scenario())
        got = sorted(_after_top(each).rstrip(b"\n") for each in peer.mails())
        wanted = [b"From: a@example.com\n\n" + b.replace(b"\r\n", b"\n") for b in peer_bodies]
        assert got == sorted(each.rstrip(b"\n") for each in wanted)
