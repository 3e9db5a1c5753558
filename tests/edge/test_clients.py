"""Debian's own clients against the listener: swaks, and Postfix's smtp-source."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import trustme

from smtpgw.edge.tls import server_context
from tests.edge.harness import QUICK, Server


def swaks(server: Server, *options: str) -> str:
    """Run swaks; its transcript.  Fails where swaks does."""
    run = subprocess.run(
        ["swaks", "--server", f"127.0.0.1:{server.port}", "--from", "a@example.com",
         "--to", "u@example.net,v@example.net", "--timeout", "10", *options],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


@pytest.mark.parametrize("options", [(), ("--pipeline",), ("--protocol", "SMTP")], ids=str)
def test_swaks(options: tuple[str, ...]) -> None:
    with Server() as server:
        swaks(server, "--body", "one\n.two\n..\n.\nthree", *options)
        (mail,) = server.accepted
        assert mail.recipients == [b"u@example.net", b"v@example.net"]
        assert mail.octets.startswith(b"Date: ")
        assert b"\r\n\r\none\r\n.two\r\n..\r\n.\r\nthree" in mail.octets
        assert mail.notes == ()


def test_swaks_with_starttls(tmp_path: Path) -> None:
    authority = trustme.CA()
    both = authority.issue_cert("localhost", "127.0.0.1").private_key_and_cert_chain_pem
    both.write_to_path(str(tmp_path / "both.pem"))
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    options = replace(QUICK, tls_context=server_context(tmp_path / "both.pem"))
    with Server(options) as server:
        log = swaks(server, "--tls", "--tls-verify", "--tls-ca-path", str(tmp_path / "ca.pem"))
        assert "TLS started with cipher TLSv1.3" in log
        (mail,) = server.accepted
        assert mail.hello is not None
        assert mail.hello.tls is not None


@pytest.mark.parametrize("size", [100, 4096, 100_000])
def test_smtp_source(size: int) -> None:
    with Server() as server:
        subprocess.run(
            ["smtp-source", "-s", "8", "-m", "100", "-l", str(size), "-r", "3",
             "-f", "a@example.com", "-t", "u@example.net", f"inet:127.0.0.1:{server.port}"],
            capture_output=True, timeout=30, check=True,
        )  # fmt: skip
        assert len(server.accepted) == 100
        assert {len(each.recipients) for each in server.accepted} == {3}
        assert all(each.notes == () for each in server.accepted)
        assert all(len(each.octets) >= size for each in server.accepted)
