"""A name server on loopback that knows a few names and misbehaves as it is told to.

    with dns_server({"example.net": {"MX": ["10 mx.example.net."]}}) as server:

It answers on one port by UDP and by TCP.  A name it does not know does not exist; of one
it knows, a type it lacks has no data.  `server.faults` names, by question or for all ("*"),
what goes wrong instead; both may be changed while it runs.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from socketserver import BaseRequestHandler, ThreadingTCPServer, ThreadingUDPServer
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

from tests.peers.process import free_port

Zone = Mapping[str, Mapping[str, list[str]]]
TTL = 300

SERVFAIL, REFUSED, NXDOMAIN = "SERVFAIL", "REFUSED", "NXDOMAIN"
SILENT = "says nothing"
TRUNCATED = "says by UDP that it does not fit"
CUT = "says so by TCP as well"
WRONG_ID = "another id, then nothing"
WRONG_QUESTION = "the answer to another question, then nothing"
FORGED_FIRST = "a wrong id with a forged address, then the answer"
GARBAGE = "octets that are no message"
NO_EDNS = "FORMERR to any question with EDNS"
NXDOMAIN_WITH_DATA = "NXDOMAIN, and records"


@dataclass
class DnsServer:
    """Listens at `address`:`port`.  `asked` are the questions so far, `by_tcp` those that
    came so; `ttl` is given to every record.  `gate` holds every answer back while cleared."""

    port: int
    zone: dict[str, Mapping[str, list[str]]]
    faults: dict[str, str] = field(default_factory=dict)
    secure: set[str] = field(default_factory=set)
    asked: list[tuple[str, str]] = field(default_factory=list)
    by_tcp: list[tuple[str, str]] = field(default_factory=list)
    ttl: int = TTL
    gate: threading.Event = field(default_factory=threading.Event)
    address: str = "127.0.0.1"

    def count(self, name: str, kind: str) -> int:
        """How often that was asked."""
        return self.asked.count((name, kind))

    def replies(self, octets: bytes, *, tcp: bool) -> list[bytes]:
        """What to say to a query."""
        query = dns.message.from_wire(octets)
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True).lower()
        kind = dns.rdatatype.to_text(question.rdtype)
        self.asked.append((name, kind))
        if tcp:
            self.by_tcp.append((name, kind))
        fault = self.faults.get(f"{name} {kind}", self.faults.get(name, self.faults.get("*", "")))
        self.gate.wait(30)
        answer = self._answer(query, name, kind)
        return self._spoilt(fault, query, answer, tcp=tcp)

    def _answer(self, query: dns.message.Message, name: str, kind: str) -> dns.message.Message:
        response = dns.message.make_response(query, recursion_available=True)
        if name in self.secure:
            response.flags |= dns.flags.AD
        for _ in range(20):  # a chain of aliases, a loop of them too
            records = self.zone.get(name)
            if records is None:
                response.set_rcode(dns.rcode.NXDOMAIN)
                break
            if kind not in records and "CNAME" not in records:
                break
            found = kind if kind in records else "CNAME"
            texts = records[found]
            response.answer.append(dns.rrset.from_text(f"{name}.", self.ttl, "IN", found, *texts))
            if found == kind:
                break
            name = texts[0].rstrip(".").lower()
        return response

    def _spoilt(
        self, fault: str, query: dns.message.Message, answer: dns.message.Message, *, tcp: bool
    ) -> list[bytes]:
        right = answer.to_wire(max_size=65535, want_shuffle=False)
        forged = (query.id ^ 0x5A5A).to_bytes(2, "big") + right[2:]
        if fault in (SERVFAIL, REFUSED, NXDOMAIN):
            answer = dns.message.make_response(query, recursion_available=True)
            answer.set_rcode(dns.rcode.from_text(fault))
            return [answer.to_wire()]
        if fault == NO_EDNS and query.edns >= 0:
            plain = dns.message.make_response(query)
            plain.use_edns(-1)
            plain.set_rcode(dns.rcode.FORMERR)
            return [plain.to_wire()]
        room = 65535 if tcp else max(query.payload, 512)
        if fault == CUT or (fault == TRUNCATED and not tcp) or len(right) > room:
            short = dns.message.make_response(query, recursion_available=True)
            short.flags |= dns.flags.TC
            return [short.to_wire()]
        if fault == WRONG_QUESTION:
            other = dns.message.make_query("other.example.", "A")
            other.id = query.id
            return [dns.message.make_response(other).to_wire()]
        if fault == NXDOMAIN_WITH_DATA:
            answer.set_rcode(dns.rcode.NXDOMAIN)
            return [answer.to_wire(max_size=65535, want_shuffle=False)]
        if fault == FORGED_FIRST:
            return [forged, right]
        named = {SILENT: [], WRONG_ID: [forged], GARBAGE: [b"\xff" * 40]}
        return named.get(fault, [right])


@contextmanager
def dns_server(
    zone: Zone | None = None, address: str = "127.0.0.1", port: int = 0
) -> Iterator[DnsServer]:
    """Serve `zone`: records in the text form of zone files, by type, by lower-case name."""
    server = DnsServer(port or free_port(), dict(zone or {}), address=address)
    server.gate.set()

    class Datagram(BaseRequestHandler):
        def handle(self) -> None:
            octets, reply_from = self.request
            for each in server.replies(octets, tcp=False):
                reply_from.sendto(each, self.client_address)

    class Stream(BaseRequestHandler):
        def handle(self) -> None:
            while len(size := _exactly(self.request, 2)) == 2:
                octets = _exactly(self.request, int.from_bytes(size, "big"))
                for each in server.replies(octets, tcp=True):
                    self.request.sendall(len(each).to_bytes(2, "big") + each)

    with _serving(ThreadingUDPServer, server, Datagram), _serving(_Tcp, server, Stream):
        yield server


class _Tcp(ThreadingTCPServer):
    allow_reuse_address = True


def _exactly(connection: socket.socket, count: int) -> bytes:
    octets = b""
    while len(octets) < count and (piece := connection.recv(count - len(octets))):
        octets += piece
    return octets


@contextmanager
def _serving(kind: Any, server: DnsServer, handler: type[BaseRequestHandler]) -> Iterator[None]:
    with kind((server.address, server.port), handler) as listening:
        listening.daemon_threads = True
        listening.block_on_close = False
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield
        finally:
            listening.shutdown()
            thread.join()
            server.gate.set()
