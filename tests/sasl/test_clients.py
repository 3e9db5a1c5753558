"""The running gateway and real mail clients: swaks, smtplib, aiosmtplib, msmtp and curl log in by
the password file and by Dovecot, and who does not relays nothing."""

from __future__ import annotations

import asyncio
import shutil
import smtplib
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from email.message import EmailMessage
from pathlib import Path

import aiosmtplib
import pytest

from tests.gateway.gateway import PATIENCE, Gateway, until
from tests.peers.dovecot import dovecot
from tests.peers.process import free_port, program
from tests.sasl.support import PASSWORD, USER, authority, certificate, client_context

OUTSIDE = "friend@elsewhere.example"
NAME, SECRET = USER.decode(), PASSWORD.decode()


_OWNED = """\
smtpd_sender_login_maps = ["inline:{u@example.net=u@example.net, boss@example.net=boss}"]
smtpd_sender_restrictions = ["reject_sender_login_mismatch"]
"""


@dataclass(frozen=True)
class Site:
    """A gateway with listeners that log in by "file" and by "dovecot", each with STARTTLS, and
    by the file, "wrapped" with TLS from the start and "owned" where senders have owners."""

    gateway: Gateway
    ports: dict[str, int]
    ca: Path

    def accepted(self, client: str) -> bytes:
        """The mail of a client, as it was delivered."""
        subject = f"Subject: {client}\n".encode()

        def there() -> list[bytes]:
            mails = self.gateway.delivered(OUTSIDE)
            return [each for each in mails if subject in each.replace(b"\r\n", b"\n")]

        return until(there, what=client)[-1]


def passwd(
    gateway: Gateway, *words: str, said: str = f"{SECRET}\n"
) -> subprocess.CompletedProcess[str]:
    """`smtpgw passwd`."""
    command = [sys.executable, "-m", "smtpgw", "passwd", "-c", str(gateway.file), *words]
    return subprocess.run(
        command, input=said, text=True, capture_output=True, timeout=PATIENCE, check=False
    )


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    place = Path(tempfile.mkdtemp(dir="/tmp", prefix="gw"))
    place.chmod(0o755)
    with dovecot() as peer:
        gateway = Gateway(place)
        ports = {each: free_port() for each in ("file", "dovecot", "wrapped", "owned")}
        tables = "".join(
            f'[[smtpgw.listener]]\nname = "{name}"\naddress = "127.0.0.1:{port}"\n'
            f'profile = "{"submissions" if name == "wrapped" else "submission"}"\n'
            f'smtpd_sasl_authenticated_header = true\n{_judge(name, place, peer.auth)}\n'
            for name, port in ports.items()
        )  # fmt: skip
        top = f'mynetworks = ["192.0.2.0/24"]\nsmtpd_tls_chain_files = ["{certificate(place)}"]'
        gateway.configure(top, tables)
        assert passwd(gateway, "--scram", NAME).returncode == 0
        (place / "ca.pem").write_bytes(authority.cert_pem.bytes())
        gateway.start()
        yield Site(gateway, ports, place / "ca.pem")
        gateway.kill()
    shutil.rmtree(place)


def _judge(name: str, place: Path, socket: Path) -> str:
    if name == "dovecot":
        return f'smtpd_sasl_type = "dovecot"\nsmtpd_sasl_path = "{socket}"'
    own = f'smtpd_sasl_path = "{place}/passwd"'
    return f"{own}\n{_OWNED}" if name == "owned" else own


def message(client: str) -> EmailMessage:
    """A mail that says who sent it."""
    mail = EmailMessage()
    mail["Subject"], mail["From"], mail["To"] = client, NAME, OUTSIDE
    mail.set_content("hello\n")
    return mail


def run(command: Sequence[str], said: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """A client's command."""
    return subprocess.run(command, input=said, capture_output=True, timeout=60, check=False)


def smtp(site: Site, listener: str) -> smtplib.SMTP:
    """Python's client, after STARTTLS."""
    client = smtplib.SMTP("127.0.0.1", site.ports[listener], timeout=PATIENCE)
    client.starttls(context=_context())
    return client


def _context() -> ssl.SSLContext:
    context = client_context()
    context.check_hostname = False
    return context


@pytest.mark.parametrize(
    ("listener", "mechanism"),
    [("file", "plain"), ("file", "login"),
     ("dovecot", "plain"), ("dovecot", "login"), ("dovecot", "cram_md5")],
)  # fmt: skip
def test_smtplib(site: Site, listener: str, mechanism: str) -> None:
    with smtp(site, listener) as client:
        client.ehlo("client.example.org")
        client.user, client.password = NAME, SECRET
        method = getattr(client, f"auth_{mechanism}")
        code, _ = client.auth(mechanism.replace("_", "-"), method)
        assert code == 235
        client.send_message(message(f"smtplib {listener} {mechanism}"))
    mail = site.accepted(f"smtplib {listener} {mechanism}")
    assert b"with ESMTPSA id" in mail
    assert b"(Authenticated sender: u@example.net)" in mail
    assert b"client.example.org" not in mail  # the profile hides where our users are


@pytest.mark.parametrize("listener", ["file", "dovecot"])
def test_who_has_not_logged_in_relays_nothing(site: Site, listener: str) -> None:
    with smtp(site, listener) as client:
        client.ehlo("client.example.org")
        with pytest.raises(smtplib.SMTPAuthenticationError) as error:
            client.login(NAME, "wrong")
        assert error.value.smtp_code == 535
        assert client.mail(NAME)[0] == 250
        assert client.rcpt(OUTSIDE)[0] == 554


def test_no_password_before_tls(site: Site) -> None:
    with smtplib.SMTP("127.0.0.1", site.ports["file"], timeout=PATIENCE) as client:
        client.ehlo("client.example.org")
        assert not client.has_extn("auth")
        assert client.docmd("AUTH", "PLAIN AHUAcA==")[0] == 530
    with site.gateway.client() as client:  # an MX
        assert not client.has_extn("auth")
        assert client.docmd("AUTH", "PLAIN AHUAcA==")[0] == 503


def test_the_log_tells_who_and_no_password(site: Site) -> None:
    with smtp(site, "file") as client:
        client.login(NAME, SECRET)
    with smtp(site, "file") as client, pytest.raises(smtplib.SMTPAuthenticationError):
        client.login("hunter2-typed-as-name", "not-my-password")
    line = site.gateway.told("login", user=NAME)[-1]
    assert line["listener"] == "file"
    assert site.gateway.told("login failed", reason="no such user")[-1]["user"] == ""
    text = site.gateway.log_file.read_text()
    for each in (SECRET, "not-my-password", "hunter2"):
        assert each not in text.replace(NAME, "")
    assert site.gateway.metrics()[
        'gatepost_logins_total{listener="file",method="PLAIN",outcome="ok"}'
    ]


@pytest.mark.parametrize("listener", ["file", "dovecot"])
@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5"])
def test_swaks(site: Site, listener: str, mechanism: str) -> None:
    command = [
        program("swaks", "swaks"), "--server", f"127.0.0.1:{site.ports[listener]}", "--tls",
        "--auth", mechanism, "--auth-user", NAME, "--from", NAME, "--to", OUTSIDE,
        "--header", f"Subject: swaks {listener} {mechanism}", "--auth-password",
    ]  # fmt: skip
    assert run([*command, "wrong"]).returncode == 28
    done = run([*command, SECRET])
    if (listener, mechanism) == ("file", "CRAM-MD5"):
        assert done.returncode == 28
        return
    assert done.returncode == 0, done.stdout
    site.accepted(f"swaks {listener} {mechanism}")


@pytest.mark.parametrize("listener", ["file", "dovecot", "wrapped"])
def test_aiosmtplib(site: Site, listener: str) -> None:
    async def send(password: str) -> None:
        wrapped = listener == "wrapped"
        await aiosmtplib.send(
            message(f"aiosmtplib {listener}"), hostname="127.0.0.1", port=site.ports[listener],
            username=NAME, password=password, use_tls=wrapped, start_tls=not wrapped,
            tls_context=_context(), timeout=PATIENCE,
        )  # fmt: skip

    with pytest.raises(aiosmtplib.SMTPAuthenticationError):
        asyncio.run(send("wrong"))
    asyncio.run(send(SECRET))
    site.accepted(f"aiosmtplib {listener}")


@pytest.mark.parametrize(
    ("listener", "mechanism"),
    [("file", "plain"), ("file", "login"), ("file", "scram-sha-256"), ("wrapped", "scram-sha-256"),
     ("dovecot", "plain"), ("dovecot", "cram-md5"), ("dovecot", "digest-md5"),
     ("dovecot", "scram-sha-1"), ("dovecot", "scram-sha-256")],
)  # fmt: skip
def test_msmtp(site: Site, listener: str, mechanism: str) -> None:
    start = "off" if listener == "wrapped" else "on"
    command = [
        program("msmtp", "msmtp"), "--host=127.0.0.1", f"--port={site.ports[listener]}",
        "--tls=on", f"--tls-starttls={start}", "--tls-trust-file=", "--tls-certcheck=off",
        f"--auth={mechanism}", f"--user={NAME}", f"--from={NAME}", "--timeout=30",
    ]  # fmt: skip
    mail = message(f"msmtp {listener} {mechanism}").as_bytes()
    wrong = run([*command, "--passwordeval=echo wrong", OUTSIDE], mail)
    assert wrong.returncode == 77, wrong.stderr
    done = run([*command, f"--passwordeval=echo {SECRET}", OUTSIDE], mail)
    assert done.returncode == 0, done.stderr
    site.accepted(f"msmtp {listener} {mechanism}")


@pytest.mark.parametrize("listener", ["file", "dovecot", "wrapped"])
@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
def test_curl(site: Site, listener: str, mechanism: str) -> None:
    scheme = "smtps" if listener == "wrapped" else "smtp"
    command = [
        program("curl", "curl"), "--silent", "--show-error", "--insecure", "--ssl-reqd",
        "--login-options", f"AUTH={mechanism}", "--mail-from", NAME, "--mail-rcpt", OUTSIDE,
        "--upload-file", "-", f"{scheme}://127.0.0.1:{site.ports[listener]}/client.example.org",
    ]  # fmt: skip
    mail = message(f"curl {listener} {mechanism}").as_bytes().replace(b"\n", b"\r\n")
    assert run([*command, "--user", f"{NAME}:wrong"], mail).returncode == 67
    done = run([*command, "--user", f"{NAME}:{SECRET}"], mail)
    assert done.returncode == 0, done.stderr
    site.accepted(f"curl {listener} {mechanism}")


def test_sender_login_maps(site: Site) -> None:
    """Who may use which sender address, once logged in and before."""
    with smtp(site, "owned") as client:
        client.ehlo("client.example.org")
        client.mail("boss@example.net")
        code, text = client.rcpt(OUTSIDE)
        assert (code, text[:5]) == (553, b"5.7.1"), text
        client.rset()
        client.login(NAME, SECRET)
        for sender, answer in ((NAME, 250), ("boss@example.net", 553), ("x@example.net", 553)):
            client.mail(sender)
            assert client.rcpt(OUTSIDE)[0] == answer
            client.rset()


def test_passwd(site: Site) -> None:
    """Changes count at the next login; what cannot be done says why."""
    other = "v@example.net"

    def logs_in(password: str) -> bool:
        with smtp(site, "file") as client:
            try:
                client.login(other, password)
            except smtplib.SMTPAuthenticationError:
                return False
            return True

    assert passwd(site.gateway, other, said="one\n").stdout.endswith("added\n")
    assert logs_in("one")
    assert passwd(site.gateway, other, said="two\n").stdout.endswith("changed\n")
    assert not logs_in("one")
    assert logs_in("two")
    assert passwd(site.gateway, "--delete", other).returncode == 0
    assert not logs_in("two")
    assert passwd(site.gateway, "--delete", other).returncode == 1


def test_the_password_is_asked_for_twice_on_a_terminal(tmp_path: Path) -> None:
    path = tmp_path / "new"
    for second, status in (("two", 1), ("one", 0)):
        command = f"{sys.executable} -m smtpgw passwd --file {path} w@example.net"
        terminal = ["script", "-qec", command, "/dev/null"]
        pipe = subprocess.PIPE
        with subprocess.Popen(terminal, stdin=pipe, stdout=pipe, bufsize=0) as process:
            for prompt, answer in ((b"Password: ", "one"), (b"Again: ", second)):
                _type(process, prompt, answer)
            assert process.stdout is not None
            assert b"one" not in process.stdout.read()
        assert process.returncode == status
        assert path.exists() is (status == 0)
    assert path.read_bytes().startswith(b"w@example.net:$argon2id$")


def _type(process: subprocess.Popen[bytes], prompt: bytes, answer: str) -> None:
    """Answer a prompt once it is there."""
    assert process.stdin is not None
    assert process.stdout is not None
    seen = b""
    while not seen.endswith(prompt):
        octets = process.stdout.read(1)
        assert octets, seen
        seen += octets
    process.stdin.write(answer.encode() + b"\n")
