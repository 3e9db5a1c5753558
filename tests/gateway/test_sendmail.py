"""Mail handed in on this machine: the command, the drop directory, and the gateway that may
be down meanwhile."""

from __future__ import annotations

import os
import random
import re
import signal
import stat
import subprocess
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

import pytest

from milterd.core.mail import Envelope, Recipient
from smtpgw import wiring
from smtpgw.config import load
from smtpgw.drop_room import DropRoom
from smtpgw.local.drop import Ticket, trailer
from tests.gateway.conftest import milter_table
from tests.gateway.gateway import PATIENCE, Gateway, until

COMMAND = (sys.executable, "-m", "smtpgw.local.sendmail")
MAIL = b"Subject: hello\n\nhello\n"


def sendmail(
    gateway: Gateway, *words: str, mail: bytes = MAIL, user: int | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run the command as a program would."""
    command = [*COMMAND, "-C", str(gateway.file), *words]
    return subprocess.run(
        command, input=mail, capture_output=True, check=False, timeout=PATIENCE, user=user
    )


def known(gateway: Gateway) -> Gateway:
    """A gateway that is down, with a drop directory as an earlier start left it."""
    settings = load(gateway.file).smtpgw
    gateway.queue.mkdir(mode=0o700)
    options = wiring.pickup(settings, settings.hostname)
    DropRoom(options.directory).prepare(options.public, gateway.queue)
    return gateway


def new(gateway: Gateway) -> list[Path]:
    return list((gateway.queue / "drop/new").iterdir())


def fields(mail: bytes) -> dict[bytes, bytes]:
    head = mail.partition(b"\n\n")[0].replace(b"\n\t", b" ")
    return dict(line.split(b": ", 1) for line in head.split(b"\n") if b": " in line)


def test_handed_in_while_the_gateway_is_down_and_delivered_when_it_is_up(
    gateway: Gateway,
) -> None:
    gateway.start()
    gateway.stop()
    body = b"line\n.\nstray \r cr\nnul \0 gone\nlast, without an end"
    mail = b"From someone Mon Jan  1\nSubject: =?x\n folded\nX-Odd:  kept \n\n" + body
    done = sendmail(gateway, "-i", "-f", "a@example.org", "u@example.net", mail=mail)
    assert done.returncode == 0, done.stderr
    assert len(new(gateway)) == 1
    gateway.start()
    (got,) = gateway.delivered()
    head, _, rest = got.replace(b"\r\n", b"\n").partition(b"\n\n")
    assert rest == b"line\n.\nstray   cr\nnul  gone\nlast, without an end\n"
    assert b"Subject: =?x\n folded\nX-Odd:  kept \n" in head
    assert re.search(
        rb"Received: by gw\.example\.net \(Gatepost, from userid %d\)\n\tid " % os.getuid(), head
    )
    for name in (b"Message-ID: <", b"Date: ", b"From: "):
        assert head.count(b"\n" + name) == 1
    assert b"Return-Path: <a@example.org>" in head
    assert not new(gateway)
    taken = gateway.queue / "drop/taken"
    until(lambda: not list(taken.iterdir()), what="an empty directory")


def test_recipients_from_the_header_and_nobody_learns_of_bcc(gateway: Gateway) -> None:
    gateway.start()
    mail = (
        b'To: "Doe, J." <a@example.net>, b@example.net (b, c@example.net)\n'
        b"Cc: friends: c@example.net, D <d@example.net>;\nBcc: hidden@example.net\n"
        b"Subject: x\n\nhello\n"
    )
    done = sendmail(gateway, "-ti", "-Fthe name", "-fme", "e@example.net", mail=mail)
    assert done.returncode == 0, done.stderr
    for each in ("a", "b", "c", "d", "e", "hidden"):
        (got,) = gateway.delivered(f"{each}@example.net")
        assert b"hidden" not in got.replace(f"{each}@".encode(), b"")
        assert b"From: the name <me@gw.example.net>" in got


def test_a_mail_that_is_sent_again_goes_to_its_resent_fields(gateway: Gateway) -> None:
    gateway.start()
    mail = b"Resent-To: r@example.net\nResent-Bcc: s@example.net\nTo: no@example.net\n\nx\n"
    assert sendmail(gateway, "-t", mail=mail).returncode == 0
    for each in ("r", "s"):
        (got,) = gateway.delivered(f"{each}@example.net")
        assert b"Resent-From: " in got
        assert b"Resent-Bcc" not in got
    assert not (gateway.mail / "no@example.net").exists()


def test_smtp_on_standard_input(gateway: Gateway) -> None:
    gateway.start()
    talk = (
        b"EHLO me\r\nMAIL FROM:<a@example.org> BODY=8BITMIME\r\nRCPT TO:<nobody\r\n"
        b"RCPT TO:<u@example.net> NOTIFY=NEVER\r\nDATA\r\nSubject: x\r\n\r\n..dot\r\n.\r\n"
        b"DATA\r\nBOGUS\r\nQUIT\r\nNOOP\r\n"
    )
    done = sendmail(gateway, "-bs", mail=talk)
    assert done.returncode == 0, done.stderr
    codes = [line[:3] for line in done.stdout.split(b"\r\n") if line[3:4] == b" "]
    assert codes == b"220 250 250 501 250 354 250 503 500 221".split()
    (got,) = gateway.delivered()
    assert b"\n.dot\r\n" in got or b"\n.dot\n" in got


def test_a_dialogue_that_ends_in_mid_message_leaves_nothing(gateway: Gateway) -> None:
    known(gateway)
    talk = b"HELO x\nMAIL FROM:<>\nRCPT TO:<root>\nDATA\nSubject: x\n\nhalf"
    assert sendmail(gateway, "-bs", mail=talk).returncode == 0
    assert not new(gateway)


@pytest.mark.parametrize(
    ("words", "mail", "status", "said"),
    [
        ((), MAIL, 64, b"recipient addresses must be specified"),
        (("-Q",), MAIL, 64, b"unknown option -Q"),
        (("-f",), MAIL, 64, b"-f needs a value"),
        (("-bv", "u@example.net"), MAIL, 64, b"-bv is not supported"),
        (("-N", "sometimes", "u@example.net"), MAIL, 64, b"-N"),
        (("-bs", "u@example.net"), b"QUIT\n", 64, b"RCPT"),
        (("-t",), MAIL, 65, b"no recipient addresses found"),
        (("a b..c@example.net",), MAIL, 67, b"b..c@example.net"),
        (("-f", "a@@b", "u@example.net"), MAIL, 67, b"a@@b"),
        (("u@example.net",), b"x" * 3000, 69, b"message_size_limit"),
        (("u@example.net",), b"X: y\n" * 1000, 69, b"header_size_limit"),
        (("-bi",), b"", 0, b""),
        (("-oi", "-odb", "-Ac", "-U", "-O", "x=y", "-v", "-G", "--", "u"), MAIL, 0, b""),
        (("-B", "8bitmime", "-R", "hdrs", "-V", "e", "-N", "never", "u"), MAIL, 0, b""),
    ],
)
def test_exit_codes(
    down: Gateway, words: Sequence[str], mail: bytes, status: int, said: bytes
) -> None:
    before = len(new(down))
    done = sendmail(down, *words, mail=mail)
    assert done.returncode == status, done.stderr
    assert said in done.stderr
    left = len(new(down)) - before
    assert left == (1 if status == 0 and mail else 0)


@pytest.fixture(scope="module")
def down(tmp_path_factory: pytest.TempPathFactory) -> Gateway:
    """One gateway for many tests that is not up."""
    one = Gateway(tmp_path_factory.mktemp("gw"))
    one.configure("message_size_limit = 2048\nheader_size_limit = 1024")
    return known(one)


def test_what_cannot_be_dropped_can_be_tried_again(gateway: Gateway) -> None:
    done = sendmail(gateway, "u@example.net")
    assert done.returncode == 75
    assert b"drop/public: No such file or directory" in done.stderr
    known(gateway)
    (gateway.queue / "drop/new").rmdir()
    done = sendmail(gateway, "u@example.net")
    assert done.returncode == 75
    assert b"nothing was queued" in done.stderr
    (gateway.queue / "drop/public").write_text("[]")
    assert sendmail(gateway, "u@example.net").returncode == 78
    gateway.file.write_text("=")
    assert sendmail(gateway, "u@example.net").returncode == 78


def test_a_full_disk_leaves_nothing_half_written(gateway: Gateway) -> None:
    """A file that may not grow stands for the disk: the write fails in the middle."""
    known(gateway)
    limit = ["prlimit", "--fsize=100000", *COMMAND, "-C", str(gateway.file), "u@example.net"]
    mail = MAIL + b"x" * 70 + b"\n" * 400_000
    done = subprocess.run(limit, input=mail, capture_output=True, check=False, timeout=PATIENCE)
    assert done.returncode == 75, done.stderr
    assert not new(gateway)


def test_a_signal_leaves_nothing(gateway: Gateway) -> None:
    known(gateway)
    command = [*COMMAND, "-C", str(gateway.file), "u@example.net"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(MAIL * 100_000)
    process.stdin.flush()
    until(lambda: new(gateway), what="an unfinished file")
    process.terminate()
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 75
    assert not new(gateway)


def test_who_may_hand_in(gateway: Gateway) -> None:
    gateway.configure('authorized_submit_users = ["!root", "static:anyone"]')
    known(gateway)
    done = sendmail(gateway, "u@example.net")
    assert (done.returncode, os.getuid()) == (77, 0)
    assert b"may not hand in mail" in done.stderr


def test_others_can_drop_a_mail_and_see_nothing(gateway: Gateway) -> None:
    """The directory cannot be listed by the user who may write to it."""
    if os.getuid():
        pytest.fail("has to be run by root: use `make test`")
    gateway.place.chmod(0o755)
    gateway.file.chmod(0o644)
    gateway.start()
    done = sendmail(gateway, "u@example.net", user=65534)
    assert done.returncode == 0, done.stderr
    (got,) = gateway.delivered()
    assert b"from userid 65534)" in got
    assert b"nobody@gw.example.net" in got
    drop = gateway.queue / "drop"
    assert stat.S_IMODE((drop / "new").stat().st_mode) == 0o1733
    for each in (drop / "new", drop / "taken", gateway.queue, gateway.queue / "00"):
        listing = subprocess.run(["ls", str(each)], capture_output=True, check=False, user=65534)
        assert listing.returncode, each
        assert not listing.stdout


def drop_file(gateway: Gateway, name: str, octets: bytes) -> Path:
    path = gateway.queue / "drop/new" / name
    path.write_bytes(octets)
    return path


def whole(envelope: Envelope, message: bytes) -> bytes:
    head = Ticket(envelope, 1.0).encode()
    return head + message + trailer(zlib.crc32(head + message), len(message))


def test_what_is_no_drop_file_is_set_aside_and_stops_nothing(gateway: Gateway) -> None:
    known(gateway)
    good = Envelope(b"a@example.org", (), (Recipient(b"u@example.net"),))
    octets = whole(good, b"Subject: x\r\n\r\nx\r\n")
    drop_file(gateway, "1" * 32, octets[:-1])
    drop_file(gateway, "2" * 32, octets.replace(b"Subject", b"Sobject"))
    drop_file(gateway, "3" * 32, b"")
    os.mkfifo(gateway.queue / "drop/new" / ("4" * 32))
    (gateway.queue / "drop/new" / ("5" * 32)).symlink_to("/etc/passwd")
    os.link(drop_file(gateway, "6" * 32, octets), gateway.place / "other")
    bad = Envelope(b"a@example.org", (), (Recipient(b"u@example.net>\r\nX: y"),))
    drop_file(gateway, "7" * 32, whole(bad, b"\r\n"))
    drop_file(gateway, "8" * 32, whole(good, b"Subject: x\0\r\n\r\nx\r\n"))
    drop_file(gateway, "strange", b"")
    drop_file(gateway, "tmp." + "9" * 32, b"")
    (gateway.queue / "drop/new" / ("a" * 32)).mkdir()
    drop_file(gateway, "b" * 32, octets)
    gateway.start()
    assert len(gateway.delivered()) == 1
    corrupt = gateway.queue / "drop/corrupt"
    until(lambda: len(list(corrupt.iterdir())) == 9, what="nine files that are set aside")
    reasons = {each["file"][:1]: each["reason"] for each in gateway.events("drop.corrupt")}
    assert "too early" in reasons["1"]
    assert "not what was written" in reasons["2"]
    assert "regular" in reasons["4"]
    assert "another name" in reasons["6"]
    assert "bad address" in reasons["7"]
    assert {each.name for each in new(gateway)} == {"tmp." + "9" * 32, "a" * 32}


def test_milters_for_local_mail(gateway: Gateway, milter: Path) -> None:
    """They see it as if localhost had sent it; what they refuse is bounced, what they put off
    stays in the drop directory."""
    gateway.configure('non_smtpd_milters = ["scripted"]', milter_table(milter))
    gateway.start()
    say = "Subject: {}\n\nx\n"
    for word in ("add", "reject", "tempfail", "discard"):
        done = sendmail(gateway, "-fs@example.net", "u@example.net", mail=say.format(word).encode())
        assert done.returncode == 0, done.stderr
    (bounce,) = gateway.delivered("s@example.net")
    assert b"Subject: Undelivered Mail" in bounce or b"multipart/report" in bounce
    until(lambda: gateway.count("message", outcome="tempfailed") >= 2, what="another try")
    until(lambda: gateway.count("message", outcome="discarded") == 1, what="a discarded mail")
    assert len(gateway.delivered()) == 1
    assert len(list((gateway.queue / "drop/taken").iterdir())) == 1


def test_a_drop_directory_that_cannot_be_used_is_tried_again_at_a_reload(gateway: Gateway) -> None:
    """Mail from elsewhere goes on meanwhile."""
    gateway.queue.mkdir(mode=0o700)
    (gateway.queue / "drop").write_bytes(b"not a directory")
    gateway.start()
    until(lambda: gateway.events("local mail is not taken"), what="a complaint")
    assert gateway.send()[0] == 250
    (gateway.queue / "drop").unlink()
    assert gateway.process is not None
    gateway.process.send_signal(signal.SIGHUP)
    until((gateway.queue / "drop" / "public").exists, what="a drop directory")
    assert sendmail(gateway, "-fs@example.net", "u@example.net").returncode == 0
    gateway.delivered(count=2)


def test_mail_in_a_drop_directory_that_is_left_is_not_forgotten(
    gateway: Gateway, tmp_path: Path
) -> None:
    """The command exited with 0 there, and would go on to."""
    gateway.start()
    gateway.stop()
    assert sendmail(gateway, "-fs@example.net", "u@example.net").returncode == 0
    usual, text = gateway.queue / "drop", gateway.file.read_text()
    for number, name in enumerate(("one", "two")):
        other = tmp_path / name
        queue = f'[smtpgw.queue]\ndrop_directory = "{other}"\n'
        gateway.file.write_text(text.replace("[smtpgw.queue]\n", queue))
        if number:
            assert gateway.process is not None
            gateway.process.send_signal(signal.SIGHUP)
            until((other / "public").exists, what="the new directory")
            until(lambda: not (tmp_path / "one/public").exists(), what="the end of the old one")
        else:
            gateway.start()
    gateway.delivered(count=1)
    assert not (usual / "public").exists()
    assert not list((usual / "new").iterdir())


FORKS = """
import io, os, sys, types
from smtpgw.local import sendmail
running = {}
def reap():
    pid, status = os.wait()
    assert status == 0
    print(running.pop(pid), flush=True)
for line in sys.stdin:
    number = int(line)
    pid = os.fork()
    if not pid:
        mail = b"X-Number: %d\\n\\n%b\\n" % (number, b"x" * (number * 97 % 9000))
        sys.stdin = types.SimpleNamespace(buffer=io.BytesIO(mail))
        os._exit(sendmail.main(["sendmail", "-C", sys.argv[1], "-i", "u@example.net"]))
    running[pid] = number
    if len(running) >= 8:
        reap()
while running:
    reap()
"""
"""A process for each number that it reads, eight at a time; it prints the numbers of those that
exit with 0."""


def test_each_of_many_is_taken_once_whatever_is_killed(gateway: Gateway) -> None:
    """200 mails, eight processes at a time, while the worker is killed again and again: each
    accepted mail was queued once, and none is left."""
    dice = random.Random(4)
    total = int(os.environ.get("GATEPOST_INJECTIONS", "200"))
    gateway.configure("service_throttle_time = 0.5")
    gateway.start()
    command = [sys.executable, "-c", FORKS, str(gateway.file)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    assert process.stdin is not None
    assert process.stdout is not None
    accepted: set[int] = set()
    kills, at, numbers = 0, 20, iter(range(total))
    process.stdin.write(b"".join(b"%d\n" % next(numbers) for _ in range(8)))
    for line in process.stdout:
        accepted.add(int(line))
        number = next(numbers, None)
        if number is not None:
            process.stdin.write(b"%d\n" % number)
        elif not process.stdin.closed:
            process.stdin.close()
        if len(accepted) >= at:
            until(gateway.workers, what="a worker to kill")
            for pid in gateway.workers()[-1:]:
                os.kill(pid, signal.SIGKILL)
                kills += 1
                at += 10 + dice.randrange(20)
    assert process.wait(PATIENCE) == 0
    assert len(accepted) == total
    drop = gateway.queue / "drop"
    until(
        lambda: not new(gateway) and not list((drop / "taken").iterdir()),
        patience=60,
        what="an empty drop directory",
    )
    ids: dict[int, set[bytes]] = {}

    def all_there() -> bool:
        ids.clear()
        for each in gateway.delivered():
            found = fields(each.replace(b"\r\n", b"\n"))
            ids.setdefault(int(found[b"X-Number"]), set()).add(found[b"Message-ID"])
        return set(ids) == accepted

    until(all_there, patience=60, what="all mails")
    print(f"{total} handed in, {kills} kills, {len(gateway.delivered())} delivered")
    assert kills >= 4
    # A worker killed between a delivery and its commit delivers again, but the same mail.
    assert all(len(each) == 1 for each in ids.values())


def test_mailq_and_flush_are_the_queue_s_own_commands(gateway: Gateway) -> None:
    gateway.start()
    for words in (["-bp"], ["-q"], ["-qRexample.net"]):
        done = sendmail(gateway, *words, mail=b"")
        assert done.returncode == 0, done.stderr
