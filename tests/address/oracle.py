"""Debian's Postfix, asked how it resolves and rewrites addresses."""

from __future__ import annotations

import json
import os
import re
import signal
import smtplib
import socket
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

from smtpgw.address import form
from smtpgw.address.headers import spans
from tests.address.generated import CHOICES, RESULTS, Configuration
from tests.peers.postfix import Postfix, age
from tests.peers.process import wait_for

LISTED = "listed.example"
"""Who says hello so gets recipients that are not listed refused, as everybody does elsewhere."""
HELD = {
    "smtpd_client_restrictions": "check_client_access static:HOLD",
    "smtpd_reject_unlisted_recipient": "no",
    "smtpd_recipient_restrictions": f"check_helo_access inline:{{{LISTED}=reject_unlisted_recipient"
    "}, permit_mynetworks",
    "smtpd_hard_error_limit": "1000",
    "smtpd_error_sleep_time": "0",
    "enable_original_recipient": "no",
}


class Asking:
    """A conversation with trivial-rewrite."""

    def __init__(self, peer: Postfix) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(30)
        self._socket.connect(str(peer.queue / "private/rewrite"))
        self._heard = b""
        self._answer()  # which protocol it speaks

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(self, **request: bytes) -> list[bytes]:
        """What it answers: the values, in their order."""
        pairs = b"".join(b"%b\0%b\0" % (k.encode(), v) for k, v in request.items())
        self._socket.sendall(pairs + b"\0")
        return self._answer()

    def _answer(self) -> list[bytes]:
        # A value may be empty, a name is not: the end is a NUL where a name would begin.
        found: list[bytes] = []
        while True:
            name = self._text()
            if not name:
                return found
            found.append(self._text())

    def _text(self) -> bytes:
        while b"\0" not in self._heard:
            more = self._socket.recv(65536)
            if not more:
                raise ConnectionError("trivial-rewrite has ended")
            self._heard += more
        text, _, self._heard = self._heard.partition(b"\0")
        return text


def ask(peer: Postfix, **request: bytes) -> list[bytes]:
    """One question."""
    with Asking(peer) as asking:
        return asking.ask(**request)


def told(peer: Postfix, given: Configuration, number: int) -> None:
    """Postfix works by this configuration, and by no other that was made up; a domain of its
    own shows that it does."""
    mark = f"marker{number}.test"
    given.main["mydestination"] += f" {mark}"
    main, base = peer.config / "main.cf", peer.config / "main.cf.first"
    if not base.exists():
        base.write_text(main.read_text())
    values = given.write(peer.config)
    set_here = {*CHOICES, *RESULTS, *values}
    lines = [
        line
        for line in base.read_text().splitlines()
        if line.partition("=")[0].strip() not in set_here
    ]
    lines += [f"{name} = {value}" for name, value in values.items()]
    new = peer.config / "main.cf.new"
    new.write_text("\n".join(lines) + "\n")
    age(new)
    new.rename(main)
    os.kill(int((peer.queue / "pid/master.pid").read_text()), signal.SIGHUP)
    address = f"u@{mark}".encode()

    def known() -> bool:
        try:
            said = ask(peer, request=b"resolve", sender=b"", address=address)
        except OSError:
            return False  # the one of before has just ended
        return int(said[-1]) & 256 == 256

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


def _sent(client: smtplib.SMTP, case: Case) -> str:
    """The queue id of a mail that Postfix took; empty where it did not."""
    those = [form.external(each).decode() for each in (case.sender, case.recipient)]
    utf8 = "" if all(each.isascii() for each in those) else " SMTPUTF8"
    client.docmd("MAIL", f"FROM:<{those[0]}>{utf8}")
    client.docmd("RCPT", f"TO:<{those[1]}>")
    if client.docmd("DATA")[0] != 354:
        client.docmd("RSET")
        return ""
    client.send(case.header + b"\r\nx\r\n.\r\n")
    code, text = client.getreply()
    return re.sub(r".* as ", "", text.decode()) if code == 250 else ""


def _headers(peer: Postfix, those: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """The header of each mail that is held, in one run of postcat(1)."""
    if not those:
        return
    said = peer.command("postcat", "-ehq", *those).encode()
    parts = re.split(rb"(?m)^\*\*\* (ENVELOPE RECORDS|MESSAGE CONTENTS) \S*?(\w+) \*\*\*\n", said)
    for kind, queue_id, text in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        if kind == b"MESSAGE CONTENTS":
            yield queue_id.decode(), text


def queued(peer: Postfix, cases: Sequence[Case], names: Collection[bytes]) -> dict[int, Queued]:
    """The mails that Postfix took, by the number of the case."""
    ids: dict[str, int] = {}
    with smtplib.SMTP("127.0.0.1", peer.port) as client:
        client.command_encoding = "utf-8"
        client.ehlo("client.example")
        for number, case in enumerate(cases):
            queue_id = _sent(client, case)
            if queue_id:
                ids[queue_id] = number
    found = {}
    headers = dict(_headers(peer, list(ids)))
    for line in peer.command("postqueue", "-j").splitlines():
        mail = json.loads(line)
        from_ = "" if mail["sender"] == "MAILER-DAEMON" else mail["sender"]
        those = sorted(form.internal(each["address"].encode()) for each in mail["recipients"])
        fields = addresses(headers[mail["queue_id"]], names)
        found[ids[mail["queue_id"]]] = Queued(form.internal(from_.encode()), those, fields)
    peer.command("postsuper", "-d", "ALL")
    return found
