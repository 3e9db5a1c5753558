"""AUTH as a client: what is said by which mechanism, to whom, and that nobody else learns it."""

from __future__ import annotations

import base64
import hmac
import os
import ssl
from collections.abc import Sequence
from pathlib import Path

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from smtpgw.delivery.hop import Hop
from smtpgw.delivery.options import SaslOptions, TlsOptions
from smtpgw.delivery.outcome import Delivered, Outcome
from smtpgw.delivery.passwords import SETTLED, Passwords, PasswordsUnusable, parse
from smtpgw.delivery.sasl import BadChallenge, Credentials, Exchange, NoMechanism, choose
from smtpgw.delivery.wire import Lost
from tests.delivery.peer import CLOSE, EXTENSIONS, STALL, TLS, Answer, Peer, job, on_port, pool
from tests.queue.support import run

SECRET = "geh eim:ü"
OURS = Credentials(b"user@example.com", SECRET.encode())
PLAIN = base64.b64encode(b"\0user@example.com\0" + SECRET.encode())


def offer(mechanisms: bytes) -> bytes:
    return EXTENSIONS.replace(b"250 SIZE", b"250-AUTH " + mechanisms + b"\r\n250 SIZE")


def secured(mechanisms: bytes) -> dict[str, Answer | list[Answer]]:
    starts = EXTENSIONS.replace(b"250 SIZE", b"250-STARTTLS\r\n250 SIZE")
    return {
        "EHLO": starts,
        "LHLO": starts,
        "STARTTLS": b"220 go\r\n" + TLS,
        "TLS EHLO": offer(mechanisms),
        "TLS LHLO": offer(mechanisms),
        "AUTH": b"235 2.7.0 hello\r\n",
    }


@pytest.fixture(scope="module")
def shown() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("mx.example.net").configure_cert(context)
    return context


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    return write(tmp_path / "sasl_passwd", f"example.net user@example.com:{SECRET}\n")


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.touch(mode)
    path.write_text(text)
    return path


def _deliver(
    peer: Peer, sasl: SaslOptions, *, lmtp: bool = False, **limits: float
) -> Sequence[Outcome] | Lost:
    async def scenario() -> Sequence[Outcome] | Lost:
        async with on_port(peer, lmtp=lmtp) as hop:
            deliverer = pool(tls=TlsOptions("may", "may"), sasl=sasl, **limits)
            try:
                return await deliverer.deliver_to(hop, job())
            except Lost as error:
                return error
            finally:
                await deliverer.close()

    return run(scenario())


def _delivered(result: Sequence[Outcome] | Lost) -> None:
    assert not isinstance(result, Lost), result.text
    assert [type(each) for each in result] == [Delivered]


def _lost(result: Sequence[Outcome] | Lost, peer: Peer) -> Lost:
    assert isinstance(result, Lost)
    assert result.enhanced[0] == "4"
    for secret in (SECRET, PLAIN.decode(), base64.b64encode(SECRET.encode()).decode()):
        assert secret not in f"{result!r} {result.text}"
    assert "MAIL" not in peer.verbs()
    return result


@pytest.mark.parametrize("lmtp", [False, True])
@pytest.mark.parametrize("mechanisms", [b"PLAIN", b"CRAM-MD5 LOGIN PLAIN", b"gssapi plain"])
def test_plain_under_tls(
    shown: ssl.SSLContext, secrets: Path, mechanisms: bytes, lmtp: bool
) -> None:
    peer = Peer(secured(mechanisms), shown)
    _delivered(_deliver(peer, SaslOptions(True, str(secrets)), lmtp=lmtp))
    assert b"AUTH PLAIN " + PLAIN + b"\r\n" in peer.commands


@pytest.mark.parametrize("questions", [(b"VXNlcm5hbWU6", b"UGFzc3dvcmQ6"), (b"Who?", b"What?")])
def test_login_answers_two_questions(
    shown: ssl.SSLContext, secrets: Path, questions: tuple[bytes, bytes]
) -> None:
    script = secured(b"LOGIN") | {
        "AUTH": b"334 " + questions[0] + b"\r\n",
        "AUTH 2": [b"334 " + questions[1] + b"\r\n", b"235 2.7.0 hello\r\n"],
    }
    peer = Peer(script, shown)
    _delivered(_deliver(peer, SaslOptions(True, str(secrets))))
    at = peer.commands.index(b"AUTH LOGIN\r\n")
    assert [base64.b64decode(each) for each in peer.commands[at + 1 : at + 3]] == [
        OURS.user, OURS.password,
    ]  # fmt: skip


def test_cram_md5_in_the_clear_where_the_peer_has_nothing_better(secrets: Path) -> None:
    challenge = b"<1896.697170952@postoffice.example.net>"
    script: dict[str, Answer | list[Answer]] = {
        "EHLO": offer(b"PLAIN LOGIN CRAM-MD5"),
        "AUTH": b"334 " + base64.b64encode(challenge) + b"\r\n",
        "AUTH 2": b"235 2.7.0 hello\r\n",
    }
    peer = Peer(script)
    _delivered(_deliver(peer, SaslOptions(True, str(secrets))))
    assert peer.commands[1] == b"AUTH CRAM-MD5\r\n"
    digest = hmac.new(SECRET.encode(), challenge, "md5").hexdigest()
    assert base64.b64decode(peer.commands[2]) == f"user@example.com {digest}".encode()


def test_the_example_of_rfc_2195() -> None:
    exchange = Exchange("CRAM-MD5", Credentials(b"tim", b"tanstaaftanstaaf"))
    challenge = base64.b64encode(b"<1896.697170952@postoffice.reston.mci.net>")
    answer = b"tim b913a602c7eda7a495b4e6e7334d3890"
    assert base64.b64decode(exchange.answer(challenge)) == answer


def test_no_password_in_the_clear(secrets: Path) -> None:
    peer = Peer({"EHLO": offer(b"PLAIN LOGIN"), "AUTH": b"235 2.7.0 hello\r\n"})
    lost = _lost(_deliver(peer, SaslOptions(True, str(secrets))), peer)
    assert "noplaintext" in lost.text
    assert "AUTH" not in peer.verbs()
    _delivered(_deliver(peer, SaslOptions(True, str(secrets), ("noanonymous",))))


def test_who_has_no_password_for_a_peer_does_not_log_in(
    shown: ssl.SSLContext, tmp_path: Path
) -> None:
    other = write(tmp_path / "other", "example.org u:p\n")
    for sasl in (SaslOptions(True, str(other)), SaslOptions(False, str(tmp_path / "none"))):
        peer = Peer(secured(b"PLAIN"), shown)
        _delivered(_deliver(peer, sasl))
        assert "AUTH" not in peer.verbs()


def test_a_peer_that_offers_no_auth_gets_the_mail_without(secrets: Path) -> None:
    """As Postfix's smtp(8): the peer knows what it wants."""
    peer = Peer()
    _delivered(_deliver(peer, SaslOptions(True, str(secrets))))
    assert "AUTH" not in peer.verbs()


@pytest.mark.parametrize(
    ("answer", "words", "status"),
    [
        (b"535 5.7.8 no, " + PLAIN + b" " + SECRET.encode() + b"\r\n", "said: 535 5.7.8 no, (h",
         "4.7.8"),
        (b"535 go away\r\n", "said: 535 go away", "4.7.8"),
        (b"454 4.7.0 later\r\n", "said: 454 4.7.0 later", "4.7.0"),
        (b"421 4.3.2 bye\r\n" + CLOSE, "said: 421", "4.3.2"),
        (b"250 2.0.0 what\r\n", "said: 250", "4.7.8"),
        (b"235 2.7.0 hello\r\n250 and more\r\n", "said: 235", "4.7.8"),
        (b"334 \r\n", "PLAIN has no challenge", "4.7.0"),
        (b"334 not*base64\r\n", "challenge is not base64", "4.7.0"),
        (b"334 dGhpcyBpcyBvZGQ=\r\n", "PLAIN has no challenge", "4.7.0"),
        (CLOSE, "closed", "4.4.2"),
        (STALL, "timed out", "4.4.2"),
        (b"235-" + b"x" * 3000, "bad reply", "4.5.0"),
    ],
)  # fmt: skip
def test_what_goes_wrong_is_a_deferral_and_tells_no_secret(
    shown: ssl.SSLContext, secrets: Path, answer: bytes, words: str, status: str
) -> None:
    script = secured(b"PLAIN") | {"AUTH": answer, "AUTH 2": b"334 \r\n"}
    peer = Peer(script, shown)
    lost = _lost(_deliver(peer, SaslOptions(True, str(secrets)), smtp_helo_timeout=0.5), peer)
    assert words in lost.text
    assert lost.enhanced == status
    assert lost.next_host


@pytest.mark.parametrize(
    ("offered", "security", "found"),
    [
        (b"PLAIN LOGIN CRAM-MD5", (), "PLAIN"),
        (b"CRAM-MD5 LOGIN", (), "LOGIN"),
        (b"login", (), "LOGIN"),
        (b"PLAIN CRAM-MD5", ("noplaintext",), "CRAM-MD5"),
        (b"SCRAM-SHA-256 CRAM-MD5", ("noanonymous",), "CRAM-MD5"),
        (b"PLAIN LOGIN", ("noplaintext",), None),
        (b"GSSAPI ANONYMOUS EXTERNAL", (), None),
        (b"", (), None),
        (b"\xff\xfe", (), None),
    ],
)
def test_the_choice_of_a_mechanism(
    offered: bytes, security: tuple[str, ...], found: str | None
) -> None:
    if found is None:
        with pytest.raises(NoMechanism, match="the peer offers"):
            choose(offered, (), security)
    else:
        assert choose(offered, (), security) == found


def test_a_filter_leaves_only_what_it_names() -> None:
    assert choose(b"PLAIN LOGIN", ("login",), ()) == "LOGIN"
    with pytest.raises(NoMechanism):
        choose(b"PLAIN LOGIN", ("CRAM-MD5",), ())


@given(st.sampled_from(["PLAIN", "LOGIN", "CRAM-MD5"]), st.lists(st.binary(max_size=60)))
def test_any_challenge_is_answered_in_base64_or_refused(
    mechanism: str, challenges: list[bytes]
) -> None:
    exchange = Exchange(mechanism, OURS)
    try:
        for each in challenges:
            base64.b64decode(exchange.answer(each), validate=True)
            base64.b64decode(exchange.answer(base64.b64encode(each)), validate=True)
    except BadChallenge as error:
        assert SECRET not in str(error)  # noqa: PT017 - which ones are refused is not the point


# The password file

_HOP = Hop("[mail.example.net]:587", "mail.example.net", "127.0.0.1", 587)


@pytest.mark.parametrize(
    ("lines", "user"),
    [
        ("[mail.example.net]:587 nexthop:p\nmail.example.net host:p\n", b"nexthop"),
        ("mail.example.net:587 port:p\nmail.example.net host:p\n", b"port"),
        ("# a comment\n\nMail.Example.NET\thost:p\n", b"host"),
        ("example.net u:p\n[mail.example.net] u:p\n", None),
    ],
)
def test_a_password_is_found_by_nexthop_then_by_host(
    tmp_path: Path, lines: str, user: bytes | None
) -> None:
    found = Passwords(str(write(tmp_path / "p", lines)), lambda: 0.0).find(_HOP)
    assert (found.user if found else None) == user


def test_a_password_may_hold_colons_and_spaces() -> None:
    assert parse(b"h u:a:b c \n", "p")["h"].password == b"a:b c"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("h\n", "p:1: expected HOST USER:PASSWORD"),
        ("\nh geheim\n", "p:2: expected"),
        ("h :geheim\n", "expected"),
        ("h u:\n", "expected"),
        ("h u:geheim\0\n", "expected"),
        ("h u:geheim\nH u:geheim\n", "p:2: a second line"),
    ],
)
def test_a_wrong_line_is_named_and_not_shown(text: str, words: str) -> None:
    with pytest.raises(PasswordsUnusable, match=words) as caught:
        parse(text.encode(), "p")
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_a_file_that_others_may_read_is_not_used(
    shown: ssl.SSLContext, secrets: Path, mode: int
) -> None:
    secrets.chmod(mode)
    peer = Peer(secured(b"PLAIN"), shown)
    lost = _lost(_deliver(peer, SaslOptions(True, str(secrets))), peer)
    assert f"mode {mode:04o}, expected 0600" in lost.text
    assert (lost.next_host, peer.connections) == (False, 0)


def test_what_is_no_file_of_ours_is_not_used(tmp_path: Path) -> None:
    for path, words in ((tmp_path / "none", "No such file"), (tmp_path, "s a directory")):
        with pytest.raises(PasswordsUnusable, match=words):
            Passwords(str(path), lambda: 0.0).find(_HOP)
    if os.geteuid() == 0:
        other = write(tmp_path / "other", "h u:p\n")
        os.chown(other, 65534, 65534)
        with pytest.raises(PasswordsUnusable, match="owned by another user"):
            Passwords(str(other), lambda: 0.0).find(_HOP)
    write(tmp_path / "large", "# x\n" * 300_000)
    with pytest.raises(PasswordsUnusable, match="over 1048576 octets"):
        Passwords(str(tmp_path / "large"), lambda: 0.0).find(_HOP)


def test_a_change_counts_once_it_stays(tmp_path: Path) -> None:
    """A file just being written is not read: mail would leave without its password."""
    path = write(tmp_path / "p", "mail.example.net old:p\n")
    now = 0.0
    passwords = Passwords(str(path), lambda: now)

    def user() -> bytes | None:
        found = passwords.find(_HOP)
        return found.user if found else None

    assert user() == b"old"
    path.write_text("")  # an editor begins ...
    assert user() == b"old"
    now = 0.9 * SETTLED
    path.write_text("mail.example.net new:p\n")  # ... and ends
    assert user() == b"old"
    now += 0.9 * SETTLED
    assert user() == b"old", "it changed a moment ago"
    now += SETTLED
    assert user() == b"new"
    path.unlink()
    assert user() == b"new"
    now += 2 * SETTLED
    with pytest.raises(PasswordsUnusable):
        user()


def test_nothing_shows_a_password() -> None:
    exchange = Exchange("PLAIN", OURS)
    for each in (OURS, exchange, parse(f"h u:{SECRET}".encode(), "p")):
        assert "geh" not in f"{each!r} {each}"
    for words in (OURS.password, PLAIN, base64.b64encode(OURS.password)):
        assert exchange.hide(b"no: %b!" % words) == b"no: (hidden)!"
    assert exchange.hide(b"a word") == b"a word"
