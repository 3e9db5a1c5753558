"""A blanked tape: every length as before, and no word of anybody's left."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from milterd.core.mail import Family
from milterd.lab import tape
from milterd.lab.cli import app
from milterd.lab.redact import redact
from milterd.lab.tape import Said
from milterd.wire import messages as m
from milterd.wire.constants import Actions, Command, Protocol, Stage
from milterd.wire.frames import frame
from tests.wire.strategies import commands, replies

# What a person wrote: letters that stand in no word of the protocol's, and digits but 1.
_word = st.text("JKQWZjkqwz23456789\u00e4\u20ac", min_size=4, max_size=12).map(str.encode)
_address = st.builds(lambda a, b: b"<%b@%b.%b>" % (a, b, a), _word, _word)
_text = st.lists(_word, min_size=1, max_size=4).map(b" ".join)
_lines = st.lists(_text, max_size=4).map(b"\r\n".join)
_folded = st.lists(_text, min_size=1, max_size=3).map(b"\n\t".join)
_ip = st.sampled_from([b"203.45.67.89", b"234.56.78.90"])
_macro_names = st.sampled_from(
    [b"j", b"_", b"i", b"{mail_addr}", b"{rcpt_addr}", b"{auth_authen}", b"{client_name}", b"{x}"]
)
_arguments = st.one_of(
    _address.map(lambda each: b"AUTH=" + each),
    _address.map(lambda each: b"ORCPT=rfc822;" + each),
    _word.map(lambda each: b"ENVID=" + each),
    _word,
)  # fmt: skip
_mta = st.one_of(
    st.builds(m.Connect, _word, st.just(Family.INET), st.just(25), _ip),
    st.builds(m.Connect, _ip.map(lambda a: b"[%b]" % a), st.just(Family.INET), st.just(25), _ip),
    st.builds(m.Connect, _word, st.just(Family.UNIX), st.just(0), _word.map(lambda a: b"/" + a)),
    st.builds(
        m.Connect, _word, st.just(Family.INET6), st.just(9),
        st.sampled_from([b"2345:67::89", b"2001:db8:2345::6789"]),
    ),
    st.builds(m.Helo, _word),
    st.builds(m.MailFrom, _address, st.lists(_arguments, max_size=2).map(tuple)),
    st.builds(m.RcptTo, _address, st.lists(_arguments, max_size=2).map(tuple)),
    st.builds(m.Header, st.sampled_from([b"From", b"Subject", b"X-Any"]), _folded),
    st.builds(m.Header, _address, _folded),
    st.builds(m.BodyChunk, _lines),
    st.builds(m.EndOfMessage, _lines),
    st.builds(m.Unknown, _text),
    st.builds(
        m.Macros, st.sampled_from(Command),
        st.lists(st.tuples(_macro_names, st.one_of(_address, _text, _ip)), max_size=3).map(tuple),
    ),
).map(lambda each: each.encode())  # fmt: skip
_milter = st.one_of(
    st.builds(m.AddHeaderReply, st.just(b"X-Any"), _folded),
    st.builds(m.InsertHeaderReply, st.integers(0, 9), st.just(b"X-Any"), _folded),
    st.builds(m.ChangeHeaderReply, st.integers(0, 9), st.just(b"X-Any"), _folded),
    st.builds(m.ReplaceBodyChunk, _lines),
    st.builds(m.AddRcptReply, _address),
    st.builds(m.AddRcptParReply, _address, _arguments),
    st.builds(m.DelRcptReply, _address),
    st.builds(m.ChangeFromReply, _address, _arguments),
    st.builds(m.QuarantineReply, _text),
    st.builds(lambda a: m.ReplyCode(b"550 5.7.1 " + a), _text),
    st.builds(lambda a, b: m.ReplyCode(b"550-5.7.1 %b\r\n550 5.7.1 %b" % (a, b)), _text, _address),
).map(lambda each: each.encode())  # fmt: skip
_odd = st.one_of(
    _lines,  # no packets at all
    st.builds(frame, st.binary(min_size=1, max_size=1), _text),
)
_FRAGMENT = re.compile(rb"[JKQWZjkqwz2-9\x80-\xff]{4}")


def _fragments(octets: bytes) -> set[bytes]:
    """Every four octets in a row of somebody's words."""
    rows = re.findall(rb"[JKQWZjkqwz2-9\x80-\xff]{4,}", octets)
    return {row[at : at + 4] for row in rows for at in range(len(row) - 3)}


@given(st.lists(st.one_of(_mta, _odd), max_size=6), st.lists(st.one_of(_milter, _odd), max_size=6),
       st.integers(1, 50))  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_no_word_is_left_and_every_length_stands(
    tmp_path_factory: pytest.TempPathFactory, mta: list[bytes], milter: list[bytes], cut: int
) -> None:
    """Over streams in pieces, so that packets lie across them."""
    home = tmp_path_factory.mktemp("redact")
    for path, blank in ((home / "plain", None), (home / "blank", redact)):
        with tape.create(path, blank, started=0, clock=lambda: 0.0) as writer:
            connection = writer.opened()
            for side, packets in (("mta", mta), ("milter", milter)):
                stream = b"".join(packets)
                for at in range(0, len(stream), cut):
                    writer.heard(connection, side, stream[at : at + cut])  # type: ignore[arg-type]
    plain, blank_ = ((home / name).read_bytes() for name in ("plain", "blank"))
    assert len(plain) == len(blank_)
    with tape.reading(home / "plain") as one, tape.reading(home / "blank") as two:
        assert two.header.redacted
        for was, now in zip(one, two, strict=True):
            if isinstance(was, Said):
                assert isinstance(now, Said)
                assert (was.side, was.whole, len(was.octets)) == (
                    now.side, now.whole, len(now.octets),
                )  # fmt: skip
                assert not _FRAGMENT.search(now.octets), now
    words = _fragments(b"\r\n".join([*mta, *milter]))
    assert not any(each in blank_ for each in words)


@given(st.one_of(commands.map(lambda each: ("mta", each)), replies.map(lambda r: ("milter", r))))
@settings(max_examples=150, deadline=None)
def test_what_had_a_meaning_has_the_same_kind_of_it(one: tuple[str, object]) -> None:
    side, message = one
    octets = message.encode()  # type: ignore[attr-defined]
    said = Said(1, 0, side, octets, True)  # type: ignore[arg-type]
    found = redact(said)
    assert len(found) == len(octets)
    assert found[:5] == octets[:5]
    decode = m.decode_command if side == "mta" else m.decode_reply
    assert type(decode(found[4], found[5:])) is type(message)
    assert redact(Said(1, 0, said.side, found, True)) == found


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (m.Connect(b"mx.example.net", Family.INET, 25, b"192.0.2.77"),
         m.Connect(b"xx.xxxxxxx.xxx", Family.INET, 25, b"111.1.1.11")),
        (m.Connect(b"[2001:db8::1]", Family.INET6, 25, b"2001:db8::1"),
         m.Connect(b"[1111:111::1]", Family.INET6, 25, b"1111:111::1")),
        (m.MailFrom(b"<joe@example.net>", (b"SIZE=1000", b"BODY=8BITMIME", b"AUTH=<joe@a.b>")),
         m.MailFrom(b"<xxx@xxxxxxx.xxx>", (b"SIZE=1000", b"BODY=8BITMIME", b"AUTH=<xxx@x.x>"))),
        (m.RcptTo(b"<>", (b"NOTIFY=SUCCESS,FAILURE", b"ORCPT=rfc822;a@b")),
         m.RcptTo(b"<>", (b"NOTIFY=SUCCESS,FAILURE", b"ORCPT=xxxxxx;x@x"))),
        (m.Header(b"Subject", b"to you\n\t 100 %"), m.Header(b"Subject", b"xx xxx\n\t xxx x")),
        (m.Header(b"joe@example.net", b"x"), m.Header(b"xxx@xxxxxxx.xxx", b"x")),
        (m.BodyChunk(b"one two\r\n\0\r\n"), m.BodyChunk(b"xxxxxxx\r\nx\r\n")),
        (m.Macros(Command.MAIL, ((b"v", b"Postfix"), (b"{auth_authen}", b"joe"), (b"joe!", b"1"))),
         m.Macros(Command.MAIL, ((b"v", b"Postfix"), (b"{auth_authen}", b"xxx"), (b"xxxx", b"x")))),
        (m.Unknown(b"AUTH PLAIN c2VjcmV0"), m.Unknown(b"xxxx xxxxx xxxxxxxx")),
        (m.ReplyCode(b"550-5.7.1 no joe\r\n550 5.7.1 <a@b.c>"),
         m.ReplyCode(b"550-5.7.1 xx xxx\r\n550 5.7.1 <x@x.x>")),
        (m.ChangeHeaderReply(2, b"Subject", b""), m.ChangeHeaderReply(2, b"Subject", b"")),
        (m.AddRcptParReply(b"<joe@a.b>", b"NOTIFY=NEVER ENVID=joe"),
         m.AddRcptParReply(b"<xxx@x.x>", b"NOTIFY=NEVER ENVID=xxx")),
        (m.Negotiate(6, Actions.ALL, Protocol.ALL, {Stage.MAIL: ("i", "{mail_addr}")}),
         m.Negotiate(6, Actions.ALL, Protocol.ALL, {Stage.MAIL: ("i", "{mail_addr}")})),
    ],
    ids=lambda each: type(each).__name__,
)  # fmt: skip
def test_what_is_kept(message: m.CommandMessage | m.Reply, expected: m.CommandMessage) -> None:
    side = "milter" if isinstance(message, m.Reply) else "mta"
    assert redact(Said(1, 0, side, message.encode(), True)) == expected.encode()  # type: ignore[arg-type]


def test_what_is_not_understood_is_blanked_whole() -> None:
    assert redact(Said(1, 0, "mta", b"joe@a.b", False)) == b"xxxxxxx"
    assert redact(Said(1, 0, "mta", frame(b"?", b"joe"), True)) == frame(b"x", b"xxx")
    assert redact(Said(1, 0, "mta", frame(b"C", b"joe@a"), True)) == frame(b"C", b"xxxxx")
    assert redact(Said(1, 0, "mta", frame(b"Q", b"joe"), True)) == frame(b"Q", b"xxx")
    offer = bytes(12) + b"\0\0\0\0{joe@a}\0\0\0\0\1i {auth_type}\0"
    blank = redact(Said(1, 0, "milter", frame(b"O", offer), True))
    assert blank == frame(b"O", bytes(12) + b"\0\0\0\0xxxx@xx\0\0\0\0\1i {auth_type}\0")


def test_the_command(tmp_path: Path) -> None:
    with tape.create(tmp_path / "a") as writer:
        writer.conversation([("mta", frame(b"B", b"secret\r\n")), ("milter", b"secret")])
    run = CliRunner()
    done = run.invoke(app, ["redact", f"{tmp_path}/a", f"{tmp_path}/b"])
    assert done.exit_code == 0, done.output
    assert b"secret" not in (tmp_path / "b").read_bytes()
    one, two = (run.invoke(app, ["show", f"{tmp_path}/{name}"]).stdout.split("\n") for name in "ab")
    assert one[1] == two[1]
    assert run.invoke(app, ["redact", f"{tmp_path}/a", f"{tmp_path}/b"]).exit_code == 2
    assert run.invoke(app, ["redact", f"{tmp_path}/no", f"{tmp_path}/c"]).exit_code == 2
