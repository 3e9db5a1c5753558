"""The gateway's workers run our filters themselves: what all three do to a mail, what becomes of
it when a part is missing or hangs, and settings that change meanwhile."""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from tests.crash.stack import descendants
from tests.filters.clamd_peer import attachment, zipped
from tests.gateway.gateway import send_by
from tests.peers.clamd import clamd
from tests.peers.process import Peer, directory, wait_for
from tests.scenarios.halves import FILTERS, PATIENCE, Halves
from tests.scenarios.letters import (
    ORDINARY,
    check_from_outside,
    check_infected,
    check_marked,
    check_treated,
    fields,
    good_signatures,
    infected,
    signed_by,
)

pytestmark = pytest.mark.xdist_group("scenario-inside")

INSIDE = {each: f"filter:{each}" for each in FILTERS}
WITH_TRAP = INSIDE | {"trap": "filter:trap"}
REPEATS = 8
OWN = """
import threading
from pathlib import Path
from milterd.core import Decision, Need, Reply, Verdict
needs = Need.HEADERS | Need.BODY
place = Path(__file__).parent
def gather(mail):
    subject = b"".join(each.value for each in mail.headers if each.named(b"Subject"))
    if b"raise" in subject:
        raise ValueError("as asked")
    if b"hang" in subject:
        (place / "hangs").touch()
        threading.Event().wait()
    return None
def decide(mail, facts):
    return Decision(Verdict.REJECT, reply=Reply(550, "5.7.1", "from a filter of our own"))
"""


class Town:
    """A gateway with filters in its workers, and a scanner that tests stop and start again."""

    def __init__(self, halves: Halves) -> None:
        self.halves = halves
        self.gateway: Peer
        self._clamd = ExitStack()

    def start_clamd(self) -> None:
        self._clamd.enter_context(clamd(self.halves.clamd.parent))

    def stop_clamd(self) -> None:
        self._clamd.close()

    def configure(
        self,
        tables: Mapping[str, str] | None = None,
        milters: Mapping[str, str] | None = None,
        more: str = "",
    ) -> None:
        """Write other settings, and ask for them to be taken."""
        self.halves.write(tables, milters=INSIDE if milters is None else milters)
        with self.halves.settings.open("a") as file:
            file.write(more)
        os.kill(self.gateway.pid, signal.SIGHUP)

    def take(
        self,
        tables: Mapping[str, str] | None = None,
        milters: Mapping[str, str] | None = None,
        more: str = "",
    ) -> None:
        """The same, and wait until the workers go by them."""
        before = len(self.halves.events("smtpgw", "ready"))
        self.configure(tables, milters, more)
        wait_for(lambda: len(self.halves.events("smtpgw", "ready")) > before, "they are taken")

    def check_works(self, address: str) -> None:
        """A mail goes through all filters and arrives once."""
        code, text = self.halves.send(ORDINARY, [address])
        assert code == 250, text
        (mail,) = self.halves.delivered(address=address)
        check_treated(mail, self.halves.records)

    @property
    def workers(self) -> list[int]:
        """Their process ids."""
        found = descendants(self.gateway.pid)
        return [each for each in found if b"smtpgw.worker" in _words(each)]


def _words(pid: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


@contextmanager
def a_town() -> Iterator[Town]:
    with ExitStack() as stack:
        home = stack.enter_context(directory("inside"))
        scanner = stack.enter_context(directory("clamd"))
        one = Town(Halves(home, scanner / "clamd.sock", home / "filters"))
        one.halves.write(milters=INSIDE)
        one.start_clamd()
        stack.callback(one.stop_clamd)
        one.gateway = stack.enter_context(one.halves.smtpgw())
        yield one


@pytest.fixture(scope="module")
def town() -> Iterator[Town]:
    """Every test leaves it as it was."""
    with a_town() as one:
        yield one


def test_all_three_treat_a_mail_and_it_is_counted_once(town: Town) -> None:
    halves = town.halves
    names = {
        **{f'gatepost_filter_seconds_count{{filter="{each}"}}': 1.0 for each in FILTERS},
        'gatepost_mails_total{daemon="smtpgw",listener="mx",outcome="queued"}': 1.0,
        'gatepost_mails_total{daemon="milterd",listener="clamav",outcome="edit"}': 1.0,
        'gatepost_mails_total{daemon="milterd",listener="dkim",outcome="edit"}': 1.0,
    }
    before = halves.metrics("smtpgw")
    town.check_works("treated@example.net")

    def counted() -> dict[str, float]:
        now = halves.metrics("smtpgw")
        return {each: now.get(each, 0) - before.get(each, 0) for each in names}

    with suppress(TimeoutError):
        wait_for(lambda: counted() == names, "all is counted")
    assert counted() == names
    queue_id = halves.told("smtpgw", "message", outcome="queued")[-1]["queue_id"]
    for each in FILTERS:
        (line,) = halves.told("smtpgw", "decision", queue_id=queue_id, filter=f"milter {each}")
        assert line["outcome"] == "edited"
    assert not halves.sockets.exists()


def test_the_infected_are_refused_and_others_of_the_session_are_not(town: Town) -> None:
    address = "after@example.net"
    with town.halves.client() as client:
        check_infected(*send_by(client, infected(), "a@example.net", [address]))
        client.mail("a@example.net")
        client.rcpt(address)
        client.rset()
        assert send_by(client, ORDINARY, "a@example.net", [address])[0] == 250
    (mail,) = town.halves.delivered(address=address)
    check_treated(mail, town.halves.records)


def test_a_large_mail_is_judged_from_its_file(town: Town) -> None:
    address, line = "large@example.net", b"x" * 76 + b"\r\n"
    assert town.halves.send(ORDINARY + line * 65_000, [address])[0] == 250
    (mail,) = town.halves.delivered(address=address)
    check_treated(mail, town.halves.records)
    assert mail.count(b"x" * 76) == 65_000


def test_without_clamd_mail_waits_or_passes_as_the_settings_say(town: Town) -> None:
    halves = town.halves
    town.stop_clamd()
    code, text = halves.send(ORDINARY, ["waits@example.net"])
    assert (code, text) == (451, "4.7.1 Virus scanner unavailable, try again later")
    town.take({"clamav": 'unavailable = "tag"'})
    assert halves.send(ORDINARY, ["tag@example.net"])[0] == 250
    (mail,) = halves.delivered(address="tag@example.net")
    (status,) = fields(mail, "X-Virus-Status")
    assert status.startswith(b"unavailable (")
    assert signed_by(mail, halves.records) == good_signatures("example.net")
    town.start_clamd()
    town.take()
    town.check_works("waits@example.net")


def test_who_a_server_before_us_speaks_for_is_whose_mail_it_is(town: Town) -> None:
    outside, ours = "outside@example.net", "ours@example.net"
    assert town.halves.send(ORDINARY, [outside], "192.0.2.7")[0] == 250
    assert town.halves.send(ORDINARY, [ours], "127.0.0.9")[0] == 250
    (mail,) = town.halves.delivered(address=outside)
    check_from_outside(mail)
    (mail,) = town.halves.delivered(address=ours)
    check_treated(mail, town.halves.records)


def test_the_scanners_word_about_mail_from_outside_arrives(town: Town) -> None:
    address = "marked@example.net"
    town.take({"clamav": 'infected = "tag"'})
    assert town.halves.send(infected(), [address], "192.0.2.7")[0] == 250
    (mail,) = town.halves.delivered(address=address)
    check_marked(mail)
    town.take()


def test_filters_in_the_workers_and_at_sockets_stand_in_one_row(town: Town) -> None:
    halves = town.halves
    with halves.milterd():
        for there in FILTERS:
            town.take(milters=INSIDE | {there: f"unix:{halves.sockets}/{there}.sock"})
            town.check_works(f"{there}-elsewhere@example.net")
            check_infected(*halves.send(infected(), ["u@example.net"]))
        town.take()
    shutil.rmtree(halves.sockets)


# -- a filter of a postmaster's own ------------------------------------------------------


def take_trap(town: Town, lines: str = "") -> Path:
    """A filter of ours that raises or hangs if the subject says so; the file that it makes when
    it hangs."""
    path = town.halves.home / "trap.py"
    path.write_text(OWN)
    hangs = path.with_name("hangs")
    hangs.unlink(missing_ok=True)
    town.take({}, WITH_TRAP, f'[filter.own.trap]\nmodule = "{path}"\n{lines}')
    return hangs


@contextmanager
def with_trap(town: Town, lines: str = "") -> Iterator[Path]:
    """The same for a while."""
    yield take_trap(town, lines)
    town.take()


def test_what_a_filter_raises_is_its_own_affair(town: Town) -> None:
    with with_trap(town):
        code, text = town.halves.send(b"Subject: raise\r\n\r\n", ["raised@example.net"])
        assert (code, text[:36]) == (451, "4.3.0 Internal error, trace id " + text[31:36])
        (line,) = town.halves.told("smtpgw", "failure", filter="trap", trace=text[31:])
        assert "trap.py:" in line["at"]
        assert town.halves.send(ORDINARY)[0] == 550


def test_a_filter_that_hangs_keeps_nobody_but_its_mail(town: Town) -> None:
    with with_trap(town, 'timeout = "1s"\n') as hangs:
        code, text = town.halves.send(b"Subject: hang\r\n\r\n")
        assert hangs.exists()
        assert (code, text[:5]) == (451, "4.3.0")
        hangs.unlink()
        with town.halves.client() as client:  # who leaves before it has spoken
            client.mail("a@example.net")
            client.rcpt("u@example.net")
            client.docmd("DATA")
            client.send(b"Subject: hang\r\n\r\n" + b"x" * 76 * 5000 + b"\r\n.\r\n")
            wait_for(hangs.exists, "it hangs")
            client.close()
        assert town.halves.send(ORDINARY)[0] == 550


def test_a_worker_ends_in_its_time_though_a_filter_hangs() -> None:
    with a_town() as town:
        hangs = take_trap(town)
        with town.halves.client() as client:
            client.mail("a@example.net")
            client.rcpt("u@example.net")
            client.docmd("DATA")
            client.send(b"Subject: hang\r\n\r\n.\r\n")
            wait_for(hangs.exists, "it hangs")
            assert town.gateway.process is not None
            town.gateway.process.terminate()
            assert town.gateway.process.wait(PATIENCE) == 0
        assert town.halves.events("smtpgw", "stopped")
        assert [each for each in town.halves.troubles() if "kill" in each["event"]] == []


# -- settings ----------------------------------------------------------------------------


def refusals(halves: Halves, key: str) -> list[str]:
    lines = halves.events("smtpgw", "settings not taken, the old ones stay")
    return [each["reason"] for each in lines if key in each["reason"]]


@pytest.mark.parametrize(
    ("tables", "milters", "more", "key", "line"),
    [
        ({"dkim": 'oversin = ["x"]'}, None, "", "filter.dkim.oversin", "oversin"),
        ({}, {"trap": "filter:trap"}, "", "smtpgw.milter[0].address", 'address = "filter:trap"'),
        ({}, dict(reversed(INSIDE.items())), "", "smtpgw.milter[0]", "[[smtpgw.milter]]"),
        ({"headers": 'rules = ["/nowhere/rules.toml"]'}, None, "", "filter.headers", "[filter.hea"),
        ({}, WITH_TRAP, '[filter.own.trap]\nmodule = "/no.py"\n', "filter.own.trap", "[filter.own"),
        ({}, None, '[filter.own.dkim]\nmodule = "/no.py"\n', "filter.own.dkim", "[filter.own"),
    ],
)
def test_wrong_settings_leave_the_old_ones_and_are_named(
    town: Town,
    tables: dict[str, str],
    milters: dict[str, str] | None,
    more: str,
    key: str,
    line: str,
) -> None:
    halves = town.halves
    before, seen = descendants(town.gateway.pid), len(refusals(halves, key))
    town.configure(tables, milters, more)
    wait_for(lambda: len(refusals(halves, key)) > seen, f"{key} is refused")
    reason = refusals(halves, key)[-1]
    found = re.match(rf"{re.escape(str(halves.settings))}:(\d+): ", reason)
    assert found, reason
    lines = halves.settings.read_text().splitlines()
    assert line in lines[int(found[1]) - 1], reason
    assert town.halves.send(ORDINARY, ["kept@example.net"])[0] == 250
    assert descendants(town.gateway.pid) == before
    town.take()


def test_nothing_piles_up_over_reloads(town: Town) -> None:
    """What filters had open before is gone soon after others have taken their place."""
    row = {each: f"filter:{each}" for each in ("clamav", "headers", "attachments", "dkim")}
    more = "[filter.attachments]\n"
    (worker,) = town.workers
    town.take({}, row, more)

    def held() -> tuple[int, int, int]:
        tasks, numbers = Path(f"/proc/{worker}/task"), Path(f"/proc/{worker}/fd")
        return len([*tasks.iterdir()]), len([*numbers.iterdir()]), len(descendants(worker))

    def use() -> None:
        code, text = town.halves.send(attachment(zipped(b"harmless" * 50)))
        assert (code, "in an archive" in text) == (550, True), text

    def no_more() -> bool:
        return all(now < then + REPEATS for now, then in zip(held(), before, strict=True))

    use()
    before = held()
    for _ in range(REPEATS):
        town.take({}, row, more)
        use()
    with suppress(TimeoutError):
        wait_for(no_more, "they are gone", within=10)
    assert no_more(), (before, held())
    town.take()
