"""Messages: octets as libmilter's headers define them, and nothing else accepted."""

from __future__ import annotations

import pytest
from hypothesis import given

from milterd.core.mail import Family
from milterd.wire import messages as m
from milterd.wire.constants import Actions, Command, Protocol, Response, Stage
from milterd.wire.errors import LocalError, PeerError, WireError
from milterd.wire.frames import FrameDecoder
from tests.wire.helpers import EXAMPLES, REPLIES
from tests.wire.strategies import commands, replies


def _take(octets: bytes) -> tuple[int, bytes]:
    decoder = FrameDecoder(100_000)
    decoder.feed(octets)
    ((code, payload),) = decoder
    return code, payload


@given(commands)
def test_command_round_trip(command: m.CommandMessage) -> None:
    assert m.decode_command(*_take(command.encode())) == command


@given(replies)
def test_reply_round_trip(reply: m.Reply) -> None:
    assert m.decode_reply(*_take(reply.encode())) == reply


GOLDEN = [
    (m.Negotiate(6, Actions(0x1FF), Protocol(0x1FFFFF)),
     b"\0\0\0\rO\0\0\0\x06\0\0\x01\xff\0\x1f\xff\xff"),
    (m.Negotiate(6, Actions(1), Protocol(0), {Stage.MAIL: ("i", "{auth_type}")}),
     b"\0\0\0\x1fO\0\0\0\x06\0\0\0\x01\0\0\0\0\0\0\0\x02i {auth_type}\0"),
    (m.Connect(b"[1.2.3.4]", Family.INET, 25, b"1.2.3.4"),
     b"\0\0\0\x16C[1.2.3.4]\x004\0\x191.2.3.4\0"),
    (m.Connect(b"x"), b"\0\0\0\x04Cx\0U"),
    (m.Helo(b"x"), b"\0\0\0\x03Hx\0"),
    (m.MailFrom(b"<>", (b"SIZE=1",)), b"\0\0\0\x0bM<>\0SIZE=1\0"),
    (m.RcptTo(b"<a@b>"), b"\0\0\0\x07R<a@b>\0"),
    (m.Data(), b"\0\0\0\x01T"),
    (m.Header(b"A", b"b\xff"), b"\0\0\0\x06LA\0b\xff\0"),
    (m.EndOfHeaders(), b"\0\0\0\x01N"),
    (m.BodyChunk(b"\0\r\n"), b"\0\0\0\x04B\0\r\n"),
    (m.EndOfMessage(), b"\0\0\0\x01E"),
    (m.Unknown(b"FOO 1"), b"\0\0\0\x07UFOO 1\0"),
    (m.Abort(), b"\0\0\0\x01A"),
    (m.Quit(), b"\0\0\0\x01Q"),
    (m.QuitNewConnection(), b"\0\0\0\x01K"),
    (m.Macros(Command.HELO), b"\0\0\0\x02DH"),
    (m.Macros(Command.MAIL, ((b"i", b"1"), (b"{x}", b""))), b"\0\0\0\x0bDMi\x001\0{x}\0\0"),
]  # fmt: skip


@pytest.mark.parametrize(("command", "octets"), GOLDEN)
def test_command_octets(command: m.CommandMessage, octets: bytes) -> None:
    assert command.encode() == octets
    assert m.decode_command(*_take(octets)) == command


GOLDEN_REPLIES = [
    (m.Continue(), b"\0\0\0\x01c"),
    (m.Accept(), b"\0\0\0\x01a"),
    (m.Reject(), b"\0\0\0\x01r"),
    (m.TempFail(), b"\0\0\0\x01t"),
    (m.Discard(), b"\0\0\0\x01d"),
    (m.Skip(), b"\0\0\0\x01s"),
    (m.Progress(), b"\0\0\0\x01p"),
    (m.ConnFail(), b"\0\0\0\x01f"),
    (m.Shutdown(), b"\0\0\0\x014"),
    (m.ReplyCode(b"550 x"), b"\0\0\0\x07y550 x\0"),
    (m.AddHeaderReply(b"A", b"b"), b"\0\0\0\x05hA\0b\0"),
    (m.InsertHeaderReply(2, b"A", b"b"), b"\0\0\0\x09i\0\0\0\x02A\0b\0"),
    (m.ChangeHeaderReply(0xFFFFFFFF, b"A", b""), b"\0\0\0\x08m\xff\xff\xff\xffA\0\0"),
    (m.ReplaceBodyChunk(b"\0"), b"\0\0\0\x02b\0"),
    (m.AddRcptReply(b"<a>"), b"\0\0\0\x05+<a>\0"),
    (m.AddRcptParReply(b"<a>", b"X=1"), b"\0\0\0\x092<a>\0X=1\0"),
    (m.DelRcptReply(b"<a>"), b"\0\0\0\x05-<a>\0"),
    (m.ChangeFromReply(b"<a>"), b"\0\0\0\x05e<a>\0"),
    (m.QuarantineReply(b"q"), b"\0\0\0\x03qq\0"),
]


@pytest.mark.parametrize(("reply", "octets"), GOLDEN_REPLIES)
def test_reply_octets(reply: m.Reply, octets: bytes) -> None:
    assert reply.encode() == octets
    assert m.decode_reply(*_take(octets)) == reply


def test_goldens_leave_no_message_out() -> None:
    assert {type(each) for each, _ in GOLDEN} == {*EXAMPLES, m.Macros}
    assert {type(each) for each, _ in GOLDEN_REPLIES} == set(REPLIES)
    assert len(Command) == len(EXAMPLES) + 1
    assert len(Response) == len(REPLIES)


TRAILING = [octets for _, octets in GOLDEN if octets[4:5] not in (b"B", b"E", b"M", b"R", b"D")]


@pytest.mark.parametrize("octets", TRAILING)
@pytest.mark.parametrize("tail", [b"x", b"x\0", b"\0"])
def test_command_with_octets_left_over(octets: bytes, tail: bytes) -> None:
    with pytest.raises(PeerError):
        m.decode_command(octets[4], octets[5:] + tail)


@pytest.mark.parametrize("octets", [each for _, each in GOLDEN_REPLIES if each[4:5] not in b"be2"])
@pytest.mark.parametrize("tail", [b"x", b"x\0", b"\0"])
def test_reply_with_octets_left_over(octets: bytes, tail: bytes) -> None:
    with pytest.raises(PeerError):
        m.decode_reply(octets[4], octets[5:] + tail)


@pytest.mark.parametrize(
    ("code", "payload"),
    [
        *((code, b"") for code in b"OCDHMRLU"),
        *((code, b"x") for code in b"OCHMRLU"),
        (ord("O"), b"\0\0\0\x06\0\0\0\x01\0\0\0"),
        (ord("O"), bytes(12) + b"\0\0\0\x09i\0"),
        (ord("O"), bytes(12) + b"\0\0\0\x01i"),
        (ord("O"), bytes(12) + b"\0\0\0\x01\xff\0"),
        (ord("C"), b"x\0"),
        (ord("C"), b"x\0Z"),
        (ord("C"), b"x\x004\0"),
        (ord("C"), b"x\x004\0\x19"),
        (ord("C"), b"x\x004\0\x191.2.3.4"),
        (ord("D"), b"\xff"),
        (ord("D"), b"Mi\0"),
        (ord("D"), b"Mi\x001"),
        (ord("L"), b"A\0"),
        (ord("L"), b"A\0b\0c\0"),
        (ord("X"), b""),
        (0, b""),
        (255, b""),
    ],
)
def test_ill_formed_command(code: int, payload: bytes) -> None:
    with pytest.raises(PeerError):
        m.decode_command(code, payload)


@pytest.mark.parametrize(
    ("code", "payload"),
    [
        *((code, b"") for code in b"himy+-2eq"),
        (ord("y"), b"550 no NUL"),
        (ord("h"), b"A\0b"),
        (ord("h"), b"A\0"),
        (ord("i"), b"\0\0\0"),
        (ord("i"), b"\0\0\0\x01A\0"),
        (ord("m"), b"\0\0\0\x01A\0b"),
        (ord("2"), b"<a>\0b\0c\0"),
        (ord("l"), b"\0\0\0\x01i\0"),
        (ord("E"), b""),
        (ord("?"), b""),
        (0, b""),
    ],
)
def test_ill_formed_reply(code: int, payload: bytes) -> None:
    with pytest.raises(PeerError):
        m.decode_reply(code, payload)


@pytest.mark.parametrize(
    "message",
    [
        m.Helo(b"a\0b"),
        m.Header(b"a", b"b\0"),
        m.MailFrom(b"<>", (b"\0",)),
        m.Connect(b"x", Family.INET, 65536, b"1.2.3.4"),
        m.Connect(b"x", Family.INET, -1, b"1.2.3.4"),
        m.InsertHeaderReply(-1, b"A", b"b"),
        m.ChangeHeaderReply(2**32, b"A", b"b"),
        m.QuarantineReply(b"\0"),
        m.Macros(Command.MAIL, ((b"i", b"\0"),)),
        m.Negotiate(6, Actions(0), Protocol(0), {Stage.MAIL: ("a b",)}),
        m.Negotiate(6, Actions(0), Protocol(0), {Stage.MAIL: ("\xe9",)}),
    ],
)
def test_what_no_frame_can_carry(message: m.CommandMessage | m.Reply) -> None:
    with pytest.raises(LocalError):
        message.encode()


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b"x\0U", m.Connect(b"x")),
        (b"[::1]\x006\0\0IPv6:::1\0", m.Connect(b"[::1]", Family.INET6, 0, b"::1")),
        (b"x\x006\0\x19::1\0", m.Connect(b"x", Family.INET6, 25, b"::1")),
        (b"x\x004\0\x001.2.3.4\0", m.Connect(b"x", Family.INET, 0, b"1.2.3.4")),
        (b"\x00L\0\0" + b"/" * 108 + b"\0", m.Connect(b"", Family.UNIX, 0, b"/" * 108)),
    ],
)
def test_every_kind_of_client_is_understood(payload: bytes, expected: m.Connect) -> None:
    """Attack row I17."""
    assert m.decode_command(ord("C"), payload) == expected


def test_macro_names_apart_by_commas_too() -> None:
    payload = bytes(12) + b"\0\0\0\x02i, {auth_type},j\0"
    found = m.decode_command(ord("O"), payload)
    assert isinstance(found, m.Negotiate)
    assert found.macros == {Stage.MAIL: ("i", "{auth_type}", "j")}


def test_the_parent_of_errors_cannot_be_raised() -> None:
    with pytest.raises(TypeError):
        WireError("x")


def test_a_command_is_found_by_its_octets() -> None:
    for each in Command:
        assert {each: 1}.get(each.value) == 1
        assert {each.value: 1}.get(each) == 1
