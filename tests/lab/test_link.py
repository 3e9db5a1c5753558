"""One connection to a milter: how it is made, and what may be offered on it."""

from __future__ import annotations

import asyncio
import socket

from milterd.lab.link import Patience, connect
from milterd.wire import messages as m
from milterd.wire.constants import Actions, Protocol
from milterd.wire.milter import MilterConnection
from tests.peers.process import directory
from tests.wire.programs import served


def test_a_listener_whose_queue_is_full_is_waited_for() -> None:
    async def reach(address: str) -> None:
        async with connect(address, patience=Patience(10.0)):
            pass

    async def reach_all(listener: socket.socket, address: str) -> None:
        waiting = [asyncio.create_task(reach(address)) for _ in range(10)]
        loop = asyncio.get_running_loop()
        await asyncio.sleep(0.05)  # so that the queue is full before anybody is accepted
        for _ in waiting:
            accepted, _ = await loop.sock_accept(listener)
            accepted.close()
        await asyncio.gather(*waiting)

    with directory("link") as home, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(home / "s"))
        listener.listen(1)
        listener.setblocking(False)
        asyncio.run(reach_all(listener, f"unix:{home / 's'}"))


def test_an_offer_nobody_knows_goes_out_as_it_is() -> None:
    offer = m.Negotiate(9, Actions(0x8000_01FF), Protocol(0x9000_0001))

    async def negotiate(address: str) -> int:
        async with connect(address, offer=offer) as link:
            return (await link.negotiate()).version

    with served(MilterConnection, lambda _: []) as milter:
        assert asyncio.run(negotiate(milter.address)) == 6
        assert milter.heard[0] == offer
