"""A server that hangs, where the loop is late: it is left alone all the same."""

from __future__ import annotations

import asyncio
import random

import pytest

from smtpgw.tables.context import Context
from smtpgw.tables.servers import Limits, Server, Servers
from smtpgw.tables.table import Unavailable


class Late(asyncio.SelectorEventLoop):
    """A loop that finds, when told so, that much time is over."""

    over = 0.0

    def time(self) -> float:
        return super().time() + self.over


class Connection:
    """Says nothing."""

    dropped = False

    def drop(self) -> None:
        self.dropped = True

    async def close(self) -> None:
        return


async def _silence() -> None:
    """No answer, and the time of the server and of all of them over at once."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, Late)
    loop.over += 100.0
    await loop.create_future()


@pytest.mark.parametrize("where", ["connecting", "asking"])
def test_who_hangs_is_left_alone_though_all_the_time_is_over_too(where: str) -> None:
    made: list[Connection] = []

    async def connect(_: Server) -> Connection:
        if where == "connecting":
            await _silence()
        made.append(Connection())
        return made[-1]

    async def question(_: Connection) -> None:
        await _silence()

    async def scenario() -> None:
        context = Context(clock=lambda: 1.0, random=random.Random(1))
        servers = Servers("a:table", [Server("one", "one", 1)], connect, Limits(), context)
        with pytest.raises(Unavailable, match="no answer within 10 s"):
            await servers.ask(question)
        with pytest.raises(Unavailable, match="failed a moment ago"):
            await servers.ask(question)
        assert [each.dropped for each in made] == [True] * (where == "asking")
        await servers.close()

    with asyncio.Runner(loop_factory=Late) as runner:
        runner.run(scenario())
