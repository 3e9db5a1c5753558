"""The queue commands beside a gateway that runs, and on the queue of one that was stopped."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from smtpgw.cli import app
from tests.gateway.gateway import Gateway, until
from tests.peers.process import free_port


class Queue:
    """The command, with the settings of a gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def __call__(self, *words: str, status: int = 0, stdin: str = "") -> str:
        line = ["queue", *words, "-c", str(self._gateway.file)]
        done = CliRunner().invoke(app, line, input=stdin)
        assert done.exit_code == status, done.output
        return done.output

    def lines(self, *words: str, stdin: str = "") -> list[dict[str, Any]]:
        return [json.loads(line) for line in self(*words, "--json", stdin=stdin).splitlines()]

    def one(self, *words: str) -> dict[str, Any]:
        (found,) = self.lines(*words)
        return found


@pytest.fixture
def refusing(gateway: Gateway) -> Gateway:
    """A gateway whose mail for example.org goes where nobody listens."""
    gateway.configure(
        'relay_domains = ["example.org"]\nmynetworks = ["127.0.0.0/8"]\n',
        "initial_destination_concurrency = 1\n[smtpgw.transport]\n"
        f'"example.org" = "lmtp:inet:127.0.0.1:{free_port()}"\n',
    )
    gateway.start()
    return gateway


def test_a_dead_destination_is_seen_flushed_and_its_mail_bounced(refusing: Gateway) -> None:
    queue = Queue(refusing)
    refusing.send(sender="s0@example.net", recipients=["u@example.org"])
    until(lambda: queue.one("list")["resting_until"], what="the rest")
    for number in (1, 2):
        refusing.send(sender=f"s{number}@example.net", recipients=["u@example.org"])
    found = queue.lines("list", "--reason", "refused")
    assert [each["sender"] for each in found] == [f"s{each}@example.net" for each in range(3)]
    shown = queue("list", "--sender", "s1@example.net")
    assert "rests until" in shown
    assert "u@example.org" in shown
    assert "in 1 Request." in shown
    assert "refused" in queue("top", "--once")
    assert queue("shape").splitlines()[1].split()[:2] == ["TOTAL", "3"]

    (tried,) = (each for each in found if each["attempts"])  # the others rest untouched
    (attempt,) = queue.one("show", tried["queue_id"])["history"]
    assert (attempt["attempt"], attempt["outcome"]) == (1, "deferred")
    assert "refused" in attempt["reason"]
    assert queue.one("flush", "--site", "example.org") == {"flushed": 3}
    until(
        lambda: sum(each["attempts"] for each in queue.lines("list")) > 1,
        what="the attempt after the flush",
    )

    assert queue.one("bounce", "--sender", "s0@*", "--why", "it has moved", "--yes") == {
        "bounced": 1
    }
    assert b"it has moved" in refusing.delivered("s0@example.net")[0]
    ids = "\n".join(each["queue_id"] + "* and more" for each in queue.lines("list"))
    assert queue.lines("delete", "-", stdin=ids) == [{"deleted": 2}]
    assert queue("list") == "Mail queue is empty\n"


def test_what_is_requeued_takes_the_new_road(refusing: Gateway) -> None:
    """Also where it was changed while nothing ran."""
    refusing.send(sender="s@example.net", recipients=["u@example.org"])
    queue = Queue(refusing)
    until(lambda: queue.one("list")["attempts"], what="an attempt")
    refusing.stop()
    refusing.configure('relay_domains = ["example.org"]')
    assert queue.one("requeue", "ALL", "--yes") == {"requeued": 1}
    found = queue.one("list")
    assert (found["state"], found["attempts"]) == ("incoming", 0)
    assert found["destination"] == f"maildir:{refusing.mail}"
    assert found["reason"] == "waits for its turn"
    refusing.start()
    assert len(refusing.delivered("u@example.org")) == 1


def test_all_is_done_only_when_it_is_said_again(refusing: Gateway) -> None:
    refusing.send(recipients=["u@example.org"])
    queue = Queue(refusing)
    for verb in ("delete", "bounce", "hold", "requeue"):
        assert "--yes" in queue(verb, "ALL", status=2)
        assert "--yes" in queue(verb, "--sender", "a@", status=2)
    (mail,) = queue.lines("list")
    assert queue.one("hold", "ALL", "--yes", "--why", "a look") in ({"held": 1},)
    until(lambda: queue.one("list")["state"] == "hold", what="the hold")
    assert queue.one("delete", "ALL", "--state", "deferred", "--yes") == {"deleted": 0}
    assert queue.one("list")["reason"] == "a look"
    assert queue.one("release", mail["queue_id"]) == {"released": 1}


def test_etrn_flushes_a_site_for_those_who_may_ask(refusing: Gateway) -> None:
    """RFC 1985: 252 where something waits, 251 where nothing does, 459 for other domains."""
    refusing.send(sender="s@example.net", recipients=["u@example.org"])
    queue = Queue(refusing)
    until(lambda: queue.one("list")["resting_until"], what="the rest")
    with refusing.client() as client:
        assert client.has_extn("etrn")
        assert client.docmd("ETRN", "example.org")[0] == 252
        assert client.docmd("ETRN", "@example.org")[0] == 252
        assert client.docmd("ETRN", "sub.example.org")[0] == 251, "a domain below one of those"
        assert client.docmd("ETRN", "example.net")[0] == 459
        until(lambda: queue.one("list")["attempts"] > 1, what="the attempt after ETRN")
        queue("delete", "ALL", "--yes")
        assert client.docmd("ETRN", "example.org")[0] == 251


def test_etrn_is_not_for_strangers(gateway: Gateway) -> None:
    gateway.configure('relay_domains = ["example.org"]\nmynetworks = ["192.0.2.0/24"]')
    gateway.start()
    with gateway.client() as client:
        code, words = client.docmd("ETRN", "example.org")
    assert (code, b"not allowed" in words) == (459, True)
    until(lambda: gateway.count("command", command="ETRN", outcome="tempfailed") == 1)
