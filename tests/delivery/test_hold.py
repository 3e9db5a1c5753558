"""The transport `hold:`: mail that waits for somebody's look, and for no clock."""

from __future__ import annotations

import contextlib
from pathlib import Path

from smtpgw.delivery.outcome import Destination
from smtpgw.queue.schedule import ScheduleOptions
from smtpgw.queue.states import MailState, RecipientState
from smtpgw.queue.tools import QueueTool
from tests.delivery.peer import Peer, listening, road
from tests.queue.support import message, run, until

_DAY = 86400.0
_HOLD = Destination("hold", "4.7.1 moving house")


def test_mail_is_held_with_its_reason_and_again_after_a_release(tmp_path: Path) -> None:
    async def scenario() -> None:
        schedule = ScheduleOptions(delay_warning_time=60)
        async with road(tmp_path, _HOLD, schedule=schedule) as way:
            queue_id = await way.accept(message())
            for times in (1, 2, 3):
                await until(lambda times=times: len(way.seen) == times)  # type: ignore[misc]
                await until(lambda: not way.courier.active)
                shown = await way.store.show(queue_id)
                assert (shown.state, shown.note) == (MailState.HOLD, "moving house")
                assert shown.recipients[0].state is RecipientState.DEFERRED
                assert shown.recipients[0].enhanced == "4.7.1"
                way.clock.go(30 * _DAY)
                with contextlib.closing(QueueTool(tmp_path)) as tool:
                    tool.release(queue_id, way.clock.wall())
            assert set(way.seen) == {("hold", "held")}, "it neither ages nor is anybody told"

    run(scenario())


def test_others_of_the_same_mail_are_served_first(tmp_path: Path) -> None:
    """As long as one recipient may be delivered to without anybody's help, the mail is tried."""

    async def scenario() -> None:
        peer = Peer({"DOT": [b"451 4.3.0 later\r\n", b"250 ok\r\n"]})
        exceptions = {"held.example": _HOLD}
        async with listening(peer) as where, road(tmp_path, where, exceptions) as way:
            queue_id = await way.accept(message(rcpts=(b"u@x", b"v@held.example")))
            await until(lambda: peer.messages and not way.courier.active)
            shown = await way.store.show(queue_id)
            assert (shown.state, shown.site) == (MailState.DEFERRED, str(where))
            way.clock.go(400)
            await until(lambda: len(peer.messages) == 2)
            await until(lambda: not way.courier.active)
            shown = await way.store.show(queue_id)
            assert (shown.state, shown.note) == (MailState.HOLD, "moving house")
            assert [each.address for each in shown.open] == [b"v@held.example"]

    run(scenario())
