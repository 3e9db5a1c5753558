"""Dovecot's auth client protocol: lines in any pieces, what may not be in them, and what a
client's octets can become in ours."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpgw.edge.auth import Mechanism
from smtpgw.sasl.dovecot import codec
from smtpgw.sasl.dovecot.codec import (
    Accepted,
    Continue,
    Decoder,
    Event,
    ProtocolError,
    Question,
    Ready,
    Refused,
)
from tests.fuzz.driver import seeds
from tests.fuzz.sasl_targets import TARGETS

HANDSHAKE = (
    b"VERSION\t1\t2\nMECH\tPLAIN\tplaintext\nMECH\tDIGEST-MD5\tdictionary\tactive\tmutual-auth\n"
    b"MECH\tSECRET\tprivate\nSPID\t42\nCUID\t1\nCOOKIE\tabcdef\nDONE\n"
)


def read(octets: bytes, size: int = 0) -> list[Event]:
    decoder, found = Decoder(), []
    for at in range(0, len(octets), size or len(octets)):
        found += decoder.feed(octets[at : at + (size or len(octets))])
    return found


def after(octets: bytes) -> list[Event]:
    return read(HANDSHAKE + octets)[1:]


def test_the_handshake() -> None:
    offered = (
        Mechanism("PLAIN", frozenset({"plaintext"})),
        Mechanism("DIGEST-MD5", frozenset({"dictionary", "active", "mutual-auth"})),
    )
    assert read(HANDSHAKE) == [Ready(offered, b"abcdef")]
    assert codec.greeting(7) == b"VERSION\t1\t1\nCPID\t7\n"


@pytest.mark.parametrize(
    ("line", "event"),
    [
        (b"OK\t3\tuser=u@example.net\n", Accepted(3, b"u@example.net")),
        (b"OK\t3\n", Accepted(3, b"")),
        (b"OK\t3\tuser=a\x01tb\x011\x01n\x01r\x010\n", Accepted(3, b"a\tb\x01\n\r\0")),
        (b"CONT\t3\tYWJj\n", Continue(3, b"abc")),
        (b"CONT\t3\t\n", Continue(3, b"")),
        (b"CONT\t3\n", Continue(3, b"")),
        (b"FAIL\t3\tuser=u\treason=no\n", Refused(3, b"u", b"no")),
        (b"FAIL\t3\tuser=u\ttemp\n", Refused(3, b"u", temporary=True)),
        (b"FAIL\t3\tcode=temp_fail\n", Refused(3, code=b"temp_fail", temporary=True)),
        (b"FAIL\t3\tcode=user_disabled\tuser_disabled\n", Refused(3, code=b"user_disabled")),
    ],
)
def test_answers(line: bytes, event: Event) -> None:
    assert after(line) == [event]
    assert after(b"NEW\tthing\n" + line) == [event]


@pytest.mark.parametrize(
    "octets",
    [
        b"VERSION\t2\t0\n",
        b"VERSION\n",
        b"VERSION\t1\t1\nSPID\t1\n",
        b"MECH\tPLAIN\nDONE\n",
        b"VERSION\t1\t1\nMECH\n",
        b"VERSION\t1\t1\nMECH\tA B\n",
        b"VERSION\t1\t1\n" + b"MECH\tA\n" * 101,
        b"x" * 65_537,
        b"x" * 65_537 + b"\n",
        HANDSHAKE + b"OK\n",
        HANDSHAKE + b"OK\tx\n",
        HANDSHAKE + b"FAIL\t-1\n",
        HANDSHAKE + b"CONT\t1\t!!\n",
        HANDSHAKE + b"CONT\t1\tYQ\n",
    ],
)
def test_what_dovecot_may_not_say(octets: bytes) -> None:
    with pytest.raises(ProtocolError):
        read(octets)


@given(st.integers(1, 40), st.lists(st.sampled_from([b"OK\t1\tuser=u\n", b"CONT\t2\tYQ==\n"])))
@settings(max_examples=60, deadline=None)
def test_pieces_of_any_size(size: int, lines: list[bytes]) -> None:
    octets = HANDSHAKE + b"".join(lines)
    assert read(octets, size) == read(octets)


def test_a_question() -> None:
    question = Question("PLAIN", "smtp", True, b"192.0.2.2", 587, b"192.0.2.1", 4711)
    assert codec.auth(5, question, b"\0u\0p") == (
        b"AUTH\t5\tPLAIN\tservice=smtp\tnologin\tsecured\tlip=192.0.2.2\tlport=587\t"
        b"rip=192.0.2.1\trport=4711\tresp=AHUAcA==\n"
    )
    bare = Question("EXTERNAL", "smtp", False, certificate="a\tb")
    assert codec.auth(6, bare, None) == (
        b"AUTH\t6\tEXTERNAL\tservice=smtp\tnologin\tvalid-client-cert\tcert_username=a\x01tb\n"
    )


@given(st.binary(max_size=100))
@settings(max_examples=200, deadline=None)
def test_what_a_client_says_stays_in_one_word(said: bytes) -> None:
    for line in (codec.auth(1, Question("PLAIN", "smtp", False), said), codec.cont(1, said)):
        assert line.count(b"\n") == 1
        assert line.endswith(b"\n")
        last = line[:-1].split(b"\t")[-1].removeprefix(b"resp=")
        assert base64.b64decode(b"" if last == b"=" else last, validate=True) == said
    assert codec.unescape(codec.escape(said)) == said
    assert not set(codec.escape(said)) & set(b"\t\r\n\0")


@pytest.mark.parametrize("name", TARGETS)
def test_saved_seeds(name: str) -> None:
    found = seeds(name)
    assert found
    for each in found:
        TARGETS[name](each)


_words = st.sampled_from(
    [b"VERSION\t1\t1\n", b"MECH\tPLAIN\tplaintext\n", b"DONE\n", b"OK\t1\tuser=u\n", b"1", b"OK",
     b"FAIL\t2\ttemp\n", b"CONT\t1\tYQ==\n", b"SPID\t1\n", b"\t", b"\n", b"\x01", HANDSHAKE]
)  # fmt: skip


@pytest.mark.parametrize("name", TARGETS)
@given(st.one_of(st.binary(max_size=100), st.lists(_words, max_size=12).map(b"".join)))
@settings(max_examples=300, deadline=None)
def test_any_octets(name: str, octets: bytes) -> None:
    TARGETS[name](octets)
