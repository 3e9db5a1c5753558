"""Show 2: Debian's Postfix, its smtpd chrooted, with our three filters by the shipped snippet."""

from __future__ import annotations

import re
import smtplib
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from milterd.config import ClamavSettings, DkimSettings, FilterTable, HeadersSettings
from milterd.host.seam import HostKind
from tests.peers import clamd as clamd_peer
from tests.peers.postfix import Postfix, postfix
from tests.peers.process import directory, program, wait_for
from tests.peers.smtp_sink import SmtpSink, smtp_sink
from tests.scenarios.halves import Halves, words
from tests.scenarios.letters import (
    BODY,
    ORDINARY,
    SIGNATURE,
    check_infected,
    check_treated,
    fields,
    infected,
    signed_by,
)

pytestmark = pytest.mark.xdist_group("scenario-postfix")
SNIPPET = Path(__file__).parents[2] / "packaging/postfix/main.cf"
TABLES: dict[str, type[FilterTable]] = {
    "clamav": ClamavSettings,
    "headers": HeadersSettings,
    "dkim": DkimSettings,
}
SOURCE_SENDER, SOURCE_RECIPIENT = "source@example.net", "many@example.org"


@dataclass
class Town:
    """Postfix between its clients and a sink, our filters at its side."""

    postfix: Postfix
    halves: Halves
    sink: SmtpSink

    def send(self, message: bytes) -> None:
        with smtplib.SMTP("127.0.0.1", self.postfix.port, timeout=30) as client:
            client.sendmail("a@example.net", ["u@example.org"], message, ["BODY=8BITMIME"])

    def source(self, count: int) -> None:
        """`count` mails of 4 kB by smtp-source(1), ten at a time."""
        command = [program("smtp-source", "postfix"), "-s", "10", "-m", str(count), "-l", "4096"]
        command += ["-f", SOURCE_SENDER, "-t", SOURCE_RECIPIENT, f"127.0.0.1:{self.postfix.port}"]
        subprocess.run(command, check=True, capture_output=True, timeout=100)

    def new(self, before: list[bytes], count: int = 1, within: float = 30.0) -> list[bytes]:
        """What has come to the sink since, once it is so much."""
        found: list[bytes] = []

        def arrived() -> bool:
            if len(list(self.sink.directory.iterdir())) >= len(before) + count:
                found[:] = [each for each in self.sink.mails() if each not in before]
            return len(found) >= count

        wait_for(arrived, f"{count} mails at the sink", within=within, pause=0.1)
        return found

    def check_quiet(self) -> None:
        """Nobody had anything to complain of."""
        assert self.postfix.troubles() == []
        assert self.halves.troubles() == []


def content(mail: bytes) -> bytes:
    """The body of a mail as smtp-sink(1) wrote it, with an empty line of its own at the end."""
    return mail.partition(b"\n\n")[2].removesuffix(b"\n")


def recipient(mail: bytes) -> str:
    """Of the envelope, as smtp-sink(1) noted it."""
    (arguments,) = fields(mail, "X-Rcpt-Args")
    return arguments.split()[0].decode()


def snippet() -> dict[str, str]:
    """The lines of main.cf that we tell a postmaster to write."""
    lines = [each for each in SNIPPET.read_text().splitlines() if each and each[0] != "#"]
    pairs = [each.partition("=") for each in lines]
    return {name.strip(): value.strip() for name, _, value in pairs}


def other_hosts() -> dict[str, str]:
    """Settings with which every filter is on the host that it is not on by default."""
    found = {}
    for name, table in TABLES.items():
        (other,) = set(HostKind) - {table.model_fields["host"].default}
        found[name] = f'host = "{other.value}"'
    return found


def smtpds(queue: Path) -> list[Path]:
    """Postfix's smtpd processes that have `queue` as their root directory."""
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        try:
            if (each / "comm").read_text() == "smtpd\n" and (each / "root").readlink() == queue:
                found.append(each)
        except OSError:
            continue  # it ended while we looked
    return found


def _to(sink: SmtpSink) -> dict[str, str]:
    """Deliver all to the sink, which does not know SMTPUTF8."""
    return {
        "default_transport": f"smtp:[127.0.0.1]:{sink.port}",
        "smtputf8_autodetect_classes": "verify",
    }


@contextmanager
def _town(hosts: dict[str, str]) -> Iterator[Town]:
    with ExitStack() as stack:
        sink = stack.enter_context(smtp_sink(stack.enter_context(directory("sink")), "-8"))
        mta = stack.enter_context(postfix(_to(sink)))
        scanner = stack.enter_context(clamd_peer.clamd(stack.enter_context(directory("clamd"))))
        home = stack.enter_context(directory("halves"))
        halves = Halves(home, scanner.socket, mta.queue / "milterd", group="postfix")
        halves.write(hosts)
        stack.enter_context(halves.milterd())
        mta.set(snippet())  # once the filters run, or there would be a warning
        yield Town(mta, halves, sink)


@pytest.fixture(scope="module", params=["default", "other"])
def town(request: pytest.FixtureRequest) -> Iterator[Town]:
    """Once with each filter on the host it has by default, once on the other one."""
    with _town({} if request.param == "default" else other_hosts()) as one:
        yield one


def test_the_filters_are_reached_from_the_chroot_as_an_ordinary_user(town: Town) -> None:
    with smtplib.SMTP("127.0.0.1", town.postfix.port, timeout=30) as client:
        client.ehlo()
        found = smtpds(town.postfix.queue)
        assert found
        assert all(each.stat().st_uid != 0 for each in found)
    for each in town.halves.sockets.iterdir():
        assert each.stat().st_mode & 0o777 == 0o660
        assert each.group() == "postfix"
    used = town.postfix.command("postconf", "-h", "smtpd_milters", "non_smtpd_milters")
    assert "unix:milterd/clamav.sock" in used


def test_a_mail_by_smtp_is_scanned_signed_and_without_its_agent(town: Town) -> None:
    before = town.sink.mails()
    town.send(ORDINARY)
    (mail,) = town.new(before)
    check_treated(mail, town.halves.records)
    assert content(mail) == BODY.replace(b"\r\n", b"\n")
    assert b"\nSubject: Gr\xc3\xbc\xc3\x9fe,\n\tfolded  oddly\n" in mail
    town.check_quiet()


def test_a_mail_by_sendmail_is_too(town: Town) -> None:
    before = town.sink.mails()
    town.postfix.submit(ORDINARY.replace(b"\r\n", b"\n"), "a@example.net", "u@example.org")
    (mail,) = town.new(before)
    check_treated(mail, town.halves.records)
    assert content(mail) == BODY.replace(b"\r\n", b"\n")
    town.check_quiet()


def test_eicar_by_smtp_is_refused_by_name(town: Town) -> None:
    before = town.sink.mails()
    with pytest.raises(smtplib.SMTPDataError) as refused:
        town.send(infected())
    check_infected(refused.value.smtp_code, words(refused.value))
    assert town.postfix.command("postqueue", "-j") == ""
    assert town.sink.mails() == before
    town.check_quiet()


def test_eicar_by_sendmail_comes_back_to_its_sender_by_name(town: Town) -> None:
    before = town.sink.mails()
    town.postfix.submit(infected().replace(b"\r\n", b"\n"), "a@example.net", "u@example.org")
    (report,) = town.new(before)
    assert recipient(report) == "<a@example.net>"
    reason = re.search(rb"\nDiagnostic-Code: (.*\n(?: .*\n)*)", report)
    assert reason is not None
    words = b" ".join(reason[1].split()).decode()
    assert words == f"X-Postfix; Message refused: infected with {SIGNATURE}.UNOFFICIAL"
    assert b"\nStatus: 5.7.1\n" in report
    assert town.postfix.command("postqueue", "-j") == ""
    town.check_quiet()


@pytest.mark.timeout(180)
def test_many_mails_by_smtp_source_without_a_warning(
    town: Town, request: pytest.FixtureRequest
) -> None:
    """A thousand with the hosts as they ship, fewer with the others."""
    count = 1000 if request.node.callspec.params["town"] == "default" else 200
    before = town.sink.mails()
    town.source(count)
    mails = town.new(before, count, within=100)
    assert len(mails) == count
    for each in mails:
        assert len(fields(each, "DKIM-Signature")) == 2
        assert len(fields(each, "X-Virus-Scanned")) == 1
        assert recipient(each) == f"<{SOURCE_RECIPIENT}>"
    assert len(signed_by(mails[-1], town.halves.records)) == 3
    assert town.postfix.command("postqueue", "-j") == ""
    town.check_quiet()
