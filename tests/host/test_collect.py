"""What a filter is shown, by both hosts, over a real socket."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milterd.core.mail import Family, FileBody, body_octets
from milterd.host.collect import Collector, NoMemoryError, TooLargeError
from milterd.host.memory import BLOCK, Memory, Share
from milterd.host.options import Options
from milterd.host.spool import Spool
from milterd.wire import messages as m
from milterd.wire.constants import Protocol
from tests.host.conftest import Hosted, Hosting
from tests.host.mta import Answer, Mta

HEADERS = [
    (b"Subject", b" plain"),
    (b"X-Tight", b"no space"),
    (b"X-Two", b"  two spaces"),
    (b"X-Tab", b"\ttab"),
    (b"X-Fold", b" one\n\ttwo\n  three"),
    (b"X-Empty", b""),
    (b"X-8bit", b" gr\xfc\xdfe \xff"),
    (b"subject", b" again"),
]


def seen(answer: Answer) -> dict[str, Any]:
    (field,) = answer.edits
    found: dict[str, Any] = json.loads(base64.b64decode(field.value))
    return found


@pytest.fixture
def mirror(shared_hosting) -> Hosted:
    """One mirror of each kind for all tests that give it no options."""
    return shared_hosting("mirror")


@pytest.fixture
def mta(mirror: Hosted):
    with mirror.mta() as made:
        yield made


def test_a_mail_comes_whole(mta: Mta) -> None:
    mta.greet()
    mta.begin(
        HEADERS,
        body=[b"one\r\n", b".two\r\n\xff\x00\r", b"\nthree"],
        sender=b"<s@example.net>",
        recipients=[b"<r@example.org>", b"<gr\xc3\xbc\xc3\x9fe@example.org>"],
        macros=((b"i", b"early"), (b"{mail_addr}", b"s@example.net")),
    )
    assert seen(mta.end()) == {
        "client": ["client.example", "INET", "192.0.2.1", 2525],
        "helo": "helo.example",
        "direction": "inbound",
        "macros": {
            "j": "mx.example", "daemon_name": "smtpd", "i": "4XYZ", "mail_addr": "s@example.net",
        },
        "sender": ["s@example.net", []],
        "recipients": [["r@example.org", []], ["gr\xc3\xbc\xc3\x9fe@example.org", []]],
        "headers": [
            ["Subject", " plain"],
            ["X-Tight", "no space"],
            ["X-Two", "  two spaces"],
            ["X-Tab", "\ttab"],
            ["X-Fold", " one\r\n\ttwo\r\n  three"],
            ["X-Empty", ""],
            ["X-8bit", " gr\xfc\xdfe \xff"],
            ["subject", " again"],
        ],
        "body": "one\r\n.two\r\n\xff\x00\r\nthree",
        "stored": "BytesBody",
    }  # fmt: skip


def test_esmtp_arguments_and_the_null_sender(mta: Mta) -> None:
    mta.greet()
    mta.say(m.MailFrom(b"<>", (b"BODY=8BITMIME", b"SIZE=10")))
    mta.say(m.RcptTo(b"<r@example.org>", (b"NOTIFY=NEVER",)))
    found = seen(mta.end())
    assert found["sender"] == ["", ["BODY=8BITMIME", "SIZE=10"]]
    assert found["recipients"] == [["r@example.org", ["NOTIFY=NEVER"]]]
    assert (found["headers"], found["body"]) == ([], "")


def test_without_leading_space_the_protocol_eats_one(mirror: Hosted) -> None:
    with mirror.mta(protocol=Protocol.ALL & ~Protocol.HDR_LEADSPC) as mta:
        found = seen(mta.greet().message([(b"A", b"one"), (b"B", b" two")]))
    assert found["headers"] == [["A", " one"], ["B", "  two"]]


def test_messages_on_one_connection_know_nothing_of_each_other(mta: Mta) -> None:
    auth = ((b"{auth_authen}", b"u"), (b"{auth_type}", b"PLAIN"))
    mta.greet()
    first = seen(mta.message([(b"A", b" 1")], macros=auth, recipients=[b"<a@a>", b"<b@b>"]))
    mta.begin([(b"B", b" 2")], body=[b"aborted"], macros=auth)
    mta.say(m.Abort())
    mta.say(m.MailFrom(b"<again@example.net>"), auth)
    mta.say(m.Abort())
    # As Postfix does: a macro packet, here an unrelated one, comes with every MAIL.
    # Without one libmilter keeps what the last message had.
    last = seen(mta.message([(b"C", b" 3")], macros=((b"{mail_addr}", b"s@example.net"),)))
    assert first["direction"] == "originating"
    assert first["macros"]["auth_authen"] == "u"
    assert last["direction"] == "inbound"
    assert "auth_authen" not in last["macros"]
    assert last["headers"] == [["C", " 3"]]
    assert last["recipients"] == [["r@example.org", []]]
    assert last["body"] == "text\r\n"
    assert last["helo"] == "helo.example"


@pytest.mark.parametrize(
    ("client", "macros", "direction"),
    [
        ((Family.INET, b"192.0.2.1"), {}, "inbound"),
        ((Family.INET, b"127.0.0.9"), {}, "originating"),
        ((Family.INET6, b"::1"), {}, "originating"),
        ((Family.INET6, b"IPv6:::1"), {}, "originating"),
        ((Family.INET6, b"2001:db8::1"), {}, "inbound"),
        ((Family.INET6, b"::ffff:127.0.0.1"), {}, "originating"),
        ((Family.UNIX, b"/some/socket"), {}, "inbound"),
        ((Family.UNKNOWN, b""), {}, "inbound"),
        ((Family.INET, b"192.0.2.1"), {"connect": ((b"{daemon_name}", b"ORIGINATING"),)},
         "originating"),
        ((Family.INET, b"192.0.2.1"), {"mail": ((b"{auth_type}", b"PLAIN"),)}, "originating"),
        ((Family.INET, b"192.0.2.1"), {"mail": ((b"{auth_authen}", b"u"),)}, "originating"),
        ((Family.INET, b"192.0.2.1"), {"mail": ((b"{auth_authen}", b""),)}, "inbound"),
        ((Family.INET, b"192.0.2.1"), {"mail": ((b"{auth_authen}", b"gr\xfc"),)}, "originating"),
    ],
)  # fmt: skip
def test_direction(mta: Mta, client, macros, direction) -> None:
    family, address = client
    mta.greet(family=family, address=address, macros=macros.get("connect", ()))
    assert seen(mta.message(macros=macros.get("mail", ())))["direction"] == direction


def test_a_helo_that_is_no_utf8_ends_nothing(mta: Mta, kind: str) -> None:
    mta.greet(helo=b"gr\xfc\xdfe")
    found = seen(mta.message([(b"A", b" 1")]))
    assert found["helo"] == ("gr\xfc\xdfe" if kind == "native" else "")
    assert found["headers"] == [["A", " 1"]]


def test_a_filter_is_shown_only_what_it_needs(hosting: Hosting) -> None:
    host = hosting("mirror-less")
    with host.mta() as mta:
        unshown = Protocol.NOHELO | Protocol.NORCPT | Protocol.NOHDRS | Protocol.NOBODY
        assert unshown in mta.negotiated.protocol
        found = seen(mta.greet().message([(b"A", b" 1")]))
    assert (found["helo"], found["recipients"], found["headers"], found["body"]) == ("", [], [], "")


LARGE = [b"x" * 65533 + b"\r\n"] * 20


def test_a_large_body_is_spooled_and_whole(mta: Mta, mirror: Hosted) -> None:
    found = seen(mta.greet().message(body=LARGE))
    assert found["body"] == 65535 * 20
    assert found["stored"] == "FileBody"
    assert seen(mta.message())["stored"] == "BytesBody"


@pytest.mark.parametrize(
    ("oversize", "reply"),
    [
        ("reject", m.ReplyCode(b"552 5.3.4 Message too large for content filter")),
        ("tempfail", m.ReplyCode(b"452 4.3.4 Message too large for content filter")),
        ("accept", m.Accept()),
    ],
)
def test_limits(hosting: Hosting, oversize: str, reply: object) -> None:
    host = hosting("mirror", size_limit=5000, header_limit=1000, oversize=oversize)
    with host.mta() as mta:
        mta.greet()
        assert mta.message(body=[b"x" * 3000] * 2) == Answer((), reply)
        assert mta.message([(b"A", b"x" * 600)] * 2) == Answer((), reply)
        assert mta.message(recipients=[b"<%03d@example.org>" % n for n in range(80)]).reply == reply
        assert seen(mta.message(body=[b"x" * 3000]))["body"] == 3000


def test_a_spool_that_takes_nothing(hosting: Hosting) -> None:
    host = hosting("mirror", memory_limit=10, spool_directory="/nonexistent")
    with host.mta() as mta:
        mta.greet()
        answer = mta.message(body=[b"x" * 3000, b"y" * 3000])
        assert answer.reply.text == b"451 4.3.0 Internal error, trace id trace1"
        assert seen(mta.message(body=[b"short"]))["body"] == "short"


def test_what_has_no_room_in_memory_is_in_a_file_or_put_off(hosting: Hosting) -> None:
    """And takes none from the mails that come after it."""
    host = hosting("mirror", memory_total=40_000)
    with host.mta() as mta:
        mta.greet()
        for _ in range(3):
            assert seen(mta.message(body=[b"x" * 30_000]))["stored"] == "BytesBody"
            found = seen(mta.message(body=[b"x" * 30_000, b"y" * 30_000]))
            assert (found["stored"], found["body"]) == ("FileBody", 60_000)
            answer = mta.message([(b"A", b"x" * 50_000)])
            assert answer.reply.text.startswith(b"451 4.3.0 Internal error, trace id ")
    (line, *_) = host.log("failure")
    assert "no room left within memory_total (40000 octets)" in line["exception"]


OPTIONS = Options(memory_total=3 * BLOCK, header_limit=40_000, size_limit=100_000)


def begun(memory: Memory, *fields: tuple[bytes, bytes], body: bytes = b"") -> Collector:
    """A mail that comes in."""
    made = Collector(OPTIONS, memory)
    made.sender(b"<a@example.org>", (), {})
    made.recipient(b"<b@example.net>", ())
    made.headers(fields)
    made.body(body)
    return made


def test_mails_share_the_memory_of_their_process() -> None:
    memory = Memory(OPTIONS.memory_total)
    first = begun(memory, (b"A", b" 1"), body=b"x" * 20_000)
    second = begun(memory, (b"A", b" 2"), body=b"y" * 20_000)
    put_off = begun(memory, (b"A", b"z" * 20_000))
    assert [type(each.mail().body).__name__ for each in (first, second)] == [
        "BytesBody", "FileBody",
    ]  # fmt: skip
    with pytest.raises(NoMemoryError):
        put_off.mail()
    for each in (first, second, put_off):
        each.forget()
    assert memory.left == OPTIONS.memory_total
    third = begun(memory, (b"A", b"z" * 20_000))
    assert len(third.mail().headers) == 1


def test_a_file_is_the_whole_mail_so_that_a_scanner_can_have_it() -> None:
    memory = Memory(OPTIONS.memory_total)
    mail = begun(memory, (b"A", b" 1"), (b"B", b" 2\n\tfolded"), body=b"x" * 20_000)
    mail.body(b"y" * 70_000)
    found = mail.mail()
    assert isinstance(found.body, FileBody)
    assert os.pread(found.body.file.fileno(), 100_000, 0) == b"".join(found.pieces())
    assert body_octets(found.body) == b"x" * 20_000 + b"y" * 70_000
    mail.forget()


@pytest.mark.parametrize(
    "end", ["forget", "connected", "sender", "header over the limit", "body over the limit"]
)
def test_the_memory_of_a_mail_is_given_back_once(end: str) -> None:
    memory = Memory(OPTIONS.memory_total)
    mail = begun(memory, (b"A", b" 1"), (b"B", b" 2"), body=b"x" * 20_000)
    assert memory.left < OPTIONS.memory_total - 20_000
    if end == "connected":
        mail.connected(b"localhost", Family.INET, b"127.0.0.1", 25, {})
    elif end == "sender":
        mail.sender(b"", (), {})
        assert memory.left >= OPTIONS.memory_total - BLOCK
        mail.forget()
    elif end.endswith("over the limit"):
        for _ in range(3):
            if end.startswith("header"):
                mail.headers([(b"A", b"x" * 40_000)])
            mail.header(b"A", b"x" * 4000)
            mail.body(b"x" * 40_000)
        with pytest.raises(TooLargeError):
            mail.mail()
    else:
        mail.forget()
    assert memory.left == OPTIONS.memory_total
    mail.forget()
    assert memory.left == OPTIONS.memory_total


@given(st.lists(st.integers(0, 5 * BLOCK)))
def test_a_share_has_whole_blocks_and_no_more_than_it_needs(amounts: list[int]) -> None:
    total = 9 * BLOCK
    memory = Memory(total)
    share, had = Share(memory), list[int]()
    for each in amounts:
        if had and each % 3 == 0:
            share.give_back(had.pop())
        elif share.take(each):
            had.append(each)
        else:
            assert sum(had) + each > total
        assert total - memory.left == -(-sum(had) // BLOCK) * BLOCK
    share.give_all_back()
    assert memory.left == total


@pytest.mark.parametrize("bulk", [True, False])
def test_what_is_counted_of_many_short_texts_is_what_they_take(bulk: bool) -> None:
    options = Options()
    memory = Memory(options.memory_total)
    mail = Collector(options, memory)
    fields = ((b"%02d" % (n % 100), b"%02d" % (n % 97)) for n in range(20_000))
    tracemalloc.start()
    try:
        mail.sender(b"<a@example.org>", (), {})
        for n in range(1000):
            mail.recipient(b"<%d@example.net>" % n, (b"NOTIFY=NEVER",))
        for each in fields:
            if bulk:
                mail.headers([each])
            else:
                mail.header(*each)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(mail.mail().headers) == 20_000
    assert taken < options.memory_total - memory.left < 2 * taken
    mail.forget()
    assert memory.left == options.memory_total


def test_garbage_ends_its_own_connection_only(mirror: Hosted) -> None:
    with mirror.mta() as other:
        other.greet()
        for octets in (b"\0\0\0\1Z", b"\xff\xff\xff\xffZ", b"GET / HTTP/1.0\r\n\r\n"):
            with socket.socket(mirror.listener.family) as raw:
                raw.settimeout(30)
                raw.connect(mirror.address)
                raw.sendall(octets)
                with contextlib.suppress(ConnectionResetError):
                    assert raw.recv(100) == b""
        assert seen(other.message([(b"A", b" 1")]))["headers"] == [["A", " 1"]]


@given(st.lists(st.binary(max_size=3) | st.sampled_from([b"x" * 4095, b"y" * 4096, b"z" * 9000])))
def test_a_spool_keeps_pieces_of_any_size(pieces: list[bytes]) -> None:
    whole = b"".join(pieces)
    for limit in (0, 5000, 1_000_000):
        spool = Spool(limit, None, Share(Memory(2**20)))
        for each in pieces:
            spool.write(each)
        assert body_octets(spool.body()) == whole == body_octets(spool.body())
        spool.close()


def test_octets_that_come_one_by_one_are_kept_together() -> None:
    spool = Spool(100_000, None, Share(Memory(2**20)))
    for _ in range(50_000):
        spool.write(b"x")
        spool.write(b"")
    assert len(spool._pieces) <= 2
    assert body_octets(spool.body()) == b"x" * 50_000


def test_a_long_body_comes_whole_in_pieces(mta: Mta) -> None:
    """In large ones, and then some so small that they are put together."""
    body = [b"%d" % number * 9000 + b"\r\n" for number in range(4)] + [b"end", b"ing\r\n"]
    mta.greet()
    mta.begin(body=body)
    found = seen(mta.end())
    assert (found["stored"], found["body"]) == ("PiecedBody", len(b"".join(body)))
    spool = Spool(2**20, None, Share(Memory(2**20)))
    for each in body:
        spool.write(each)
    assert body_octets(spool.body()) == body_octets(spool.body()) == b"".join(body)
