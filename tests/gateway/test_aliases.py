"""aliases(5) over the running gateway: who gets a mail, from whom, and what is refused."""

from __future__ import annotations

import contextlib
import email
import socketserver
import threading
from collections.abc import Iterator

from tests.gateway.gateway import Gateway, until
from tests.gateway.test_rewriting import delivery_to_nobody, queue_id, reasons, value

ALIASES = """
all: ann, bob, far@elsewhere.example
list: ann, nobody@refused.example
owner-list: boss
file: :include:{place}/members
broken: ann, |"/bin/true", /dev/null, :include:{place}/none
only: |/bin/true
self: self, bob
same: same
step: all-too
all-too: carol
away: back@virtual.example
"""


def configure(gateway: Gateway, *lines: str, queue: str = "") -> Gateway:
    place = gateway.place
    (place / "aliases").write_text(ALIASES.format(place=place))
    (place / "members").write_text("# all of them\nann, carol\n")
    (place / "virtual").write_text(
        "virtual.example anything\nback@virtual.example away@example.net\n"
        "two@virtual.example all@example.net, dora@example.net\n"
    )
    own = (
        'myorigin = "example.net"',
        f'alias_maps = ["hash:{place}/aliases"]',
        f'virtual_alias_maps = ["hash:{place}/virtual"]',
        delivery_to_nobody(gateway),
    )
    gateway.configure("\n".join((*own, *lines)), queue=queue)
    return gateway


def aliases_of(mail: bytes) -> list[str]:
    """The aliases a mail came through; the first line of the name is the Maildir's own."""
    return list(email.message_from_bytes(mail).get_all("Delivered-To", []))[1:]


def test_an_alias_becomes_a_mail_of_its_own_and_the_others_do_not_see_it(gateway: Gateway) -> None:
    configure(gateway).start()
    body = b"Subject: x\r\nX-Kept:  as\r\n\tit came \r\n\r\n\xff.\r\n"
    answer = gateway.send(body, recipients=["all@example.net", "dora@example.net"])
    for each in ("ann@example.net", "bob@example.net", "far@elsewhere.example"):
        (got,) = gateway.delivered(each)
        assert aliases_of(got) == ["all@example.net"]
        assert value(got, "Return-Path") == "<a@example.org>"
        assert b"\nSubject: x\nX-Kept:  as\n\tit came \n" in got
        assert got.endswith(b"\n\n\xff.\n")
    (dora,) = gateway.delivered("dora@example.net")
    assert aliases_of(dora) == []
    assert not (gateway.mail / "all@example.net").exists()
    told = [each for each in reasons(gateway, queue_id(answer)) if each["source"] == "rewrite"]
    (step,) = told
    assert step["table"] == "alias_maps"
    assert step["from"] == "all@example.net"
    assert "far@elsewhere.example" in step["to"]


def test_by_way_of_other_tables_each_final_name_once(gateway: Gateway) -> None:
    configure(gateway).start()
    gateway.send(recipients=["two@virtual.example", "step@example.net"])
    for each in ("ann@example.net", "bob@example.net", "dora@example.net", "carol@example.net"):
        assert len(gateway.delivered(each)) == 1
    until(lambda: gateway.count("queue.done") == 3, what="the rest, all and step")
    (carol,) = gateway.delivered("carol@example.net")
    assert aliases_of(carol) == ["step@example.net"]


def test_its_own_alias_is_delivered_and_not_expanded_again(gateway: Gateway) -> None:
    configure(gateway).start()
    gateway.send(recipients=["self@example.net", "same@example.net"])
    for each in ("self", "bob"):
        (got,) = gateway.delivered(f"{each}@example.net")
        assert aliases_of(got) == ["self@example.net"]
    (same,) = gateway.delivered("same@example.net")
    assert aliases_of(same) == []
    until(lambda: gateway.count("queue.done") == 2, what="two mails")
    assert len(gateway.delivered("self@example.net")) == 1


def test_the_owner_of_a_list_hears_what_fails(gateway: Gateway) -> None:
    configure(gateway).start()
    gateway.send(recipients=["list@example.net"])
    (got,) = gateway.delivered("ann@example.net")
    assert value(got, "Return-Path") == "<owner-list@example.net>"
    (letter,) = gateway.delivered("boss@example.net")
    assert b"Final-Recipient: rfc822; nobody@refused.example" in letter
    assert not (gateway.mail / "a@example.org").exists()


def test_a_list_in_a_file(gateway: Gateway) -> None:
    configure(gateway).start()
    gateway.send(recipients=["file@example.net"])
    for each in ("ann", "carol"):
        assert aliases_of(gateway.delivered(f"{each}@example.net")[0]) == ["file@example.net"]


def test_what_is_refused_is_told_and_the_rest_delivered(gateway: Gateway) -> None:
    configure(gateway).start()
    gateway.send(recipients=["broken@example.net"])
    gateway.delivered("ann@example.net")
    (letter,) = gateway.delivered("a@example.org")
    flat = b" ".join(letter.split())
    assert b"Final-Recipient: rfc822; broken@example.net" in flat
    assert b"Status: 5.3.5" in flat
    for each in (b"a command is refused", b"a file is refused", b"cannot be read"):
        assert each in flat
    gateway.send(sender="b@example.org", recipients=["only@example.net"])
    (letter,) = gateway.delivered("b@example.org")
    assert b"Final-Recipient: rfc822; only@example.net" in letter
    assert not (gateway.mail / "only@example.net").exists()


def test_a_circle_ends_with_a_bounce(gateway: Gateway) -> None:
    """In the tables, and by way of a mail that was here before."""
    configure(gateway).start()
    gateway.send(recipients=["away@example.net"])
    (letter,) = gateway.delivered("a@example.org")
    assert b"Status: 5.4.6" in letter
    assert b"mail forwarding loop for away@example.net" in b" ".join(letter.split())
    again = b"Delivered-To: All@Example.NET\r\nSubject: x\r\n\r\nx\r\n"
    gateway.send(again, sender="b@example.org", recipients=["all@example.net", "dora@example.net"])
    (letter,) = gateway.delivered("b@example.org")
    assert b"mail forwarding loop for all@example.net" in b" ".join(letter.split())
    gateway.delivered("dora@example.net")
    assert not (gateway.mail / "ann@example.net").exists()


def test_who_asked_for_success_hears_of_the_expansion_alone(gateway: Gateway) -> None:
    configure(gateway).start()
    with gateway.client() as client:
        client.mail("back@example.org", ["RET=HDRS"])
        client.rcpt("step@example.net", ["NOTIFY=SUCCESS,FAILURE", "ORCPT=rfc822;Me@example.org"])
        assert client.data(b"Subject: x\r\n\r\nx\r\n")[0] == 250
    gateway.delivered("carol@example.net")
    (letter,) = gateway.delivered("back@example.org")
    assert b"Action: expanded" in letter
    assert b"Original-Recipient: rfc822;Me@example.org" in letter.replace(b"822; ", b"822;")
    until(lambda: gateway.count("queue.done") == 2, what="the mail and the DSN")
    assert len(gateway.delivered("back@example.org")) == 1


def test_a_notification_to_an_alias_keeps_the_null_sender(gateway: Gateway) -> None:
    configure(gateway).start()
    gateway.send(sender="file@example.net", recipients=["nobody@refused.example"])
    for each in ("ann", "carol"):
        (letter,) = gateway.delivered(f"{each}@example.net")
        assert b"Final-Recipient: rfc822; nobody@refused.example" in letter
    gateway.send(sender="list@example.net", recipients=["nobody@refused.example"])
    both = gateway.delivered("ann@example.net", 2)
    assert {value(each, "Return-Path") for each in both} == {"<>"}
    assert sorted(map(aliases_of, both)) == [["file@example.net"], ["list@example.net"]]


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
        assert not (gateway.mail / "ann@example.net").exists()
        heals.well = True
        (letter,) = gateway.delivered("ann@example.net")
        assert b"Final-Recipient: rfc822; nobody@refused.example" in letter
        until(lambda: gateway.count("queue.done") == 2, what="the mail and its notification")


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
