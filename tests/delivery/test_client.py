"""The dialogue with a peer that does as it likes (faults F16-F18, attacks J07-J14)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from smtpgw.delivery.outcome import Deferred, Delivered, Destination, Failed, Job, Outcome
from tests.delivery.peer import CLOSE, EXTENSIONS, STALL, Answer, Peer, job, listening, pool
from tests.queue.support import run, until

_TWO = (b"a@example.net", b"b@example.net")
_PLAIN = b"250 peer.example\r\n"


def _deliver(peer: Peer, work: Job, transport: str = "lmtp", **limits: float) -> Sequence[Outcome]:
    async def scenario() -> Sequence[Outcome]:
        async with listening(peer, transport) as where:
            deliverer = pool(**limits)
            outcomes = await deliverer.deliver(where, work)
            await deliverer.close()
            return outcomes

    return run(scenario())


def _kinds(outcomes: Sequence[Outcome]) -> list[str]:
    return [type(each).__name__ for each in outcomes]


@pytest.mark.parametrize(
    "greeting", [EXTENSIONS, _PLAIN.replace(b"250 ", b"250-") + b"250 8BITMIME\r\n"]
)
def test_bytes_on_the_wire(greeting: bytes) -> None:
    peer = Peer({"LHLO": greeting})
    outcomes = _deliver(peer, job(_TWO, b".dot\r\n..\r\nno end", sender_args=(b"RET=FULL",)))
    assert _kinds(outcomes) == ["Delivered"] * 2
    assert outcomes[0].remote == "peer.example"
    assert peer.messages == [b"Subject: x\r\n\r\n..dot\r\n...\r\nno end\r\n.\r\n"]
    size = b" SIZE=30" if greeting is EXTENSIONS else b""
    assert peer.commands[:5] == [
        b"LHLO gw.example\r\n",
        b"MAIL FROM:<a@example.com>" + size + b"\r\n",
        b"RCPT TO:<a@example.net>\r\n",
        b"RCPT TO:<b@example.net>\r\n",
        b"DATA\r\n",
    ]


def test_what_the_peer_offers_is_used() -> None:
    offers = b"250-p\r\n250-8BITMIME\r\n250-DSN\r\n250 SMTPUTF8\r\n"
    peer = Peer({"LHLO": offers})
    work = job(
        ("ü@x".encode(),),
        b"\xff\r\n",
        sender_args=(b"RET=HDRS", b"ENVID=e+201", b"BODY=8BITMIME", b"EVIL=1 X"),
        rcpt_args=(b"NOTIFY=SUCCESS", b"ORCPT=rfc822;a@b", b"NOTIFY=a b"),
    )
    (outcome,) = _deliver(peer, work)
    assert outcome == Delivered(0, "250 2.0.0 stored", "p", "2.0.0", False, True)
    assert peer.commands[1] == (
        b"MAIL FROM:<a@example.com> BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=e+201\r\n"
    )
    assert peer.commands[2] == "RCPT TO:<ü@x> NOTIFY=SUCCESS ORCPT=rfc822;a@b\r\n".encode()


def test_smtp_says_ehlo_then_helo_and_takes_one_reply() -> None:
    peer = Peer({"EHLO": b"502 no\r\n", "HELO": b"250 old.example\r\n", "DOT": b"250 all\r\n"})
    outcomes = _deliver(peer, job(_TWO), "smtp")
    assert _kinds(outcomes) == ["Delivered"] * 2
    assert peer.verbs()[:3] == ["EHLO", "HELO", "MAIL"]


def test_each_recipient_has_its_own_reply() -> None:
    rcpts = tuple(b"%d@x" % n for n in range(4))
    refuse = lambda line: b"550 5.1.1 no\r\n" if b"<1@" in line else b"250 ok\r\n"  # noqa: E731
    peer = Peer({"RCPT": refuse, "DOT": b"250 2.0.0 a\r\n452 4.2.2 full\r\n552 5.2.2 over\r\n"})
    outcomes = _deliver(peer, job(rcpts))
    assert outcomes == [
        Delivered(0, "250 2.0.0 a", "peer.example", "2.0.0", True, False),
        Failed(1, "550 5.1.1 no", "peer.example", "5.1.1", True),
        Deferred(2, "452 4.2.2 full", "peer.example", "4.2.2", True),
        Failed(3, "552 5.2.2 over", "peer.example", "5.2.2", True),
    ]


_FAULTS: list[tuple[str, Mapping[str, Answer], str]] = [
    ("banner refused", {"CONNECT": b"554 go away\r\n"}, "greeting refused: 554 go away"),
    ("banner 421", {"CONNECT": b"421 busy\r\n" + CLOSE}, "greeting refused: 421 busy"),
    ("banner never", {"CONNECT": STALL}, "timed out waiting for the reply to connect"),
    ("banner closed", {"CONNECT": CLOSE}, "closed"),
    ("banner garbage", {"CONNECT": b"HTTP/1.1 200 OK\r\n"}, "bad reply"),
    ("lhlo 421", {"LHLO": b"421 4.3.2 no\r\n" + CLOSE}, "LHLO refused: 421"),
    ("mail 421", {"MAIL": b"421 4.3.2 no\r\n" + CLOSE}, "421 4.3.2 no"),
    ("mail 4xx", {"MAIL": b"450 4.3.2 no\r\n", "DATA": b"503 x\r\n"}, "450 4.3.2 no"),
    ("rcpt 421", {"RCPT": b"421 4.3.2 no\r\n" + CLOSE}, "421 4.3.2 no"),
    ("data 421", {"DATA": b"421 4.3.2 no\r\n" + CLOSE}, "421 4.3.2 no"),
    ("data 4xx", {"DATA": b"451 4.3.2 no\r\n"}, "451 4.3.2 no"),
    ("data 250", {"DATA": b"250 what\r\n"}, "out of place"),
    ("data stalls", {"DATA": STALL}, "timed out waiting for the reply to DATA"),
    ("dot 421", {"DOT": b"421 4.3.2 no\r\n" + CLOSE}, "421 4.3.2 no"),
    ("dot closed", {"DOT": CLOSE}, "end of data"),
    ("dot garbage", {"DOT": b"\xff\xfe\r\n"}, "bad reply"),
    ("dot flood", {"DOT": b"250-x\r\n" * 100_000}, "bad reply"),
    ("dot endless", {"DOT": b"2" * 100_000}, "bad reply"),
    ("dot two codes", {"DOT": b"250-a\r\n550 b\r\n"}, "both 250 and 550"),
    ("dot 3xx", {"DOT": b"354 again\r\n" * 2}, "out of place"),
    ("rcpt 3xx", {"RCPT": b"354 go\r\n"}, "out of place"),
]


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize(("answers", "text"), [f[1:] for f in _FAULTS], ids=[f[0] for f in _FAULTS])
def test_a_fault_defers_and_ends_the_connection(
    answers: Mapping[str, Answer], text: str, batched: bool
) -> None:
    base: dict[str, Answer] = {} if batched else {"LHLO": b"250-p\r\n250 8BITMIME\r\n"}
    patience = 0.3 if "timed out" in text else 20
    limits = {f"lmtp_{each}_timeout": patience for each in ("lhlo", "data_init", "data_done")}
    outcomes = _deliver(Peer({**base, **answers}), job(_TWO), **limits)
    assert _kinds(outcomes) == ["Deferred"] * 2
    assert text in outcomes[0].text
    assert outcomes[1].enhanced[0] == "4"


def test_who_has_an_answer_keeps_it_when_the_connection_goes() -> None:
    peer = Peer({"DOT": b"250 2.0.0 one\r\n550 5.7.1 two\r\n" + CLOSE})
    outcomes = _deliver(peer, job((b"1@x", b"2@x", b"3@x", b"4@x")))
    assert _kinds(outcomes) == ["Delivered", "Failed", "Deferred", "Deferred"]


def test_too_few_replies_defer_the_rest() -> None:
    peer = Peer({"DOT": b"250 2.0.0 one\r\n"})
    outcomes = _deliver(peer, job(_TWO), lmtp_data_done_timeout=0.3)
    assert _kinds(outcomes) == ["Delivered", "Deferred"]


@pytest.mark.parametrize("extra", [b"550 5.0.0 extra\r\n", b"250 2.0.0 extra\r\n"])
@pytest.mark.parametrize("when", ["DOT", "MAIL", "RSET"])
def test_a_reply_nobody_asked_for_is_not_taken_for_that_of_the_next_mail(
    when: str, extra: bytes
) -> None:
    async def scenario() -> None:
        answers: dict[str, Answer | list[Answer]] = {
            "DOT": {"DOT": [b"250 2.0.0 ok\r\n" + extra, b"250 ok\r\n"]},
            "MAIL": {"MAIL": [b"250 ok\r\n", extra + b"250 ok\r\n", b"250 ok\r\n"]},  # it came late
            "RSET": {"RSET": b"250 2.0.0 ok\r\n" + extra, "LHLO": _PLAIN},
        }[when]
        peer = Peer(answers)
        async with listening(peer) as where:
            deliverer = pool()
            for _ in range(2):
                assert _kinds(await deliverer.deliver(where, job())) == ["Delivered"]
            await deliverer.close()
        assert peer.connections == 2
        assert len(peer.messages) == 2
        assert peer.verbs().count("RSET") == (when == "RSET")

    run(scenario())


def test_too_many_recipients_are_sent_at_once_in_parts() -> None:
    count = 0

    def three_at_most(line: bytes) -> bytes:
        nonlocal count
        count += 1
        return b"250 ok\r\n" if count <= 3 else b"452 4.5.3 too many\r\n"

    def fresh(line: bytes) -> bytes:
        nonlocal count
        count = 0
        return b"250 ok\r\n"

    peer = Peer({"RCPT": three_at_most, "MAIL": fresh})
    outcomes = _deliver(peer, job(tuple(b"%d@x" % n for n in range(8))))
    assert _kinds(outcomes) == ["Delivered"] * 8
    assert len(peer.messages) == 3
    assert peer.connections == 1


@pytest.mark.parametrize("reply", [b"552 too many\r\n", b"552 5.2.2 quota\r\n", b"452 no\r\n"])
def test_552_at_rcpt_is_temporary_and_nobody_else_suffers(reply: bytes) -> None:
    answer = lambda line: reply if b"<a@" in line else b"250 ok\r\n"  # noqa: E731
    outcomes = _deliver(Peer({"RCPT": answer}), job(_TWO))
    assert _kinds(outcomes) == ["Deferred", "Delivered"]
    assert outcomes[0].enhanced[0] == "4"


@pytest.mark.parametrize(
    ("offers", "work", "code"),
    [
        (b"250 p\r\n", job(head=b"Subject: \xff\r\n\r\n"), "5.6.3"),
        (b"250-p\r\n250 8BITMIME\r\n", job(("ü@x".encode(),)), "5.6.7"),
        (b"250-p\r\n250 SIZE 10\r\n", job(), "5.3.4"),
    ],
)
def test_what_a_peer_cannot_take_is_not_sent(offers: bytes, work: Job, code: str) -> None:
    peer = Peer({"LHLO": offers})
    (outcome,) = _deliver(peer, work)
    assert isinstance(outcome, Failed)
    assert outcome.enhanced == code
    assert peer.messages == []


def test_7_bit_mail_declared_8_bit_goes_to_a_7_bit_peer() -> None:
    peer = Peer({"LHLO": b"250 p\r\n"})
    assert _kinds(_deliver(peer, job(sender_args=(b"BODY=8BITMIME",)))) == ["Delivered"]
    assert peer.commands[1] == b"MAIL FROM:<a@example.com>\r\n"


def test_an_address_never_becomes_a_command() -> None:
    peer = Peer()
    outcomes = _deliver(peer, job((b"x@y>\r\nRSET", b"ok@x")))
    assert _kinds(outcomes) == ["Failed", "Delivered"]
    assert outcomes[0].enhanced == "5.1.3"
    assert not any(b"RSET" in each for each in peer.commands)


def test_nobody_accepted_means_no_message() -> None:
    peer = Peer({"RCPT": b"550 5.1.1 no\r\n"})  # and DATA is answered 354 all the same
    assert _kinds(_deliver(peer, job(_TWO))) == ["Failed"] * 2
    assert peer.messages == []


def test_a_refusal_in_mid_message_counts() -> None:
    peer = Peer({"DATA": b"354 go\r\n552 5.3.4 too big\r\n" + CLOSE})
    outcomes = _deliver(peer, job(text=b"x" * 78 + b"\r\n", rcpts=_TWO))
    assert {type(each) for each in outcomes} <= {Failed, Deferred}


@pytest.mark.parametrize(("greeting", "resets"), [(EXTENSIONS, 0), (_PLAIN, 2)])
def test_connections_are_kept_reset_and_let_go(greeting: bytes, resets: int) -> None:
    async def scenario() -> None:
        peer = Peer({"LHLO": greeting})
        async with listening(peer) as where:
            deliverer = pool(kept=0.2)
            for _ in range(3):
                assert _kinds(await deliverer.deliver(where, job())) == ["Delivered"]
            assert peer.connections == 1
            assert peer.verbs().count("RSET") == resets
            await until(lambda: "QUIT" in peer.verbs())
            await deliverer.deliver(where, job())
            assert peer.connections == 2
            await deliverer.close()

    run(scenario())


def test_what_a_refused_mail_may_have_left_is_reset_with_the_next() -> None:
    async def scenario() -> None:
        peer = Peer(
            {"RCPT": [b"550 5.1.1 no\r\n", b"250 ok\r\n"], "DATA": [b"503 x\r\n", b"354 go\r\n"]}
        )
        async with listening(peer) as where:
            deliverer = pool()
            assert _kinds(await deliverer.deliver(where, job())) == ["Failed"]
            for _ in range(2):
                assert _kinds(await deliverer.deliver(where, job())) == ["Delivered"]
            await deliverer.close()
        assert peer.connections == 1
        assert peer.verbs()[1:9] == ["MAIL", "RCPT", "DATA", "RSET", "MAIL", "RCPT", "DATA", "MAIL"]

    run(scenario())


def test_a_sender_that_is_refused_on_a_kept_connection_is_asked_for_on_a_new_one() -> None:
    async def scenario() -> None:
        ok, no = b"250 ok\r\n", b"550 5.7.1 no\r\n"
        peer = Peer({"MAIL": [ok, no, ok, no]})
        async with listening(peer) as where:
            deliverer = pool()
            for _ in range(2):
                assert _kinds(await deliverer.deliver(where, job())) == ["Delivered"]
            assert _kinds(await deliverer.deliver(where, job())) == ["Failed"]
            await deliverer.close()
        assert peer.connections == 3

    run(scenario())


@pytest.mark.parametrize("way", ["hang up", "421"])
def test_a_kept_connection_that_died_is_replaced(way: str) -> None:
    async def scenario() -> None:
        ok = b"250 ok\r\n"
        bye = b"421 4.3.2 timeout\r\n" + CLOSE
        peer = Peer({"MAIL": [ok, bye, ok] if way == "421" else ok})
        async with listening(peer) as where:
            deliverer = pool()
            await deliverer.deliver(where, job())
            if way == "hang up":
                peer.hang_up()
            assert _kinds(await deliverer.deliver(where, job())) == ["Delivered"]
            assert peer.connections == 2
            assert len(peer.messages) == 2
            await deliverer.close()

    run(scenario())


@pytest.mark.parametrize(
    ("nexthop", "text"),
    [
        ("unix:/no/socket", "connect to unix:/no/socket: No such file or directory"),
        ("inet:127.0.0.1:1", "connect to 127.0.0.1[127.0.0.1]:1: Connection refused"),
    ],
)
def test_nobody_there(nexthop: str, text: str) -> None:
    (outcome,) = run(pool().deliver(Destination("lmtp", nexthop), job()))
    assert isinstance(outcome, Deferred)
    assert outcome.unreachable
    assert outcome.enhanced == "4.4.1"
    assert outcome.text == text


def test_a_peer_that_stops_reading_is_given_up() -> None:
    peer = Peer({"DATA": b"354 go\r\n" + STALL})
    work = job(text=b"x" * 4_000_000)
    (outcome,) = _deliver(peer, work, lmtp_data_xfer_timeout=0.3, lmtp_data_done_timeout=0.3)
    assert isinstance(outcome, Deferred)
    assert "timed out" in outcome.text
