"""The pure parts of handing in a mail: addresses of a header, options, lines, the drop file."""

from __future__ import annotations

import io
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milterd.core.mail import Envelope, Recipient, split_header
from smtpgw.address.mailboxes import addresses
from smtpgw.local import drop, sendmail
from smtpgw.local.compose import Identity, Refused, checked, complete, envelope
from smtpgw.local.drop import DropReader, Public, Ticket, Torn, authorized, trailer
from smtpgw.local.message import Message, TooLarge, lines
from smtpgw.local.options import Mode, Options, UsageError, parse

WHO = Identity("joe", "Joe Doe", "gw.example.net")
FAST = settings(max_examples=150, deadline=None)


# -- addresses -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (b" a@b", [b"a@b"]),
        (b'A <a@b>, c@d (x, y@z (deep)), "Q, <no@no>" <e@f>', [b"a@b", b"c@d", b"e@f"]),
        (b"friends: a@b, C <c@d>; , e@f", [b"a@b", b"c@d", b"e@f"]),
        (b"undisclosed-recipients:;", []),
        (b"root, joe@x", [b"root", b"joe@x"]),
        (b"a@b c@d", [b"a@b", b"c@d"]),
        (b"a . b @ c . d", [b"a.b@c.d"]),
        (b'"a b"@c', [b'"a b"@c']),
        (b'<"a>b"@c>', [b'"a>b"@c']),
        (b"<@x,@y:a@b>", [b"@x,@y:a@b"]),
        (b"u@[IPv6:::1]", [b"u@[IPv6:::1]"]),
        (b"A\r\n\t<a@b>,\r\n c@d", [b"a@b", b"c@d"]),
        (b"<>, <a@b", [b""][1:]),
        (b"(never closed a@b", []),
    ],
)
def test_addresses_of_a_field(value: bytes, found: list[bytes]) -> None:
    assert addresses(value) == found


_atom = st.text("abcz019-_+", min_size=1, max_size=8)
_address = st.builds("{}@{}.example".format, _atom, st.text("abc", min_size=1, max_size=5))
_shapes = st.sampled_from(
    ["{}", "<{}>", "Joe Doe <{}>", '"Doe, J." <{}>', "{} (a, b)", "(x) {}", "g: {};", "\r\n {}"]
)


@FAST
@given(st.lists(st.tuples(_shapes, _address), min_size=1, max_size=6))
def test_every_address_is_found_in_order(those: list[tuple[str, str]]) -> None:
    value = ", ".join(shape.format(address) for shape, address in those)
    assert addresses(value.encode()) == [address.encode() for _, address in those]


@FAST
@given(st.binary(max_size=60) | st.text('ab@.,;:<>()"\\[] \r\n', max_size=60).map(str.encode))
def test_whatever_a_header_holds_no_address_is_made_of_syntax(value: bytes) -> None:
    for each in addresses(value):
        try:
            found = checked(each, "x.example")
        except Refused:
            continue
        assert b"\n" not in found
        assert b"\r" not in found


# -- options ---------------------------------------------------------------------------


def test_options_as_programs_give_them() -> None:
    assert parse(["-t", "-i"]) == Options(from_header=True, dots=False)
    assert parse(["-ti", "-fa@b", "-F", "Joe"]) == Options(
        from_header=True, dots=False, sender="a@b", full_name="Joe"
    )
    assert parse(["u@x", "-r", "a@b", "--", "-v"]).recipients == ("u@x", "-v")
    assert parse(["-oi", "-oem", "-odb", "-em", "-O", "A=b", "-Am", "-U", "-v"]).dots is False
    assert parse(["-bp"]).mode is Mode.LIST
    assert parse([], "mailq").mode is Mode.LIST
    assert parse(["-q"]).flush == ()
    assert parse(["-qIabc"]).flush == ("abc",)
    assert parse(["-qRexample.net"]).flush == ("--site", "example.net")
    assert parse(["-q15m", "u"]).mode is Mode.MAIL


@FAST
@given(st.lists(st.text("-abfiNoqtRVvx@= z", max_size=6), max_size=6))
def test_any_command_line_is_understood_or_refused(words: list[str]) -> None:
    try:
        found = parse(words)
    except UsageError:
        return
    assert set(found.recipients) <= set(words)


# -- the message -----------------------------------------------------------------------


def read(octets: bytes, *, dots: bool = True) -> bytes:
    return b"".join(lines(io.BytesIO(octets), dots=dots))


@FAST
@given(st.lists(st.sampled_from([b"a", b"\r", b"\n", b"\r\n", b"\0", b".", b"x" * 65535])))
def test_lines_end_in_crlf_and_nothing_else_is_left_of_cr_and_nul(parts: list[bytes]) -> None:
    octets = b"".join(parts)
    found = read(octets, dots=False)
    assert b"\0" not in found
    plain = found.replace(b"\r\n", b"")
    assert b"\r" not in plain
    assert b"\n" not in plain
    assert found == b"" or found.endswith(b"\r\n")
    assert read(found, dots=False) == found
    assert found.count(b"\n") - octets.count(b"\n") in (0, 1)


def test_a_dot_ends_the_message_unless_told_otherwise() -> None:
    assert read(b"a\n.\nb\n") == b"a\r\n"
    assert read(b"a\n.\nb\n", dots=False) == b"a\r\n.\r\nb\r\n"
    assert read(b"a\n..\n.b") == b"a\r\n..\r\n.b\r\n"
    assert read(b"x" * 65536 + b".\n") == b"x" * 65536 + b".\r\n"


def message(octets: bytes, limit: int = 1000) -> tuple[bytes, bytes]:
    whole = Message(lines(io.BytesIO(octets), dots=True), header_limit=500, limit=limit)
    return b"".join(each.raw + b"\r\n" for each in whole.fields), b"".join(whole.body())


@pytest.mark.parametrize(
    ("octets", "head", "body"),
    [
        (b"A: b\n\nc\n", b"A: b\r\n", b"c\r\n"),
        (b"A: b\n c\nno field\n", b"A: b\r\n c\r\n", b"no field\r\n"),
        (b"\nbody\n", b"", b"body\r\n"),
        (b"body only\n", b"", b"body only\r\n"),
        (b" indented\n", b"", b" indented\r\n"),
        (b"From x y\nA: b\n\nFrom z\n", b"A: b\r\n", b"From z\r\n"),
        (b"", b"", b""),
        (b"A: b", b"A: b\r\n", b""),
    ],
)
def test_header_and_body(octets: bytes, head: bytes, body: bytes) -> None:
    assert message(octets) == (head, body)


def test_too_much_is_refused_while_it_is_read() -> None:
    with pytest.raises(TooLarge, match="header_size_limit"):
        message(b"A: b\n" * 200)
    with pytest.raises(TooLarge, match="message_size_limit"):
        message(b"\n" + b"x" * 1100)


def test_envelope_and_header_of_a_mail() -> None:
    fields = split_header(b"To: a@x, joe\r\nBcc: b@x\r\nContent-Length: 5\r\n")[0]
    options = Options(from_header=True, recipients=("c@x, a@x",), notify="NEVER", envid="e f")
    found = envelope(fields, options, WHO)
    assert found.sender == b"joe@gw.example.net"
    assert found.sender_args == (b"ENVID=e+20f",)
    those = [each.address for each in found.recipients]
    assert those == [b"c@x", b"a@x", b"joe@gw.example.net", b"b@x"]
    assert {each.args for each in found.recipients} == {(b"NOTIFY=NEVER",)}
    kept = complete(fields, found.sender, WHO)
    assert [each.name for each in kept] == [b"To", b"From"]
    assert kept[1].value == b" Joe Doe <joe@gw.example.net>"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("", b"s@x"),
        ("J. (Joe)", b'"J. (Joe)" <s@x>'),
        ('a"b\\c\nX: y', b'"a\\"b\\\\c X: y" <s@x>'),
        ("Jörg", b"=?utf-8?b?SsO2cmc=?= <s@x>"),
    ],
)
def test_a_from_that_is_added_holds_any_name(name: str, shown: bytes) -> None:
    (field,) = complete((), b"s@x", Identity("s", name, "x"))
    assert field.value == b" " + shown
    assert complete((), b"", WHO)[0].value == b" MAILER-DAEMON (Mail Delivery System)"


# -- the drop file ---------------------------------------------------------------------

_octets = st.binary(max_size=30)
_envelopes = st.builds(
    Envelope,
    _octets,
    st.lists(_octets, max_size=2).map(tuple),
    st.lists(
        st.builds(Recipient, _octets, st.lists(_octets, max_size=2).map(tuple)), max_size=3
    ).map(tuple),
)


def written(ticket: Ticket, body: bytes) -> bytes:
    octets = ticket.encode() + body
    return octets + trailer(zlib.crc32(octets), len(body))


@FAST
@given(st.builds(Ticket, _envelopes, st.floats(0, 1e10)), st.binary(max_size=300))
def test_a_drop_file_is_read_as_it_was_written(ticket: Ticket, body: bytes) -> None:
    reader = DropReader(io.BytesIO(written(ticket, body)))
    assert (reader.ticket, reader.length) == (ticket, len(body))
    assert b"".join(reader.pieces()) == body


@FAST
@given(st.data())
def test_a_torn_or_changed_drop_file_is_known(data: st.DataObject) -> None:
    octets = written(Ticket(Envelope(b"a@b", (), (Recipient(b"c@d"),)), 1.0), b"body\r\n" * 9)
    at = data.draw(st.integers(0, len(octets) - 1))
    if data.draw(st.booleans()):
        spoiled = octets[:at]
    else:
        spoiled = octets[:at] + bytes([octets[at] ^ data.draw(st.integers(1, 255))])
        spoiled += octets[at + 1 :]
    with pytest.raises(Torn):
        b"".join(DropReader(io.BytesIO(spoiled)).pieces())


@FAST
@given(st.binary(max_size=200).map(lambda each: b"GATEPOST-DROP 1\n" + each + b"\n" + b"x" * 40))
def test_any_file_is_read_or_torn(octets: bytes) -> None:
    with pytest.raises(Torn):
        b"".join(DropReader(io.BytesIO(octets)).pieces())


def test_what_the_command_is_told() -> None:
    public = Public("x.example", 1, 2, ("!joe", "static:anyone"))
    assert Public.decode(public.encode()) == public
    assert not public.admits("joe")
    assert public.admits("root")
    assert not authorized("root", ("joe",))
    for bad in (b"", b"[]", b"{}", b'{"myorigin": 1}'):
        with pytest.raises(ValueError, match=r"."):
            Public.decode(bad)


def test_the_command_loads_little() -> None:
    """It is run for every mail of cron: nothing of the gateway's libraries is loaded."""
    code = "import sys, smtpgw.local.sendmail; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {each.partition(".")[0] for each in done.stdout.split()}
    heavy = {"asyncio", "pydantic", "typer", "rich", "structlog", "ssl", "sqlite3", "email"}
    assert not loaded & heavy


def test_the_settings_are_believed_before_a_directory_of_former_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gateway looks at the one that its settings name, and nowhere else."""
    usual, file = tmp_path / "drop", tmp_path / "gatepost.toml"
    monkeypatch.setattr(drop, "DEFAULT", str(usual))
    monkeypatch.setattr(sendmail, "SETTINGS", str(file))
    assert sendmail.place(None) == str(usual)
    for there in (False, True):
        if there:
            usual.mkdir()
            (usual / "public").touch()
        file.write_text("[smtpgw.queue]\n# drop_directory = '/x'\n")
        assert sendmail.place(None) == str(usual)
        file.write_text("[smtpgw.queue]\ndrop_directory = '/elsewhere'\n")
        assert sendmail.place(None) == "/elsewhere"
        file.write_text("[smtpgw.queue]\ndirectory = '/queue'\n")
        assert sendmail.place(None) == "/queue/drop"
    file.write_text("[smtpgw.queue]\ndirectory = '/que")
    assert sendmail.place(None) == str(usual)
