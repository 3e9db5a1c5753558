"""Every way we know to ask a server to carry somebody else's mail: recipients, senders, and what
is said before them."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.reception.netns import Namespace

OURS, FOREIGN, LITERAL = "local.example", "evil.example", "192.0.2.250"
RECIPIENTS = (
    # plain and in other writings
    "<u@evil.example>", "<U@EVIL.EXAMPLE>", "<u@evil.example.>", "u@evil.example", "<u@evil>",
    "<u @evil.example>", "<u@ evil.example>", "<u@evil.example >", "< u@evil.example>",
    "<u@sub.evil.example>", "<u@evil.example..>", "<u@.evil.example>", "<u@evil..example>",
    '<"u"@evil.example>', '<"u@evil.example">', '<"u x"@evil.example>', "<u\\@evil.example>",
    "u@evil.example (comment)", "<u(x)@evil.example>", "<u@evil.example(x)>",
    # the percent sign
    "<u%evil.example@local.example>", "<u%evil.example>", '<"u%evil.example"@local.example>',
    "<u%evil.example@[192.0.2.250]>", "<u%evil.example@own.gateway.example>", "<u%evil.example@>",
    "<u%u%evil.example@local.example>", "<u%evil.example%local.example>",
    "<u%local.example@evil.example>", "<u%[203.0.113.1]@local.example>",
    "<u%evil.example@relay.example>", "<u%evil.example@vm.example>", "<u%evil.example@va.example>",
    # the exclamation mark
    "<evil.example!u>", "<evil.example!u@local.example>", "<local.example!evil.example!u>",
    '<"evil.example!u"@local.example>', "<evil.example!u@[192.0.2.250]>",
    "<evil.example!u@relay.example>", "<[203.0.113.1]!u@local.example>",
    "<local.example!u@evil.example>", "<evil.example!u%local.example>",
    # two of a kind
    "<u@evil.example@local.example>", '<"u@evil.example"@local.example>',
    "<u@local.example@evil.example>", "<u%evil.example@local.example@local.example>",
    '<"u@evil.example"@[192.0.2.250]>', "<u@@evil.example>", "<@evil.example>",
    '<"u@evil.example"@relay.example>', "<u@evil.example@relay.example>",
    # source routes
    "<@local.example:u@evil.example>", "<@evil.example:u@local.example>", "<@a,@b:u@evil.example>",
    "<@local.example,@evil.example:u@evil.example>", "<@[192.0.2.250]:u@evil.example>",
    "<@local.example:u%evil.example@local.example>", "<@:u@evil.example>",
    "<@local.example:evil.example!u>", "<@relay.example:u@evil.example>",
    # address literals
    "<u@[203.0.113.1]>", "<u@203.0.113.1>", "<u@[IPv6:2001:db8:f::1]>", "<u@[IPv6:::1]>",
    "<u@[127.0.0.1]>", "<u@[192.0.2.250]>", "<u@127.0.0.1>", "<u@[evil.example]>",
    "<u@2130706433>", "<u@0x7f000001>", "<u@[192.0.2.250].evil.example>",
    # postmasters, nobodies, addresses without a domain
    "<postmaster@evil.example>", "<Postmaster>", "<postmaster%evil.example>", "<>", "<u>",
    "<u@local.example.evil.example>", "<u@evil.example.local.example>", "<u@evillocal.example>",
    "<postmaster@[203.0.113.1]>", "<abuse@evil.example>",
    # what ends too early, or holds what does not belong there
    "<u@evil.example", "u@evil.example>", "<u@evil.example>,<u@local.example>",
    "<u@local.example>,<u@evil.example>", "<u@local.example> <u@evil.example>",
    "<u@local.example,u@evil.example>", "<u@local.example;u@evil.example>",
    "<u@evil.example\t@local.example>", "<u@evil.example\x00@local.example>",
    "<u@local.example\x00@evil.example>", "<u@local.example#evil.example>", "<|cat@local.example>",
    "</etc/passwd@local.example>", "<u@évil.example>", "<ü@evil.example>", "<u+x@evil.example>",
    "<u@evil.example> NOTIFY=NEVER", "<u@evil.example> ORCPT=rfc822;u@local.example",
    "<u@local.example> ORCPT=rfc822;u@evil.example",
)  # fmt: skip
SENDERS = (
    "<s@good.example>", "<>", "<u@local.example>", "<postmaster@local.example>",
    "<s@[192.0.2.250]>", "<u@own.gateway.example>", "<s@evil.example>",
    "<@local.example:s@evil.example>", "<postmaster>", "<s%evil.example@local.example>",
)  # fmt: skip
BEFORE = {
    "after RSET": ["MAIL FROM:<u@local.example>", "RCPT TO:<u@local.example>", "RSET"],
    "after a failed AUTH": ["AUTH PLAIN AHUAdQ=="],
    "after AUTH that was given up": ["AUTH LOGIN", "*"],
    "after XCLIENT": ["XCLIENT ADDR=192.0.2.2 NAME=own.local.example", "EHLO client.test"],
    "after XCLIENT with a login": ["XCLIENT LOGIN=admin", "EHLO client.test"],
    "after XFORWARD": ["XFORWARD ADDR=127.0.0.1 NAME=localhost"],
    "after PROXY": ["PROXY TCP4 127.0.0.1 127.0.0.1 1 25"],
    "after STARTTLS that was not": ["STARTTLS now"],
    "after another EHLO": ["EHLO local.example", "HELO localhost", "EHLO [127.0.0.1]"],
    "after a recipient of ours": [],
}


def dialogue(sender: str, recipients: tuple[str, ...], before: tuple[str, ...] = ()) -> list[str]:
    """One connection: a transaction for each recipient.  DATA comes, whatever is said before it."""
    found = ["EHLO client.test", *before]
    for each in recipients:
        utf8 = "" if each.isascii() else " SMTPUTF8"
        found += ["RSET", f"MAIL FROM:{sender}{utf8}", f"RCPT TO:{each}", "DATA"]
    return [*found, "QUIT"]


@dataclass
class WayOut:
    """An SMTP server that takes all; `recipients` so far, as RCPT named them."""

    port: int
    recipients: list[bytes] = field(default_factory=list)


@contextmanager
def way_out(space: Namespace, address: str, port: int) -> Iterator[WayOut]:
    """The only server that mail can go to."""
    listening = space.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.bind((address, port))
    listening.listen(50)
    found, over = WayOut(port), threading.Event()

    def serve() -> None:
        while True:
            client, _ = listening.accept()
            if over.is_set():
                client.close()
                return
            threading.Thread(target=_take, args=(client, found), daemon=True).start()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        space.connect(address, (address, port), 5).close()
        thread.join(10)
        listening.close()


def _take(client: socket.socket, found: WayOut) -> None:
    with client, client.makefile("rwb") as file:

        def say(line: bytes) -> None:
            file.write(line + b"\r\n")
            file.flush()

        say(b"220 way.out ESMTP")
        while line := file.readline():
            verb = line[:4].upper()
            if verb == b"RCPT":
                found.recipients.append(line.partition(b":")[2].strip())
            say(b"354 go on" if verb == b"DATA" else b"250 2.0.0 Ok")
            if verb == b"DATA":
                while file.readline() not in (b".\r\n", b""):
                    pass
                say(b"250 2.0.0 Ok")
            if verb == b"QUIT":
                return
