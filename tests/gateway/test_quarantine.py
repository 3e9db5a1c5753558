"""The quarantine with a real clamd: what is caught stays, with its recipients, until it is released
past just what caught it, once; or deleted; or its time is over."""

from __future__ import annotations

import re
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateway.conftest import go_on, milter_table, scripted
from tests.gateway.gateway import until
from tests.gateway.quarantine_town import (
    EICAR,
    HELD,
    OTHER,
    SECOND,
    QuarantineTown,
    alike,
    eicar,
    mail,
    quarantine_town,
)
from tests.gateway.test_sendmail import sendmail


@pytest.fixture(scope="module", params=[False, True], ids=["socket", "inside"])
def town(request: pytest.FixtureRequest) -> Iterator[QuarantineTown]:
    """The filter behind its socket, and in the gateway's workers."""
    place = Path(tempfile.mkdtemp(dir="/tmp", prefix="gq"))
    inside = bool(request.param)
    with scripted(place) as socket, quarantine_town(place, socket, inside=inside) as one:
        yield one
    shutil.rmtree(place)


@pytest.fixture
def usual(town: QuarantineTown) -> Iterator[QuarantineTown]:
    """For a test that changes the settings."""
    yield town
    town.reload()


def test_a_virus_is_quarantined_listed_shown_and_released_as_if_it_were_none(
    town: QuarantineTown, user: str
) -> None:
    other = f"other-{user}"
    queue_id = town.catch(mail(eicar()), user, other)
    (entry,) = town.listed("--filter", "clamav", "--recipient", user)
    assert entry["queue_id"] == queue_id
    assert entry["recipients"] == [user, other]
    assert [each["text"] for each in entry["findings"]] == [EICAR]
    assert entry["findings"][0]["rule"] == "Eicar-Test-Signature.UNOFFICIAL"
    text = town.run("quarantine", "list")
    assert queue_id in text
    assert f"(viruses: {EICAR})" in text
    assert queue_id not in town.run("queue", "list")
    shown = town.run("quarantine", "show", queue_id)
    for each in ("helo: client.example.org", "listener: mx", f"finding: viruses: {EICAR}"):
        assert each in shown
    assert f"recipient: {other}" in shown
    assert "X-Folded: one\n\ttwo" in shown
    stored = town.raw(queue_id)
    assert stored.endswith(mail(eicar()))

    assert town.run("quarantine", "release", queue_id) == "1 released\n"
    town.told(queue_id, "released")
    (released,) = town.gateway.delivered(user)
    those = [f"c{user}", f"d{user}"]
    assert town.gateway.send(mail(b"harmless"), "a@example.org", those)[0] == 250
    (clean,) = town.gateway.delivered(f"c{user}")
    swapped = released.replace(_encoded(eicar()), _encoded(b"harmless"))
    assert alike(swapped) == alike(clean).replace(b"cu@", b"u@")
    assert len(town.gateway.delivered(other)) == 1
    assert town.listed("--recipient", user) == []


def _encoded(octets: bytes) -> bytes:
    found = re.search(rb"base64\r\n\r\n(.*?)--=_x", mail(octets), re.DOTALL)
    assert found is not None
    return found[1].replace(b"\r\n", b"\n")


def test_an_entry_is_released_once(town: QuarantineTown, user: str) -> None:
    queue_id = town.catch(mail(eicar()), user)
    town.run("quarantine", "release", queue_id)
    refused = town.run("quarantine", "release", queue_id, check=1)
    assert "no such mail" in refused or "not for a mail in state releasing" in refused
    town.told(queue_id, "released")
    assert "no such mail" in town.run("quarantine", "release", queue_id, check=1)
    assert len(town.gateway.delivered(user)) == 1


def test_another_signature_catches_it_again(town: QuarantineTown, user: str) -> None:
    first = town.catch(mail(eicar(), SECOND), user)
    (entry,) = town.listed("--recipient", user)
    (found,) = [each["text"] for each in entry["findings"]]
    town.run("quarantine", "release", first)
    second = str(town.told(first, "caught again")["entry"])
    (entry,) = town.listed("--recipient", user)
    assert (entry["queue_id"], entry["released_before"]) == (second, [found])
    assert {found, entry["findings"][0]["text"]} == {EICAR, OTHER}
    assert not (town.gateway.mail / user).exists()
    town.run("quarantine", "release", second)
    town.told(second, "released")
    assert town.gateway.delivered(user)[0].count(b"Content-Transfer-Encoding: base64") == 2


@pytest.mark.parametrize("word", [b"quarantine", b"reject"])
def test_another_milter_catches_it_again(usual: QuarantineTown, user: str, word: bytes) -> None:
    first = usual.catch(mail(eicar(), subject=word), user)
    usual.reload(milters=milter_table(usual.scripted))
    usual.run("quarantine", "release", first)
    second = str(usual.told(first, "caught again")["entry"])
    (entry,) = usual.listed("--recipient", user)
    assert entry["findings"][0]["milter"] == "scripted"
    assert entry["released_before"] == [EICAR]
    usual.run("quarantine", "release", second)
    usual.told(second, "released")
    (found,) = usual.gateway.delivered(user)
    assert b"X-Scripted: yes, " in found


def test_a_milter_that_cannot_answer_puts_a_release_off(usual: QuarantineTown, user: str) -> None:
    queue_id = usual.catch(mail(eicar()), user)
    gone = '[[smtpgw.milter]]\nname = "gone"\naddress = "unix:/nowhere/milter"\n'
    usual.reload(milters=gone)
    usual.run("quarantine", "release", queue_id)
    usual.told(queue_id, "put off")
    (entry,) = usual.listed("--recipient", user)
    assert entry["state"] == "releasing"
    assert entry["note"].startswith("release waits: 451")
    usual.reload()
    usual.told(queue_id, "released")
    assert len(usual.gateway.delivered(user)) == 1


def test_a_release_that_is_killed_delivers_once(usual: QuarantineTown, user: str) -> None:
    ids = [usual.catch(mail(eicar(), subject=b"slow", pad=40_000), user) for _ in range(3)]
    usual.reload(milters=milter_table(usual.scripted))
    usual.run("quarantine", "release", *ids)
    gateway = usual.gateway
    assert gateway.process is not None
    gateway.process.kill()
    gateway.process.wait()
    until(lambda: not gateway.workers(), what="the worker's end")
    with go_on(usual.scripted):
        gateway.start()
        for each in ids:
            usual.told(each, "released")
        assert len(gateway.delivered(user, 3)) == 3
    assert usual.listed() == []


def test_local_mail_is_quarantined_and_released_by_its_own_road(
    town: QuarantineTown, user: str
) -> None:
    assert sendmail(town.gateway, "-f", "a@example.net", user, mail=mail(eicar())).returncode == 0
    (line,) = town.gateway.told("message", outcome="quarantined", recipients=[user])
    (entry,) = town.listed("--recipient", user)
    assert entry["queue_id"] == line["queue_id"]
    assert (entry["listener"], entry["direction"]) == ("pickup", "originating")
    town.run("quarantine", "release", entry["queue_id"])
    town.told(entry["queue_id"], "released")
    assert len(town.gateway.delivered(user)) == 1


def test_what_is_deleted_is_gone(town: QuarantineTown, user: str) -> None:
    one, two = (town.catch(mail(eicar()), user) for _ in range(2))
    asked = town.run("quarantine", "delete", "--recipient", user, check=2)
    assert "--yes" in asked
    assert town.run("quarantine", "delete", one) == "1 deleted\n"
    assert [each["queue_id"] for each in town.listed("--recipient", user)] == [two]
    deleted = town.run("quarantine", "delete", "--rule", "eicar*", "--recipient", user, "--yes")
    assert deleted == "1 deleted\n"
    assert town.listed("--recipient", user) == []
    assert not (town.gateway.mail / user).exists()


def test_a_bad_id_and_a_mail_of_the_queue_are_refused(town: QuarantineTown, user: str) -> None:
    assert "expected a queue id" in town.run("quarantine", "release", "../x", check=2)
    assert "no such mail" in town.run("quarantine", "show", "0PmbkXzQ1a00xy", check=1)
    queue_id = town.catch(mail(eicar()), user)
    for verb in ("hold", "release", "delete", "requeue", "bounce"):
        assert "in state quarantine" in town.run("queue", verb, queue_id, check=1)
    assert "0 deleted" in town.run("queue", "delete", "ALL", "--yes")
    assert town.listed("--recipient", user)
    town.run("quarantine", "delete", queue_id)


def test_an_entry_expires(usual: QuarantineTown, user: str) -> None:
    usual.reload("lifetime = 1")
    queue_id = usual.catch(mail(eicar()), user)
    line = usual.told(queue_id, "expired")
    assert line["recipients"] == [user]
    assert usual.listed("--recipient", user) == []
    until(lambda: usual.gateway.metrics()['gatepost_quarantine_total{outcome="expired"}'])


def test_a_full_quarantine_is_tried_again_later(usual: QuarantineTown, user: str) -> None:
    usual.reload("max_mails = 1")
    queue_id = usual.catch(mail(eicar()), user)
    code, text = usual.gateway.send(mail(eicar()), "a@example.org", [user])
    assert (code, text[:5]) == (452, "4.3.1")
    line = usual.gateway.told("decision", filter="queue", outcome="failed")[-1]
    assert "the quarantine is full: 1 mails" in line["reason"]["detail"]
    assert usual.gateway.send(mail(b"harmless"), "a@example.org", [user])[0] == 250
    usual.run("quarantine", "delete", queue_id)
    usual.run("quarantine", "delete", usual.catch(mail(eicar()), user))


def test_a_broken_entry_is_set_aside_and_listed(town: QuarantineTown, user: str) -> None:
    queue_id = town.catch(mail(eicar()), user)
    (database,) = town.gateway.queue.glob("*/queue.db")
    with sqlite3.connect(database, timeout=10) as db:
        db.execute(
            "UPDATE content SET body=x'00' WHERE mail=(SELECT seq FROM mail WHERE id=?)",
            (queue_id,),
        )
    db.close()
    town.run("quarantine", "release", queue_id)
    town.told(queue_id, "corrupt")
    (entry,) = town.listed("--recipient", user)
    assert (entry["state"], entry["note"]) == ("corrupt", "content is not what was stored")
    assert f"{queue_id}?" in town.run("quarantine", "list")
    assert "not for a mail in state corrupt" in town.run("quarantine", "release", queue_id, check=1)
    town.run("quarantine", "delete", queue_id)
    assert town.listed("--recipient", user) == []


def test_mail_that_no_scanner_saw_is_held_until_one_has(town: QuarantineTown, user: str) -> None:
    """The clean one goes on by itself, the infected one is caught, and one that is named goes
    unseen."""
    infected, named = f"i{user}", f"n{user}"
    with town.no_scanner():
        ids = {
            recipient: town.catch(mail(part), recipient)
            for recipient, part in ((user, b"fine"), (infected, eicar()), (named, eicar()))
        }
        listed = {each["queue_id"]: each for each in town.listed()}
        for each in ids.values():
            assert listed[each]["state"] == "awaiting"
            (finding,) = listed[each]["findings"]
            assert finding["text"] == HELD
        assert f"{ids[user]}+" in town.run("quarantine", "list")
        town.told(ids[user], "put off")
        assert town.run("quarantine", "release", ids[named]) == "1 released\n"
        (unseen,) = town.gateway.delivered(named)
        assert _encoded(eicar()) in unseen
    (seen,) = town.gateway.delivered(user)
    assert b"X-Virus-Status" not in seen
    assert b"X-Virus-Scanned: clamav at gw.example.net" in seen
    assert town.told(ids[infected], "caught again")["found"] == [EICAR]
    (entry,) = town.listed("--recipient", infected)
    assert entry["state"] == "quarantine"
    assert entry["released_before"] == []
    town.run("quarantine", "delete", entry["queue_id"])
    assert town.listed("--recipient", user) == []


def test_all_that_waits_for_a_scanner_is_not_let_go_by_the_word_all(
    town: QuarantineTown, user: str
) -> None:
    with town.no_scanner():
        queue_id = town.catch(mail(eicar()), user)
        said = town.run("quarantine", "release", "--recipient", user, "--yes")
        assert said == "0 released\n"
        assert [each["state"] for each in town.listed("--recipient", user)] == ["awaiting"]
        assert town.run("quarantine", "delete", queue_id) == "1 deleted\n"
