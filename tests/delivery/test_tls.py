"""STARTTLS as a client: levels, names, and what a peer or somebody between may do to it."""

from __future__ import annotations

import contextlib
import hashlib
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from smtpgw.delivery.hop import Hop
from smtpgw.delivery.options import SaslOptions, TlsOptions
from smtpgw.delivery.outcome import Deferred, Delivered, Outcome
from smtpgw.delivery.tls import TlsPolicies, TlsPolicy, named, parse_policy, protocol_range
from smtpgw.delivery.wire import Lost
from tests.delivery.peer import CLOSE, EXTENSIONS, STALL, TLS, Answer, Peer, job, on_port, pool
from tests.queue.support import run

OFFER = EXTENSIONS.replace(b"250 SIZE", b"250-STARTTLS\r\n250 SIZE")
STARTS: Mapping[str, Answer | list[Answer]] = {
    "EHLO": OFFER,
    "LHLO": OFFER,
    "STARTTLS": b"220 2.0.0 go\r\n" + TLS,
    "TLS EHLO": EXTENSIONS,
    "TLS LHLO": EXTENSIONS,
}


class Authority:
    """A CA, and what its certificates are used for."""

    def __init__(self, home: Path) -> None:
        self._ca = trustme.CA()
        self.file = home / "ca.pem"
        self._ca.cert_pem.write_to_path(self.file)

    def server(self, *names: str, asks: bool = False) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._ca.issue_cert(*names).configure_cert(context)
        if asks:
            context.verify_mode = ssl.CERT_REQUIRED
            self._ca.configure_trust(context)
        return context

    def client(self, home: Path) -> Path:
        mine = self._ca.issue_cert("gw.example")
        mine.private_key_and_cert_chain_pem.write_to_path(home / "client.pem")
        return home / "client.pem"

    def options(self, level: str, policy: str = "", **more: str) -> TlsOptions:
        policies = (("example.net", policy),) if policy else ()
        return TlsOptions(level, level, policies, smtp_tls_CAfile=str(self.file), **more)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


def _deliver(
    peer: Peer,
    tls: TlsOptions,
    *,
    lmtp: bool = False,
    attempt: int = 1,
    sasl: SaslOptions | None = None,
    host: str = "mx.example.net",
    **limits: float,
) -> Sequence[Outcome] | Lost:
    async def scenario() -> Sequence[Outcome] | Lost:
        async with on_port(peer, lmtp=lmtp, host=host) as hop:
            deliverer = pool(tls=tls, sasl=sasl, **limits)
            try:
                return await deliverer.deliver_to(hop, job(attempt=attempt))
            except Lost as error:
                return error
            finally:
                await deliverer.close()

    return run(scenario())


def _delivered(result: Sequence[Outcome] | Lost) -> Delivered:
    assert not isinstance(result, Lost), result
    (outcome,) = result
    assert isinstance(outcome, Delivered), outcome
    return outcome


def _lost(result: Sequence[Outcome] | Lost, words: str, enhanced: str) -> None:
    assert isinstance(result, Lost), result
    assert words in result.text
    assert result.enhanced == enhanced
    assert result.next_host


@pytest.mark.parametrize("lmtp", [False, True])
@pytest.mark.parametrize(
    ("level", "policy", "known"),
    [
        ("may", "", "unverified"),
        ("encrypt", "", "unverified"),
        ("verify", "", "verified"),
        ("secure", "", "verified"),
        ("none", "verify match=other.example:.example.net", "verified"),
        ("none", "verify match=nexthop", "verified"),
        ("none", "encrypt protocols=TLSv1.2", "unverified"),
    ],
)
def test_each_level_gets_what_it_asks_for(
    authority: Authority, level: str, policy: str, known: str, lmtp: bool
) -> None:
    peer = Peer(STARTS, authority.server("mx.example.net", "example.net"))
    outcome = _delivered(_deliver(peer, authority.options(level, policy), lmtp=lmtp))
    version = "TLSv1.2" if "TLSv1.2" in policy else "TLSv1.3"
    assert outcome.tls.startswith(f"{known} {version} ")
    hello = "LHLO" if lmtp else "EHLO"
    assert peer.verbs()[:4] == [hello, "STARTTLS", hello, "MAIL"]
    assert len(peer.handshakes) == 1


def test_none_asks_for_none(authority: Authority) -> None:
    peer = Peer(STARTS, authority.server("mx.example.net"))
    assert _delivered(_deliver(peer, authority.options("none"))).tls == ""
    assert "STARTTLS" not in peer.verbs()


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ("verify", "is for wrong.example, not mx.example.net"),
        ("secure", "is for wrong.example, not example.net or .example.net"),
        ("verify match=.wrong.example", "is for wrong.example, not .wrong.example"),
        ("fingerprint match=" + "00" * 32, "fingerprint"),
    ],
)
def test_a_certificate_for_somebody_else_gets_no_mail(
    authority: Authority, policy: str, words: str
) -> None:
    peer = Peer(STARTS, authority.server("wrong.example"))
    _lost(_deliver(peer, authority.options("none", policy), attempt=9), words, "4.7.5")
    assert "MAIL" not in peer.verbs()


@pytest.mark.parametrize("level", ["verify", "secure"])
def test_a_stranger_s_ca_vouches_for_nobody(
    authority: Authority, level: str, tmp_path: Path
) -> None:
    peer = Peer(STARTS, Authority(tmp_path).server("mx.example.net", "example.net"))
    _lost(_deliver(peer, authority.options(level), attempt=9), "not trusted", "4.7.5")
    assert peer.messages == []


def test_a_known_fingerprint_is_enough(authority: Authority, tmp_path: Path) -> None:
    ca = trustme.CA()
    mine = ca.issue_cert("whoever.example")
    der = ssl.PEM_cert_to_DER_cert(mine.cert_chain_pems[0].bytes().decode())
    digest = hashlib.sha256(der).hexdigest().upper()
    pairs = ":".join(digest[at : at + 2] for at in range(0, 64, 2))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    mine.configure_cert(context)
    options = authority.options("none", f"fingerprint match={'00' * 32}|{pairs}")
    assert _delivered(_deliver(Peer(STARTS, context), options)).tls.startswith("verified")


def test_an_address_is_verified_by_the_address_of_the_certificate(authority: Authority) -> None:
    peer = Peer(STARTS, authority.server("127.0.0.1"))
    outcome = _delivered(_deliver(peer, authority.options("verify"), host="127.0.0.1"))
    assert outcome.tls.startswith("verified")


def test_a_peer_that_asks_who_we_are_is_shown_our_certificate(
    authority: Authority, tmp_path: Path
) -> None:
    peer = Peer(STARTS, authority.server("mx.example.net", asks=True))
    mine = str(authority.client(tmp_path))
    _delivered(_deliver(peer, authority.options("encrypt", smtp_tls_cert_file=mine)))
    shown = peer.handshakes[0].getpeercert()
    assert shown is not None
    assert ("DNS", "gw.example") in shown["subjectAltName"]


@pytest.mark.parametrize("level", ["encrypt", "verify", "secure"])
@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ({"EHLO": EXTENSIONS}, "TLS is required, but was not offered by host mx.example.net["),
        ({"EHLO": b"502 no\r\n", "HELO": b"250 STARTTLS\r\n"}, "was not offered"),
        ({"STARTTLS": b"454 4.7.0 no key\r\n"}, "refused to start TLS: 454 4.7.0 no key"),
        ({"STARTTLS": b"502 5.5.1 what\r\n"}, "refused to start TLS"),
        ({"STARTTLS": b"250 sure\r\n"}, "refused to start TLS"),
    ],
)
def test_required_means_required(
    authority: Authority, level: str, answers: Mapping[str, Answer], words: str
) -> None:
    peer = Peer({**STARTS, **answers}, authority.server("mx.example.net"))
    _lost(_deliver(peer, authority.options(level), attempt=9), words, "4.7.4")
    assert "MAIL" not in peer.verbs()


@pytest.mark.parametrize("reply", [b"454 4.7.0 no key\r\n", b"502 5.5.1 what\r\n"])
def test_may_goes_on_in_the_clear_where_tls_is_refused(authority: Authority, reply: bytes) -> None:
    peer = Peer({**STARTS, "STARTTLS": reply})
    assert _delivered(_deliver(peer, authority.options("may"))).tls == ""
    assert peer.connections == 1


@pytest.mark.parametrize("how", [CLOSE, b"", STALL], ids=["closed", "in the clear", "never"])
@pytest.mark.parametrize("attempt", [1, 2])
def test_may_goes_without_a_broken_handshake_once_a_mail_has_waited(
    authority: Authority, how: bytes, attempt: int
) -> None:
    """As Postfix: what may pass by itself costs no privacy at the first attempt."""
    peer = Peer({**STARTS, "STARTTLS": b"220 go\r\n" + how})
    result = _deliver(peer, authority.options("may"), attempt=attempt, smtp_starttls_timeout=0.3)
    if attempt == 1:
        assert isinstance(result, Lost)
        assert result.next_host
        assert "MAIL" not in peer.verbs()
    else:
        assert _delivered(result).tls == ""
        assert peer.connections == 2
        assert peer.verbs().count("STARTTLS") == 1


def test_no_password_goes_where_the_handshake_broke(authority: Authority, tmp_path: Path) -> None:
    secrets = tmp_path / "sasl"
    secrets.touch(0o600)
    secrets.write_text("example.net u:geheim\n")
    peer = Peer({**STARTS, "STARTTLS": b"220 go\r\n" + CLOSE, "EHLO": OFFER})
    sasl = SaslOptions(True, str(secrets), smtp_sasl_security_options=())
    result = _deliver(peer, authority.options("may"), attempt=9, sasl=sasl)
    assert isinstance(result, Lost)
    assert peer.connections == 1


@pytest.mark.parametrize("level", ["may", "encrypt", "verify"])
@pytest.mark.parametrize("extra", [b"250 2.0.0 injected\r\n", b"2", b"250-PIPELINING\r\n"])
def test_words_behind_the_reply_to_starttls_are_not_heard_under_tls(
    authority: Authority, level: str, extra: bytes
) -> None:
    peer = Peer(
        {**STARTS, "STARTTLS": b"220 go\r\n" + extra + TLS}, authority.server("mx.example.net")
    )
    _lost(_deliver(peer, authority.options(level), attempt=9), "plaintext after the reply", "4.7.5")
    assert peer.messages == []
    assert peer.handshakes == []


def test_what_was_offered_in_the_clear_counts_no_more(authority: Authority) -> None:
    bare = b"250 peer.example\r\n"
    peer = Peer({**STARTS, "TLS EHLO": bare}, authority.server("mx.example.net"))
    _delivered(_deliver(peer, authority.options("may")))
    assert b"MAIL FROM:<a@example.com>\r\n" in peer.commands, "no SIZE, no BODY"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"554 no\r\n", "HELO refused"),
        (b"421 4.3.2 no\r\n" + CLOSE, "refused: 421"),
        (CLOSE, "closed"),
        (STALL, "timed out"),
    ],
)
def test_trouble_behind_the_handshake(authority: Authority, answer: bytes, words: str) -> None:
    peer = Peer(
        {**STARTS, "TLS EHLO": answer, "TLS HELO": answer}, authority.server("mx.example.net")
    )
    result = _deliver(peer, authority.options("encrypt"), smtp_helo_timeout=0.3)
    assert isinstance(result, Lost)
    assert words in result.text
    assert result.next_host


def test_connections_are_shared_where_host_and_policy_are_the_same(authority: Authority) -> None:
    async def scenario() -> None:
        peer = Peer(STARTS, authority.server("mx.example.net"))
        policies = (("strict.example", "encrypt"), ("verified.example", "verify"))
        tls = TlsOptions("may", policies=policies, smtp_tls_CAfile=str(authority.file))
        async with on_port(peer) as hop:
            deliverer = pool(tls=tls)
            for domain in ("one.example", "two.example", "strict.example", "three.example",
                           "verified.example", "verified.example"):  # fmt: skip
                there = Hop(domain, hop.host, hop.address, hop.port)
                _delivered(await deliverer.deliver_to(there, job()))
            assert deliverer.opened == 3, "one for each policy"
            await deliverer.close()

    run(scenario())


def test_settings_that_cannot_be_read_are_nobody_else_s_fault(authority: Authority) -> None:
    peer = Peer(STARTS, authority.server("mx.example.net"))
    tls = TlsOptions("verify", smtp_tls_CAfile="/nonexistent/ca.pem")
    result = _deliver(peer, tls)
    assert isinstance(result, Lost)
    assert (result.next_host, result.enhanced) == (False, "4.3.5")


def test_a_unix_socket_has_no_tls() -> None:
    policies = TlsPolicies(TlsOptions("verify", "verify", (("unix:/s", "verify"),)))
    assert policies.policy(Hop("unix:/s", "", "/s", 0, True)) == TlsPolicy()


@pytest.mark.parametrize(
    ("nexthop", "level"),
    [
        ("example.net", "encrypt"),
        ("EXAMPLE.net", "encrypt"),
        ("a.example.net", "none"),
        ("b.a.example.net", "none"),
        ("[example.net]", "may"),
        ("[a.example.net]", "may"),
        ("[mail.example.net]:587", "secure"),
        ("other.example", "may"),
    ],
)
def test_a_policy_is_found_by_nexthop_as_it_is_spelled(nexthop: str, level: str) -> None:
    table = (
        ("Example.Net", "encrypt"), (".example.net", "none"),
        ("[mail.example.net]:587", "secure"),
    )  # fmt: skip
    policies = TlsPolicies(TlsOptions("may", policies=table))
    assert policies.policy(Hop(nexthop, "h", "127.0.0.1", 25)).level == level


@pytest.mark.parametrize(
    ("name", "wanted", "fits"),
    [
        ("mx.example.net", "mx.example.net", True),
        ("mx.example.net", ".example.net", True),
        ("a.b.example.net", ".example.net", True),
        ("example.net", ".example.net", False),
        ("badexample.net", ".example.net", False),
        ("badexample.net", "example.net", False),
        ("*.example.net", "mx.example.net", True),
        ("*.example.net", ".example.net", True),
        ("*.example.net", "a.mx.example.net", False),
        ("*.example.net", "example.net", False),
        ("*.example.net", ".other.net", False),
        ("*.net", "example.net", False),
        ("m*.example.net", "mx.example.net", False),
        ("*", "localhost", False),
        ("*xexample.net", "mx.example.net", False),
        (".example.net", ".example.net", False),
        ("mx.example.net\0.evil.example", "mx.example.net", False),
        ("", "", False),
    ],
)
def test_names(name: str, wanted: str, fits: bool) -> None:
    assert named(name, wanted) is fits


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("may", TlsPolicy("may")),
        ("verify", TlsPolicy("verify", ("hostname",))),
        ("secure", TlsPolicy("secure", ("nexthop", "dot-nexthop"))),
        ("verify match=a:.b match=nexthop", TlsPolicy("verify", ("a", ".b", "nexthop"))),
        ("encrypt protocols=>=TLSv1.3 servername=x.example",
         TlsPolicy("encrypt", (), ">=TLSv1.3", "x.example")),
    ],
)  # fmt: skip
def test_policies(text: str, policy: TlsPolicy) -> None:
    assert parse_policy(text) == policy


@pytest.mark.parametrize(
    "text",
    ["", "maybe", "MAY", "may match=a", "verify match=", "verify a", "verify ciphers=high",
     "fingerprint", "fingerprint match=ab", "encrypt protocols=SSLv3", "dane"],
)  # fmt: skip
def test_wrong_policies_say_what_is_expected(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        parse_policy(text)


_V2, _V3 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (">=TLSv1.2", (_V2, _V3)),
        (">=TLSv1", (_V2, _V3)),
        ("!SSLv2, !SSLv3, !TLSv1, !TLSv1.1", (_V2, _V3)),
        ("!TLSv1.2", (_V3, _V3)),
        ("<=TLSv1.2", (_V2, _V2)),
        ("TLSv1.3", (_V3, _V3)),
        ("TLSv1.2:TLSv1.3", (_V2, _V3)),
    ],
)
def test_versions(text: str, found: tuple[ssl.TLSVersion, ssl.TLSVersion]) -> None:
    assert protocol_range(text) == found


@given(st.text(max_size=30))
def test_any_text_is_a_policy_or_refused(text: str) -> None:
    for reader in (parse_policy, protocol_range):
        with contextlib.suppress(ValueError):
            reader(text)


def test_deferred_mail_tells_how_the_connection_was_encrypted(authority: Authority) -> None:
    peer = Peer({**STARTS, "DOT": b"451 4.3.0 later\r\n"}, authority.server("mx.example.net"))
    result = _deliver(peer, authority.options("may"))
    assert not isinstance(result, Lost)
    assert isinstance(result[0], Deferred)
    assert result[0].tls.startswith("unverified TLSv1.3")
