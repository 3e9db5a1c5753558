"""Mails that others publish with their verdicts: the appendices of RFC 6376 and RFC 8463, and
what comes with the sources of dkimpy and OpenDKIM.

The RFCs' mails are always judged; with GATEPOST_CORPORA=1 both sources are fetched, whose tests say
what becomes of each of their mails.  Keys come from the same sources, none from DNS.
"""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

from milterd.core.mail import parse_message
from milterd.filters.dkim_verify import Verifier
from tests.filters import opendkim_corpus
from tests.filters.dkim_world import Dns

HERE = Path(__file__).with_name("dkim_mails")
KEY_6376 = (
    "MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDwIRP/UC3SBsEmGqZ9ZJW3/DkMoGeLnQg1fWn7/zYt"
    "IxN2SnFCjxOCKG9v3b4jYfcTNh5ijSsq631uBItLa7od+v/RtdC2UzJ1lWT947qR+Rcac2gbto/NMqJ0"
    "fzfVjH4OuKhitdY9tf6mcwGjaNBcWToIMmPSPDdQPNUYckcQ2QIDAQAB"
)
KEY_8463 = (
    "MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDkHlOQoBTzWRiGs5V6NpP3idY6Wk08a5qhdR6wy5bd"
    "OKb2jLQiY/J16JYi0Qvx/byYzCNb3W91y3FutACDfzwQ/BC/e/8uBsCR+yz1Lxj+PL6lHvqMKrM3rG4h"
    "stT5QjvHO9PzoxZyVYLzBfO2EeC3Ip3G+2kryOTIKT+l/K4w3QIDAQAB"
)
RECORDS = {
    "brisbane._domainkey.example.com": f"v=DKIM1; p={KEY_6376}",
    "test._domainkey.football.example.com": f"v=DKIM1; k=rsa; p={KEY_8463}",
    "brisbane._domainkey.football.example.com": (
        "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="
    ),
}


def verdicts(octets: bytes, records: dict[str, str] = RECORDS) -> list[str]:
    lines = octets.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    found = Verifier(Dns(records)).verify(parse_message(lines)).results
    return [each.outcome.value for each in found]


def test_the_mails_of_the_appendices_pass() -> None:
    assert verdicts((HERE / "rfc6376-a.eml").read_bytes()) == ["pass"]
    assert verdicts((HERE / "rfc8463-a.eml").read_bytes()) == ["pass", "pass"]


@pytest.mark.parametrize("name", ["rfc6376-a.eml", "rfc8463-a.eml"])
@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"We lost", b"We won"),
        (b"dinner ready?", b"dinner ready!"),
        (b"joe@", b"jo@"),
        (b"\nTo", b"\nCc"),
    ],
)
def test_and_do_not_once_they_are_changed(name: str, old: bytes, new: bytes) -> None:
    octets = (HERE / name).read_bytes()
    head, blank, body = octets.partition(b"\r\nFrom:")
    assert old in blank + body
    assert set(verdicts(head + (blank + body).replace(old, new))) == {"fail"}


DKIMPY = {
    # tests/test_dkim.py and test_dkim_ed25519.py say so of each.
    "rfc6376.signed.msg": ["pass", "pass"],
    "rfc6376.signed.rsa.msg": ["pass"],
    "rfc6376.signed.no_t.msg": ["fail"],
    "ed25519test2.msg": ["pass"],
    "test.message.baddomain": ["permerror"],
    "test.message": [],
    "rfc6376.msg": [],
    "rfc6376.w1258.msg": [],
    "test_nofrom.message": [],
    "test_extra.message": [],
    "ed25519test.msg": [],
    # Signed with keys that are not kept there: what a resolver says that knows none.
    "test2.message": ["permerror"],
    "message.mbox": ["permerror"],
}
NOT_AS_OPENDKIM = {
    # As docs/dkim.md, "Agreement", has it.
    "t-verify-double-from": "fail",
    "t-verify-revoked": "permerror",
}


if os.environ.get("GATEPOST_CORPORA"):  # at night: it is fetched

    @pytest.fixture(scope="module")
    def dkimpy(tmp_path_factory: pytest.TempPathFactory) -> Path:
        place = tmp_path_factory.mktemp("dkimpy")
        release = f"dkimpy=={importlib.metadata.version('dkimpy')}"
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "-q",
            "--no-deps",
            "--no-binary",
            ":all:",
        ]
        command += ["--no-build-isolation", "-d", str(place), release]
        subprocess.run(command, check=True, timeout=100)
        (archive,) = place.glob("dkimpy-*.tar.gz")
        subprocess.run(["tar", "-xzf", archive, "-C", place], check=True)
        (found,) = place.glob("dkimpy-*/dkim/tests/data")
        return found

    @pytest.mark.parametrize("name", DKIMPY)
    def test_what_comes_with_dkimpy_has_its_verdict(name: str, dkimpy: Path) -> None:
        exim = (dkimpy / "eximtest.dns").read_text()
        records = RECORDS | {"sed._domainkey.test.ex": exim.strip()}
        assert verdicts((dkimpy / name).read_bytes(), records) == DKIMPY[name]

    def test_what_comes_with_opendkim_has_its_verdict(tmp_path: Path) -> None:
        directory = opendkim_corpus.fetch(tmp_path)
        keys = opendkim_corpus.records(directory)
        found = list(opendkim_corpus.scripts(directory))
        assert len(found) == 8
        for each in found:
            expected = NOT_AS_OPENDKIM.get(each.name, each.expected)
            assert (verdicts(each.mail, keys) or ["none"]) == [expected], each.name
