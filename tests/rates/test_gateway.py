"""Limits of a gateway that runs: who has none, when a window ends, what a dead worker leaves."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Iterator

import pytest

from smtpgw import wiring
from smtpgw.config import parse
from tests.gateway.gateway import PATIENCE, Gateway, until

pytestmark = pytest.mark.xdist_group("rates-gateway")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    one = Gateway(tmp_path_factory.mktemp("limits"))
    one.configure(
        'mynetworks = "127.0.9.0/24"\nsmtpd_peername_lookup = false\nworkers = 2\n'
        "smtpd_client_connection_count_limit = 3\nsmtpd_client_message_rate_limit = 2\n"
        'smtpd_client_event_limit_exceptions = "!127.0.8.7, 127.0.8.0/24 $mynetworks"\n'
        'anvil_rate_time_unit = "6s"\nanvil_status_update_time = "1s"\n'
        "smtpd_client_ipv4_prefix_length = 31\n"
    )
    try:
        yield one.start()
    finally:
        one.kill()


@contextlib.contextmanager
def connected(gateway: Gateway, address: str, number: int) -> Iterator[list[socket.socket]]:
    """So many clients at this address, each greeted."""
    with contextlib.ExitStack() as stack:
        clients = []
        for _ in range(number):
            client = stack.enter_context(socket.socket())
            client.settimeout(PATIENCE)
            client.bind((address, 0))
            client.connect(("127.0.0.1", gateway.port))
            clients.append(client)
        yield clients


def codes(clients: list[socket.socket]) -> list[str]:
    return [each.recv(1000)[:3].decode() for each in clients]


@pytest.mark.parametrize(
    ("address", "refused"), [("127.0.8.1", 0), ("127.0.9.1", 0), ("127.0.8.7", 2), ("127.0.1.1", 2)]
)
def test_who_has_no_limits(gateway: Gateway, address: str, refused: int) -> None:
    with connected(gateway, address, 5) as clients:
        assert codes(clients).count("421") == refused


def test_a_network_is_one_client(gateway: Gateway) -> None:
    with connected(gateway, "127.0.2.2", 2) as some, connected(gateway, "127.0.2.3", 2) as others:
        assert [*codes(some), *codes(others)].count("421") == 1


def test_a_window_ends(gateway: Gateway) -> None:
    with connected(gateway, "127.0.3.2", 1) as (client,):
        client.recv(1000)
        heard = []
        for line in (b"EHLO x", *[b"MAIL FROM:<a@example.com>", b"RSET"] * 3):
            client.sendall(line + b"\r\n")
            heard.append(client.recv(1000)[:9])
        assert [each[:3] for each in heard] == [b"250"] * 5 + [b"450", b"250"]
        assert heard[5] == b"450 4.7.1"

        def again() -> bool:
            client.sendall(b"MAIL FROM:<a@example.com>\r\n")
            return client.recv(1000)[:3] == b"250"

        client.settimeout(PATIENCE)
        until(again, what="the next window")


def test_what_a_worker_that_is_killed_had_is_forgotten(gateway: Gateway) -> None:
    assert gateway.process is not None
    with connected(gateway, "127.0.4.2", 3) as clients:
        assert codes(clients) == ["220"] * 3
        ready = gateway.count("child started")
        for each in gateway.workers():
            os.kill(each, signal.SIGKILL)
        until(lambda: gateway.count("child started") >= ready + 2, what="other workers")
    with connected(gateway, "127.0.4.2", 3) as clients:
        assert codes(clients) == ["220"] * 3


def test_the_highest_numbers_are_in_the_log(gateway: Gateway) -> None:
    def found() -> bool:
        lines = [each for each in gateway.log() if each["event"] == "statistics"]
        return any(
            each["limit"] == "connection_count" and each["max"] >= 3 and "mx:127" in each["ident"]
            for each in lines
        )

    with connected(gateway, "127.0.5.2", 3) as clients:
        assert codes(clients) == ["220"] * 3
        until(found, what="statistics")


def test_exceptions_that_are_no_networks_are_told() -> None:
    settings = parse(
        '[smtpgw]\nsmtpd_client_event_limit_exceptions = "cidr:/etc/x"\n'
        '[[smtpgw.listener]]\nname = "mx"\naddress = "127.0.0.1:25"\n'
    )
    with pytest.raises(Exception, match="smtpd_client_event_limit_exceptions"):
        wiring.check(settings.smtpgw)
