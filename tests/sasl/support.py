"""AUTH in tests: a listener with a judge, TLS without certificates checked, and a client that
writes what it likes."""

from __future__ import annotations

import base64
import contextlib
import ssl
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import trustme

from milterd.base import logs
from smtpgw.edge.auth import Authenticator, AuthOptions
from smtpgw.edge.options import EdgeOptions
from smtpgw.edge.tls import server_context
from smtpgw.sasl.choice import MechanismFilter, chooser
from smtpgw.sasl.file import hashing, scram, store
from smtpgw.sasl.file.entries import Entry
from tests.edge.harness import QUICK, Client, Server

LOG = logs.get("sasl")
USER, PASSWORD = b"u@example.net", b"secret"


def b64(*parts: bytes) -> bytes:
    """The parts with NULs between them, in base64."""
    return base64.b64encode(b"\0".join(parts))


PLAIN = b"AUTH PLAIN " + b64(b"", USER, PASSWORD)
WRONG = b"AUTH PLAIN " + b64(b"", USER, b"wrong")


def write_file(
    path: Path, *users: bytes, password: bytes = PASSWORD, with_scram: bool = False
) -> Path:
    """A password file with these users."""
    for each in users or (USER,):
        keys = scram.make_keys(password, b"0123456789abcdef", 4096) if with_scram else None
        store.change(path, each, Entry(each, hashing.make(password), keys))
    return path


def options(authenticator: Authenticator, *, tls_only: bool = False, **more: object) -> AuthOptions:
    """Every mechanism offered; over a bare connection too."""
    fits = chooser(("noanonymous",), MechanismFilter.parse("!external, static:rest"))
    auth = AuthOptions(authenticator, plain=fits, over_tls=fits, tls_only=tls_only)
    return replace(auth, **more)  # type: ignore[arg-type] # keywords of AuthOptions


authority = trustme.CA()
"""Who vouches for our certificates."""


def certificate(place: Path) -> Path:
    """A chain and its key in one file, which anybody may read."""
    path = place / "cert.pem"
    made = authority.issue_cert("mx.example.net")
    made.private_key_and_cert_chain_pem.write_to_path(str(path))
    path.chmod(0o644)
    return path


def client_context() -> ssl.SSLContext:
    """TLS that believes our certificates."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def edge(auth: AuthOptions | None, pem: Path | None = None) -> EdgeOptions:
    """A listener's options, with STARTTLS if there is a certificate."""
    return replace(QUICK, auth=auth, tls_context=server_context(pem) if pem is not None else None)


def start_tls(client: Client) -> None:
    """STARTTLS; EHLO is still to be said."""
    client.command(b"STARTTLS", 220)
    client.socket = client_context().wrap_socket(client.socket, server_hostname="mx.example.net")


@contextlib.contextmanager
def session(server: Server, *, tls: bool = False) -> Iterator[Client]:
    """A client after its EHLO, and STARTTLS if wanted."""
    with server.client() as client:
        if tls:
            start_tls(client)
            client.command(b"EHLO client.example", 250)
        yield client
