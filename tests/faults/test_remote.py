"""Peers that do not take the mail, from the first attempt to the last (F16).

What one dialogue comes to is in tests/delivery/test_client.py and test_smtp.py, a mix of
recipients (F17), a connection lost after the dot (F18) and a peer that refuses all (F19) in
tests/delivery/test_courier.py and tests/gateway/test_notifications.py.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from smtpgw.delivery.options import TlsOptions
from smtpgw.delivery.outcome import Destination
from smtpgw.queue.manager import ManagerOptions
from smtpgw.queue.states import MailState
from smtpgw.queue.store import NotFound, QueuedMail
from tests.delivery.peer import CLOSE, EXTENSIONS, Peer, Road, listening, pool, road
from tests.queue.support import message, run

DAY = 86_400.0
LEAST, GREATEST, LIFE = 300.0, 4000.0, 5 * DAY
SPREAD = 1.25
OFTEN = ManagerOptions(poll=0.003)


@asynccontextmanager
async def nobody(_peer: Peer) -> AsyncIterator[Destination]:
    yield Destination("lmtp", "unix:/nonexistent/socket")


@asynccontextmanager
async def by_port(peer: Peer) -> AsyncIterator[Destination]:
    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0, limit=2**26)
    yield Destination("lmtp", f"inet:127.0.0.1:{server.sockets[0].getsockname()[1]}")
    server.close()
    peer.hang_up()


TLS = EXTENSIONS.replace(b"250 SIZE", b"250-STARTTLS\r\n250 SIZE")
Where = Callable[[Peer], AbstractAsyncContextManager[Destination]]
CASES: dict[str, tuple[Where, dict[str, bytes], str]] = {
    "refused": (nobody, {}, "connect to"),
    "4xx banner": (listening, {"CONNECT": b"450 4.3.2 not now\r\n"}, "450 4.3.2 not now"),
    "421 to LHLO": (listening, {"LHLO": b"421 4.3.2 bye\r\n" + CLOSE}, "421 4.3.2 bye"),
    "TLS fails": (by_port, {"LHLO": TLS, "STARTTLS": b"220 go\r\nno TLS\r\n"}, "TLS"),
}


@pytest.mark.parametrize("case", CASES)
def test_mail_is_tried_ever_more_rarely_and_comes_back_when_its_time_is_up(
    tmp_path: Path, case: str
) -> None:
    """Between two attempts are 300 to 4000 s and a fifth; after five days one notification says
    what the last one came to, and nobody is told before."""
    where, answers, words = CASES[case]

    async def scenario() -> None:
        async with where(Peer(answers)) as there:
            level = "encrypt" if case == "TLS fails" else "none"
            deliverers = pool(tls=TlsOptions("none", level))
            back = {"example.com": Destination("maildir", str(tmp_path / "mail"))}
            async with road(
                tmp_path, there, back, deliverers=deliverers, manager_options=OFTEN
            ) as way:
                queue_id = await way.accept(message())
                times, attempts = [way.clock.wall_time], 0
                box = tmp_path / "mail" / "a@example.com" / "new"
                while shown := await _deferred(way, queue_id, attempts + 1):
                    assert not box.exists()
                    assert words in shown.recipients[0].text
                    assert shown.due is not None
                    attempts = shown.attempts
                    times.append(shown.due)
                    way.clock.go(max(shown.due - way.clock.wall_time, 0) + 0.001)
                await way.wait_empty()
                gaps = [after - before for before, after in itertools.pairwise(times)][:-1]
                assert all(LEAST <= gap <= GREATEST * SPREAD for gap in gaps), gaps
                assert gaps[0] <= LEAST * SPREAD
                assert LIFE <= way.clock.wall_time - times[0] <= LIFE + GREATEST * SPREAD
                assert LIFE / (GREATEST * SPREAD) <= attempts <= LIFE / (GREATEST / SPREAD) + 10
                (report,) = [each.read_bytes() for each in box.iterdir()]
                assert b"Status: 4.4.7" in report

    run(scenario(), 60)


async def _deferred(way: Road, queue_id: str, attempts: int) -> QueuedMail | None:
    """The mail after so many attempts; None if it is gone."""
    while True:
        try:
            shown = await way.store.show(queue_id)
        except NotFound:
            return None
        if shown.state is MailState.DEFERRED and shown.attempts >= attempts:
            return shown
        await asyncio.sleep(0.002)
