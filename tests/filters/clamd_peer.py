"""A private clamd for tests: own directory, own sockets, only the EICAR signature."""

from __future__ import annotations

import base64
import contextlib
import io
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

SIGNATURES = Path(__file__).resolve().parents[2] / "rules" / "eicar.ndb"


def eicar() -> bytes:
    """The EICAR test string, from the signature, so that no file here holds it."""
    return bytes.fromhex(SIGNATURES.read_text("ascii").strip().rpartition(":")[2])


def zipped(octets: bytes) -> bytes:
    """A zip archive with one file of these octets."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("file.com", octets)
    return file.getvalue()


def attachment(octets: bytes, text: bytes = b"see the attachment\r\n") -> bytes:
    """A message with one attachment in base64."""
    lines = base64.encodebytes(octets).replace(b"\n", b"\r\n")
    return (
        b"From: a@example.net\r\nTo: b@example.org\r\nSubject: one\r\nMIME-Version: 1.0\r\n"
        b'Content-Type: multipart/mixed; boundary="=_x"\r\n\r\n'
        b"--=_x\r\nContent-Type: text/plain\r\n\r\n" + text + b"\r\n"
        b"--=_x\r\nContent-Type: application/zip; name=a.zip\r\n"
        b"Content-Transfer-Encoding: base64\r\n\r\n" + lines + b"--=_x--\r\n"
    )


class ClamdPeer:
    """A running clamd; `unix` and `tcp` are its addresses in our notation."""

    def __init__(self, directory: Path, settings: str) -> None:
        self.directory = directory
        (directory / "db").mkdir()
        shutil.copy(SIGNATURES, directory / "db" / "eicar.ndb")
        self.path = directory / "clamd.ctl"
        self.port = _free_port()
        self.unix = f"unix:{self.path}"
        self.tcp = f"inet:{self.port}@127.0.0.1"
        user = "User root\n" if os.geteuid() == 0 else ""
        config = directory / "clamd.conf"
        config.write_text(
            f"{user}Foreground yes\nDatabaseDirectory {directory / 'db'}\n"
            f"LocalSocket {self.path}\nTCPSocket {self.port}\nTCPAddr 127.0.0.1\n"
            f"TemporaryDirectory {directory}\nMaxThreads 4\n{settings}",
        )
        self._log = (directory / "log").open("wb")
        self.process = subprocess.Popen(
            ["clamd", "-c", str(config)], stdout=self._log, stderr=subprocess.STDOUT
        )
        self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            assert self.process.poll() is None, (self.directory / "log").read_text()
            for family, peer in (
                (socket.AF_UNIX, str(self.path)),
                (socket.AF_INET, ("127.0.0.1", self.port)),
            ):
                with contextlib.suppress(OSError), socket.socket(family) as each:
                    each.settimeout(1.0)
                    each.connect(peer)
                    each.sendall(b"nPING\n")
                    if each.recv(16) != b"PONG\n":
                        break
                    continue
                break
            else:
                return
            # Nothing tells that clamd listens but trying; its exit ends the wait at once.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(0.05)
        raise AssertionError("clamd does not answer")

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Keep clamd from running, as a hang would."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._log.close()


@contextlib.contextmanager
def running_clamd(settings: str = "") -> Iterator[ClamdPeer]:
    """A private clamd with these lines added to its configuration."""
    directory = Path(tempfile.mkdtemp(prefix="clamd-", dir="/tmp"))
    peer = None
    try:
        peer = ClamdPeer(directory, settings)
        yield peer
    finally:
        if peer is not None:
            peer.close()
        shutil.rmtree(directory, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as each:
        each.bind(("127.0.0.1", 0))
        return int(each.getsockname()[1])
