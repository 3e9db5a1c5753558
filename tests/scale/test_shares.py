"""Who may have how many mails active: those that answer before those that do not."""

from __future__ import annotations

from smtpgw.delivery.windows import Windows
from smtpgw.queue.schedule import ScheduleOptions
from smtpgw.queue.store import Wish
from smtpgw.shares import AHEAD, KNOWN, LATELY, LOOK, SOME, Shares

LIMIT, NOW = 100, 1000.0
START = Windows().start()


def shares(options: ScheduleOptions | None = None) -> Shares:
    return Shares(Windows(), options or ScheduleOptions(), LIMIT)


def of(wish: Wish, site: str) -> int:
    return wish.room.get(site, wish.each)


def test_all_get_more_than_they_take_at_once_while_there_is_room() -> None:
    found = shares()
    found.begin("smtp:a")
    found.begin("")
    wish = found.wish(NOW, LIMIT // 2 - 1)
    assert (of(wish, "smtp:a"), of(wish, "smtp:b")) == (START * AHEAD - 1, START * AHEAD)
    found.end("smtp:a")
    found.end("")
    assert of(found.wish(NOW, 0), "smtp:a") == START * AHEAD


def test_who_does_not_answer_gives_way() -> None:
    found = shares()
    found.answered("smtp:alive", NOW)
    found.begin("smtp:alive")
    half, most = found.wish(NOW, LIMIT // 2), found.wish(NOW, LIMIT * 3 // 4)
    assert (of(half, "smtp:alive"), of(half, "smtp:x")) == (START * AHEAD - 1, START)
    assert (of(most, "smtp:alive"), of(most, "smtp:x")) == (START * SOME - 1, 1)
    later = found.wish(NOW + LATELY, LIMIT * 3 // 4)
    assert of(later, "smtp:alive") == 0, "one, and that is leased"
    found.silent("smtp:alive")
    assert of(found.wish(NOW, LIMIT * 3 // 4), "smtp:alive") == 0


def test_only_so_many_are_remembered() -> None:
    found = shares()
    for number in range(KNOWN + 1):
        found.answered(f"smtp:{number}", NOW)
    room = found.wish(NOW, LIMIT).room
    assert len(room) == KNOWN
    assert "smtp:0" not in room


def test_what_is_overdue_is_looked_for_now_and_then() -> None:
    found = shares(ScheduleOptions(delay_warning_time=60.0, maximal_queue_lifetime=600.0))
    first, second = found.wish(NOW, 0), found.wish(NOW + LOOK / 2, 0)
    assert (first.late, first.expired) == (NOW - 60, NOW - 600)
    assert (second.late, second.expired, second.expired_null) == (float("-inf"),) * 3
    assert found.wish(NOW + LOOK, 0).expired == NOW + LOOK - 600
