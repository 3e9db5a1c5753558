"""Looking after others' shards goes on, whatever becomes of one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from milterd.base import logs
from smtpgw.queue.sqlite import SqliteStore
from smtpgw.queue.tools import shard_directory
from smtpgw.takeover import AFTER_FAILURE, Takeover, TakeoverOptions
from tests.queue.support import FakeClock, run


class Post:
    """A shard that does nothing."""

    async def drain(self, _patience: float) -> None:
        return

    async def close(self) -> None:
        return


def test_a_fault_of_ours_with_one_shard_is_no_end_of_looking(tmp_path: Path) -> None:
    """A certificate that cannot be read any more, say: the others are looked after, this again."""
    asked: list[int] = []

    async def take(shard: int, _failed: Callable[[BaseException], None]) -> Post:
        asked.append(shard)
        if asked == [1]:
            raise ValueError("no such certificate")
        return Post()

    async def scenario() -> None:
        for shard in (1, 2):
            await SqliteStore.open(shard_directory(tmp_path, shard)).close()
        clock = FakeClock()
        looking = Takeover(
            0, TakeoverOptions(tmp_path), take, clock=clock.monotonic, log=logs.get("queue")
        )
        await looking.look()
        assert asked == [1, 2]
        assert [*looking.posts] == [2]
        clock.go(AFTER_FAILURE)
        await looking.look()
        assert [*looking.posts] == [2, 1]

    run(scenario())
