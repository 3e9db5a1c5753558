"""F29 to F31 and F33: slow disks, networks that fail, peers that come again, signals.

The books of tests/crash are kept here too: what a client saw answered with 250 arrives whole,
and twice only where a connection was lost after the message.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import signal
import smtplib
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.crash.ledger import Ledger, Sink, send_mails, send_one
from tests.faults import place
from tests.faults.weather import FATES, Weather, weather
from tests.gateway.conftest import milter_table, scripted
from tests.gateway.gateway import Gateway, until
from tests.host.conftest import Hosted
from tests.peers.postfix import postfix
from tests.peers.process import answers, program

pytestmark = pytest.mark.xdist_group("faults-network")

SEED = int(os.environ.get("GATEPOST_WEATHER_SEED", "0")) or random.SystemRandom().randrange(
    1, 2**31
)
STORMY = int(os.environ.get("GATEPOST_WEATHER", "60"))
"""Connections of each kind that meet bad weather before it clears."""
CLIENTS = 12
_PATIENCE = 60.0 + STORMY
_SHORT = "lmtp_connection_reuse_count_limit = 2\n" + "".join(
    f'lmtp_{each}_timeout = "0.5s"\n'
    for each in ("connect", "lhlo", "mail", "rcpt", "data_init", "data_xfer", "data_done", "rset")
)
_SOON = 'minimal_backoff_time = "0.3s"\nmaximal_backoff_time = "0.6s"'


def _message(name: str) -> bytes:
    line = f"a line of {name}, to be kept to the octet\r\n"
    size = 300 if len(name) % 3 else 5000
    return (f"X-Ledger: {name}\r\n\r\n" + line * (size // len(line) + 1)).encode()[:-2]


def _names(chance: random.Random) -> Iterator[str]:
    return (f"{number}-{chance.getrandbits(32):x}" for number in itertools.count())


async def _through(gateway: Gateway, sink: Path, ledger: Ledger, chance: random.Random) -> Weather:
    """Mail to and fro in bad weather on both sides, until all is delivered after it."""
    stop = asyncio.Event()
    async with (
        weather(lambda: asyncio.open_unix_connection(str(sink)), chance) as out,
        weather(lambda: asyncio.open_connection("127.0.0.1", gateway.port), chance) as into,
    ):
        gateway.configure(
            'smtpd_timeout = "0.5s"', _SHORT, f"lmtp:inet:127.0.0.1:{out.port}", queue=_SOON
        )
        await asyncio.to_thread(gateway.start)
        names = _names(chance)
        load = [
            asyncio.create_task(send_mails(ledger, into.port, names, _message, stop))
            for _ in range(CLIENTS)
        ]
        stormy = lambda: min(sum(each.happened.values()) for each in (out, into)) > STORMY  # noqa: E731 - once
        assert await ledger.reaches(stormy, _PATIENCE)
        out.clear = into.clear = True
        assert await ledger.reaches(lambda: len(ledger.promised) > STORMY // 2, _PATIENCE)
        stop.set()
        await asyncio.gather(*load)
        assert await ledger.reaches(lambda: not ledger.owed(), _PATIENCE)
        assert set(out.happened) == set(into.happened) == set(FATES)
        return out


@pytest.mark.timeout(120 + 2 * STORMY)
def test_whatever_the_network_does_nothing_is_lost(
    record_property: Callable[[str, object], None],
) -> None:
    """F31: connections reset, closed, half open, silent, and slow by the octet, on both sides."""
    chance = random.Random(SEED)
    ledger = Ledger()
    with place.home() as home, place.gateway(home) as gateway:

        async def scenario() -> Weather:
            sink = Sink(ledger, home / "sink")
            await sink.start()
            try:
                return await _through(gateway, home / "sink", ledger, chance)
            finally:
                await sink.stop()

        out = asyncio.run(scenario())
        twice = ledger.twice()
        record_property(
            "measured",
            f"bad weather, seed {SEED}: {dict(out.happened)} to the sink, {len(ledger.promised)}"
            f" mails accepted, {len(twice)} delivered twice, {ledger.broken} clients cut off",
        )
        for name in ledger.promised:
            body = ledger.octets[name].partition(b"\r\n\r\n")[2]
            assert body == _message(name).partition(b"\r\n\r\n")[2] + b"\r\n"
        again = sum(len(each) - 1 for each in ledger.delivered.values())
        assert again <= 2 * out.cut, "sent again without a connection that was lost"
        assert gateway.count("child started") == 1
        assert [each for each in gateway.log() if each["level"] == "error"] == []


def test_a_slow_disk_slows_nobody_by_the_number_of_the_others() -> None:
    """F29: each sync takes 300 ms more; those who wait together share it."""
    with place.home() as home, place.gateway(home, delivery="hold:") as gateway:
        gateway.start()
        inject = "fsync,fdatasync:delay_enter=300000"
        with place.failing(place.worker(gateway), inject, home) as trace:
            assert asyncio.run(_at_once(gateway.port, MANY)) == MANY
        syncs = trace.read_text().count("sync(")
        assert 0 < syncs < MANY / 2, "a sync for each mail"


MANY = 60
"""Clients that send one mail each at the same time."""


async def _at_once(port: int, count: int) -> int:
    message = b"Subject: x\r\n\r\nx\r\n"
    sending = [send_one(port, ["u@example.net"], message) for _ in range(count)]
    return sum(await asyncio.gather(*sending))


def test_signals_that_mean_nothing_change_nothing() -> None:
    """F33: a storm of them on both processes, under load."""
    storm = [signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE, signal.SIGCHLD, signal.SIGWINCH,
             signal.SIGURG, signal.SIGCONT]  # fmt: skip
    with place.home() as home, place.gateway(home) as gateway:
        gateway.start(prefix=["prlimit", "--core=0"])
        worker = place.worker(gateway)
        assert gateway.process is not None
        supervisor = gateway.process.pid
        over = threading.Event()

        def thunder() -> None:
            for number in itertools.cycle(storm):
                os.kill(supervisor, number)
                os.kill(worker, number)
                os.kill(worker, signal.SIGHUP)  # which has a handler there, and so breaks calls
                if over.wait(0.0005):
                    return

        thread = threading.Thread(target=thunder)
        thread.start()
        try:
            sent = sum(asyncio.run(_at_once(gateway.port, 20)) for _ in range(5))
            assert sent == 100
            assert len(gateway.delivered(count=100)) == 100
        finally:
            over.set()
            thread.join()
        assert place.worker(gateway) == worker
        assert gateway.count("child started") == 1
        assert [each for each in gateway.log() if each["level"] == "error"] == []
        assert gateway.stop() == 0


def test_a_milter_that_comes_back_on_a_new_socket_is_asked_again() -> None:
    """F30: the file it listened on is removed, another stands in its place."""
    refused = b"Subject: reject\r\n\r\nx\r\n"
    with place.home() as home, scripted(home) as path, place.gateway(home) as gateway:
        gateway.configure(tables=milter_table(path))
        gateway.start()
        assert gateway.send(refused)[0] == 550
        path.unlink()
        assert gateway.send()[0] == 451
        with scripted(home) as again:
            assert again == path
            assert gateway.send(refused)[0] == 550
            assert gateway.send()[0] == 250


def test_a_postfix_that_ends_in_mid_transaction_and_comes_again_is_served() -> None:
    """F30, the other way round: both kinds of host outlive the Postfix that asks them."""
    with place.home() as home, contextlib.ExitStack() as stack:
        hosts = []
        for kind in ("libmilter", "native"):
            (home / kind).mkdir()
            hosts.append(Hosted(kind, "script", home / kind, socket.AF_INET, {}))
            stack.callback(hosts[-1].close)
        chain = ", ".join(f"inet:127.0.0.1:{each.address[1]}" for each in hosts)
        relay = stack.enter_context(postfix({"smtpd_milters": chain}))
        _asks(relay.port, hosts, 1)
        with smtplib.SMTP("127.0.0.1", relay.port) as client:
            client.ehlo()
            client.mail("a@example.net")
            relay.command("postfix", "abort")
            with contextlib.suppress(smtplib.SMTPException, OSError):
                client.rcpt("b@example.org")
        until(lambda: not answers(relay.port), what="Postfix is gone")
        subprocess.run(
            [program("postfix", "postfix"), "-c", str(relay.config), "start"],
            check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, timeout=30,
        )  # fmt: skip
        until(lambda: answers(relay.port, b"220 "), what="Postfix is back")
        _asks(relay.port, hosts, 2)
        assert all(each.process.poll() is None for each in hosts)


def _asks(port: int, hosts: Sequence[Hosted], count: int) -> None:
    """Send a mail: each host tells that it is the one of that number since it began."""
    with smtplib.SMTP("127.0.0.1", port, timeout=10) as client:
        client.sendmail("a@example.net", ["b@example.org"], "X-Case: slow:0\n\nx\n")
    for each in hosts:
        told = each.log_path
        until(lambda told=told: told.read_text().count("slow begins") == count, what="its word")
