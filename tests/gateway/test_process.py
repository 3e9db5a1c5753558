"""How the gateway starts, changes, breaks and ends."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

from typer.testing import CliRunner, Result

from smtpgw import config, control
from smtpgw.cli import app
from tests.gateway.gateway import PATIENCE, Gateway, send_by, until
from tests.peers.process import free_port
from tests.steady import Running
from tests.tables.postmap import Postmap


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


def test_a_file_that_is_empty_at_a_reload_changes_nothing(gateway: Gateway) -> None:
    """As an editor leaves it for a moment."""
    gateway.configure()
    gateway.start()
    text = gateway.file.read_text()
    directory = next(each for each in text.splitlines() if each.startswith("directory"))
    gateway.file.write_text(f"[smtpgw.queue]\n{directory}\n")
    reload(gateway)
    until(lambda: refusal_with(gateway, "smtpgw.listener: found nothing"))
    with gateway.client():
        pass


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
    gateway.loads = True  # as a user starts it
    gateway.start()
    workers = gateway.workers()
    with gateway.client() as client, Running() as clock:
        began = clock()
        assert gateway.stop() == 0
        assert clock() - began < 3
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
    assert gateway.process.wait(PATIENCE) == 0
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
        assert 0.9 < time.monotonic() - began < PATIENCE


def test_a_second_signal_ends_it_at_once(gateway: Gateway) -> None:
    gateway.configure(stop_timeout=60)
    gateway.start()
    with gateway.client() as client:
        client.mail("a@example.org")
        client.rcpt("u@example.net")
        client.docmd("DATA")
        assert gateway.process is not None
        gateway.process.send_signal(signal.SIGTERM)
        until(lambda: gateway.count("stopping"), what="the stop")
        gateway.process.send_signal(signal.SIGTERM)
        gateway.process.wait(30)
    assert not gateway.workers()


# -- deaths ------------------------------------------------------------------------------


def test_a_killed_worker_is_replaced_and_its_queue_is_delivered(
    gateway: Gateway, place: Path
) -> None:
    gateway.loads = True  # as a user starts it
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


def test_workers_go_on_without_the_process_that_bears_them(gateway: Gateway) -> None:
    gateway.loads = True  # as a user starts it
    gateway.configure()
    gateway.start()
    (worker,) = gateway.workers()
    assert _title(worker) == "smtpgw.worker 0"
    nursery = _parent(worker)
    assert gateway.process is not None
    assert (_title(nursery), _parent(nursery)) == (
        f"nursery of {gateway.process.pid}",
        gateway.process.pid,
    )
    os.kill(nursery, signal.SIGKILL)
    assert gateway.send()[0] == 250
    os.kill(worker, signal.SIGKILL)
    until(lambda: gateway.workers() not in ([], [worker]), what="another worker")
    assert gateway.told("child ended", status="exit 255")  # nobody heard more than that it ended
    (other,) = gateway.workers()
    assert _title(other).endswith("m smtpgw.worker 0")
    assert gateway.send()[0] == 250
    assert len(gateway.delivered(count=2)) == 2
    assert gateway.stop() == 0


def _title(pid: int) -> str:
    octets = Path(f"/proc/{pid}/cmdline").read_bytes()
    return octets.rstrip(b"\0").replace(b"\0", b" ").decode()


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_workers_end_when_their_supervisor_is_killed_and_the_next_one_waits_for_them(
    gateway: Gateway,
) -> None:
    gateway.loads = True  # as a user starts it
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
    for name in (
        waiting,
        'gatepost_mails_total{daemon="smtpgw",listener="mx",outcome="queued"}',
        'gatepost_sessions_total{end="goodbye",listener="mx"}',
        'gatepost_stage_seconds_count{stage="queue"}',
        'gatepost_deliveries_total{outcome="deferred",transport="lmtp"}',
    ):
        until(lambda name=name: gateway.metrics().get(name) == 4, what=name)
    assert not [name for name in gateway.metrics() if "example" in name or "127.0.0.1" in name]


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


# -- tables ------------------------------------------------------------------------------


MAPS = 'virtual_mailbox_domains = "vm.example"\nvirtual_alias_domains = ""\n'


def mailboxes(gateway: Gateway, *names: str) -> Path:
    """The file of virtual_mailbox_maps, replaced at once."""
    file = gateway.place / "mailboxes"
    text = "".join(f"{each}@vm.example x\n" for each in names)
    (gateway.place / "new").write_text(text)
    (gateway.place / "new").rename(file)
    return file


def answer_for(gateway: Gateway, name: str) -> int:
    with gateway.client() as client:
        client.mail("s@example.org")
        return int(client.rcpt(f"{name}@vm.example")[0])


def test_a_table_that_cannot_be_opened_ends_the_start(gateway: Gateway) -> None:
    gone, broken = gateway.place / "gone", gateway.place / "broken.cf"
    broken.write_text("hosts = localhost\nquery = SELECT 1\n")
    gateway.configure(
        f'virtual_mailbox_maps = "texthash:{gone}"\nvirtual_alias_maps = ["mysql:{broken}"]\n'
        f'mynetworks = "/{gone}2"'
    )
    done = run(gateway)
    assert done.returncode == 78
    lines = done.stderr.splitlines()
    assert len(lines) == 3, done.stderr
    assert any(
        f"{gateway.file}:10: smtpgw.virtual_mailbox_maps: found texthash:{gone}: {gone}: No such"
        in line
        for line in lines
    )
    assert any(f"{gateway.file}:11: smtpgw.virtual_alias_maps" in line for line in lines)
    assert any(f"{gateway.file}:12: smtpgw.mynetworks" in line for line in lines)
    assert all("expected" in line for line in lines)


def test_a_reload_with_a_table_that_cannot_be_opened_changes_nothing(gateway: Gateway) -> None:
    file = mailboxes(gateway, "u")
    gateway.configure(f'{MAPS}virtual_mailbox_maps = "texthash:{file}"')
    gateway.start()
    gateway.configure(f'{MAPS}virtual_mailbox_maps = "texthash:{file}.gone"\nworkers = 2')
    reload(gateway)
    until(functools.partial(refusal_with, gateway, "smtpgw.virtual_mailbox_maps: found texthash:"))
    assert [answer_for(gateway, each) for each in ("u", "x")] == [250, 550]
    assert len(gateway.workers()) == 1
    mailboxes(gateway, "x")
    gateway.configure(f'{MAPS}virtual_mailbox_maps = "hash:{file}"')
    reload(gateway)
    until(lambda: gateway.count("ready") == 2, what="the reload")
    assert [answer_for(gateway, each) for each in ("u", "x")] == [550, 250]


def test_a_worker_that_cannot_open_a_table_keeps_its_settings(gateway: Gateway) -> None:
    """The file may be lost between the supervisor's look and the worker's."""
    file = mailboxes(gateway, "u")
    gateway.configure(f'{MAPS}virtual_mailbox_maps = "texthash:{file}"')
    good = config.load(gateway.file)
    gateway.configure(f'{MAPS}virtual_mailbox_maps = "texthash:{file}.gone"')
    bad = config.load(gateway.file)
    ours, theirs = control.pair()
    ours.setblocking(True)
    ours.settimeout(PATIENCE)
    listener = socket.create_server(("127.0.0.1", gateway.port))
    with (gateway.place / "log").open("wb") as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", "smtpgw.worker", "0"],
            env={**os.environ, control.CHANNEL: str(theirs.fileno())},
            pass_fds=[theirs.fileno()],
            stderr=log,
        )
    theirs.close()
    try:
        control.send_orders(ours, control.Orders(good, {"mx": listener}))
        assert control.receive_answer(ours) == control.READY
        control.send_orders(ours, control.Orders(bad, {"mx": listener}))
        answer = control.receive_answer(ours).decode()
        assert answer.startswith(control.REFUSED.decode())
        assert f"texthash:{file}.gone" in answer
        assert [answer_for(gateway, each) for each in ("u", "x")] == [250, 550]
    finally:
        ours.close()
        listener.close()
        assert worker.wait(PATIENCE) == 0


def test_a_worker_without_its_tables_says_so_and_ends(gateway: Gateway) -> None:
    gateway.configure(f'{MAPS}virtual_mailbox_maps = "texthash:{gateway.place}/gone"')
    ours, theirs = control.pair()
    listener = socket.create_server(("127.0.0.1", gateway.port))
    with ours, theirs, listener:
        worker = subprocess.Popen(
            [sys.executable, "-m", "smtpgw.worker", "0"],
            env={**os.environ, control.CHANNEL: str(theirs.fileno())},
            pass_fds=[theirs.fileno()],
            stderr=subprocess.PIPE,
        )
        orders = control.Orders(config.load(gateway.file), {"mx": listener})
        control.send_orders(ours, orders)
        _, said = worker.communicate(timeout=PATIENCE)
    assert worker.returncode == 1
    assert b"worker cannot work" in said
    assert b"virtual_mailbox_maps" in said
    assert b"Traceback" not in said


def test_a_changed_table_counts_without_a_reload_and_a_broken_one_does_not(
    gateway: Gateway,
) -> None:
    file = mailboxes(gateway, "u")
    more = '[smtpgw.tables]\nbad_lines = "refuse"\n'
    limits = "".join(
        f"smtpd_{x}_limit = 100000\n" for x in ("hard_error", "soft_error", "junk_command")
    )
    gateway.configure(f'{MAPS}virtual_mailbox_maps = "texthash:{file}"\n{limits}', more)
    gateway.start()
    with gateway.client() as client:  # a session that began before counts too

        def answers(*names: str) -> list[int]:
            client.rset()
            client.mail("s@example.org")
            return [client.rcpt(f"{each}@vm.example")[0] for each in names]

        assert answers("u", "x") == [250, 550]
        mailboxes(gateway, "x")
        until(lambda: answers("u", "x") == [550, 250], what="the new content")
        (gateway.place / "new").write_text("u@vm.example x\nbroken\n")
        (gateway.place / "new").rename(file)
        (line,) = until(
            lambda: answers("u") == [550] and gateway.events("table keeps its old content"),
            what="the warning",
        )
        assert (line["level"], line["file"]) == ("warning", str(file))
        assert f"{file}:2" in line["reason"]
        assert answers("u", "x") == [550, 250]
        file.unlink()
        until(lambda: answers("x") and gateway.count("table keeps its old content") == 2)
        assert answers("u", "x") == [550, 250]
        mailboxes(gateway, "u")
        until(lambda: answers("u", "x") == [250, 550], what="the mended content")


def descriptors(pid: int) -> dict[str, int]:
    """How many descriptors a process has of what."""
    found: dict[str, int] = {}
    for each in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # just closed
            name = re.sub(r"\d+", "N", str(each.readlink()))
            found[name] = found.get(name, 0) + 1
    return found


def test_reloads_leave_no_descriptor_behind(gateway: Gateway) -> None:
    file = mailboxes(gateway, "u", "lmdb")
    assert Postmap(gateway.place).make(b"lmdb:%s" % os.fsencode(file)).status == 0
    with sqlite3.connect(gateway.place / "rows.db") as database:
        database.executescript("CREATE TABLE u (k TEXT)")
    database.close()
    cf = gateway.place / "sqlite.cf"
    cf.write_text(f"dbpath = {gateway.place}/rows.db\nquery = SELECT k FROM u WHERE k = '%s'\n")
    maps = f"lmdb:{file}, sqlite:{cf}, texthash:{file}"
    gateway.configure(f'{MAPS}virtual_mailbox_maps = "{maps}"')
    gateway.start()
    assert gateway.process is not None
    (worker,) = gateway.workers()

    def held() -> tuple[dict[str, int], dict[str, int]]:
        assert [answer_for(gateway, each) for each in ("u", "x")] == [250, 550]
        return descriptors(worker), descriptors(gateway.process.pid if gateway.process else 0)

    def reloaded(number: int) -> None:
        # The settings change each time, so that nothing could be kept.
        gateway.configure(f'{MAPS}virtual_mailbox_maps = "{maps}"\nhopcount_limit = {number}')
        ready = gateway.count("ready")
        reload(gateway)
        until(lambda: gateway.count("ready") > ready, what="the reload")

    reloaded(49)
    before = held()
    for number in range(8):
        reloaded(10 + number)

    def as_before() -> bool:
        now = held()
        return all(
            sum(n for name, n in after.items() if "/" in name and "/decisions/" not in name)
            <= sum(n for name, n in old.items() if "/" in name) + 2
            for after, old in zip(now, before, strict=True)
        )

    until(as_before, what=f"no more descriptors than {before}")


def test_the_supervisor_keeps_nothing_of_a_large_table(gateway: Gateway) -> None:
    file = gateway.place / "large"
    with file.open("w") as large:
        large.writelines(f"user{number}@vm.example {'x' * 60}\n" for number in range(150_000))
    gateway.configure()
    gateway.start()
    assert gateway.process is not None
    before = memory(gateway.process.pid, "VmHWM")
    (worker,) = gateway.workers()
    small = memory(worker, "VmRSS")
    gateway.configure(f'{MAPS}virtual_mailbox_maps = "texthash:{file}"')
    reload(gateway)
    until(lambda: gateway.count("ready") == 2, what="the reload")
    assert [answer_for(gateway, each) for each in ("user149999", "x")] == [250, 550]
    assert memory(worker, "VmRSS") > small + 10_000
    assert memory(gateway.process.pid, "VmHWM") < before + 10_000


def memory(pid: int, what: str) -> int:
    """In kibibytes."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(rf"^{what}:\s+(\d+) kB", text, re.MULTILINE)[0])


def test_check_looks_at_every_table(gateway: Gateway) -> None:
    (gateway.place / "aliases").write_text("vm.example x\nu@vm.example a@example.net\nbroken\n")
    file = mailboxes(gateway, "u")
    gateway.configure(
        f'virtual_mailbox_maps = "texthash:{file}, tcp:127.0.0.1:1"\n'
        'virtual_mailbox_domains = "vm.example"\n'
        f'virtual_alias_maps = "texthash:{gateway.place}/aliases"\nrelay_domains = "static:x"'
    )
    done = command(gateway, "check", "--json")
    assert done.exit_code == 1, done.stdout
    found = json.loads(done.stdout)["findings"]
    said = {(each["subject"], each["level"]): each["detail"] for each in found}
    assert said[f"table texthash:{file}", "ok"] == "answers"
    assert "451" in said["table tcp:127.0.0.1:1", "error"]
    assert "broken" in said[f"table texthash:{gateway.place}/aliases", "warning"]
    both = "do not list domain vm.example in both virtual_alias_domains and virtual_mailbox_domains"
    assert said["virtual_alias_domains", "warning"].startswith(both)
    assert "takes every domain" in said["relay_domains", "warning"]
    gateway.configure(f'virtual_mailbox_maps = "texthash:{file}.gone"')
    done = command(gateway, "check", "--json")
    assert done.exit_code == 78
    (wrong,) = [each for each in json.loads(done.stdout)["findings"] if each["level"] == "error"]
    assert f"{gateway.file}:10: smtpgw.virtual_mailbox_maps" in wrong["detail"]
