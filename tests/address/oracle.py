"""Debian's Postfix, asked how it resolves and rewrites addresses."""

from __future__ import annotations

import json
import re
import smtplib
import socket
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from smtpgw.address import form
from smtpgw.address.headers import spans
from tests.address.generated import Configuration
from tests.peers.postfix import Postfix
from tests.peers.process import wait_for

HELD = {
    "smtpd_client_restrictions": "check_client_access static:HOLD",
    "smtpd_reject_unlisted_recipient": "no",
    "smtpd_recipient_restrictions": "permit_mynetworks",
    "smtpd_hard_error_limit": "1000",
    "smtpd_error_sleep_time": "0",
    "enable_original_recipient": "no",
}


def ask(peer: Postfix, **request: bytes) -> list[bytes]:
    """What trivial-rewrite answers: the values, in their order."""
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(30)
        asking.connect(str(peer.queue / "private/rewrite"))
        pairs = b"".join(b"%b\0%b\0" % (k.encode(), v) for k, v in request.items())
        asking.sendall(pairs + b"\0")
        said = b""
        # First it says which protocol it speaks, then it answers.
        while said.count(b"\0\0") < 2 or not said.endswith(b"\0\0"):
            said += asking.recv(65536) or b"\0\0\0\0"
    return said.split(b"\0\0", 1)[1].removesuffix(b"\0\0").split(b"\0")[1::2]


def told(peer: Postfix, given: Configuration, number: int) -> None:
    """Postfix works by this configuration; a domain of its own shows that it does."""
    mark = f"marker{number}.test"
    given.main["virtual_mailbox_domains"] += f" {mark}"
    peer.set(given.write(peer.config))
    address = f"u@{mark}".encode()

    def known() -> bool:
        try:
            said = ask(peer, request=b"resolve", sender=b"", address=address)
        except ConnectionError:
            return False  # the one of before has just ended
        return int(said[-1]) & 1024 == 1024

    wait_for(known, "Postfix works by its new configuration")


@dataclass(frozen=True)
class Case:
    """A mail; the addresses are internal ones."""

    sender: bytes
    recipient: bytes
    header: bytes


@dataclass(frozen=True)
class Queued:
    """What became of it: the recipients sorted, the addresses of each field of its header."""

    sender: bytes
    recipients: list[bytes]
    fields: dict[bytes, list[bytes]]


def addresses(header: bytes, names: Collection[bytes]) -> dict[bytes, list[bytes]]:
    """The internal addresses in these fields of a header."""
    found: dict[bytes, list[bytes]] = {}
    for line in re.sub(rb"\r?\n[ \t]", b" ", header).splitlines():
        name, _, value = line.partition(b":")
        if name in names:
            those = [value[each.start : each.end] for each in spans(value)]
            found.setdefault(name, []).extend(form.internal(each) for each in those)
    return found


def queued(peer: Postfix, cases: Sequence[Case], names: Collection[bytes]) -> dict[int, Queued]:
    """The mails that Postfix took, by the number of the case."""
    ids: dict[str, int] = {}
    with smtplib.SMTP("127.0.0.1", peer.port) as client:
        client.ehlo("client.example")
        for number, case in enumerate(cases):
            client.docmd("MAIL", f"FROM:<{form.external(case.sender).decode()}>")
            client.docmd("RCPT", f"TO:<{form.external(case.recipient).decode()}>")
            if client.docmd("DATA")[0] != 354:
                client.docmd("RSET")
                continue
            client.send(case.header + b"\r\nx\r\n.\r\n")
            code, text = client.getreply()
            if code == 250:
                ids[re.sub(r".* as ", "", text.decode())] = number
    found = {}
    for line in peer.command("postqueue", "-j").splitlines():
        mail = json.loads(line)
        from_ = "" if mail["sender"] == "MAILER-DAEMON" else mail["sender"]
        those = sorted(form.internal(each["address"].encode()) for each in mail["recipients"])
        header = peer.command("postcat", "-hq", mail["queue_id"]).encode()
        found[ids[mail["queue_id"]]] = Queued(
            form.internal(from_.encode()), those, addresses(header, names)
        )
    peer.command("postsuper", "-d", "ALL")
    return found
