"""What a session does about lost clients, broken roads, time, pipelining and shutdown."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from smtpgw.edge.listener import serve
from smtpgw.edge.options import ContentOptions, Limits
from smtpgw.edge.road import Answer, Connection
from tests.edge.harness import (
    PATIENCE,
    QUICK,
    SECRET,
    Client,
    Ledger,
    RecordingRoad,
    Server,
    wait_for,
)
from tests.fuzz.edge_targets import run_session

MAIL = b"MAIL FROM:<a@example.com>\r\n"
RCPT = b"RCPT TO:<u@example.net>\r\n"
EOD = b"\r\n.\r\n"


def quick(**deadlines: float) -> object:
    return replace(QUICK, deadlines=replace(QUICK.deadlines, **deadlines))


def reset_connection(client: Client) -> None:
    """Close with RST instead of FIN."""
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.socket.close()


# Clients that go away.


@pytest.mark.parametrize("end", ["fin", "rst", "half-close"])
def test_a_client_lost_in_mid_message_leaves_nothing(end: str) -> None:  # B31
    with Server() as server:
        client = server.client()
        client.begin()
        client.send(b"A: b\r\n\r\nsome of it\r\n.")
        if end == "fin":
            client.socket.close()
        elif end == "rst":
            reset_connection(client)
        else:
            client.socket.shutdown(socket.SHUT_WR)
            assert client.closed() == b""
        wait_for(lambda: server.ledger.open == 0)
        assert server.accepted == []
        assert server.ledger.calls[-2:] == ["reset", "close"]
        client.socket.close()


@pytest.mark.parametrize("end", ["half-close", "fin", "rst"])
def test_a_client_lost_after_the_dot_is_committed_once(end: str) -> None:  # B32
    begun = asyncio.Event()

    async def commit() -> None:
        begun.set()
        await asyncio.sleep(0.3)

    with Server(ledger=Ledger(on_message=commit)) as server:
        client = server.client()
        client.begin()
        client.send(b"x" + EOD)
        wait_for(begun.is_set)
        if end == "half-close":
            client.socket.shutdown(socket.SHUT_WR)
            client.expect(250)
            assert client.closed() == b""
        elif end == "rst":
            reset_connection(client)
        client.socket.close()
        wait_for(lambda: server.ledger.open == 0)
        assert len(server.accepted) == 1
        assert server.ledger.calls.count("close") == 1


def test_a_client_that_half_closes_gets_all_its_replies() -> None:
    with Server() as server, server.client() as client:
        client.send(MAIL + RCPT + b"BDAT 3 LAST\r\nx\r\nQUIT\r\n")
        client.socket.shutdown(socket.SHUT_WR)
        assert [client.reply()[0] for _ in range(4)] == [250, 250, 250, 221]
        assert client.closed() == b""
        assert len(server.accepted) == 1


def test_quit_without_waiting() -> None:
    with Server() as server:
        client = server.client()
        client.send(MAIL + b"QUIT\r\n")
        client.socket.close()
        wait_for(lambda: server.ledger.open == 0)
        assert server.accepted == []


# A road that breaks.


@pytest.mark.parametrize("step", ["helo", "mail", "rcpt", "data", "message", "reset", "unknown"])
def test_what_the_road_raises_is_temporary_and_tells_nothing(step: str) -> None:  # B37
    with Server(ledger=Ledger(raises={step})) as server, Client(server.port) as client:
        client.expect(220)
        said = []
        for line in (b"EHLO x", MAIL[:-2], RCPT[:-2], b"FOO", b"DATA"):
            client.send(line + b"\r\n")
            said.append(client.reply())
        if said[-1][0] == 354:
            client.send(b"x" + EOD)
            said.append(client.reply())
        client.command(b"RSET", 250)
        broken = [text for code, text in said if code == 451]
        assert len(broken) == (0 if step == "reset" else 1)
        assert all(text.startswith("451 4.3.0 Internal error, reference ") for text in broken)
        assert not any(SECRET.split()[0] in text for _, text in said)
        server.ledger.raises.clear()
        client.command(b"EHLO x", 250)
        client.begin()
        client.send(b"x" + EOD)
        client.expect(250)


@pytest.mark.parametrize("step", ["connect", "close"])
def test_a_road_broken_at_its_ends(step: str) -> None:
    with Server(ledger=Ledger(raises={step})) as server, Client(server.port) as client:
        client.expect(451 if step == "connect" else 220)
        if step == "close":
            client.command(b"QUIT", 221)
        assert client.closed() == b""
        wait_for(lambda: server.listener.connections == 0)
        server.ledger.open = 0


def test_no_road_at_all() -> None:
    class NoRoad(Ledger):
        def session(self, _connection: object) -> object:
            raise RuntimeError(SECRET)

    with Server(ledger=NoRoad()) as server, Client(server.port) as client:
        assert SECRET not in client.expect(421, "4.3.0")
        assert client.closed() == b""


@pytest.mark.parametrize("step", ["connect", "helo", "mail", "rcpt", "data", "message"])
def test_the_road_may_refuse_and_hang_up(step: str) -> None:
    answer = Answer(421, "4.7.0", "Go away")
    with Server(ledger=Ledger(answers={step: answer})) as server, Client(server.port) as client:
        if step == "connect":
            client.expect(421, "4.7.0")
        else:
            client.expect(220)
            lines = {"helo": b"EHLO x\r\n", "mail": MAIL, "rcpt": RCPT, "data": b"DATA\r\n"}
            for name, line in (*lines.items(), ("message", b"x" + EOD)):
                client.send(line)
                code, _ = client.reply()
                if name == step:
                    assert code == 421
                    break
        assert client.closed() == b""
        assert server.accepted == []


def test_a_refused_message_ends_its_transaction() -> None:  # C09
    answer = Answer(550, "5.7.1", "Infected")
    with Server(ledger=Ledger(answers={"message": answer})) as server, server.client() as client:
        client.begin()
        client.send(b"x" + EOD)
        client.expect(550, "5.7.1")
        client.command(b"RCPT TO:<u@example.net>", 503, "5.5.1")
        client.command(b"DATA", 503, "5.5.1")


def test_three_messages_on_one_connection_know_nothing_of_each_other() -> None:  # C13
    with Server() as server, server.client() as client:
        client.begin(b"one@example.net")
        client.send(b"A: 1\r\n\r\nfirst" + EOD)
        client.expect(250)
        client.command(MAIL[:-2], 250)
        client.command(b"RCPT TO:<refused@example.net>", 550)
        client.command(b"DATA", 554, "5.5.1")
        client.command(b"RSET", 250)
        client.begin(b"three@example.net")
        client.send(b"B: 3\r\n\r\nthird" + EOD)
        client.expect(250)
        assert [(each.recipients, each.octets) for each in server.accepted] == [
            ([b"one@example.net"], b"A: 1\r\n\r\nfirst\r\n"),
            ([b"three@example.net"], b"B: 3\r\n\r\nthird\r\n"),
        ]


def test_the_envelope_is_given_as_it_was_sent() -> None:  # B05, B30
    with Server() as server, server.client() as client:
        client.command(b"MAIL FROM:<> SIZE=1000 BODY=8BITMIME RET=HDRS ENVID=a+20b", 250)
        for _ in range(1000):
            client.send(b"RCPT TO:<User@Example.NET> NOTIFY=FAILURE,DELAY ORCPT=rfc822;x+2By@z\r\n")
        assert {client.reply()[0] for _ in range(1000)} == {250}
        client.command(b"DATA", 354)
        client.send(b"x" + EOD)
        client.expect(250)
        envelope = server.accepted[0].envelope
        assert envelope.sender == b""
        assert envelope.sender_args == (b"SIZE=1000", b"BODY=8BITMIME", b"RET=HDRS", b"ENVID=a+20b")
        assert {each.address for each in envelope.recipients} == {b"User@Example.NET"}
        assert envelope.recipients[0].args == (b"NOTIFY=FAILURE,DELAY", b"ORCPT=rfc822;x+2By@z")


# Time.


def test_processing_may_take_longer_than_the_client_timeout() -> None:  # B33
    async def long() -> None:
        (session,) = server.listener._sessions
        session.hurry(replace(server.options.deadlines, smtpd_timeout=0.2))
        await asyncio.sleep(0.6)

    with Server(ledger=Ledger(on_message=long)) as server:
        with server.client() as client:
            client.begin()
            client.send(b"x" + EOD + b"QUIT\r\n")
            client.expect(250)
            client.expect(221)
        assert len(server.accepted) == 1


def test_processing_has_an_end() -> None:
    with Server(quick(processing=0.2), Ledger(on_message=lambda: asyncio.sleep(60))) as server:
        with server.client() as client:
            client.begin()
            client.send(b"x" + EOD)
            client.expect(451, "4.3.0")
            client.command(b"QUIT", 221)
        assert server.accepted == []


def test_dribbling_does_not_put_off_the_deadline_of_a_command() -> None:  # E11
    with Server() as server, server.client() as client:
        server.hurry(smtpd_timeout=0.4)
        client.until_told(421, "4.4.2", lambda: client.send(b"N"))
        assert client.closed() == b""


@pytest.mark.parametrize("limit", ["smtpd_timeout", "data"])
def test_a_message_that_never_ends(limit: str) -> None:
    with Server(quick(data=0.3) if limit == "data" else QUICK) as server, server.client() as client:
        client.begin()
        client.send(b"A: b\r\n\r\n")
        if limit == "smtpd_timeout":
            server.hurry(smtpd_timeout=0.3)
        client.expect(421, "4.4.2")
        assert client.closed() == b""
        assert server.accepted == []


def test_a_message_that_dribbles_beyond_its_deadline() -> None:
    with Server(quick(data=0.5)) as server, server.client() as client:
        client.begin()
        client.until_told(421, "4.4.2", lambda: client.send(b"x"))


def test_replies_do_not_wait_for_the_rest_of_a_chunk() -> None:
    with Server() as server, server.client() as client:
        client.send(MAIL + RCPT + b"BDAT 10 LAST\r\na\r\n")
        assert [client.reply()[0] for _ in range(2)] == [250, 250]
        client.send(b"bcdefgh")
        client.expect(250)
        assert server.accepted[0].octets == b"\r\na\r\nbcdefgh\r\n"


def test_a_body_sent_while_data_is_decided_is_no_command() -> None:  # C02
    asked, go_on = threading.Event(), asyncio.Event()

    class Slow(Ledger):
        def session(self, connection: Connection) -> RecordingRoad:
            road = super().session(connection)

            async def data() -> Answer:
                asked.set()
                await go_on.wait()
                return Answer(451, "4.7.1", "Not now")

            road.data = data
            return road

    with Server(ledger=Slow()) as server, server.client() as client:
        client.send(MAIL + RCPT + b"DATA\r\n")
        assert asked.wait(PATIENCE)
        client.send(MAIL + RCPT)
        (session,) = server.listener._sessions
        wait_for(lambda: session.inbox.unread == MAIL + RCPT)
        server.run(go_on.set)
        assert [client.reply()[0] for _ in range(3)] == [250, 250, 451]
        assert client.closed() == b""
        assert server.ledger.calls.count("mail") == 1


def test_a_chunk_that_never_comes() -> None:
    with Server() as server, server.client() as client:
        client.send(MAIL + RCPT + b"BDAT 10 LAST\r\nabc")
        client.expect(250)
        client.expect(250)
        server.hurry(smtpd_timeout=0.3)
        client.expect(421, "4.4.2")
        assert client.closed() == b""
        assert server.accepted == []


def test_a_client_that_reads_no_replies_is_dropped() -> None:  # E13
    options = replace(quick(smtpd_timeout=0.5), limits=Limits(recipient_limit=10**7))
    wordy = Ledger(answers={"rcpt": Answer(250, "2.1.5", "x" * 480)})
    with Server(options, wordy) as server:
        client = Client(server.port, receive_buffer=4096)
        client.socket.settimeout(0.3)
        lines = MAIL.replace(b"MAIL", b"EHLO x\r\nMAIL") + RCPT * 20_000
        with pytest.raises((TimeoutError, ConnectionError)):
            client.send(*[lines] * 500)
        wait_for(lambda: server.listener.connections == 0)
        client.socket.close()


# Pipelining and chunks.


def test_pipelined_commands_are_answered_in_order() -> None:  # C03
    with Server() as server, server.client() as client:
        client.send(MAIL + b"RCPT TO:<later@x>\r\n" + RCPT + b"RCPT TO:<refused@x>\r\nDATA\r\n")
        assert [client.reply()[0] for _ in range(5)] == [250, 451, 250, 550, 354]
        client.send(b"x" + EOD + MAIL + b"QUIT\r\n")
        assert [client.reply()[0] for _ in range(3)] == [250, 250, 221]
        assert len(server.accepted) == 1


def test_pipelined_commands_are_answered_in_one_write() -> None:
    batch = MAIL + RCPT * 5 + b"BDAT 3 LAST\r\nx\r\nNOOP\r\n"
    writes, ledger = asyncio.run(run_session([b"EHLO x\r\n", batch], QUICK))
    assert writes[-1].count(b"\r\n") == 8
    assert len(ledger.accepted) == 1


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_chunks_are_joined_to_the_octet(size: int) -> None:  # C10, C11
    content = "A: b\r\n\r\nü\r\n.\r\n..x\r\n\r\n.\r\nend €\r\n".encode()
    with Server() as server, server.client() as client:
        client.send(MAIL + RCPT)
        chunks = [content[at : at + size] for at in range(0, len(content), size)]
        client.send(b"".join(b"BDAT %d\r\n%b" % (len(each), each) for each in chunks))
        client.send(b"BDAT 0 LAST\r\n")
        assert {client.reply()[0] for _ in range(len(chunks) + 3)} == {250}
        assert server.accepted[0].octets == content


def test_chunks_over_the_limit() -> None:
    options = replace(QUICK, content=ContentOptions(message_size_limit=1000))
    with Server(options) as server, server.client() as client:
        client.send(MAIL + RCPT + (b"BDAT 600\r\n" + b"x" * 600) * 3 + b"NOOP\r\n")
        assert [client.reply()[0] for _ in range(6)] == [250, 250, 250, 552, 503, 250]
        assert server.accepted == []


def test_a_lost_connection_between_chunks_discards_them() -> None:  # C12
    with Server() as server:
        client = server.client()
        client.send(MAIL + RCPT + b"BDAT 3\r\na\r\n")
        for _ in range(3):
            client.expect(250)
        client.socket.close()
        wait_for(lambda: server.ledger.open == 0)
        assert server.accepted == []


def test_data_refused_by_the_road_is_discarded_as_a_chunk_too() -> None:
    ledger = Ledger(answers={"data": Answer(451, "4.7.1", "Not now")})
    with Server(ledger=ledger) as server, server.client() as client:
        client.send(MAIL + RCPT + b"BDAT 6 LAST\r\nQUIT\r\nNOOP\r\n")
        assert [client.reply()[0] for _ in range(4)] == [250, 250, 451, 250]
        assert server.accepted == []


# Who may come, and when all must go.


def test_who_comes_too_often_is_told_before_anything_else() -> None:  # E12
    refusal = Answer(421, "4.7.0", "Error: too many connections from 127.0.0.1")
    with Server(ledger=Ledger(answers={"connection": refusal})) as server:
        with Client(server.port) as client:
            client.expect(421, "4.7.0")
            assert client.closed() == b""
        wait_for(lambda: server.ledger.calls == ["connection", "close"])


def test_a_global_limit_on_connections() -> None:
    options = replace(QUICK, limits=Limits(connections=1))
    with Server(options) as server, server.client(), Client(server.port) as second:
        second.expect(421, "4.3.2")
        assert second.closed() == b""


def test_drain_sends_the_idle_away_and_lets_transactions_end() -> None:  # F24
    with Server() as server:
        idle, busy = server.client(), server.client()
        busy.begin()
        with ThreadPoolExecutor() as pool:
            drained = pool.submit(server.run, lambda: server.listener.drain(PATIENCE))
            idle.expect(421, "4.3.2")
            assert idle.closed() == b""
            with pytest.raises(ConnectionRefusedError):
                wait_for(lambda: bool(Client(server.port).closed()))
            busy.send(b"x" + EOD)
            busy.expect(250)
            busy.expect(421, "4.3.2")
            assert busy.closed() == b""
            assert drained.result(PATIENCE) is True
        assert len(server.accepted) == 1


def test_drain_does_not_wait_for_ever() -> None:
    with Server() as server:
        client = server.client()
        client.begin()
        assert server.run(lambda: server.listener.drain(0.3)) is False
        assert client.closed() == b""
        assert server.accepted == []


def test_drain_waits_for_a_commit_whose_client_is_gone() -> None:
    begun = asyncio.Event()

    async def commit() -> None:
        begun.set()
        await asyncio.sleep(0.5)

    with Server(ledger=Ledger(on_message=commit)) as server:
        client = server.client()
        client.begin()
        client.send(b"x" + EOD)
        wait_for(begun.is_set)
        reset_connection(client)
        assert server.run(lambda: server.listener.drain(PATIENCE)) is True
        assert len(server.accepted) == 1


def test_an_early_talker_is_refused_where_silence_is_asked() -> None:  # B25
    with Server(replace(QUICK, greet_delay=0.3)) as server:
        with server.held():  # until it has talked
            client = Client(server.port)
            client.send(b"EHLO x\r\n")
        with client:
            client.expect(521, "5.5.1")
            assert client.closed() == b""
        with server.client() as client:
            client.command(b"QUIT", 221)


def test_an_accepted_mail_restores_the_budget() -> None:
    with Server() as server, server.client() as client:
        for _ in range(3):
            for _ in range(15):
                client.command(b"BLAH", 500)
            client.begin()
            client.send(b"x" + EOD)
            client.expect(250)


def test_what_ehlo_offers() -> None:
    with Server() as server, Client(server.port) as client:
        banner = client.expect(220)
        assert banner == "220 mx.example.net ESMTP Gatepost\r\n"
        offer = [each[4:] for each in client.command(b"EHLO x", 250).splitlines()]
        assert offer == [
            "mx.example.net", "PIPELINING", "SIZE 26214400", "8BITMIME", "SMTPUTF8",
            "ENHANCEDSTATUSCODES", "CHUNKING", "DSN", "VRFY",
        ]  # fmt: skip
        assert client.command(b"HELO x", 250) == "250 mx.example.net\r\n"


def test_a_unix_socket_serves_too(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = str(tmp_path_factory.mktemp("s") / "smtp")
    with Server() as server:
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(path)
        listening.listen()
        other = server.run(lambda: serve(listening, QUICK, server.ledger))
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(PATIENCE)
            client.connect(path)
            assert client.recv(100).startswith(b"220 ")
            client.sendall(b"QUIT\r\n")
            assert client.recv(100).startswith(b"221 ")
        assert server.run(lambda: other.drain(PATIENCE)) is True
        assert server.ledger.connections[0].client.family.name == "UNIX"
