"""How the gateway starts, changes, breaks and ends."""

from __future__ import annotations

import functools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from typer.testing import CliRunner, Result

from smtpgw.cli import app
from tests.gateway.gateway import Gateway, free_port, send_by, until


def command(gateway: Gateway, *words: str) -> Result:
    """One of the commands that do not run for long."""
    return CliRunner().invoke(app, [*words, "--config", str(gateway.file)])


def run(gateway: Gateway) -> subprocess.CompletedProcess[str]:
    """`smtpgw run`, for settings with which it does not."""
    call = [sys.executable, "-m", "smtpgw", "run", "--config", str(gateway.file)]
    return subprocess.run(call, capture_output=True, text=True, check=False)


def reload(gateway: Gateway) -> None:
    assert gateway.process is not None
    gateway.process.send_signal(signal.SIGHUP)


def refusal_with(gateway: Gateway, reason: str) -> bool:
    lines = gateway.events("settings not taken, the old ones stay")
    return any(reason in each["reason"] for each in lines)


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


# -- the settings ------------------------------------------------------------------------


def test_wrong_settings_are_all_told_and_the_exit_code_is_78(gateway: Gateway) -> None:
    gateway.configure("workrs = 1\nmessage_size_limit = -1")
    done = run(gateway)
    assert done.returncode == 78
    assert f"{gateway.file}:10: smtpgw.workrs: found the unknown key" in done.stderr
    assert "did you mean 'workers'?" in done.stderr
    assert f"{gateway.file}:11: smtpgw.message_size_limit: found -1" in done.stderr


def test_a_good_reload_is_for_new_sessions_and_leaves_the_old_ones(gateway: Gateway) -> None:
    gateway.configure('mynetworks = ["192.0.2.0/24"]')
    gateway.start()
    with gateway.client() as old:
        other = free_port()
        gateway.configure(
            'mynetworks = ["192.0.2.0/24"]\nrelay_domains = ["example.com"]\n'
            "message_size_limit = 1234567",
            f'[[smtpgw.listener]]\nname = "second"\naddress = "127.0.0.1:{other}"\n',
        )
        workers = gateway.workers()
        reload(gateway)
        until(lambda: gateway.count("ready") == 2, what="the reload")
        assert accepts(other)
        assert gateway.send(recipients=("u@example.com",))[0] == 250
        with gateway.client() as new:
            assert new.esmtp_features["size"] == "1234567"
        old.ehlo("again")
        assert old.esmtp_features["size"] == "26214400"
        code, _ = send_by(old, b"Subject: x\r\n\r\nx\r\n", "a@example.org", ["u@example.com"])
        assert code == 554
        old.rset()
        assert send_by(old, b"Subject: x\r\n\r\nx\r\n", "a@b.example", ["u@example.net"])[0] == 250
    assert gateway.workers() == workers
    gateway.configure()
    reload(gateway)
    until(lambda: gateway.count("ready") == 3, what="the second reload")
    until(lambda: not accepts(other), what="the second listener's end")
    assert gateway.send()[0] == 250


def test_a_bad_reload_changes_nothing(gateway: Gateway) -> None:
    gateway.start()
    port = free_port()
    second = f'[[smtpgw.listener]]\nname = "second"\naddress = "127.0.0.1:{port}"\n'
    for top, tables, reason in (
        ("workrs = 2", "", "smtpgw.workrs"),
        ("", '[[smtpgw.listener]]\nname = "x"\naddress = "192.0.2.1:25"\n', "192.0.2.1"),
        ("", f'[metrics]\nsmtpgw = "192.0.2.1:9"\nallow_remote = true\n{second}', "9@192.0.2.1"),
        ("", "[smtpgw.queue]\ndirectory = '/tmp/other'\n", "smtpgw.queue.directory"),
        ("", '[[smtpgw.listener]]\nname = "mx"\naddress = "127.0.0.1:1"\n', "every name once"),
    ):
        gateway.configure(top, tables)
        text = gateway.file.read_text()
        if "[smtpgw.queue]" in tables:
            text = text.replace(f'[smtpgw.queue]\ndirectory = "{gateway.queue}"', "")
        if "[metrics]" in tables:
            text = text.replace(f'[metrics]\nsmtpgw = "127.0.0.1:{gateway.metrics_port}"', "")
        gateway.file.write_text(text)
        reload(gateway)
        until(functools.partial(refusal_with, gateway, reason), what=reason)
        assert gateway.send()[0] == 250
        assert gateway.metrics()
        assert not accepts(port)
    gateway.delivered(count=5)
    assert gateway.process is not None
    assert gateway.process.poll() is None


def test_the_number_of_workers_changes_at_a_reload_and_no_mail_is_left_behind(
    gateway: Gateway, place: Path
) -> None:
    nowhere = f"lmtp:unix:{place / 'nobody'}"
    gateway.configure("workers = 2", delivery=nowhere)
    gateway.start()
    assert len(gateway.workers()) == 2
    recipients = [f"u{n}@example.net" for n in range(12)]
    for each in recipients:
        assert gateway.send(recipients=(each,))[0] == 250
    gateway.configure("workers = 1")
    reload(gateway)
    until(lambda: gateway.count("ready") == 2, what="the reload")
    until(lambda: len(gateway.workers()) == 1, what="one worker")
    assert json.loads(command(gateway, "queue", "flush", "ALL", "--json").stdout)["flushed"] <= 12
    for each in recipients:
        gateway.delivered(each)


# -- the end -----------------------------------------------------------------------------


def test_an_idle_gateway_ends_within_three_seconds_and_leaves_nothing(gateway: Gateway) -> None:
    gateway.start()
    workers = gateway.workers()
    with gateway.client() as client:
        began = time.monotonic()
        assert gateway.stop() == 0
        assert time.monotonic() - began < 3
        assert client.getreply() == (421, b"4.3.2 Service shutting down")
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    assert not accepts(gateway.port)


def test_a_transaction_under_way_ends_before_the_gateway_does(gateway: Gateway) -> None:
    gateway.configure(stop_timeout=20)
    gateway.start()
    with gateway.client() as client:
        client.mail("a@example.org")
        client.rcpt("u@example.net")
        client.docmd("DATA")
        client.send(b"Subject: x\r\n\r\n")
        assert gateway.process is not None
        gateway.process.send_signal(signal.SIGTERM)
        until(lambda: not accepts(gateway.port), what="no more connections")
        client.send(b"hello\r\n.\r\n")
        assert client.getreply()[0] == 250
    assert gateway.process.wait(10) == 0
    gateway.start()
    assert gateway.delivered()


def test_a_client_that_dawdles_is_cut_off_after_the_stop_timeout(gateway: Gateway) -> None:
    gateway.start()
    with gateway.client() as client:
        client.mail("a@example.org")
        client.rcpt("u@example.net")
        client.docmd("DATA")
        began = time.monotonic()
        assert gateway.stop() == 0
        assert 0.9 < time.monotonic() - began < 5


def test_a_second_signal_ends_it_at_once(gateway: Gateway) -> None:
    gateway.file.write_text(
        gateway.file.read_text().replace("stop_timeout = 3", "stop_timeout = 60")
    )
    gateway.start()
    with gateway.client() as client:
        client.mail("a@example.org")
        client.rcpt("u@example.net")
        client.docmd("DATA")
        assert gateway.process is not None
        gateway.process.send_signal(signal.SIGTERM)
        until(lambda: gateway.count("stopping"), what="the stop")
        began = time.monotonic()
        gateway.process.send_signal(signal.SIGTERM)
        gateway.process.wait(10)
        assert time.monotonic() - began < 3
    assert not gateway.workers()


# -- deaths ------------------------------------------------------------------------------


def test_a_killed_worker_is_replaced_and_its_queue_is_delivered(
    gateway: Gateway, place: Path
) -> None:
    sink = place / "sink"
    gateway.configure(delivery=f"lmtp:unix:{sink}")
    gateway.start()
    recipients = [f"u{n}@example.net" for n in range(5)]
    for each in recipients:
        assert gateway.send(recipients=(each,))[0] == 250
    gateway.configure()
    reload(gateway)
    until(lambda: gateway.count("ready") == 2, what="the reload")
    (worker,) = gateway.workers()
    os.kill(worker, signal.SIGKILL)
    until(lambda: gateway.workers() not in ([], [worker]), what="another worker")
    assert gateway.send(recipients=("after@example.net",))[0] == 250
    command(gateway, "queue", "flush", "ALL")
    for each in (*recipients, "after@example.net"):
        gateway.delivered(each)
    assert gateway.metrics()['gatepost_child_restarts_total{child="worker-0"}'] == 1


def test_workers_end_when_their_supervisor_is_killed_and_the_next_one_waits_for_them(
    gateway: Gateway,
) -> None:
    gateway.configure(stop_timeout=30)
    gateway.start()
    with gateway.client() as client:
        client.mail("a@example.org")
        client.rcpt("u@example.net")
        client.docmd("DATA")
        (worker,) = gateway.workers()
        assert gateway.process is not None
        gateway.process.kill()
        gateway.process.wait()
        gateway.start(wait=False)
        until(lambda: gateway.count("waiting for the queue"), what="the wait")
        client.send(b"Subject: x\r\n\r\nhello\r\n.\r\n")
        assert client.getreply()[0] == 250
    until(lambda: gateway.count("ready") == 2, what="the new gateway")
    until(lambda: worker not in gateway.workers(), what="the old worker's end")
    assert gateway.delivered()
    assert gateway.send()[0] == 250


def test_a_second_gateway_on_the_same_queue_refuses_to_start(gateway: Gateway) -> None:
    gateway.start()
    assert gateway.process is not None
    done = run(gateway)
    assert done.returncode == 1
    assert f"process {gateway.process.pid} runs on this queue" in done.stderr
    assert gateway.send()[0] == 250


# -- its surroundings --------------------------------------------------------------------


def test_sockets_of_the_service_manager_are_used(gateway: Gateway) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port, number = listening.getsockname()[1], listening.fileno()
        script = f'exec 3<&{number}; LISTEN_PID=$$ exec "$@"'
        gateway.start(
            prefix=["bash", "-c", script, "bash"],
            environ={"LISTEN_FDS": "1", "LISTEN_FDNAMES": "mx"},
            pass_fds=[number],
        )
    assert not accepts(gateway.port)
    gateway.port = port
    assert gateway.send()[0] == 250
    gateway.delivered()


def test_the_service_manager_is_told_what_happens(gateway: Gateway, place: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(place / "notify"))
        manager.settimeout(20)
        gateway.start(environ={"NOTIFY_SOCKET": str(place / "notify")})
        assert manager.recv(1000).startswith(b"READY=1")
        reload(gateway)
        assert manager.recv(1000).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
        assert manager.recv(1000).startswith(b"READY=1")
        gateway.stop()
        assert manager.recv(1000).startswith(b"STOPPING=1")


def test_metrics_count_mails_stages_and_the_queue_and_name_nobody(
    gateway: Gateway, place: Path
) -> None:
    gateway.configure("workers = 2", delivery=f"lmtp:unix:{place / 'nobody'}")
    gateway.start()
    for _ in range(4):
        assert gateway.send()[0] == 250
    waiting = 'gatepost_queue_mails{state="deferred"}'
    until(lambda: gateway.metrics().get(waiting) == 4, what="the count")
    found = gateway.metrics()
    assert found['gatepost_mails_total{daemon="smtpgw",listener="mx",outcome="queued"}'] == 4
    assert found['gatepost_stage_seconds_count{stage="queue"}'] == 4
    assert found['gatepost_deliveries_total{outcome="deferred",transport="lmtp"}'] == 4
    assert not [name for name in found if "example" in name or "127.0.0.1" in name]


def test_check_finds_what_is_there_and_what_is_not(gateway: Gateway, place: Path) -> None:
    gateway.configure(
        tables=f'[[smtpgw.milter]]\nname = "gone"\naddress = "unix:{place / "gone"}"\n'
    )
    done = command(gateway, "check", "--json")
    assert done.exit_code == 1
    found = {each["subject"]: each["level"] for each in json.loads(done.stdout)["findings"]}
    assert found == {
        "settings": "ok",
        "listener mx": "ok",
        "queue": "ok",
        "metrics": "ok",
        "milter gone": "error",
        f"delivery maildir:{gateway.mail}": "ok",
    }
    gateway.configure()
    assert command(gateway, "check").exit_code == 0
    gateway.configure("workrs = 1")
    done = command(gateway, "check")
    assert done.exit_code == 78
    assert "did you mean 'workers'?" in " ".join(done.stdout.split())
    assert not gateway.queue.exists()


def test_check_negotiates_with_milters(gateway: Gateway, milter: Path) -> None:
    gateway.configure(tables=f'[[smtpgw.milter]]\nname = "m"\naddress = "unix:{milter}"\n')
    done = command(gateway, "check")
    assert done.exit_code == 0, done.stdout
    assert "negotiated" in done.stdout
