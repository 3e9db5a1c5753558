"""Generated mails, signed by us for other people's verifiers, and by other people for ours.

GATEPOST_DKIM_MAILS says how many, GATEPOST_SEED which.
"""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import dkim
import pytest

from milterd.core.mail import Mail, parse_message
from milterd.filters.dkim import DkimFilter, DkimOptions, SigningKey
from milterd.filters.dkim_verify import Verifier
from tests.filters.dkim_milter import edits_by, results_by
from tests.filters.dkim_world import ED25519, NOW, RSA, Dns, originating, signed, write_key
from tests.filters.verifiers import Verifiers
from tests.peers import opendkim
from tests.peers.process import directory

COUNT = int(os.environ.get("GATEPOST_DKIM_MAILS", "60"))
SEED = int(os.environ.get("GATEPOST_SEED", "6376"))
FORMS = [(header, body) for header in ("relaxed", "simple") for body in ("relaxed", "simple")]
WORDS = (
    b"one",
    b"two",
    b"Gr\xc3\xbc\xc3\x9fe",
    b"\xe4\xff",
    b"=?utf-8?q?x?=",
    b"x" * 70,
    b";",
    b"a=b",
)
NAMES = (b"Subject", b"To", b"Cc", b"Message-ID", b"X-Other", b"LIST-id", b"content-type",
         b"MIME-Version", b"References", b"Reply-To", b"Resent-From")  # fmt: skip


def value(chance: random.Random) -> bytes:
    """A field's value with odd folds and white space."""
    parts = []
    for _ in range(chance.randrange(6)):
        parts.append(chance.choice((b" ", b"\t", b"  ", b"\r\n ", b"\r\n\t", b" \r\n  ", b" \t ")))
        parts.append(chance.choice(WORDS))
    parts.append(chance.choice((b"", b"", b" ", b"\t ", b"\r\n end")))
    return b"".join(parts)


def body(chance: random.Random) -> bytes:
    """A body with odd line ends, white space, 8-bit, long lines, or nothing at all."""
    kind = chance.randrange(8)
    if kind == 0:
        return chance.choice((b"", b"\r\n", b"\r\n\r\n\r\n", b" \r\n\t\r\n", b" "))
    lines = []
    for _ in range(chance.randrange(1, 40)):
        line = chance.choice((b"", b" ", b"\t")).join(
            chance.choice((b"word", b"W\xf6rd", b".", b" ", b"\t", b"-- ", b"z" * 990))
            for _ in range(chance.randrange(8))
        )
        lines.append(line + chance.choice((b"", b"", b" ", b"\t \t")))
    text = b"\r\n".join(lines)
    return text + chance.choice((b"\r\n", b"\r\n", b"\r\n\r\n\r\n", b"", b" \r\n \r\n", b" "))


def generated(chance: random.Random) -> bytes:
    """A mail of example.net."""
    fields = [(chance.choice(NAMES), value(chance)) for _ in range(chance.randrange(8))]
    author = chance.choice((b" a@example.net", b"a@example.net", b" \"x\" <a@example.net>",
                            b"\r\n\t<a@EXAMPLE.net> (c)  "))  # fmt: skip
    fields.insert(chance.randrange(len(fields) + 1), (b"From", author))
    return b"".join(b"%b:%b\r\n" % each for each in fields) + b"\r\n" + body(chance)


@pytest.fixture(scope="module")
def mails() -> list[bytes]:
    chance = random.Random(SEED)
    return [generated(chance) for _ in range(COUNT)]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("keys")
    write_key(home / "r.pem", RSA)
    write_key(home / "e.pem", ED25519)
    return home


@pytest.fixture
def home() -> Iterator[Path]:
    with directory("interop") as found:
        yield found


def filter_of(keys: Path, forms: tuple[str, str] = ("relaxed", "relaxed")) -> DkimFilter:
    rows = tuple(SigningKey("example.net", each, keys / f"{each}.pem") for each in ("r", "e"))
    return DkimFilter(DkimOptions(rows, forms=forms), lambda: NOW)


def complete(octets: bytes) -> bytes:
    """As a verifier gets it: the last line has its end."""
    return octets if octets.endswith(b"\r\n") else octets + b"\r\n"


def octets_of(mail: Mail) -> bytes:
    return complete(b"".join(mail.pieces()))


def verdicts(mail: Mail, records: dict[str, str]) -> list[str]:
    """What we say of each signature, with the reason for all but a pass."""
    found = Verifier(Dns(records), clock=time.time).verify(mail).results
    return [f"{each.outcome.value} {each.why}".rstrip() for each in found]


@pytest.mark.parametrize("forms", FORMS, ids="/".join)
def test_everybody_passes_what_we_sign(
    forms: tuple[str, str], keys: Path, mails: list[bytes], tmp_path: Path, home: Path
) -> None:
    filter_ = filter_of(keys, forms)
    share = mails[FORMS.index(forms) :: len(FORMS)]
    ours = [octets_of(signed(filter_, each)) for each in share]
    others = Verifiers(filter_, tmp_path)
    records = filter_.records()
    for number in range(0, len(ours), 100):
        some = ours[number : number + 100]
        for source, found in zip(some, others.mail_dkim(some), strict=True):
            assert found["r"] == "pass", source
    with opendkim.opendkim(home, "v", records=records) as peer:
        for source in ours:
            mail = parse_message(source)
            # As a milter: its test mode trims header fields, which the simple form notices.
            assert results_by(str(peer.socket), mail) == {"r": "pass", "e": "pass"}, source
            assert verdicts(mail, records) == ["pass", "pass"], source

    def resolve(name: bytes, timeout: int = 5) -> bytes | None:
        return records[name.decode().rstrip(".")].encode()

    for source in ours[: max(15, COUNT // 8)]:
        # Without PyNaCl it knows RSA only.
        assert dkim.DKIM(source).verify(idx=0, dnsfunc=resolve), source


@pytest.mark.parametrize("forms", FORMS, ids="/".join)
def test_we_pass_what_opendkim_signs(
    forms: tuple[str, str], keys: Path, mails: list[bytes], home: Path
) -> None:
    (home / "k.pem").write_bytes((keys / "r.pem").read_bytes())
    key = opendkim.Key(home / "k.pem", RSA.record)
    settings = {"Canonicalization": "/".join(forms), "OversignHeaders": "From,Subject"}
    with opendkim.opendkim(home, "s", key=key, **settings) as peer:
        for source in mails[FORMS.index(forms) :: len(FORMS)]:
            # An MTA ends every line; of one without an end OpenDKIM hashes no end.
            mail = parse_message(complete(source))
            theirs = edits_by(str(peer.socket), mail)
            assert len(theirs.headers) == len(mail.headers) + 1, source
            assert verdicts(theirs, key.records) == ["pass"], source


@pytest.mark.parametrize("forms", FORMS, ids="/".join)
def test_we_pass_what_mail_dkim_signs(
    forms: tuple[str, str], keys: Path, mails: list[bytes], tmp_path: Path
) -> None:
    share = mails[FORMS.index(forms) :: len(FORMS)]
    for number, source in enumerate(share):
        (tmp_path / f"{number}.eml").write_bytes(complete(source))
    paths = [str(tmp_path / f"{number}.eml") for number in range(len(share))]
    script = Path(__file__).with_name("mail_dkim_sign.pl")
    command = ["perl", script, "/".join(forms), "example.net", "r", keys / "r.pem", *paths]
    subprocess.run(command, check=True)
    records = {"r._domainkey.example.net": RSA.record}
    for path in paths:
        source = Path(path).read_bytes()
        assert verdicts(parse_message(source), records) == ["pass"], source


@pytest.mark.parametrize("forms", FORMS, ids="/".join)
def test_we_pass_what_dkimpy_signs(forms: tuple[str, str], keys: Path, mails: list[bytes]) -> None:
    records = {"r._domainkey.example.net": RSA.record}
    private = (keys / "r.pem").read_bytes()
    canonical = tuple(each.encode() for each in forms)
    for source in mails[FORMS.index(forms) :: len(FORMS)][: max(15, COUNT // 8)]:
        octets = complete(source)
        field = dkim.sign(octets, b"r", b"example.net", private, canonicalize=canonical)
        assert verdicts(parse_message(field + octets), records) == ["pass"], source


def test_the_generator_makes_what_it_says(mails: list[bytes]) -> None:
    assert any(each.endswith(b"\r\n\r\n") for each in mails)
    assert any(not each.endswith(b"\r\n") for each in mails)
    assert any(b"\xff" in each for each in mails)
    assert any(max(map(len, each.split(b"\r\n"))) > 998 for each in mails)
    assert all(originating(each).values(b"From") for each in mails)
