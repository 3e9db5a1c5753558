"""Logins by the password file: SCRAM's numbers, the file's lines, who may read it, and how long
a stranger is looked at."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import os
import re
from collections.abc import Awaitable
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpgw.edge.auth import Challenge, Circumstances, Exchange, Failure, Step, Success
from smtpgw.edge.peer import client_of
from smtpgw.edge.road import Connection
from smtpgw.sasl.file import entries, hashing, scram, store
from smtpgw.sasl.file.authenticator import FileAuthenticator
from smtpgw.sasl.file.entries import Entry
from smtpgw.sasl.file.judge import FileOptions, Judge, TooBusy
from smtpgw.sasl.prep import password_octets, saslprep
from tests.sasl.support import LOG, PASSWORD, USER, write_file

HERE = Circumstances(Connection("s", client_of(("192.0.2.1", 1), unix=False)), None)
HASH = b"$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$" + b"A" * 43

T = TypeVar("T")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_file(tmp_path / "passwd", with_scram=True)


def judge(path: Path, **more: object) -> FileAuthenticator:
    return FileAuthenticator(FileOptions(path, **more), LOG)  # type: ignore[arg-type] # keywords


def run(work: Awaitable[T]) -> T:
    async def wait() -> T:
        return await asyncio.wait_for(work, 30)

    return asyncio.run(wait())


def plain(path: Path, user: bytes, password: bytes, authorize: bytes = b"", **more: object) -> Step:
    return run(
        judge(path, **more).exchange("PLAIN", HERE).begin(b"\0".join((authorize, user, password)))
    )


# -- PLAIN and LOGIN ------------------------------------------------------------------


def test_plain(path: Path) -> None:
    assert plain(path, USER, PASSWORD) == Success(USER)
    assert plain(path, USER.upper(), PASSWORD) == Success(USER)
    assert plain(path, USER, PASSWORD, USER) == Success(USER)
    assert plain(path, USER, b"wrong") == Failure("wrong password", USER)


def test_nobody_may_act_for_another(path: Path) -> None:
    store.change(path, b"root", Entry(b"root", hashing.make(b"x")))
    assert isinstance(plain(path, USER, PASSWORD, b"root"), Failure)


def test_a_stranger_is_not_named_in_the_log(path: Path) -> None:
    """People type a password where the name should be."""
    assert plain(path, b"hunter2", b"hunter2") == Failure("no such user")
    assert plain(path, b"a:b\n", b"x") == Failure("no such user")


@pytest.mark.parametrize("said", [b"", b"\0", b"a\0b", b"a\0b\0c\0d", b"\xff\0\xff\0\xff", b"\0\0"])
def test_plain_that_is_none(path: Path, said: bytes) -> None:
    assert isinstance(run(judge(path).exchange("PLAIN", HERE).begin(said)), Failure)


def test_login(path: Path) -> None:
    async def dialogue(first: bytes | None) -> list[Step]:
        one = judge(path).exchange("LOGIN", HERE)
        steps = [await one.begin(first)]
        if not first:
            steps.append(await one.respond(USER))
        return [*steps, await one.respond(PASSWORD)]

    asked = [Challenge(b"Username:"), Challenge(b"Password:"), Success(USER)]
    assert run(dialogue(None)) == asked
    assert run(dialogue(b"")) == asked
    assert run(dialogue(USER)) == asked[1:]


def test_a_name_without_domain(path: Path) -> None:
    assert plain(path, b"u", PASSWORD, domain=b"example.net") == Success(USER)
    assert isinstance(plain(path, b"u", PASSWORD), Failure)


# -- SCRAM ----------------------------------------------------------------------------


class ScramClient:
    """RFC 5802's client, by the book."""

    def __init__(
        self, user: bytes, password: bytes, nonce: bytes = b"rOprNGfwEbeRWgbNEkqO"
    ) -> None:
        self.password = password
        self.bare = b"n=" + user + b",r=" + nonce
        self.first = b"n,," + self.bare

    def final(self, server_first: bytes) -> bytes:
        parts = dict(each.split(b"=", 1) for each in server_first.split(b","))
        salted = hashlib.pbkdf2_hmac(
            "sha256", self.password, base64.b64decode(parts[b"s"]), int(parts[b"i"])
        )
        client = hmac.digest(salted, b"Client Key", "sha256")
        without = b"c=biws,r=" + parts[b"r"]
        said = b",".join((self.bare, server_first, without))
        signature = hmac.digest(hashlib.sha256(client).digest(), said, "sha256")
        proof = bytes(one ^ two for one, two in zip(client, signature, strict=True))
        server = hmac.digest(hmac.digest(salted, b"Server Key", "sha256"), said, "sha256")
        self.expected = b"v=" + base64.b64encode(server)
        return without + b",p=" + base64.b64encode(proof)


def test_the_example_of_rfc_7677() -> None:
    keys = scram.make_keys(b"pencil", base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ=="), 4096)
    one = scram.Dialogue(b"%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0")
    assert one.first(b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO") == (b"user", b"")
    assert one.challenge(keys) == (
        b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    )
    final = (
        b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
        b"p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
    )
    assert one.final(final) == b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


def login_by_scram(path: Path, client: ScramClient) -> list[Step]:
    async def dialogue() -> list[Step]:
        one: Exchange = judge(path).exchange(scram.NAME, HERE)
        first = await one.begin(client.first)
        assert isinstance(first, Challenge)
        second = await one.respond(client.final(first.data))
        return [second] if isinstance(second, Failure) else [second, await one.respond(b"")]

    return run(dialogue())


def test_scram(path: Path) -> None:
    client = ScramClient(USER, PASSWORD)
    assert login_by_scram(path, client) == [Challenge(client.expected), Success(USER)]
    assert login_by_scram(path, ScramClient(USER, b"wrong")) == [Failure("wrong password", USER)]


def test_scram_for_strangers(path: Path) -> None:
    """A stranger gets a salt, the same each time and from each process; so does a user without
    keys."""
    store.change(path, b"argon", Entry(b"argon", hashing.make(PASSWORD)))
    for name in (b"nobody", b"argon"):
        assert isinstance(login_by_scram(path, ScramClient(name, PASSWORD))[0], Failure)

    def salt(name: bytes) -> bytes:
        first = run(judge(path).exchange(scram.NAME, HERE).begin(b"n,,n=" + name + b",r=x"))
        assert isinstance(first, Challenge)
        return first.data.partition(b",")[2]

    assert salt(b"nobody") == salt(b"nobody") != salt(b"argon")
    assert re.fullmatch(rb"s=[A-Za-z0-9+/]{22}==,i=4096", salt(b"nobody"))


@pytest.mark.parametrize(
    "first",
    [b"", b"n,,", b"p=tls-unique,,n=u,r=x", b"n,,m=x,n=u,r=x", b"n,,n=u=,r=x", b"n,,n=u,r=", b"x",
     b"n,a=root,n=u@example.net,r=x", b"n,,n=u,r=\xff"],
)  # fmt: skip
def test_scram_that_is_none(path: Path, first: bytes) -> None:
    assert isinstance(run(judge(path).exchange(scram.NAME, HERE).begin(first)), Failure)


@pytest.mark.parametrize("change", [(b"c=biws", b"c=eSws"), (b"r=", b"r=x"), (b",p=", b",q=")])
def test_a_final_message_that_was_changed(path: Path, change: tuple[bytes, bytes]) -> None:
    async def dialogue() -> Step:
        client, one = ScramClient(USER, PASSWORD), judge(path).exchange(scram.NAME, HERE)
        first = await one.begin(client.first)
        assert isinstance(first, Challenge)
        return await one.respond(client.final(first.data).replace(*change, 1))

    assert isinstance(run(dialogue()), Failure)


@given(st.binary(max_size=80))
@settings(max_examples=300, deadline=None)
def test_scram_of_any_octets(said: bytes) -> None:
    one = scram.Dialogue(b"nonce")
    with pytest.raises(scram.ScramError):
        one.final(said)
    try:
        user, _ = one.first(said)
    except scram.ScramError:
        return
    assert said.startswith((b"n,", b"y,"))
    assert b"n=" in said
    assert len(user) <= len(said)


# -- the file -------------------------------------------------------------------------


def test_lines() -> None:
    keys = scram.make_keys(b"x", b"salt1234", 4096)
    entry = Entry(b"u@example.net", HASH, keys)
    text = b"# ours\n\n" + entry.encode() + b"\nb:" + HASH + b"\r\n"
    found = entries.parse(text)
    assert found.users == {b"u@example.net": entry, b"b": Entry(b"b", HASH)}
    assert found.problems == ()
    assert found.scram == keys


@pytest.mark.parametrize(
    "line",
    [b"u", b"u:", b":" + HASH, b"u:secret", b"u:{PLAIN}secret", b"u x:" + HASH, b"\xff:" + HASH,
     b"u:" + HASH + b":SCRAM-SHA-256$1:YQ==$YQ==:YQ==", b"u:" + HASH + b":x",
     b"u" * 256 + b":" + HASH],
)  # fmt: skip
def test_a_bad_line_is_told_of_and_passed_over(line: bytes) -> None:
    found = entries.parse(line + b"\ngood:" + HASH + b"\n")
    assert set(found.users) == {b"good"}
    assert [number for number, _ in found.problems] == [1]


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_file(octets: bytes) -> None:
    found = entries.parse(octets)
    for name, each in found.users.items():
        assert entries.parse_line(each.encode()) == each
        assert entries.name(name) == name


def test_only_the_users_line_changes(path: Path) -> None:
    path.write_bytes(b"# a word\nA@b:" + HASH + b"\n" + path.read_bytes() + b"broken\n")
    assert store.change(path, USER, Entry(USER, HASH))
    assert (
        path.read_bytes() == b"# a word\nA@b:" + HASH + b"\nbroken\n" + USER + b":" + HASH + b"\n"
    )
    assert store.change(path, b"a@b", None)
    assert not store.change(path, b"a@b", None)
    assert path.read_bytes() == b"# a word\nbroken\n" + USER + b":" + HASH + b"\n"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_the_mode_that_there_was_is_kept(path: Path) -> None:
    path.chmod(0o640)
    store.change(path, b"other", Entry(b"other", HASH))
    assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("mode", [0o604, 0o644, 0o666, 0o660, 0o777])
def test_a_file_that_others_may_read_is_not_used(path: Path, mode: int) -> None:
    path.chmod(mode)
    found = plain(path, USER, PASSWORD)
    assert isinstance(found, Failure)
    assert found.temporary
    assert "0600" in found.reason


def test_a_strangers_file_is_not_used(path: Path) -> None:
    if os.geteuid():
        pytest.skip("only root can give a file away")
    os.chown(path, 65534, 65534)
    found = plain(path, USER, PASSWORD)
    assert isinstance(found, Failure)
    assert found.temporary


def test_without_a_file_nothing_is_offered(tmp_path: Path) -> None:
    assert run(judge(tmp_path / "none").mechanisms()) == ()


def test_scram_is_offered_where_somebody_has_keys(path: Path) -> None:
    assert [each.name for each in run(judge(path).mechanisms())] == ["PLAIN", "LOGIN", scram.NAME]
    store.change(path, USER, Entry(USER, HASH))
    assert [each.name for each in run(judge(path).mechanisms())] == ["PLAIN", "LOGIN"]


def test_a_change_counts_at_the_next_login(path: Path) -> None:
    async def work() -> list[type[Step]]:
        one, found = judge(path), []
        for password in (b"secret", b"other"):
            store.change(path, USER, Entry(USER, hashing.make(password)))
            for tried in (b"secret", b"other"):
                step = await one.exchange("PLAIN", HERE).begin(b"\0%b\0%b" % (USER, tried))
                found.append(type(step))
        return found

    assert run(work()) == [Success, Failure, Failure, Success]


# -- how it is looked at -----------------------------------------------------------------


def test_strangers_cost_what_users_cost(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever it is, one hash of the same price is looked at."""
    seen: list[bytes] = []
    fits = hashing.fits

    def spy(made: bytes, password: bytes) -> bool:
        seen.append(made)
        return fits(made, password)

    monkeypatch.setattr(hashing, "fits", spy)
    plain(path, USER, b"wrong")
    plain(path, b"nobody", PASSWORD)
    plain(path, b"a:b", PASSWORD)
    assert len(seen) == 3
    assert len({each.rpartition(b"p=")[0] for each in seen}) == 1


def test_a_stranger_with_the_right_password_of_another(path: Path) -> None:
    assert plain(path, b"nobody", PASSWORD) == Failure("no such user")


def test_only_so_many_at_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    go, most, running = threading.Event(), [0], [0]

    def slow(_made: bytes, _password: bytes) -> bool:
        running[0] += 1
        most[0] = max(most[0], running[0])
        go.wait(20)
        running[0] -= 1
        return True

    monkeypatch.setattr(hashing, "fits", slow)

    async def work() -> list[object]:
        one = Judge(FileOptions(path, threads=2, waiting=3), LOG)
        _, entry = await one.find(USER)
        tries = [asyncio.ensure_future(one.fits(entry, PASSWORD)) for _ in range(7)]
        done, _ = await asyncio.wait(tries, return_when=asyncio.FIRST_COMPLETED)
        assert all(isinstance(each.exception(), TooBusy) for each in done)
        go.set()
        found = await asyncio.gather(*tries, return_exceptions=True)
        assert await one.fits(entry, PASSWORD)
        return list(found)

    found = run(work())
    assert found.count(True) == 5
    assert sum(isinstance(each, TooBusy) for each in found) == 2
    assert most[0] <= 2


def test_a_login_has_its_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    go = threading.Event()
    monkeypatch.setattr(hashing, "fits", lambda *_: go.wait(20))

    async def work() -> Step:
        said = b"\0%b\0%b" % (USER, PASSWORD)
        return await judge(path, timeout=0.2).exchange("PLAIN", HERE).begin(said)

    try:
        found = run(work())
    finally:
        go.set()
    assert isinstance(found, Failure)
    assert found.temporary


# -- SASLprep ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "prepared"),
    [("I\u00adX", "IX"), ("user", "user"), ("USER", "USER"), ("\u00aa", "a"), ("\u2168", "IX"),
     ("a\u00a0b", "a b")],
)  # fmt: skip
def test_the_examples_of_rfc_4013(text: str, prepared: str) -> None:
    assert saslprep(text) == prepared


@pytest.mark.parametrize("text", ["\u0007", "\u0627\u0031"])
def test_what_rfc_4013_prohibits(text: str) -> None:
    with pytest.raises(ValueError, match=r"character|directions"):
        saslprep(text)


@given(st.binary(max_size=40))
@settings(max_examples=200, deadline=None)
def test_any_password_has_octets(password: bytes) -> None:
    found = password_octets(password)
    assert password_octets(found) == found


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashes that cost little: what is looked at here is not their price."""
    import argon2

    class Cheap(argon2.PasswordHasher):
        def __init__(self) -> None:
            super().__init__(time_cost=1, memory_cost=64, parallelism=1)

    monkeypatch.setattr(argon2, "PasswordHasher", Cheap)
