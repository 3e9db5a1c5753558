"""soft_bounce: mail that would come back waits instead, so that settings can be tried out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateway.gateway import Gateway, until
from tests.peers.process import directory


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    with directory("soft") as place:
        found = Gateway(Path(place))
        found.configure("soft_bounce = true", delivery="error:5.7.27 nobody is here")
        found.start()
        yield found
        found.kill()


def test_queued_mail_waits_that_would_come_back(gateway: Gateway) -> None:
    assert gateway.send()[0] == 250
    tried = until(lambda: gateway.told("delivery"), what="an attempt")[0]
    assert (tried["outcome"], tried["status"]) == ("deferred", "4.7.27")
    assert "nobody is here" in tried["reason"]
    waiting = 'gatepost_queue_mails{state="deferred"}'
    until(lambda: gateway.metrics().get(waiting), what="the mail waits")
    assert gateway.events("dsn") == []


def test_what_is_refused_may_come_again(gateway: Gateway) -> None:
    assert gateway.send(recipients=["u@elsewhere.example"])[0] in (450, 454)
