"""The pickup's end: it comes whatever is handed in meanwhile."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from milterd.base import logs
from smtpgw import config, wiring
from smtpgw.chain.health import Health
from smtpgw.intake import Intake
from smtpgw.local_mail import LocalMeans
from smtpgw.pickup import Pickup
from smtpgw.queue.clock import QueueClock, SystemClock
from tests.queue.support import opened, run


@pytest.mark.parametrize("turns", range(6))
def test_a_poke_does_not_keep_it_from_ending(tmp_path: Path, turns: int) -> None:
    """However many turns of the event loop the poke comes before the end."""
    (tmp_path / "gatepost.toml").write_text(f'[smtpgw.queue]\ndirectory = "{tmp_path}/queue"\n')
    settings = config.load(tmp_path / "gatepost.toml").smtpgw

    async def scenario() -> None:
        log = logs.get("pickup")
        async with opened(settings.queue.directory / "00") as store:
            intake = Intake(store, QueueClock(SystemClock()))
            means = LocalMeans(intake, Health(time.monotonic), log, time.time, time.monotonic)
            pickup = Pickup(store, means, wiring.pickup(settings, settings.hostname), log)
            await pickup.start(settings.queue.directory, lambda _: None)
            await asyncio.sleep(0.1)  # it has looked, and waits
            pickup._rung()  # as the command's datagram does, but at this very moment
            for _ in range(turns):
                await asyncio.sleep(0)
            async with asyncio.timeout(5):
                await pickup.stop()

    run(scenario())
