"""Replies, emission, names, routes: what needs no socket."""

from __future__ import annotations

import asyncio
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from smtpgw.delivery.commands import sendable
from smtpgw.delivery.emit import DotStuffer
from smtpgw.delivery.maildir import directory_name
from smtpgw.delivery.outcome import Destination, clean
from smtpgw.delivery.pool import parse_nexthop
from smtpgw.delivery.replies import BadReply, Reply, ReplyParser
from smtpgw.delivery.router import group, parse_destination
from smtpgw.delivery.windows import WindowOptions, Windows
from tests.queue.support import run, until

_NASTY = st.lists(
    st.sampled_from([b"\r", b"\n", b".", b"\r\n", b"a", b"\0", b"\r\n.\r\n", b"\n.\n"]), max_size=30
)


def _parse(data: bytes, step: int) -> list[Reply]:
    parser = ReplyParser()
    for at in range(0, len(data), step):
        parser.feed(data[at : at + step])
    return parser.replies


@given(st.integers(1, 9))
def test_replies_come_out_however_they_are_cut(step: int) -> None:
    data = b"250-a\r\n250-b \xff\r\n250 2.1.0 c\r\n354\r\n451 \r\n"
    assert _parse(data, step) == [
        Reply(250, (b"a", b"b \xff", b"2.1.0 c")),
        Reply(354, (b"",)),
        Reply(451, (b"",)),
    ]


@pytest.mark.parametrize(
    "bad",
    [
        b"999 no such code\r\n",
        b"100 nor this\r\n",
        b"2500 x\r\n",
        b"25 x\r\n",
        b"250-a\r\n550 b\r\n",
        b"250 x\n",
        b"250 x\ry\r\n",
        b"\r\n",
        b"250_x\r\n",
        b"250-x\r\n" * 101,
        b"2" * 2049,
        b"250 " + b"x" * 2048 + b"\r\n",
        b"\xef\xbc\x9250 x\r\n",
    ],
)
def test_what_is_no_reply_is_refused(bad: bytes) -> None:
    with pytest.raises(BadReply):
        _parse(bad, 7)


@given(st.binary(max_size=200), st.integers(1, 50))
def test_any_octets_are_replies_or_refused(data: bytes, step: int) -> None:
    try:
        replies = _parse(data, step)
    except BadReply:
        return
    assert all(200 <= each.code <= 599 for each in replies)


@pytest.mark.parametrize(
    ("text", "enhanced"),
    [(b"5.1.1 no", "5.1.1"), (b"4.1.1 odd", None), (b"5.1.1", "5.1.1"), (b"5.1.1x", None)],
)
def test_an_enhanced_code_counts_if_its_class_is_the_replys(
    text: bytes, enhanced: str | None
) -> None:
    assert Reply(550, (text,)).enhanced == enhanced


def _emit(pieces: list[bytes]) -> bytes:
    stuffer = DotStuffer()
    return b"".join(stuffer.feed(each) for each in pieces) + stuffer.finish()


@given(_NASTY)
@example([b"\r", b"\n.\r", b"\n"])
def test_what_leaves_has_no_stray_line_end_and_one_end(pieces: list[bytes]) -> None:
    out = _emit(pieces)
    assert not re.search(rb"\r(?!\n)|(?<!\r)\n", out)
    assert out == b".\r\n" or out.endswith(b"\r\n.\r\n")
    assert (b"\r\n" + out).find(b"\r\n.\r\n") == len(out) - 3  # nothing before the end ends it


@given(_NASTY)
def test_pieces_do_not_matter(pieces: list[bytes]) -> None:
    assert _emit(pieces) == _emit([b"".join(pieces)])


@given(st.lists(st.sampled_from([b"\r\n", b".", b"..", b"a", b"\0", b"\xff"]), max_size=30))
def test_a_proper_message_comes_back_to_the_octet(pieces: list[bytes]) -> None:
    message = b"".join(pieces)
    out = _emit(pieces)[:-3]
    unstuffed = re.sub(rb"(\A|\r\n)\.", rb"\1", out)
    assert unstuffed == message or unstuffed == message + b"\r\n"


_ADDRESSES = st.binary(max_size=300)


@given(_ADDRESSES, _ADDRESSES)
@example(b"../../etc/passwd", b"..")
@example(b"a\0b@x", b"a/b@x")
def test_a_mailbox_name_is_one_safe_component_of_its_own(one: bytes, other: bytes) -> None:
    name = directory_name(one)
    assert re.fullmatch(r"[A-Za-z0-9@_+=%-][A-Za-z0-9.@_+=%-]{0,199}", name)
    local, at, domain = one.rpartition(b"@")
    assert directory_name(local + at + domain.upper()) == name or not at
    if one.lower() != other.lower():
        assert directory_name(other) != name


def test_plain_addresses_stay_readable() -> None:
    assert directory_name(b"User+tag@Example.NET") == "User+tag@example.net"
    assert directory_name(b"|cmd@x") == "%7Ccmd@x"


@pytest.mark.parametrize(
    ("address", "good"),
    [
        (b"", True),
        (b"u@example.net", True),
        (b'"a b>"@x', True),
        ("ü@x".encode(), True),
        (b"u@x>\r\nDATA", False),
        (b"u\r@x", False),
        (b"u@x> SIZE=1", False),
        (b"a b@x", False),
        (b'"a"b>@x', False),
        (b'a"> "@x', False),
        (b'"a\\"@x', False),
        (b"u\0@x", False),
    ],
)
def test_only_what_cannot_end_a_path_is_sent(address: bytes, good: bool) -> None:
    assert sendable(address) is good


@given(st.binary(max_size=50))
def test_clean_text_is_one_printable_line(text: bytes) -> None:
    assert clean(text).isprintable()
    assert len(clean(text * 100)) <= 1000


def test_groups_keep_the_order_and_their_limits() -> None:
    default, special = Destination("discard", "d"), Destination("discard", "s")
    ways = {b"1": special, b"2": default, b"3": special, b"4": special, b"5": default}
    limits = {special: 2, default: 50}
    assert group(list(ways), ways.__getitem__, limits.__getitem__) == [
        (special, (b"1", b"3")),
        (special, (b"4",)),
        (default, (b"2", b"5")),
    ]


@pytest.mark.parametrize(
    "good",
    ["lmtp:unix:/run/l", "lmtp:inet:h:24", "smtp:[::1]:25", "smtp:[IPv6:::1]:25", "maildir:/v",
     "error:5.1.1 no", "discard:", "lmtp:inet:h", "lmtp:[h]", "lmtp:h", "lmtp:unix:private/l"],
)  # fmt: skip
def test_destinations_are_read(good: str) -> None:
    assert str(parse_destination(good)) == good


@pytest.mark.parametrize(
    "bad", ["", "lmtp", "lmtp:", "lmtp:unix:", "lmtp:inet:", "lmtp:a b", "lmtp:h:0", "lmtp:[h",
            "smtp:h:0", "smtp:h:99999", "ftp:x", "maildir:", "lmtp:unix:/" + "x" * 200]
)  # fmt: skip
def test_wrong_destinations_say_what_is_expected(bad: str) -> None:
    with pytest.raises(ValueError, match=r"expected|octets"):
        parse_destination(bad)


def test_nexthops() -> None:
    assert parse_nexthop("unix:/a b") == "/a b"
    assert parse_nexthop("unix:private/dovecot-lmtp") == "/var/spool/postfix/private/dovecot-lmtp"
    for text in ("inet:mail.example:2424", "mail.example:2424", "[mail.example]:2424"):
        assert parse_nexthop(text) == ("mail.example", 2424)
        assert parse_nexthop(text.removesuffix(":2424")) == ("mail.example", 24)
    assert parse_nexthop("inet:[192.0.2.1]:lmtp") == ("192.0.2.1", 24)
    assert parse_nexthop("[::1]") == ("::1", 24)
    assert parse_nexthop("[IPv6:2001:db8::1]:25") == ("2001:db8::1", 25)


class Busy:
    """So many deliveries to one destination, held until told to end."""

    def __init__(self, windows: Windows, name: str) -> None:
        self._windows, self._name = windows, name
        self.running = 0
        self._end = asyncio.Event()

    async def one(self) -> None:
        async with self._windows.slot(self._name):
            self.running += 1
            await self._end.wait()
            self.running -= 1

    def end(self) -> None:
        self._end.set()


def test_a_dead_destination_rests_and_starts_anew() -> None:
    windows = Windows(WindowOptions(initial_destination_concurrency=2, rest=300))
    assert windows.failed("x", 0, "refused") is None
    assert windows.avoid("x", 0) is None
    assert windows.failed("x", 1, "refused") == 301
    assert windows.failed("x", 1.5, "a try that began before") is None
    assert windows.avoid("x", 2) == "refused"
    assert (windows.size("x", 2), windows.resting(2)) == (0, ["x"])
    assert (windows.avoid("x", 301), windows.size("x", 301)) == (None, 2)
    windows.tidy(301)
    assert len(windows) == 0
    windows.failed("x", 302, "still")
    windows.failed("x", 302, "still")
    assert windows.avoid("x", 303) == "still"
    windows.forget()
    assert windows.avoid("x", 303) is None


@pytest.mark.parametrize("start", [1, 2, 3, 5, 7, 20])
def test_a_cohort_of_failures_kills(start: int) -> None:
    """However many there are at first: each failure counts for one of those then at once."""
    options = WindowOptions(initial_destination_concurrency=start, negative_feedback=0)
    windows = Windows(options)
    died = [windows.failed("x", 0, "") is not None for _ in range(start)]
    assert died == [False] * (start - 1) + [True]


def test_a_window_grows_with_success_that_needed_it_and_shrinks_with_failure() -> None:
    async def scenario() -> None:
        windows = Windows(WindowOptions(initial_destination_concurrency=2, limit=4))
        busy = Busy(windows, "x")
        tasks = [asyncio.ensure_future(busy.one()) for _ in range(9)]
        await until(lambda: busy.running == 2)
        for most in (3, 4, 4):
            windows.answered("x")
            await until(lambda most=most: busy.running == most)  # type: ignore[misc]
        windows.failed("x", 0, "gone")
        assert windows.size("x", 0) == 3
        busy.end()
        await asyncio.gather(*tasks)
        windows.answered("x")
        idle = Windows(WindowOptions(initial_destination_concurrency=2, limit=20))
        for _ in range(50):
            async with idle.slot("y"):
                idle.answered("y")
                assert idle.size("y", 0) <= 3, "nobody used more than one at once"
        assert len(idle) == 0, "what nobody uses is forgotten"

    run(scenario())


def test_who_stops_waiting_takes_no_place() -> None:
    async def scenario() -> None:
        windows = Windows(WindowOptions(initial_destination_concurrency=1, limit=1))
        busy = Busy(windows, "x")
        first, second, third = (asyncio.ensure_future(busy.one()) for _ in range(3))
        await until(lambda: busy.running == 1)
        second.cancel()
        first.cancel()  # its place is given on in the same turn in which the second gives up
        await asyncio.gather(first, second, return_exceptions=True)
        busy.running -= 1
        await until(lambda: busy.running == 1)
        busy.end()
        await third
        assert len(windows) == 0

    run(scenario())


def test_those_who_stop_waiting_together_all_say_so() -> None:
    """One that leaves passes by the others that were cancelled with it."""

    async def scenario() -> None:
        windows = Windows(WindowOptions(initial_destination_concurrency=1))

        async def deliver() -> None:
            async with windows.slot("x"):
                await asyncio.Event().wait()

        tasks = [asyncio.ensure_future(deliver()) for _ in range(3)]
        await asyncio.sleep(0)
        for each in tasks:
            each.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(each) for each in ends] == [asyncio.CancelledError] * 3

    run(scenario())
