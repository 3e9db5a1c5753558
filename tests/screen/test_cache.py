"""The cache of passes: shared, kept, lost without harm."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import structlog

from smtpgw.screen import cache as module
from smtpgw.screen.cache import PassCache
from smtpgw.screen.passes import Passes, Test
from tests.queue.support import run

NOW = 1_700_000_000.0


@contextlib.asynccontextmanager
async def opened(path: Path, now: float = NOW) -> AsyncIterator[PassCache]:
    cache = PassCache(path, lambda: now, structlog.get_logger())
    try:
        yield cache
    finally:
        await cache.close()


def passes(until: float) -> Passes:
    return Passes(dict.fromkeys(Test, int(until)))


def test_what_was_passed_is_known_to_all_and_after_a_restart(tmp_path: Path) -> None:
    async def scenario() -> None:
        path = tmp_path / "screen.sqlite"
        async with opened(path) as other:
            async with opened(path) as one:
                assert await one.find("192.0.2.1") is None
                one.keep("192.0.2.1", passes(NOW + 5))
                assert await one.find("192.0.2.1") == passes(NOW + 5), "before it is written"
            assert await other.find("192.0.2.1") == passes(NOW + 5)
        async with opened(path) as again:
            assert await again.find("192.0.2.1") == passes(NOW + 5)

    run(scenario())


def test_old_entries_go(tmp_path: Path) -> None:
    """postscreen_cache_retention_time, postscreen_cache_cleanup_interval."""

    async def scenario() -> None:
        path = tmp_path / "screen.sqlite"
        async with opened(path) as cache:
            cache.keep("192.0.2.1", passes(NOW - 101))
            cache.keep("192.0.2.2", passes(NOW - 99))
        async with opened(path) as cache:
            await cache.clean(100.0)
            assert await cache.find("192.0.2.1") is None
            assert await cache.find("192.0.2.2") is not None

    run(scenario())


def test_a_broken_file_is_begun_anew(tmp_path: Path) -> None:
    async def scenario() -> None:
        path = tmp_path / "screen.sqlite"
        path.write_bytes(b"this is no database at all, whatever its name says" * 100)
        async with opened(path) as cache:
            assert await cache.find("192.0.2.1") is None
            cache.keep("192.0.2.1", passes(NOW))
        async with opened(path) as cache:
            assert await cache.find("192.0.2.1") == passes(NOW)

    run(scenario())


def test_without_a_file_it_is_known_here_and_bounded(tmp_path: Path) -> None:
    async def scenario() -> None:
        (tmp_path / "file").write_text("not a directory")
        async with opened(tmp_path / "file" / "screen.sqlite") as cache:
            for each in range(module.PENDING + 5):
                cache.keep(str(each), passes(NOW))
            assert await cache.find(str(module.PENDING)) == passes(NOW)
            assert await cache.find("0") is None, "the oldest was forgotten"

    run(scenario())
