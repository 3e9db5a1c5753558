"""aliases(5) over the running gateway: who gets a mail, from whom, and what is refused."""

from __future__ import annotations

import contextlib
import email
import socketserver
import threading
from collections.abc import Iterator

import pytest

from tests.gateway.gateway import Gateway, until
from tests.gateway.test_rewriting import queue_id, reasons, settled, started, value

ALIASES = """
all: all1, all2, far@elsewhere.example
way: way1, way2
step: all-too
all-too: way4
self: self, self2
same: same
list: list1, nobody@refused.example
owner-list: boss
file: :include:{place}/members
broken: broken1, |"/bin/true", /dev/null, :include:{place}/none
only: |/bin/true
away: back@virtual.example
circle: circle1
told: told-too
told-too: told1
news: news1, news2
press: news1, nobody@refused.example
owner-press: boss
"""


def configure(gateway: Gateway, *lines: str, queue: str = "") -> Gateway:
    place = gateway.place
    (place / "aliases").write_text(ALIASES.format(place=place))
    (place / "members").write_text("# all of them\nfile1, file2\n")
    (place / "transport").write_text("refused.example error:5.1.1 nobody\n")
    (place / "virtual").write_text(
        "virtual.example anything\nback@virtual.example away@example.net\n"
        "two@virtual.example way@example.net, way3@example.net\n"
    )
    own = (
        'myorigin = "example.net"',
        f'alias_maps = ["hash:{place}/aliases"]',
        f'virtual_alias_maps = ["hash:{place}/virtual"]',
        f'transport_maps = ["hash:{place}/transport"]',
        "smtpd_reject_unlisted_recipient = false",
    )
    gateway.configure("\n".join((*own, *lines)), queue=queue)
    return gateway


@pytest.fixture(scope="module")
def shared() -> Iterator[Gateway]:
    """One gateway for many tests, each with names of its own."""
    with started(configure) as one:
        yield one


def aliases_of(mail: bytes) -> list[str]:
    """The aliases a mail came through; the first line of the name is the Maildir's own."""
    return list(email.message_from_bytes(mail).get_all("Delivered-To", []))[1:]


def test_an_alias_becomes_a_mail_of_its_own_and_the_others_do_not_see_it(shared: Gateway) -> None:
    body = b"Subject: x\r\nX-Kept:  as\r\n\tit came \r\n\r\n\xff.\r\n"
    answer = shared.send(body, recipients=["all@example.net", "dora@example.net"])
    for each in ("all1@example.net", "all2@example.net", "far@elsewhere.example"):
        (got,) = shared.delivered(each)
        assert aliases_of(got) == ["all@example.net"]
        assert value(got, "Return-Path") == "<a@example.org>"
        assert b"\nSubject: x\nX-Kept:  as\n\tit came \n" in got
        assert got.endswith(b"\n\n\xff.\n")
    (dora,) = shared.delivered("dora@example.net")
    assert aliases_of(dora) == []
    assert not (shared.mail / "all@example.net").exists()
    told = [each for each in reasons(shared, queue_id(answer)) if each["source"] == "rewrite"]
    (step,) = told
    assert step["table"] == "alias_maps"
    assert step["from"] == "all@example.net"
    assert "far@elsewhere.example" in step["to"]


def test_by_way_of_other_tables_each_final_name_once(shared: Gateway) -> None:
    shared.send(recipients=["two@virtual.example", "step@example.net"])
    names = [f"way{number}@example.net" for number in range(1, 5)]
    for each in names:
        shared.delivered(each)
    settled(shared)
    mails = [shared.delivered(each) for each in names]
    assert [len(each) for each in mails] == [1, 1, 1, 1]
    assert [aliases_of(each) for (each,) in mails] == [
        ["way@example.net"], ["way@example.net"], [], ["step@example.net"],
    ]  # fmt: skip


def test_its_own_alias_is_delivered_and_not_expanded_again(shared: Gateway) -> None:
    shared.send(recipients=["self@example.net", "same@example.net"])
    for each in ("self", "self2"):
        (got,) = shared.delivered(f"{each}@example.net")
        assert aliases_of(got) == ["self@example.net"]
    (same,) = shared.delivered("same@example.net")
    assert aliases_of(same) == []
    settled(shared)
    assert len(shared.delivered("self@example.net")) == 1


def test_the_owner_of_a_list_hears_what_fails(shared: Gateway) -> None:
    shared.send(sender="owned@example.org", recipients=["list@example.net"])
    (got,) = shared.delivered("list1@example.net")
    assert value(got, "Return-Path") == "<owner-list@example.net>"
    (letter,) = shared.delivered("boss@example.net")
    assert b"Final-Recipient: rfc822; nobody@refused.example" in letter
    settled(shared)
    assert not (shared.mail / "owned@example.org").exists()


def test_a_list_in_a_file(shared: Gateway) -> None:
    shared.send(recipients=["file@example.net"])
    for each in ("file1", "file2"):
        (got,) = shared.delivered(f"{each}@example.net")
        assert aliases_of(got) == ["file@example.net"]


def test_what_is_refused_is_told_and_the_rest_delivered(shared: Gateway) -> None:
    shared.send(sender="ref1@example.org", recipients=["broken@example.net"])
    shared.delivered("broken1@example.net")
    (letter,) = shared.delivered("ref1@example.org")
    flat = b" ".join(letter.split())
    assert b"Final-Recipient: rfc822; broken@example.net" in flat
    assert b"Status: 5.3.5" in flat
    for each in (b"a command is refused", b"a file is refused", b"cannot be read"):
        assert each in flat
    shared.send(sender="ref2@example.org", recipients=["only@example.net"])
    (letter,) = shared.delivered("ref2@example.org")
    assert b"Final-Recipient: rfc822; only@example.net" in letter
    assert not (shared.mail / "only@example.net").exists()


def test_a_circle_ends_with_a_bounce(shared: Gateway) -> None:
    """In the tables, and by way of a mail that was here before."""
    shared.send(sender="loop1@example.org", recipients=["away@example.net"])
    (letter,) = shared.delivered("loop1@example.org")
    assert b"Status: 5.4.6" in letter
    assert b"mail forwarding loop for away@example.net" in b" ".join(letter.split())
    again = b"Delivered-To: Circle@Example.NET\r\nSubject: x\r\n\r\nx\r\n"
    those = ["circle@example.net", "beside@example.net"]
    shared.send(again, sender="loop2@example.org", recipients=those)
    (letter,) = shared.delivered("loop2@example.org")
    assert b"mail forwarding loop for circle@example.net" in b" ".join(letter.split())
    shared.delivered("beside@example.net")
    settled(shared)
    assert not (shared.mail / "circle1@example.net").exists()


def test_who_asked_for_success_hears_of_the_expansion_alone(shared: Gateway) -> None:
    with shared.client() as client:
        client.mail("wanted@example.org", ["RET=HDRS"])
        client.rcpt("told@example.net", ["NOTIFY=SUCCESS,FAILURE", "ORCPT=rfc822;Me@example.org"])
        assert client.data(b"Subject: x\r\n\r\nx\r\n")[0] == 250
    shared.delivered("told1@example.net")
    (letter,) = shared.delivered("wanted@example.org")
    assert b"Action: expanded" in letter
    assert b"Original-Recipient: rfc822;Me@example.org" in letter.replace(b"822; ", b"822;")
    settled(shared)
    assert len(shared.delivered("wanted@example.org")) == 1


def test_a_notification_to_an_alias_keeps_the_null_sender(shared: Gateway) -> None:
    for each in ("news", "press"):
        shared.send(sender=f"{each}@example.net", recipients=["nobody@refused.example"])
    both = shared.delivered("news1@example.net", 2)
    for letter in (*both, *shared.delivered("news2@example.net")):
        assert b"Final-Recipient: rfc822; nobody@refused.example" in letter
        assert value(letter, "Return-Path") == "<>"
    assert sorted(map(aliases_of, both)) == [["news@example.net"], ["press@example.net"]]


def test_a_notification_waits_for_its_tables_and_is_not_lost(gateway: Gateway) -> None:
    """Its reason stays deferred, and it comes when the table answers."""
    with table(b"file@example.net") as heals:
        configure(
            gateway,
            f'recipient_canonical_maps = ["tcp:127.0.0.1:{heals.port}"]',
            queue='minimal_backoff_time = "1s"',
        ).start()
        gateway.send(sender="file@example.net", recipients=["nobody@refused.example"])
        (failed, *_) = until(
            lambda: gateway.events("queue.settle", with_dsn=True), what="a failed notification"
        )
        assert "tcp:127.0.0.1" in failed["reason"]
        assert not (gateway.mail / "file1@example.net").exists()
        heals.well = True
        (letter,) = gateway.delivered("file1@example.net")
        assert b"Final-Recipient: rfc822; nobody@refused.example" in letter
        settled(gateway)


class Asked(socketserver.StreamRequestHandler):
    """tcp_table(5): knows nobody, and cannot answer for one key until it is well."""

    def handle(self) -> None:
        server = self.server
        assert isinstance(server, Tables)
        for line in self.rfile:
            sick = not server.well and line.strip() == b"get " + server.key
            self.wfile.write(b"400 not%20now\n" if sick else b"500 not%20there\n")


class Tables(socketserver.ThreadingTCPServer):
    """The peer."""

    daemon_threads = True
    well = False
    key = b""

    @property
    def port(self) -> int:
        return int(self.server_address[1])


@contextlib.contextmanager
def table(key: bytes) -> Iterator[Tables]:
    with Tables(("127.0.0.1", 0), Asked) as server:
        server.key = key
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()
