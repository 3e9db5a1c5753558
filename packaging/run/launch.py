"""`make run`: both halves of Gatepost and a private clamd, on this machine, until Ctrl-C.

Nothing outside var/ is touched, and nothing but 127.0.0.1 is listened on.  A part that
does not start, or ends, is named with its reason, and the others are stopped.
Exit status: 0 stopped, 1 a part failed, 78 settings or ports that cannot be used.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import sys
from pathlib import Path
from typing import Annotated

import typer
from parts import Part, PartError, Parts
from site_layout import PORT, Site, SiteError, prepare

from milterd.base import sockets
from milterd.base.toml_file import ConfigError
from smtpgw import config

TOP = Path(__file__).resolve().parents[2]
CONFIG_ERROR = 78


def say(text: str) -> None:
    """To the person in front of the terminal, between the lines of the log."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def main(
    port: Annotated[int, typer.Option(help="Take mail on this port of 127.0.0.1.")] = PORT,
    var: Annotated[Path, typer.Option(help="Keep everything below here.")] = TOP / "var",
) -> None:
    """Run clamd, milterd and smtpgw until Ctrl-C."""
    raise typer.Exit(_main(Site(TOP, var.resolve(), port)))


def _main(site: Site) -> int:
    try:
        ours = prepare(site)
        lock = _lock(site)
        addresses = _free_addresses(site)
    except (SiteError, ConfigError, OSError) as error:
        say(f"make run: {error}")
        return CONFIG_ERROR
    if not ours:
        say(f"make run: {site.settings} was edited and is used as it is")
    try:
        return _run(site, addresses)
    finally:
        _sweep(site)
        os.close(lock)


def _run(site: Site, addresses: list[sockets.SocketAddress]) -> int:
    told: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda signum, _frame: told.append(signum))
    parts = Parts({"PYTHONUNBUFFERED": "1"})
    status = 0
    try:
        for part in _parts(site, addresses):
            parts.start(part, lambda: bool(told))
        if not told:
            say(_welcome(site, addresses))
        parts.watch(lambda: bool(told))
    except PartError as error:
        say(f"make run: {error}")
        status = 1
    finally:
        late = parts.stop()
    for each in late:
        say(f"make run: {each} did not end in time and was killed")
    say("make run: stopped")
    return status


def _parts(site: Site, addresses: list[sockets.SocketAddress]) -> list[Part]:
    python = [sys.executable, "-m"]
    settings = ["run", "--config", str(site.settings)]
    clamd = shutil.which("clamd", path=f"{os.environ.get('PATH', '')}:/usr/sbin") or "clamd"
    return [
        Part(
            "clamd",
            [clamd, "--foreground", f"--config-file={site.clamd_config}"],
            site.clamd_log,
            lambda: sockets.alive(str(site.clamd_socket)),
        ),
        Part("milterd", [*python, "milterd", *settings]),
        # Its greeting comes when the filters answer too: then the first mail waits for nobody.
        Part(
            "smtpgw",
            [*python, "smtpgw", *settings],
            answers=lambda: all(_greets(each) for each in addresses),
        ),
    ]


def _greets(address: sockets.SocketAddress) -> bool:
    """Whether the gateway says 220 there."""
    try:
        with socket.create_connection((address.host, address.port), timeout=10) as client:
            greeting = client.recv(512)
            client.sendall(b"QUIT\r\n")
            client.recv(512)
            return greeting.startswith(b"220")
    except OSError:
        return False


def _lock(site: Site) -> int:
    """One site at a time.  Raises SiteError."""
    number = os.open(site.sockets / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.pread(number, 32, 0).decode("ascii", "replace").strip()
        os.close(number)
        raise SiteError(f"{site.var} is in use by another `make run`, process {owner}") from None
    os.ftruncate(number, 0)
    os.pwrite(number, b"%d\n" % os.getpid(), 0)
    return number


def _free_addresses(site: Site) -> list[sockets.SocketAddress]:
    """Where it will listen, each found free.  Raises SiteError, ConfigError."""
    found = []
    for listener in config.load(site.settings).smtpgw.listener:
        address = sockets.parse(listener.address)
        try:
            sockets.listen(address).close()
        except sockets.SocketError as error:
            raise SiteError(
                f"{error}: stop the program that listens there, or give listener "
                f"{listener.name!r} another address in {site.settings}"
            ) from error
        found.append(address)
    return found


def _sweep(site: Site) -> None:
    """Remove the dead sockets of parts that were killed."""
    for path in site.sockets.glob("*.sock"):
        sockets.remove(str(path))


def _welcome(site: Site, addresses: list[sockets.SocketAddress]) -> str:
    where = addresses[0] if addresses else sockets.SocketAddress("inet", host="?")
    return f"""
Gatepost takes mail on {where.host}:{where.port}.  Try this from another terminal:

  swaks --server {where.host}:{where.port} --from me@example.org --to u@example.net \\
        --header 'User-Agent: Something 1.0'

The mail will be in {site.var}/mail/u@example.net/new/: scanned, signed, and without its
User-Agent.  Settings: {site.settings}.  Ctrl-C stops everything.
"""


if __name__ == "__main__":
    typer.run(main)
