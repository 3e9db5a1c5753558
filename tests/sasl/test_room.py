"""The judges of a worker over reloads, what Dovecot is told of a client, what `smtpgw check` says,
and the login's place in the Received field."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace

import pytest

from milterd.core.mail import Envelope
from smtpgw import check_logins
from smtpgw.address.clients import ClientList
from smtpgw.config import Smtpgw
from smtpgw.edge.auth import Circumstances
from smtpgw.edge.options import EdgeOptions
from smtpgw.edge.peer import client_of
from smtpgw.edge.received import received_field
from smtpgw.edge.road import Connection, Hello, Login, PeerCertificate, Tls
from smtpgw.finding import Finding
from smtpgw.logins import LoginRoom
from smtpgw.policy.restrictions.relaying import permit_sasl_authenticated
from smtpgw.sasl.dovecot.authenticator import _question
from tests.peers.dovecot import dovecot
from tests.sasl.support import LOG, write_file
from tests.sasl.test_choice import settings

CLIENT = client_of(("192.0.2.1", 4711), unix=False)


def equipped(room: LoginRoom, given: Smtpgw) -> object:
    """The judge of the first listener."""
    edge = EdgeOptions()
    usual, stressed = room.equip((edge, edge), given, given.listener[0], ClientList())
    room.settle()
    assert (usual.auth is None) == (stressed.auth is None)
    return None if usual.auth is None else usual.auth.authenticator


def test_a_judge_is_kept_over_a_reload() -> None:
    async def work() -> None:
        room = LoginRoom(LOG)
        first = equipped(room, settings())
        assert equipped(room, settings("smtpd_sasl_auth_limit = 3")) is first
        assert equipped(room, settings('smtpd_sasl_path = "/other"')) is not first
        assert equipped(room, settings("smtpd_sasl_auth_enable = false")) is None
        await room.close()

    asyncio.run(work())


def test_fewer_tries_under_stress() -> None:
    given = settings("[smtpgw.stress]\nsmtpd_sasl_auth_limit = 1")
    usual, stressed = LoginRoom(LOG).equip(
        (EdgeOptions(), EdgeOptions()), given, given.listener[0], ClientList()
    )
    assert usual.auth is not None
    assert stressed.auth is not None
    assert (usual.auth.tries, stressed.auth.tries) == (10, 1)


def test_a_connection_that_nobody_needs_any_more_goes() -> None:
    with dovecot() as peer:

        async def work() -> None:
            room = LoginRoom(LOG)
            kind = 'smtpd_sasl_type = "dovecot"'
            judge = equipped(room, settings(kind, f'smtpd_sasl_path = "{peer.auth}"'))
            link = await judge._client.link()  # type: ignore[attr-defined] # Dovecot's
            assert not link.broken
            equipped(room, settings())
            assert link.broken == "retired"
            await room.close()

        asyncio.run(work())


@pytest.mark.parametrize("trusted", [False, True])
def test_only_a_certificate_that_a_ca_vouches_for_names_somebody(trusted: bool) -> None:
    certificate = PeerCertificate("u@example.net", "ca", "00", "00", trusted)
    tls = Tls("TLSv1.3", "AES", 256, certificate=certificate)
    here = Circumstances(Connection("s", CLIENT, b"192.0.2.2", 587), tls)
    question = _question("EXTERNAL", "smtp", here)
    assert question.certificate == ("u@example.net" if trusted else None)
    assert (question.remote, question.remote_port) == (b"192.0.2.1", 4711)
    assert (question.local, question.local_port, question.secured) == (b"192.0.2.2", 587, True)


def test_a_login_cannot_write_into_the_received_field() -> None:
    hello = Hello(b"x", True, login=Login(b"a) (by evil\r\nX: \xff u@example.net"))
    field = received_field(
        CLIENT, hello, Envelope(b"", (), ()), by=b"mx", mail_name=b"G", queue_id=b"1", when=0,
        name_login=True,
    )  # fmt: skip
    assert b"(Authenticated sender: a?" in field.value
    comment = field.value.partition(b"(Authenticated sender: ")[2].partition(b"\r\n")[0]
    assert comment.count(b")") == 1
    assert b"\r" not in comment
    assert b"with ESMTPA id" in field.value


@pytest.mark.parametrize(("method", "outcome"), [("PLAIN", "PERMIT"), ("ANONYMOUS", "DUNNO")])
def test_nobody_has_no_rights(method: str, outcome: str) -> None:
    facts = SimpleNamespace(login=Login(b"anonymous", method))
    asked = permit_sasl_authenticated(SimpleNamespace(facts=facts), None)  # type: ignore[arg-type]
    assert asyncio.run(asked).name == outcome  # type: ignore[arg-type]


def found(*lines: str) -> list[Finding]:
    return asyncio.run(check_logins.examine(settings(*lines)))


def test_what_check_says(tmp_path: Path) -> None:
    path = tmp_path / "passwd"
    own = f'smtpd_sasl_path = "{path}"'
    clear = "smtpd_tls_auth_only = false"
    assert [each.level for each in found(own)] == ["warning", "warning"]
    assert "AUTH is off" in found(own)[1].detail
    write_file(path)
    assert found(own, clear) == [Finding("logins at s", "ok", f"{path}: 1 users")]
    path.write_bytes(path.read_bytes() + b"junk\n")
    assert f"{path}:2" in found(own, clear)[0].detail
    path.chmod(0o644)
    assert found(own, clear)[0].level == "error"


def test_what_check_says_of_dovecot() -> None:
    kind, clear = 'smtpd_sasl_type = "dovecot"', "smtpd_tls_auth_only = false"
    with dovecot() as peer:
        (one,) = found(kind, clear, f'smtpd_sasl_path = "{peer.auth}"')
        assert (one.level, one.detail.split()[1:3]) == ("ok", ["offers", "PLAIN"])
    (one,) = found(kind, clear, 'smtpd_sasl_path = "/nowhere"')
    assert (one.level, one.detail) == ("error", "/nowhere: No such file or directory")
