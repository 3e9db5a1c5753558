"""What Debian's Postfix and the gateway tell the same policy service of the same dialogues, and
what its answers do.
"""

from __future__ import annotations

import contextlib
import re
import socket
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from smtpgw.delegation import codec
from tests.gateway.gateway import Gateway
from tests.peers import postfix
from tests.peers.process import directory

LISTS = ("client", "helo", "sender", "relay", "recipient", "data", "end_of_data")
"""Each list asks, at once: smtpd_delay_reject is off."""

ALIKE = (
    "request", "protocol_state", "protocol_name", "client_address", "client_name",
    "reverse_client_name", "server_address", "helo_name", "sender", "recipient",
    "recipient_count", "size", "etrn_domain", "stress", "sasl_method", "sasl_username",
    "sasl_sender", "ccert_subject", "ccert_issuer", "ccert_fingerprint",
    "ccert_pubkey_fingerprint", "encryption_protocol", "encryption_cipher",
    "encryption_keysize", "policy_context",
)  # fmt: skip
OWN = ("client_port", "server_port", "queue_id", "instance")
"""Attributes that are there, but whose values are each server's own."""


class Service:
    """A policy service that notes what it is told; `answer` is for RCPT, all else is DUNNO."""

    def __init__(self) -> None:
        self.asked: list[dict[str, str]] = []
        self.answer: str | None = "DUNNO"

    @contextlib.contextmanager
    def running(self) -> Iterator[int]:
        """Its port while it runs."""
        service = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                reader = codec.Reader()
                while octets := self.request.recv(65536):
                    reader.feed(octets)
                    while (found := reader.next()) is not None:
                        service.asked.append(found)
                        rcpt = found["protocol_state"] == "RCPT"
                        answer = service.answer if rcpt else "DUNNO"
                        good = codec.encode({"action": answer or ""})
                        self.request.sendall(b"nonsense\n\n" if answer is None else good)

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            allow_reuse_address = True

        with Server(("127.0.0.1", 0), Handler) as server:
            thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
            thread.start()
            try:
                yield server.server_address[1]
            finally:
                server.shutdown()
                thread.join(10)


DIALOGUES: dict[str, list[bytes]] = {
    "two recipients": [
        b"EHLO client.example.org",
        b"MAIL FROM:<s@sender.example> SIZE=1234",
        b"RCPT TO:<u@example.net>",
        b"RCPT TO:<V@example.net>",
        b"DATA",
        b"Subject: hello\r\n\r\nhello\r\n.",
        b"QUIT",
    ],
    "one recipient, HELO, null sender": [
        b"HELO client.example.org",
        b"MAIL FROM:<>",
        b"RCPT TO:<u@example.net>",
        b"DATA",
        b"Subject: hello\r\n\r\nhello\r\n.",
        b"QUIT",
    ],
    "odd addresses, and a second mail": [
        b"EHLO [127.0.0.1]",
        b'MAIL FROM:<"a b"@sender.example>',
        b'RCPT TO:<"u"@example.net>',
        b"RSET",
        b"MAIL FROM:<s=t+u@Sender.Example> BODY=8BITMIME",
        b"RCPT TO:<u+ext@EXAMPLE.net>",
        b"RCPT TO:<postmaster>",
        b"QUIT",
    ],
    "a name again": [
        b"EHLO one.example.org",
        b"EHLO two.example.org",
        b"MAIL FROM:<s@sender.example>",
        b"RSET",
        b"QUIT",
    ],
}


def talk(port: int, lines: list[bytes]) -> list[int]:
    """The codes; 0 where it hung up."""
    codes: list[int] = []
    with socket.create_connection(("127.0.0.1", port), 30) as client, client.makefile("rb") as got:

        def reply() -> int:
            try:
                while (line := got.readline(2000))[3:4] == b"-":
                    pass
            except ConnectionError:
                return 0
            return int(line[:3] or 0)

        codes.append(reply())
        for each in lines:
            with contextlib.suppress(ConnectionError):
                client.sendall(each + b"\r\n")
            codes.append(reply())
    return codes


class Both:
    """A Postfix and a gateway that ask at every list, each its own service."""

    def __init__(self, place: Path, stack: contextlib.ExitStack) -> None:
        self.theirs, self.ours = Service(), Service()
        lists = [f"smtpd_{each}_restrictions" for each in LISTS]
        port = stack.enter_context(self.theirs.running())
        ask = f"check_policy_service inet:127.0.0.1:{port}"
        same = {"relay_domains": "example.net", "smtpd_policy_service_policy_context": "a context"}
        self.postfix = stack.enter_context(
            postfix.postfix({
                **same,
                **dict.fromkeys(lists, ask),
                "smtpd_relay_restrictions": f"{ask}, permit_mynetworks, reject",
                "smtpd_delay_reject": "no",
                "relay_transport": "discard:",
            })
        )  # fmt: skip
        port = stack.enter_context(self.ours.running())
        ask = f"check_policy_service inet:127.0.0.1:{port}"
        self.gateway = Gateway(place)
        values = {**same, **dict.fromkeys(lists, ask)}
        values["smtpd_relay_restrictions"] = f"{ask}, permit_mynetworks, reject"
        self.gateway.configure(
            top="".join(f'{key} = "{value}"\n' for key, value in values.items())
            + 'mynetworks = ["127.0.0.0/8"]\nsmtpd_delay_reject = false\n'
            + 'smtpd_peername_lookup = false\nrelay_transport = "discard:"\n'
        )
        stack.callback(self.gateway.kill)
        self.gateway.start()


@pytest.fixture(scope="module")
def both() -> Iterator[Both]:
    with directory("policy") as place, contextlib.ExitStack() as stack:
        yield Both(Path(place), stack)


@pytest.mark.parametrize("name", DIALOGUES)
def test_services_are_told_the_same(both: Both, name: str) -> None:
    both.theirs.asked.clear()
    both.ours.asked.clear()
    theirs = talk(both.postfix.port, DIALOGUES[name])
    try:
        ours = talk(both.gateway.port, DIALOGUES[name])
    finally:
        assert ours == theirs
    assert [each["protocol_state"] for each in both.ours.asked] == [
        each["protocol_state"] for each in both.theirs.asked
    ]
    for mine, other in zip(both.ours.asked, both.theirs.asked, strict=True):
        assert list(mine) == list(other), "names and their order"
        assert {each: mine[each] for each in ALIKE} == {each: other[each] for each in ALIKE}
        assert set(mine) == {*ALIKE, *OWN}
        assert re.fullmatch(r"\d+", mine["client_port"])


def test_a_mail_has_one_instance_and_another_has_another(both: Both) -> None:
    both.ours.asked.clear()
    talk(both.gateway.port, DIALOGUES["two recipients"])
    talk(both.gateway.port, DIALOGUES["two recipients"])
    those = [each["instance"] for each in both.ours.asked if each["protocol_state"] == "RCPT"]
    assert len(set(those)) == 2
    assert all(those)


@pytest.mark.parametrize(
    "action",
    [
        "DUNNO", "OK", "REJECT", "REJECT 5.7.9 go away", "550 5.1.1 no such user", "DEFER",
        "DEFER_IF_PERMIT 4.2.0 later", "450 4.7.1 slowly", "DEFER_IF_REJECT x", "reject",
        "", "PREPEND X-Seen: yes", "HOLD look at it", "WARN odd", "REJECT <b@c>: x\ty",
    ],
)  # fmt: skip
def test_an_answer_does_the_same(both: Both, action: str) -> None:
    both.theirs.answer = both.ours.answer = "DUNNO"
    lines = DIALOGUES["two recipients"][:3]
    replies = []
    for port, service in ((both.postfix.port, both.theirs), (both.gateway.port, both.ours)):
        service.answer = action
        replies.append(talk(port, lines))
        service.answer = "DUNNO"
    assert replies[1] == replies[0]


def test_a_service_that_is_down_is_answered_for(both: Both) -> None:
    """By both: 451 4.3.5, after the tries there are."""
    both.ours.answer = both.theirs.answer = None
    lines = DIALOGUES["two recipients"][:3]
    try:
        found = [talk(each.port, lines) for each in (both.postfix, both.gateway)]
    finally:
        both.ours.answer = both.theirs.answer = "DUNNO"
    assert found[0] == found[1] == [220, 250, 250, 451]
