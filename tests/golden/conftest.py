"""A site in small: clamd, each filter in each host, and the same filters in this process."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from milterd.filters import CheckedFilter
from tests.golden.filters import NAMES, build
from tests.peers.clamd import clamd
from tests.peers.process import directory

ROOT = Path(__file__).parents[2]
HOSTS = ("libmilter", "native")


@dataclass(frozen=True)
class House:
    """Filters by name, and the address of each in each host by (host, name)."""

    pure: dict[str, CheckedFilter]
    hosted: dict[tuple[str, str], str]


def _key(home: Path) -> Path:
    path = home / "key.pem"
    path.touch(mode=0o600)
    path.write_bytes(
        ed25519.Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return path


@contextmanager
def _served(home: Path, kind: str, name: str, clamd_address: str, key: Path) -> Iterator[str]:
    path = home / f"{kind}-{name}.sock"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen(50)
    command = [sys.executable, "-m", "tests.golden.serve", kind, name, str(listener.fileno())]
    process = subprocess.Popen(
        [*command, clamd_address, str(key)], pass_fds=(listener.fileno(),), cwd=ROOT
    )
    listener.close()
    try:
        yield f"unix:{path}"
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(scope="session")
def house() -> Iterator[House]:
    with ExitStack() as stack:
        home = stack.enter_context(directory("golden"))
        scanner = stack.enter_context(clamd(stack.enter_context(directory("clamd"))))
        key, address = _key(home), f"unix:{scanner.socket}"
        hosted = {
            (kind, name): stack.enter_context(_served(home, kind, name, address, key))
            for kind in HOSTS
            for name in NAMES
        }
        yield House({name: build(name, address, key) for name in NAMES}, hosted)
