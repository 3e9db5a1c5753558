"""A shard at work: who cannot run it lets go of it, and a reload leaves no mail behind."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from milterd.base import logs, settings
from smtpgw.addresses import open_addresses
from smtpgw.config import GatewaySettings, Smtpgw
from smtpgw.post import Post
from smtpgw.queue.clock import SystemClock
from smtpgw.queue.recovered import Recovery
from smtpgw.queue.sqlite import SqliteStore
from smtpgw.queue.store import QueueError, StoreFull
from tests.delivery.peer import STALL, Peer, listening
from tests.queue.support import message, run, until

RELAY = """
[smtpgw]
stop_timeout = "0.2s"
mydestination = []
default_transport = "{where}"
[smtpgw.queue]
directory = "{queue}"
"""


def _settings(queue: Path, where: object) -> Smtpgw:
    text = RELAY.format(where=where, queue=queue)
    return settings.parse(text, GatewaySettings).smtpgw


def test_a_shard_that_cannot_be_recovered_is_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or nobody could run it while the process lives that has tried to."""
    loaded = settings.parse(f'[smtpgw.queue]\ndirectory = "{tmp_path}"\n', GatewaySettings)

    async def full(_store: SqliteStore, _now: float) -> Recovery:
        raise StoreFull("no room")

    async def scenario() -> None:
        with monkeypatch.context() as patched:
            patched.setattr(SqliteStore, "recover", full)
            with pytest.raises(StoreFull):
                await Post.open(0, loaded.smtpgw, SystemClock(), 0.0)
        post = await Post.open(0, loaded.smtpgw, SystemClock(), 0.0)
        await post.close()

    run(scenario())


def test_what_a_reload_breaks_off_is_tried_again_at_once(tmp_path: Path) -> None:
    """By the new settings, and not when the lease ends, an hour later."""

    async def scenario() -> None:
        stuck, there = Peer({"DOT": STALL}), Peer()
        failures: list[BaseException] = []
        async with listening(stuck) as old, listening(there) as new:
            first, second = _settings(tmp_path, old), _settings(tmp_path, new)
            post = await Post.open(0, first, SystemClock(), 0.0)
            post.deliver(first, open_addresses(first, logs.get("tables")), failures.append)
            await post.intake.accept(message(), queue_id=post.intake.new_id())
            await until(lambda: bool(stuck.messages))
            post.deliver(second, open_addresses(second, logs.get("tables")), failures.append)
            await until(lambda: bool(there.messages))
            await post.drain(5.0)
            assert not sum((await post.counts()).values())
            await post.close()
        assert not failures
        assert len(stuck.messages) == len(there.messages) == 1

    run(scenario())


def test_a_closed_shard_refuses_what_comes_too_late(tmp_path: Path) -> None:
    """Nobody would ever answer."""

    async def scenario() -> None:
        post = await Post.open(0, _settings(tmp_path, "lmtp:unix:/none"), SystemClock(), 0.0)
        await post.close()
        with pytest.raises(QueueError, match="closed"):
            async with asyncio.timeout(5):
                await post.intake.accept(message(), queue_id=post.intake.new_id())

    run(scenario())
