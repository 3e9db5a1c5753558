"""How a host ends: what it waits for, and what not."""

from __future__ import annotations

import contextlib
import signal
import socket
import time
from pathlib import Path

import pytest
import structlog

from milterd.host import native
from milterd.host.judge import Judge, Surroundings
from milterd.host.options import Options
from milterd.wire import messages as m
from tests.host.conftest import Hosted, Hosting, until
from tests.host.mta import ANSWERED, Mta
from tests.host.scripted import CASES, FILTERS

AGAIN = [(b"Subject", b" old"), (b"X-Case", b" headers")]


@pytest.fixture
def host(hosting: Hosting) -> Hosted:
    return hosting("script")


def test_nothing_in_progress_is_not_waited_for(hosting: Hosting) -> None:
    """An idle session, one after a message, and one after an aborted message."""
    host = hosting("script", grace=9.0)
    with host.mta() as idle, host.mta() as done, host.mta() as aborted:
        idle.greet()
        assert done.greet().message(AGAIN).edits == CASES["headers"].edits
        aborted.greet().begin(AGAIN)
        aborted.say(m.Abort())
        aborted.say(m.Helo(b"again"))
        done.message(AGAIN)  # so that the abort before has been taken
        assert host.stop() < 8


def test_a_message_in_progress_gets_its_grace_and_no_more(hosting: Hosting) -> None:
    host = hosting("script", grace=3.0)
    with host.mta(protocol=ANSWERED) as stuck, host.mta() as busy:
        stuck.greet().begin(AGAIN)
        busy.greet().begin([(b"X-Case", b" slow:0.6")])
        busy.socket.sendall(busy.wire.send(m.EndOfMessage()))
        until(lambda: host.log("slow begins"))
        began = time.monotonic()
        host.process.send_signal(signal.SIGTERM)
        assert busy._replies() == [m.Continue()]
        assert host.process.wait(30) == 0
        assert 2.9 < time.monotonic() - began < 30


def test_the_retired_finish_their_sessions_and_the_next_process_takes_new_ones(
    host: Hosted,
) -> None:
    with host.mta() as session:
        session.greet().message(AGAIN)
        retired = host.process
        retired.send_signal(signal.SIGUSR1)
        host.start()
        with host.mta() as new:
            assert new.greet().message(AGAIN).edits == CASES["headers"].edits
        assert session.message(AGAIN).edits == CASES["headers"].edits
        assert retired.poll() is None
    assert retired.wait(10) == 0


@pytest.mark.parametrize("before", [1, 10, 20])
def test_a_retirement_loses_no_connection(host: Hosted, before: int) -> None:
    """Also none that is just being accepted, or has not spoken yet."""
    retired, clients = host.process, []
    with host.mta() as first:
        first.greet()  # it runs
    with contextlib.ExitStack() as ending:
        for number in range(30):
            if number == before:
                retired.send_signal(signal.SIGUSR1)
            client = ending.enter_context(socket.socket(socket.AF_UNIX))
            client.connect(host.address)
            clients.append(client)
        host.start()
        for client in clients:
            with Mta(client) as mta:
                assert mta.greet().message(AGAIN).edits == CASES["headers"].edits
    assert retired.wait(10) == 0


def test_two_processes_serve_one_socket(host: Hosted) -> None:
    first = host.process
    host.start()
    for _ in range(3):
        with host.mta() as mta:
            assert mta.greet().message(AGAIN).edits == CASES["headers"].edits
    first.kill()
    first.wait(10)
    with host.mta() as mta:
        assert mta.greet().message(AGAIN).edits == CASES["headers"].edits


def test_a_filter_that_kills_its_process_is_seen_as_a_lost_connection(host: Hosted) -> None:
    with host.mta() as mta:
        mta.greet().begin([(b"X-Case", b" die")])
        with pytest.raises(ConnectionError):
            mta.end()
    assert host.process.wait(10) == -signal.SIGABRT
    host.start()
    with host.mta() as mta:
        assert mta.greet().message(AGAIN).edits == CASES["headers"].edits


def test_a_native_host_that_can_accept_no_more_ends(
    monkeypatch: pytest.MonkeyPatch, short_path: Path
) -> None:
    """Its supervisor starts another one; a process that listens and never answers helps nobody."""

    def fail(*_: object) -> None:
        raise TypeError("ours")

    monkeypatch.setattr(native, "Connection", fail)
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(str(short_path / "s"))
        listener.listen()
        around = Surroundings(structlog.get_logger(), lambda: "trace")
        judge = Judge(FILTERS["script"](), Options(), around)
        client.connect(str(short_path / "s"))
        with pytest.raises(TypeError, match="ours"):
            native.NativeHost(judge, listener, around).serve()
