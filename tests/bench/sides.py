"""Filters of ours and milters of others, side by side, for the benchmarks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tests.bench.hosts import write_key
from tests.host.mta import Mta
from tests.peers import clamav_milter, clamd, milterd, opendkim
from tests.peers.milter import Milter, Program
from tests.peers.process import directory

DEFAULT_HOSTS = {"clamav": "native", "dkim": "native", "headers": "native"}
OTHER = {"libmilter": "native", "native": "libmilter"}


@dataclass(frozen=True)
class Side:
    """A milter that runs: what it is called, where it is, and all its processes."""

    name: str
    address: str
    pids: tuple[int, ...]

    @property
    def signs(self) -> bool:
        """Whether each mail is to get a signature from it."""
        return self.name.lower().startswith(("dkim", "opendkim"))


def descendants(pid: int) -> list[int]:
    """A process, its children and theirs."""
    found = [pid]
    for each in found:
        for task in Path(f"/proc/{each}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    return found


@contextmanager
def _running(name: str, made: Program, *more: int) -> Iterator[Side]:
    with made.run() as peer:
        yield _side(name, peer, more)


def _side(name: str, peer: Milter, more: tuple[int, ...]) -> Side:
    return Side(name, str(peer.socket), (*descendants(peer.peer.pid), *more))


def _ours(stack: ExitStack, name: str, settings: str, *more: int) -> list[Side]:
    """Our filter on the host that it has by default, and on the other one."""
    default, found = DEFAULT_HOSTS[name], []
    for host in (default, OTHER[default]):
        home = stack.enter_context(directory("bench"))
        made = _quiet(milterd.prepare(home, name, host, settings))
        shown = f"{name}, {host}" + (" (default)" if host == default else "")
        found.append(stack.enter_context(_running(shown, made, *more)))
    return found


def _quiet(made: Program) -> Program:
    """The same without a log line for each mail: the others write none either."""
    file = made.home / "gatepost.toml"
    file.write_text(file.read_text().replace("[log]\n", '[log]\nlevel = "warning"\n'))
    return replace(made, ready=lambda: _speaks(str(made.socket)))


def _speaks(address: str) -> bool:
    """Whether a milter negotiates there: the supervisor listens before its filter is up."""
    try:
        Mta(address).close()
    except OSError:
        return False
    return True


@contextmanager
def clamav() -> Iterator[list[Side]]:
    """Ours, then clamav-milter; both ask the same clamd, whose work counts for who asks."""
    with ExitStack() as stack:
        scanner = stack.enter_context(clamd.clamd(stack.enter_context(directory("clamd"))))
        setting = f'clamd = "unix:{scanner.socket}"\n'
        found = _ours(stack, "clamav", setting, scanner.peer.pid)
        home = stack.enter_context(directory("bench"))
        made = clamav_milter.prepare(home, scanner)
        yield [*found, stack.enter_context(_running("clamav-milter", made, scanner.peer.pid))]


@contextmanager
def dkim() -> Iterator[list[Side]]:
    """Ours, then OpenDKIM, each with an RSA key of 2048 bits, relaxed/relaxed."""
    with ExitStack() as stack:
        keys = stack.enter_context(directory("keys"))
        write_key(keys / "key.pem")
        found = _ours(stack, "dkim", milterd.signing_table(keys / "key.pem"))
        home = stack.enter_context(directory("bench"))
        made = opendkim.prepare(home, "s")
        yield [*found, stack.enter_context(_running("OpenDKIM", made))]


@contextmanager
def headers() -> Iterator[list[Side]]:
    """Ours alone, with the rule sets that are the default."""
    with ExitStack() as stack:
        yield _ours(stack, "headers", 'authserv_id = "mx.example.net"\n')
