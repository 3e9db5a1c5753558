"""What was just committed is at hand for the first attempt, once, and within its bound."""

from __future__ import annotations

from milterd.core.mail import BytesBody
from smtpgw.queue.codec import Prepared
from smtpgw.queue.fresh import Fresh
from smtpgw.queue.states import MailState


def new(name: str, octets: int, state: MailState = MailState.INCOMING) -> Prepared:
    content = (b"h" * 10, b"b" * octets, octets, 0)
    return Prepared(name, (state.value,), "", b"", (), content)


def test_it_is_there_once() -> None:
    fresh = Fresh(1000)
    fresh.keep(new("a", 90))
    found = fresh.take("a")
    assert found is not None
    assert (found.head, found.body) == (b"h" * 10, BytesBody(b"b" * 90))
    assert fresh.take("a") is None


def test_the_oldest_give_way() -> None:
    fresh = Fresh(300)
    for name in "abcd":
        fresh.keep(new(name, 90))
    assert [name for name in "abcd" if fresh.take(name) is not None] == ["b", "c", "d"]
    fresh.keep(new("e", 290))  # all of what the others took is free again
    assert fresh.take("e") is not None


def test_what_is_too_large_held_or_in_a_file_is_not_kept() -> None:
    fresh = Fresh(300)
    fresh.keep(new("large", 291))
    fresh.keep(new("held", 9, MailState.HOLD))
    fresh.keep(Prepared("file", (MailState.INCOMING.value,), "", b"", (), (b"h", None, 9, 0)))
    assert [fresh.take(each) for each in ("large", "held", "file")] == [None, None, None]


def test_none_are_kept_where_there_is_no_room() -> None:
    fresh = Fresh(0)
    fresh.keep(new("a", 1))
    assert fresh.take("a") is None
