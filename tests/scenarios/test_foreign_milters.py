"""Show 4: Debian's clamav-milter and OpenDKIM in the gateway's chain, in place of our filters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from tests.peers import clamav_milter, opendkim
from tests.peers import clamd as clamd_peer
from tests.peers.opendkim import Key, make_key
from tests.peers.process import directory
from tests.scenarios.halves import Halves
from tests.scenarios.letters import BODY, ORDINARY, SIGNATURE, fields, infected, signed_by

pytestmark = pytest.mark.xdist_group("scenario-foreign-milters")


@dataclass
class Town:
    """A gateway whose milters are other people's."""

    halves: Halves
    key: Key


@pytest.fixture(scope="module")
def town() -> Iterator[Town]:
    with ExitStack() as stack:
        home = stack.enter_context(directory("foreign"))
        scanner = stack.enter_context(clamd_peer.clamd(stack.enter_context(directory("clamd"))))
        key = make_key(home)
        scanning = stack.enter_context(clamav_milter.clamav_milter(home, scanner))
        signing = stack.enter_context(opendkim.opendkim(home, key=key))
        halves = Halves(home, scanner.socket, home / "unused")
        halves.write(milters={"clamav-milter": scanning.address, "opendkim": signing.address})
        stack.enter_context(halves.smtpgw())
        yield Town(halves, key)


def test_a_mail_is_accepted_scanned_and_signed(town: Town) -> None:
    code, text = town.halves.send(ORDINARY, ["good@example.net"])
    assert code == 250, text
    (mail,) = town.halves.delivered(address="good@example.net")
    assert signed_by(mail, town.key.records) == {
        ("Mail::DKIM", "rsa-sha256", "example.net"),
        ("OpenDKIM", "rsa-sha256", "example.net"),
    }
    (scanned,) = fields(mail, "X-Virus-Scanned")
    assert scanned.startswith(b"clamav-milter ")
    assert fields(mail, "X-Virus-Status") == [b"Clean"]
    assert fields(mail, "User-Agent") == [b"Something 1.0"]  # nobody was told to take it off
    assert mail.endswith(b"\n\n" + BODY.replace(b"\r\n", b"\n"))


def test_many_mails_of_one_session_are_each_signed(town: Town) -> None:
    with town.halves.client() as client:
        for number in range(20):
            message = ORDINARY + b"number %d\r\n" % number
            assert client.sendmail("a@example.net", ["many@example.net"], message) == {}
    mails = town.halves.delivered(20, "many@example.net")
    assert all(len(fields(each, "DKIM-Signature")) == 1 for each in mails)
    assert len({fields(each, "DKIM-Signature")[0] for each in mails}) == 20


def test_eicar_is_refused_with_the_milters_own_words(town: Town) -> None:
    code, text = town.halves.send(infected(), ["bad@example.net"])
    assert (code, text) == (550, f"5.7.1 infected: {SIGNATURE}.UNOFFICIAL")
    assert town.halves.stored("bad@example.net") == []
    (line,) = town.halves.told("smtpgw", "message", recipients=["bad@example.net"])
    assert (line["outcome"], line["filter"]) == ("rejected", "milter clamav-milter")
    assert SIGNATURE in line["reason"]


def test_nobody_had_anything_to_complain_of(town: Town) -> None:
    assert town.halves.send(ORDINARY, ["quiet@example.net"])[0] == 250
    assert town.halves.troubles() == []
