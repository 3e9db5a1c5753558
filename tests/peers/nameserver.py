"""A name server on loopback that knows a few TXT records, and that nothing else exists."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from socketserver import BaseRequestHandler, ThreadingUDPServer

import dns.flags
import dns.message
import dns.rcode
import dns.rrset


@dataclass(frozen=True)
class NameServer:
    """Answers on UDP 127.0.0.1:`port`; `asked` are the names so far, in order."""

    port: int
    asked: list[str] = field(default_factory=list)


def _answer(query: dns.message.Message, records: Mapping[str, str]) -> dns.message.Message:
    response = dns.message.make_response(query, recursion_available=True)
    asked = query.question[0]
    text = records.get(asked.name.to_text(omit_final_dot=True).lower())
    if text is None:
        response.set_rcode(dns.rcode.NXDOMAIN)
    elif asked.rdtype == dns.rdatatype.TXT:
        response.answer.append(dns.rrset.from_text(asked.name, 60, "IN", "TXT", f'"{text}"'))
    return response


@contextmanager
def nameserver(records: Mapping[str, str]) -> Iterator[NameServer]:
    """Serve `records`, TXT texts of up to 255 octets by their lower-case names; NXDOMAIN for
    every other name, no data for another type."""
    asked: list[str] = []

    class Handler(BaseRequestHandler):
        def handle(self) -> None:
            octets, reply_from = self.request
            query = dns.message.from_wire(octets)
            asked.append(query.question[0].name.to_text())
            reply_from.sendto(_answer(query, records).to_wire(), self.client_address)

    with ThreadingUDPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield NameServer(server.server_address[1], asked)
        finally:
            server.shutdown()
            thread.join()
