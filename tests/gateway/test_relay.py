"""The running gateway and a relay: TLS and passwords as the settings have them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import trustme

from milterd.base import settings
from milterd.base.toml_file import ConfigError
from smtpgw import wiring
from smtpgw.config import GatewaySettings
from tests.gateway.gateway import Gateway, until
from tests.peers.postfix import postfix
from tests.peers.process import directory


def _configure(gateway: Gateway, port: int, delivery: str, policy: str = "secure") -> None:
    gateway.configure(
        delivery=f"smtp:[localhost]:{port}",
        tables=f"""
smtp_host_lookup = ["native"]
inet_protocols = "ipv4"
{delivery}
[smtpgw.tls_policy]
"[localhost]:{port}" = "{policy}"
""",
    )


def test_a_relay_is_verified_and_the_log_says_so() -> None:
    """And one whose name is another gets nothing until the settings are put right."""
    with directory("relay") as home:
        ca = trustme.CA()
        mine = ca.issue_cert("localhost")
        ca.cert_pem.write_to_path(home / "ca.pem")
        mine.private_key_and_cert_chain_pem.write_to_path(home / "chain.pem")
        main = {
            "smtpd_tls_security_level": "may",
            "smtpd_tls_chain_files": f"{home}/chain.pem",
            "smtpd_tls_received_header": "yes",
        }
        gateway = Gateway(home)
        with postfix(main) as relay:
            trust = f'smtp_tls_CAfile = "{home}/ca.pem"'
            _configure(gateway, relay.port, trust, "verify match=mx.example.org")
            try:
                gateway.start()
                code, _ = gateway.send(
                    b"Subject: x\r\n\r\nx\r\n", "u@example.net", ["v@example.net"]
                )
                assert code == 250
                (line,) = until(lambda: gateway.events("delivery"))
                assert (line["outcome"], line["status"]) == ("deferred", "4.7.5")
                assert "certificate is for localhost, not mx.example.org" in line["reason"]
                assert gateway.stop() == 0
                _configure(gateway, relay.port, trust)
                gateway.start()
                _flush(gateway)
                line = until(lambda: gateway.events("delivery", outcome="delivered"))[0]
                assert line["tls"].startswith("verified TLSv1.3 ")
            finally:
                gateway.kill()


def _flush(gateway: Gateway) -> None:
    command = [sys.executable, "-m", "smtpgw", "queue", "flush", "ALL", "-c", str(gateway.file)]
    subprocess.run(command, check=True, capture_output=True, timeout=30)


@pytest.mark.parametrize(
    ("delivery", "policy", "words"),
    [
        ('smtp_tls_CAfile = "/nonexistent"', "verify", "/nonexistent: No such file"),
        ('smtp_tls_cert_file = "{file}"', "verify", "smtp_tls_"),
        ("", "maybe", "expected a level: none, may, encrypt"),
        ('smtp_tls_security_level = "dane"', "may", "expected a level"),
        ('smtp_tls_security_level = "verify match=a"', "may", "expected a level alone"),
        ('smtp_tls_protocols = "SSLv3"', "may", "expected TLSv1.2 or TLSv1.3"),
        ("smtp_sasl_auth_enable = true", "may", "expected smtp_sasl_password_maps"),
        (
            'smtp_sasl_auth_enable = true\nsmtp_sasl_password_maps = "{file}"',
            "may",
            "mode 0644, expected 0600",
        ),
        ('smtp_bind_address = "::1"', "may", "the other family for smtp_bind_address: ::1"),
        ('smtp_use_chunking = "often"', "may", "when needed"),
    ],
)
def test_settings_that_cannot_work_are_found(
    tmp_path: Path, delivery: str, policy: str, words: str
) -> None:
    file = tmp_path / "file"
    file.write_text("h u:geheim\n")
    file.chmod(0o644)
    gateway = Gateway(tmp_path)
    _configure(gateway, 2525, delivery.format(file=file), policy)
    with pytest.raises(ConfigError) as caught:
        wiring.check(settings.load(gateway.file, GatewaySettings).smtpgw)
    assert words in str(caught.value)
    assert "geheim" not in str(caught.value)
