"""The same AUTH dialogues with Debian's Postfix and with the gateway, both asking the same Dovecot:
the codes agree, but for the differences that docs/auth.md explains.

GATEPOST_LOGINS is how many made-up dialogues are compared (at night more), GATEPOST_SEED makes
others.
"""

from __future__ import annotations

import hmac
import os
import random
import re
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from smtpgw import config
from smtpgw.address.clients import ClientList
from smtpgw.edge.options import EdgeOptions, Limits
from smtpgw.edge.tls import server_context
from smtpgw.logins import LoginRoom
from tests.edge.harness import QUICK, Server
from tests.peers.dovecot import Dovecot, dovecot
from tests.peers.postfix import postfix
from tests.peers.process import answers, free_port, wait_for
from tests.sasl.support import LOG, PASSWORD, USER, b64, certificate
from tests.sasl.test_file import ScramClient

CONFIGURATIONS: Mapping[str, Mapping[str, str]] = {
    "usual": {},
    "without TLS too": {"smtpd_tls_auth_only": "no"},
    "noplaintext": {
        "smtpd_tls_auth_only": "no",
        "smtpd_sasl_security_options": "noanonymous, noplaintext",
        "smtpd_sasl_tls_security_options": "noanonymous",
    },
    "nodictionary, noactive": {
        "smtpd_tls_auth_only": "no",
        "smtpd_sasl_security_options": "nodictionary",
        "smtpd_sasl_tls_security_options": "noactive",
    },
    "mutual_auth": {"smtpd_sasl_security_options": "mutual_auth", "smtpd_tls_auth_only": "no"},
    "filter": {
        "smtpd_sasl_mechanism_filter": "!cram-md5, plain, cram-md5, login",
        "smtpd_tls_auth_only": "no",
    },
    "not told": {
        "smtpd_sasl_exceptions_networks": "!192.0.2.0/24, 127.0.0.0/8",
        "smtpd_tls_auth_only": "no",
    },
    "old clients": {"broken_sasl_auth_clients": "yes", "smtpd_sasl_response_limit": "12400"},
    "off": {"smtpd_sasl_auth_enable": "no"},
}
COUNT = int(os.environ.get("GATEPOST_LOGINS", "100"))
SEED = int(os.environ.get("GATEPOST_SEED", "6"))


@dataclass(frozen=True)
class Login:
    """AUTH and what answers its challenges; a callable gets the challenge."""

    command: bytes
    responses: tuple[object, ...] = ()


def _cram(password: bytes) -> object:
    def answer(challenge: bytes) -> bytes:
        digest = hmac.new(password, challenge, "md5").hexdigest().encode()
        return b64(USER + b" " + digest)

    return answer


def _scram(password: bytes) -> Login:
    client = ScramClient(USER, password)
    first = b"AUTH SCRAM-SHA-256 " + b64(client.first)
    return Login(first, (lambda challenge: b64(client.final(challenge)), b""))


GOOD, BAD = b64(b"", USER, PASSWORD), b64(b"", USER, b"wrong")
ALIKE: Mapping[str, Login | bytes] = {
    "EHLO": b"EHLO x",
    "HELO": b"HELO x",
    "RSET": b"RSET",
    "NOOP": b"NOOP",
    "MAIL": b"MAIL FROM:<a@example.com>",
    "RCPT": b"RCPT TO:<b@example.com>",
    "bare AUTH": b"AUTH",
    "three words": b"AUTH PLAIN x y",
    "PLAIN": Login(b"AUTH PLAIN " + GOOD),
    "plain": Login(b"auth plain " + GOOD),
    "PLAIN, bad": Login(b"AUTH PLAIN " + BAD),
    "PLAIN, asked": Login(b"AUTH PLAIN", (GOOD,)),
    "PLAIN, asked, bad": Login(b"AUTH PLAIN", (BAD,)),
    "PLAIN, empty": Login(b"AUTH PLAIN ="),
    "PLAIN, asked, empty": Login(b"AUTH PLAIN", (b"",)),
    "PLAIN, given up": Login(b"AUTH PLAIN", (b"*",)),
    "PLAIN for nobody": Login(b"AUTH PLAIN " + b64(b"", b"nobody@example.net", PASSWORD)),
    "PLAIN, malformed": Login(b"AUTH PLAIN " + b64(b"a", b"b", b"c", b"d")),
    "PLAIN, one word": Login(b"AUTH PLAIN " + b64(USER)),
    "PLAIN, long": Login(b"AUTH PLAIN", (b"A" * 12284,)),
    "PLAIN, too long": Login(b"AUTH PLAIN", (b"A" * 12292,)),
    "LOGIN": Login(b"AUTH LOGIN", (b64(USER), b64(PASSWORD))),
    "LOGIN, bad": Login(b"AUTH LOGIN", (b64(USER), b64(b"wrong"))),
    "LOGIN, named": Login(b"AUTH LOGIN " + b64(USER), (b64(PASSWORD),)),
    "LOGIN, empty": Login(b"AUTH LOGIN =", (b64(USER), b64(PASSWORD))),
    "LOGIN, no name": Login(b"AUTH LOGIN", (b"", b64(PASSWORD))),
    "LOGIN, given up": Login(b"AUTH LOGIN", (b64(USER), b"*")),
    "CRAM-MD5": Login(b"AUTH CRAM-MD5", (_cram(PASSWORD),)),
    "CRAM-MD5, bad": Login(b"AUTH CRAM-MD5", (_cram(b"wrong"),)),
    "CRAM-MD5, early": Login(b"AUTH CRAM-MD5 " + b64(b"x"), (_cram(PASSWORD),)),
    "SCRAM": _scram(PASSWORD),
    "SCRAM, bad": _scram(b"wrong"),
    "SCRAM, junk": Login(b"AUTH SCRAM-SHA-256 " + b64(b"n,,n=x"), (b64(b"c=biws"),)),
}
"""What both answer alike."""

OTHERS: Mapping[str, tuple[Login, str, str]] = {
    "unknown mechanism": (Login(b"AUTH FOO"), "535 5.7.8", "504 5.5.4"),
    "EXTERNAL": (Login(b"AUTH EXTERNAL ="), "535 5.7.8", "504 5.5.4"),
    "ANONYMOUS": (Login(b"AUTH ANONYMOUS eA=="), "535 5.7.8", "504 5.5.4"),
    "no base64": (Login(b"AUTH PLAIN !!!"), "535 5.7.8", "501 5.5.2"),
    "no base64, asked": (Login(b"AUTH PLAIN", (b"!!!",)), "535 5.7.8", "501 5.5.2"),
    "= for a response": (Login(b"AUTH LOGIN", (b"=",)), "535 5.7.8", "501 5.5.2"),
}
"""What we answer differently, as RFC 4954 section 4 wants it: Postfix's answer and ours."""


NOT_OFFERED = ("535 5.7.8", "504 5.5.4")
"""The same where a mechanism is not offered for smtpd_sasl_security_options's sake."""


class Talk:
    """A connection that says what was answered: codes, and the lines of AUTH in EHLO's answer."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.file = self.socket.makefile("rb")
        self._reply()

    def _reply(self) -> list[bytes]:
        lines = [self.file.readline()]
        while lines[-1][3:4] == b"-":
            lines.append(self.file.readline())
        return lines

    def say(self, line: bytes) -> list[bytes]:
        self.socket.sendall(line + b"\r\n")
        return self._reply()

    def start_tls(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self.say(b"EHLO x")
        assert self.say(b"STARTTLS")[0].startswith(b"220")
        self.socket = context.wrap_socket(self.socket)
        self.file = self.socket.makefile("rb")

    def do(self, what: Login | bytes) -> str:
        """One step, up to its last answer."""
        login = what if isinstance(what, Login) else Login(what)
        found = self.say(login.command)
        for each in login.responses:
            if not found[0].startswith(b"334"):
                break
            import base64

            asked = base64.b64decode(found[0][4:].strip())
            found = self.say(each(asked) if callable(each) else each)  # type: ignore[arg-type]
        return _codes(found)


def _codes(lines: Sequence[bytes]) -> str:
    text = b"".join(lines).decode()
    match = re.match(r"(\d{3})[ -]((?:[245]\.\d+\.\d+)?)", text)
    assert match, text
    offered = re.findall(r"^250.(AUTH[ =][^\r\n]*)", text, re.MULTILINE)
    if match[1] == "334":
        return text.strip()
    return " ".join(each for each in (match[1], match[2], *offered) if each)


@contextmanager
def ours(peer: Dovecot, main: Mapping[str, str], pem: Path) -> Iterator[int]:
    """A listener that these settings make; its port."""
    given = {
        "smtpd_sasl_auth_enable": "yes",
        "smtpd_sasl_type": "dovecot",
        "smtpd_sasl_path": f"inet:127.0.0.1:{peer.auth_port}",
        **main,
    }
    lines = "\n".join(f"{key} = {_toml(key, value)}" for key, value in given.items())
    listener = f'[smtpgw]\n[[smtpgw.listener]]\nname = "one"\naddress = "127.0.0.1:1"\n{lines}\n'
    settings = config.parse(listener).smtpgw
    room = LoginRoom(LOG)
    edge: EdgeOptions = replace(
        QUICK,
        limits=Limits(error_sleep_time=0.0, hard_error_limit=10_000, soft_error_limit=10_000),
        tls_context=server_context(pem),
    )
    edge, _ = room.equip((edge, edge), settings, settings.listener[0], ClientList())
    with Server(edge) as server:
        yield server.port
        server.run(room.close)


def _toml(key: str, value: str) -> str:
    if value in ("yes", "no"):
        return "true" if value == "yes" else "false"
    if key.endswith("security_options"):
        return str(value.split(", ")).replace("'", '"')
    return value if value.isdigit() else f'"{value}"'


@dataclass(frozen=True)
class Pair:
    """Two ports: Postfix's and ours."""

    postfix: int
    ours: int

    def differing(self, steps: Sequence[Login | bytes], *, tls: bool) -> list[str]:
        """Where the two part, if they do."""
        one, two = Talk(self.postfix), Talk(self.ours)
        try:
            if tls:
                one.start_tls()
                two.start_tls()
            for number, each in enumerate(steps):
                expected, found = one.do(each), two.do(each)
                if found == "504 5.5.4" and expected.startswith("235"):
                    # smtpd_sasl_mechanism_filter: Postfix only leaves it out of EHLO's answer.
                    return []
                if expected != found and (expected, found) != NOT_OFFERED:
                    return [f"step {number}, {each}: Postfix {expected}, ours {found}"]
            return []
        finally:
            one.socket.close()
            two.socket.close()


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Pair]]:
    """One for each configuration: a service of one Postfix, and a listener."""
    with ExitStack() as stack:
        peer = stack.enter_context(dovecot())
        place = tmp_path_factory.mktemp("cert")
        pem = certificate(place)
        for each in (place, place.parent):
            each.chmod(0o755)
        usual = {
            "smtpd_sasl_auth_enable": "yes", "smtpd_sasl_type": "dovecot",
            "smtpd_sasl_path": f"inet:127.0.0.1:{peer.auth_port}",
            "smtpd_tls_security_level": "may", "smtpd_tls_auth_only": "yes",
            "smtpd_tls_chain_files": str(pem), "smtpd_helo_required": "yes",
            "smtpd_error_sleep_time": "0", "smtpd_hard_error_limit": "10000",
            "smtpd_soft_error_limit": "10000", "smtpd_client_connection_rate_limit": "0",
        }  # fmt: skip
        theirs = stack.enter_context(postfix(usual))
        found = {}
        for name, main in CONFIGURATIONS.items():
            mine = stack.enter_context(ours(peer, main, pem))
            found[name] = Pair(_service(theirs.config, main), mine)
        theirs.command("postfix", "reload")
        for each in found.values():
            wait_for(lambda port=each.postfix: answers(port, b"220 "), "the service")  # type: ignore[misc]
        yield found


def _service(config: Path, main: Mapping[str, str]) -> int:
    """One more smtpd of Postfix, with parameters of its own; its port."""
    port, master = free_port(), config / "master.cf"
    own = "".join(f"  -o {{ {name} = {value} }}\n" for name, value in main.items())
    line = f"127.0.0.1:{port} inet n - n - - smtpd\n{own}"
    master.write_text(master.read_text() + line)
    return port


@pytest.mark.parametrize(("name", "tls"), [("usual", True), ("without TLS too", False)])
def test_each_login(pairs: dict[str, Pair], name: str, tls: bool) -> None:
    def differing(each: Login | bytes) -> list[str]:
        return pairs[name].differing([b"EHLO x", each, ALIKE["PLAIN"]], tls=tls)

    # Side by side, for Dovecot waits a moment before it says that a password is wrong.
    with ThreadPoolExecutor(8) as threads:
        assert [each for found in threads.map(differing, ALIKE.values()) for each in found] == []


@pytest.mark.parametrize("name", CONFIGURATIONS)
@pytest.mark.parametrize("tls", [False, True])
def test_each_configuration(pairs: dict[str, Pair], name: str, tls: bool) -> None:
    for each in ("PLAIN", "CRAM-MD5", "SCRAM"):
        assert pairs[name].differing([b"EHLO x", ALIKE[each], b"EHLO x"], tls=tls) == []


def test_what_the_filter_leaves_out_cannot_be_used(pairs: dict[str, Pair]) -> None:
    talk = Talk(pairs["filter"].ours)
    assert talk.do(b"EHLO x") == "250 AUTH PLAIN LOGIN"
    assert talk.do(ALIKE["CRAM-MD5"]) == "504 5.5.4"
    talk.socket.close()


def test_before_ehlo(pairs: dict[str, Pair]) -> None:
    for each in ("PLAIN", "bare AUTH", "LOGIN"):
        assert pairs["without TLS too"].differing([ALIKE[each]], tls=False) == []


def test_made_up_dialogues(
    pairs: dict[str, Pair], record_property: Callable[[str, object], None]
) -> None:
    def differing(number: int) -> list[str]:
        chosen = random.Random(f"{SEED} {number}")
        name, tls = chosen.choice(list(CONFIGURATIONS)), chosen.random() < 0.6
        steps = [b"EHLO x", *chosen.choices(list(ALIKE.values()), k=chosen.randint(2, 9))]
        return [f"{number}, {name}: {each}" for each in pairs[name].differing(steps, tls=tls)]

    with ThreadPoolExecutor(8) as threads:
        found = [each for some in threads.map(differing, range(COUNT)) for each in some]
    record_property("measured", f"AUTH alike with Postfix: {COUNT - len(found)} of {COUNT}")
    assert found == [], f"seed {SEED}"


@pytest.mark.parametrize("name", OTHERS)
def test_what_differs(pairs: dict[str, Pair], name: str) -> None:
    step, expected, found = OTHERS[name]
    for port, said in ((pairs["usual"].postfix, expected), (pairs["usual"].ours, found)):
        talk = Talk(port)
        talk.start_tls()
        talk.do(b"EHLO x")
        assert talk.do(step) == said
        assert talk.do(ALIKE["PLAIN"]) == "235 2.7.0"
        talk.socket.close()
