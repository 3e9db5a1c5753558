"""The running gateway: the client's name in the Received field and in the log."""

from __future__ import annotations

import smtplib
from pathlib import Path

from tests.gateway.gateway import PATIENCE, Gateway, send_by
from tests.peers.dns import SERVFAIL, dns_server

ZONE = {
    "7.0.0.127.in-addr.arpa": {"PTR": ["seven.example.org."]},
    "seven.example.org": {"A": ["127.0.0.7"]},
    "8.0.0.127.in-addr.arpa": {"PTR": ["forged.example.org."]},
    "forged.example.org": {"A": ["127.0.0.99"]},
    "9.0.0.127.in-addr.arpa": {"PTR": ["nine.example.org."]},
}


def test_who_has_handed_in_a_mail(tmp_path: Path) -> None:
    """smtpd_peername_lookup."""
    gateway = Gateway(tmp_path)
    with dns_server(ZONE) as server:
        server.faults["9.0.0.127.in-addr.arpa"] = SERVFAIL
        gateway.configure(
            tables=f'[smtpgw.dns]\nnameservers = ["127.0.0.1:{server.port}"]\n', stop_timeout=5
        )
        try:
            gateway.start()
            for octet, name in ((7, "seven.example.org"), (8, "unknown"), (9, "unknown")):
                _send(gateway, f"127.0.0.{octet}")
                mails = gateway.delivered(f"u{octet}@example.net")
                assert f"from client ({name} [127.0.0.{octet}])".encode() in (mails[0])
                (line,) = gateway.told("message", client=f"127.0.0.{octet}")
                assert line["client_name"] == name
            (line,) = gateway.told("client name", client="127.0.0.8")
            assert line["status"] == 6
            assert line["reason"] == "forged.example.org does not resolve to 127.0.0.8"
            (line,) = gateway.told("client name", client="127.0.0.9")
            assert line["status"] == 4
        finally:
            gateway.kill()


def _send(gateway: Gateway, address: str) -> None:
    with smtplib.SMTP(
        "127.0.0.1", gateway.port, "client", PATIENCE, source_address=(address, 0)
    ) as client:
        client.ehlo("client")
        recipient = f"u{address.rpartition('.')[2]}@example.net"
        code, text = send_by(client, b"Subject: x\r\n\r\nx\r\n", "a@example.org", [recipient])
        assert code == 250, text
