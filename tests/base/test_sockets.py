"""Nothing that is alive, linked, foreign or not a socket is ever removed."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milterd.base import sockets


@pytest.fixture
def place() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(dir="/tmp"))
    yield path
    shutil.rmtree(path)


def unix(path: Path) -> sockets.SocketAddress:
    return sockets.parse(f"unix:{path}")


def leave_dead(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("unix:/run/x", "unix:/run/x"),
        ("local:/run/x", "unix:/run/x"),
        ("inet:8891@127.0.0.1", "inet:8891@127.0.0.1"),
        ("inet:8891", None),
        ("inet:localhost:8891", "inet:8891@localhost"),
        ("inet6:8891@::1", "inet6:8891@::1"),
        ("inet:[::1]:24", "inet6:24@::1"),
        ("127.0.0.1:25", "inet:25@127.0.0.1"),
        (":25", "inet:25@0.0.0.0"),
        ("[::1]:25", "inet6:25@::1"),
        ("unix:", None),
        ("unix:a\0b", None),
        ("inet:99999@127.0.0.1", None),
        ("inet:25@a b", None),
        ("smtp", None),
        ("", None),
    ],
)
def test_addresses(text: str, shown: str | None) -> None:
    if shown is None:
        with pytest.raises(ValueError, match="expected"):
            sockets.parse(text)
    else:
        assert str(sockets.parse(text)) == shown


def test_a_relative_path_is_below_the_directory() -> None:
    assert sockets.parse("unix:clamav.sock", directory="/run/m").path == "/run/m/clamav.sock"
    assert sockets.parse("unix:/x/clamav.sock", directory="/run/m").path == "/x/clamav.sock"


@given(st.text("unix:et6@[]/.ab0129\0 ", max_size=24))
def test_any_text_is_an_address_or_a_value_error(text: str) -> None:
    try:
        address = sockets.parse(text)
    except ValueError:
        return
    assert sockets.parse(str(address)) == address


def test_a_path_that_is_too_long_says_so() -> None:
    assert sockets.parse(f"unix:/{'a' * 106}")
    with pytest.raises(ValueError, match="at most 107 octets, not 108"):
        sockets.parse(f"unix:/{'a' * 107}")


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_mode_is_as_asked_whatever_the_umask(place: Path, mode: int) -> None:
    before = os.umask(0o077)
    try:
        with sockets.listen(unix(place / "s"), mode):
            assert stat.S_IMODE((place / "s").lstat().st_mode) == mode
    finally:
        os.umask(before)


def test_owner_and_group(place: Path) -> None:
    with sockets.listen(unix(place / "s"), owner="nobody", group="nogroup"):
        status = (place / "s").lstat()
    assert (status.st_uid, status.st_gid) == (65534, 65534)


def test_an_unknown_group_is_named(place: Path) -> None:
    with pytest.raises(sockets.SocketError, match="no such group: 'psotfix'"):
        sockets.listen(unix(place / "s"), group="psotfix")


def test_a_dead_socket_is_replaced(place: Path) -> None:
    leave_dead(place / "s")
    with sockets.listen(unix(place / "s")):
        assert sockets.alive(str(place / "s"))


def test_a_live_socket_is_left(place: Path) -> None:
    with sockets.listen(unix(place / "s")) as first:
        with pytest.raises(sockets.SocketError, match="another process is listening"):
            sockets.listen(unix(place / "s"))
        assert not sockets.remove(str(place / "s"))
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(place / "s"))
            first.accept()[0].close()


def test_a_live_socket_with_a_full_backlog_is_alive(place: Path) -> None:
    with sockets.listen(unix(place / "s"), backlog=0):
        clients = [socket.socket(socket.AF_UNIX) for _ in range(4)]
        for each in clients:
            each.setblocking(False)
            each.connect_ex(str(place / "s"))
        with pytest.raises(sockets.SocketError, match="another process is listening"):
            sockets.listen(unix(place / "s"))
        for each in clients:
            each.close()


def test_a_symbolic_link_is_neither_followed_nor_removed(place: Path) -> None:
    leave_dead(place / "victim")
    (place / "s").symlink_to("victim")
    with pytest.raises(sockets.SocketError, match="symbolic link"):
        sockets.listen(unix(place / "s"))
    assert not sockets.remove(str(place / "s"))
    assert (place / "s").is_symlink()
    assert (place / "victim").is_socket()


@pytest.mark.parametrize("kind", ["file", "directory", "fifo"])
def test_what_is_no_socket_is_left_alone(place: Path, kind: str) -> None:
    path = place / "s"
    {"file": path.touch, "directory": path.mkdir, "fifo": lambda: os.mkfifo(path)}[kind]()
    with pytest.raises(sockets.SocketError, match="not a socket"):
        sockets.listen(unix(path))
    assert not sockets.remove(str(path))
    assert path.exists()


def test_somebody_elses_dead_socket_is_left(place: Path) -> None:
    leave_dead(place / "s")
    place.chmod(0o777)
    os.chown(place / "s", 1, 1)
    code = (
        "import os, sys; from milterd.base import sockets; os.setgroups([]); os.setuid(65534)\n"
        "try: sockets.listen(sockets.parse(sys.argv[1]))\n"
        "except sockets.SocketError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, f"unix:{place / 's'}"],
        capture_output=True,
        text=True,
        check=False,
    )
    # Without write permission on it, nobody can tell dead from alive: that counts as alive.
    assert "listening there" in done.stdout or "belongs to uid 1" in done.stdout
    assert (place / "s").is_socket()


def test_of_many_starting_at_once_one_gets_the_socket(place: Path) -> None:
    leave_dead(place / "s")
    code = (
        "import sys; from milterd.base import sockets\n"
        "sys.stdin.readline()\n"
        "try: s = sockets.listen(sockets.parse(sys.argv[1])); print('mine', flush=True)\n"
        "except sockets.SocketError: print('taken', flush=True)\n"
        "sys.stdin.readline()\n"
    )
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", code, f"unix:{place / 's'}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for each in racers:
        assert each.stdin is not None
        each.stdin.write("go\n")
        each.stdin.flush()
    answers = [each.stdout.readline().strip() for each in racers if each.stdout is not None]
    for each in racers:
        each.communicate("end\n")
    assert sorted(answers) == ["mine", "taken", "taken", "taken"]


def test_whoever_starts_waits_for_another_start_in_the_directory(place: Path) -> None:
    lock = os.open(place, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with ThreadPoolExecutor() as pool:
        starting = pool.submit(sockets.listen, unix(place / "s"))
        with pytest.raises(TimeoutError):
            starting.result(0.2)
        assert not (place / "s").exists()
        os.close(lock)
        starting.result(30).close()


def test_remove_takes_away_what_was_closed(place: Path) -> None:
    sockets.listen(unix(place / "s")).close()
    assert sockets.remove(str(place / "s"))
    assert not (place / "s").exists()
    assert not sockets.remove(str(place / "s"))
    assert not sockets.remove(str(place / "none" / "s"))


def test_a_port_in_use_is_named() -> None:
    with sockets.listen(sockets.parse("127.0.0.1:0")) as first:
        port = first.getsockname()[1]
        with pytest.raises(sockets.SocketError, match=f"{port}@.*Address already in use"):
            sockets.listen(sockets.parse(f"127.0.0.1:{port}"))


def test_listening_sockets_are_not_inherited(place: Path) -> None:
    with sockets.listen(unix(place / "s")) as listening:
        assert not listening.get_inheritable()


_TAKE = """
import os, sys
os.environ["LISTEN_PID"] = str(os.getpid() + int(sys.argv[1]))
from milterd.base import sockets
found = sockets.inherited_named()
print([(name, each.getsockname()[1], each.get_inheritable()) for name, each in found])
print(sorted(each for each in os.environ if each.startswith("LISTEN")))
"""


@pytest.mark.parametrize("other", [0, 1])
def test_sockets_of_the_service_manager_are_taken_once_and_by_whom_they_are_for(other: int) -> None:
    with sockets.listen(sockets.parse("127.0.0.1:0")) as listening:
        port, number = listening.getsockname()[1], listening.fileno()
        script = f"exec 3<&{number}; exec {sys.executable} -c '{_TAKE}' {other}"
        done = subprocess.run(
            ["bash", "-c", script],
            check=False,
            pass_fds=[number],
            env={**os.environ, "LISTEN_FDS": "1", "LISTEN_FDNAMES": "mx"},
            capture_output=True,
            text=True,
        )
    expected = [] if other else [("mx", port, False)]
    assert done.stdout.splitlines() == [str(expected), "[]"], done.stderr
