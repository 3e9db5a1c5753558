"""AUTH over the wire: what is offered, when it may be used, and what each dialogue comes to
(RFC 4954, B36, D02)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from smtpgw.edge.auth import Challenge, Circumstances, Exchange, Failure, Mechanism, Step, Success
from smtpgw.edge.road import Answer
from tests.edge.harness import Server, wait_for
from tests.sasl.support import (
    PASSWORD,
    PLAIN,
    USER,
    WRONG,
    b64,
    certificate,
    edge,
    options,
    session,
    start_tls,
)


class Parrot:
    """Asks for the name and the password, as often as it is told to; "later" cannot be judged."""

    def __init__(self, *mechanisms: str) -> None:
        self.offered = tuple(Mechanism(each) for each in mechanisms or ("PLAIN", "LOGIN"))
        self.seen: list[bytes | None] = []
        self.begun = self.ended = 0

    async def mechanisms(self) -> tuple[Mechanism, ...]:
        return self.offered

    def exchange(self, mechanism: str, circumstances: Circumstances, /) -> Exchange:
        self.circumstances = circumstances
        self.begun += 1
        return _Exchange(self, mechanism)


class _Exchange:
    def __init__(self, parrot: Parrot, mechanism: str) -> None:
        self.parrot, self.mechanism = parrot, mechanism

    async def begin(self, initial: bytes | None) -> Step:
        self.parrot.seen.append(initial)
        if self.mechanism == "LOOP":
            return Challenge(b"again")
        return Challenge(b"") if initial is None else self.judge(initial)

    async def respond(self, response: bytes) -> Step:
        self.parrot.seen.append(response)
        return Challenge(b"again") if self.mechanism == "LOOP" else self.judge(response)

    def judge(self, said: bytes) -> Step:
        if said.endswith(b"\0later"):
            return Failure("nobody knows", temporary=True)
        good = said == b"\0".join((b"", USER, PASSWORD))
        return Success(USER) if good else Failure("wrong", USER, "try another")

    def end(self) -> None:
        self.parrot.ended += 1


@pytest.fixture
def parrot() -> Parrot:
    return Parrot()


@pytest.fixture
def server(parrot: Parrot) -> Iterator[Server]:
    with Server(edge(options(parrot))) as one:
        yield one


def test_what_is_offered(server: Server) -> None:
    with server.client(greeted=False) as client:
        client.expect(220)
        assert "250 AUTH PLAIN LOGIN\r\n" in client.command(b"EHLO x", 250)
        assert "AUTH" not in client.command(b"HELO x", 250)


def test_old_clients_see_an_equals_sign(parrot: Parrot) -> None:
    with Server(edge(options(parrot, old_form=True))) as server, session(server) as client:
        assert "AUTH=PLAIN LOGIN\r\n" in client.command(b"EHLO x", 250)


@pytest.mark.parametrize(
    ("lines", "codes"),
    [
        ([PLAIN], [(235, "2.7.0")]),
        ([b"auth plain " + b64(b"", USER, PASSWORD)], [(235, "2.7.0")]),
        ([b"AUTH PLAIN", b64(b"", USER, PASSWORD)], [(334, ""), (235, "2.7.0")]),
        ([WRONG, PLAIN], [(535, "5.7.8"), (235, "2.7.0")]),
        ([PLAIN, PLAIN], [(235, "2.7.0"), (503, "5.5.1")]),
        ([PLAIN, b"RSET", PLAIN], [(235, "2.7.0"), (250, ""), (503, "5.5.1")]),
        ([PLAIN, b"EHLO x", PLAIN], [(235, "2.7.0"), (250, ""), (503, "5.5.1")]),
        ([b"MAIL FROM:<a@b.example>", PLAIN], [(250, ""), (503, "5.5.1")]),
        ([b"AUTH"], [(501, "5.5.4")]),
        ([b"AUTH PLAIN x y"], [(501, "5.5.4")]),
        ([b"AUTH FOO"], [(504, "5.5.4")]),
        ([b"AUTH PLAIN =", PLAIN], [(535, "5.7.8"), (235, "2.7.0")]),
        ([b"AUTH PLAIN !!!", PLAIN], [(501, "5.5.2"), (235, "2.7.0")]),
        ([b"AUTH PLAIN YQ", PLAIN], [(501, "5.5.2"), (235, "2.7.0")]),
        ([b"AUTH PLAIN", b"*", PLAIN], [(334, ""), (501, "5.7.0"), (235, "2.7.0")]),
        ([b"AUTH PLAIN", b"=", PLAIN], [(334, ""), (501, "5.5.2"), (235, "2.7.0")]),
        ([b"AUTH PLAIN", b"", PLAIN], [(334, ""), (535, "5.7.8"), (235, "2.7.0")]),
        ([b"AUTH PLAIN", b"+/+/", PLAIN], [(334, ""), (535, "5.7.8"), (235, "2.7.0")]),
        ([b"AUTH PLAIN", b"A" * 12288, b"NOOP"], [(334, ""), (535, "5.7.8"), (250, "")]),
        ([b"AUTH PLAIN", b"A" * 12289, b"NOOP"], [(334, ""), (500, "5.5.6"), (250, "")]),
        ([b"AUTH PLAIN " + b"A" * 12288, b"NOOP"], [(535, "5.7.8"), (250, "")]),
        ([b"AUTH PLAIN " + b"A" * 12800, b"NOOP"], [(500, "5.5.2"), (250, "")]),
        ([b"AUTH PLAIN " + b64(b"", USER, b"later"), PLAIN], [(454, "4.7.0"), (235, "2.7.0")]),
    ],
)  # fmt: skip
def test_dialogues(
    server: Server, parrot: Parrot, lines: list[bytes], codes: list[tuple[int, str]]
) -> None:
    with session(server) as client:
        for line, (code, enhanced) in zip(lines, codes, strict=True):
            client.command(line, code, enhanced)
    assert parrot.ended == parrot.begun


def test_an_empty_initial_response_is_one(server: Server, parrot: Parrot) -> None:
    with session(server) as client:
        client.command(b"AUTH PLAIN =", 535)
        client.command(b"AUTH PLAIN", 334)
        client.command(b"*", 501)
    assert parrot.seen == [b"", None]
    assert parrot.ended == 2


def test_not_before_ehlo(server: Server) -> None:
    with server.client(greeted=False) as client:
        client.expect(220)
        client.command(PLAIN, 503, "5.5.1")


@pytest.mark.parametrize("line", [PLAIN, b"AUTH", b"AUTH FOO", b"AUTH PLAIN"])
def test_not_where_it_is_not_enabled(line: bytes) -> None:
    with Server(edge(None)) as server, session(server) as client:
        assert "AUTH" not in client.command(b"EHLO x", 250)
        client.command(line, 503, "5.5.1")
        client.command(b"MAIL FROM:<a@b.example> AUTH=<>", 555)


def test_only_over_tls(tmp_path: Path, parrot: Parrot) -> None:
    pem = certificate(tmp_path)
    with Server(edge(options(parrot, tls_only=True), pem)) as server:
        with session(server) as client:
            assert "AUTH" not in client.command(b"EHLO x", 250)
            client.command(PLAIN, 503, "5.5.1")
            assert parrot.seen == []
        with session(server, tls=True) as client:
            assert "AUTH PLAIN LOGIN" in client.command(b"EHLO x", 250)
            client.command(PLAIN, 235)
            assert parrot.circumstances.tls is not None


@pytest.mark.parametrize("greets", [True, False])
def test_starttls_forgets_the_login(tmp_path: Path, parrot: Parrot, greets: bool) -> None:
    listener = replace(edge(options(parrot), certificate(tmp_path)), helo_required=greets)
    with Server(listener) as server, session(server) as client:
        client.command(PLAIN, 235)
        start_tls(client)
        if greets:
            client.command(b"EHLO x", 250)
        client.begin()
        client.command(b"Subject: x\r\n\r\n.", 250)
        client.command(PLAIN, 235)
    assert server.ledger.calls.count("logout") == 1
    assert server.accepted[0].hello is not None
    assert server.accepted[0].hello.login is None


def test_the_login_stands_in_what_the_road_is_told(server: Server) -> None:
    with session(server) as client:
        client.command(PLAIN, 235)
        client.command(b"EHLO again", 250)
        client.begin()
        client.command(b"Subject: x\r\n\r\n.", 250)
    hello = server.accepted[0].hello
    assert hello is not None
    assert hello.login is not None
    assert (hello.login.name, hello.login.method) == (USER, "PLAIN")
    assert "login" in server.ledger.calls


def test_the_road_may_refuse_a_login(server: Server) -> None:
    server.ledger.answers["login"] = Answer(535, "5.7.8", "not you")
    with session(server) as client:
        client.command(PLAIN, 535)
        client.command(PLAIN, 535)


def test_who_guesses_is_sent_away(parrot: Parrot) -> None:
    with Server(edge(options(parrot, tries=3))) as server, session(server) as client:
        client.command(WRONG, 535)
        client.command(b"AUTH PLAIN " + b64(b"", USER, b"later"), 454)
        client.command(WRONG, 535)
        client.command(WRONG, 421, "4.7.0")
        assert client.closed() == b""


def test_a_dialogue_has_an_end() -> None:
    with Server(edge(options(Parrot("LOOP")))) as server, session(server) as client:
        client.command(b"AUTH LOOP", 334)
        for _ in range(19):
            client.command(b"YQ==", 334)
        client.command(b"YQ==", 454)


def test_a_client_that_leaves_ends_its_exchange(server: Server, parrot: Parrot) -> None:
    with session(server) as client:
        client.command(b"AUTH PLAIN", 334)
    with session(server) as client:
        client.command(b"NOOP", 250)
    wait_for(lambda: parrot.ended == 1)


@pytest.mark.parametrize("tls", [False, True])
def test_auth_of_mail(tmp_path: Path, parrot: Parrot, tls: bool) -> None:
    listener = edge(options(parrot), certificate(tmp_path))
    with Server(listener) as server, session(server, tls=tls) as client:
        client.command(PLAIN, 235)
        client.command(b"MAIL FROM:<a@b.example> AUTH=e+3Dmc2@example.com", 250)
        client.command(b"RSET", 250)
        client.command(b"MAIL FROM:<a@b.example> AUTH=<>", 250)
        client.command(b"RSET", 250)
        client.command(b"MAIL FROM:<a@b.example> AUTH=a AUTH=b", 501)
        client.command(b"MAIL FROM:<a@b.example> AUTH=a+b", 501)
        client.command(b"MAIL FROM:<a@b.example> AUTH=", 501)
