"""Mails for the roads: made up, signed by one of others' signers, and judged by all verifiers."""

from __future__ import annotations

import random
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import dkim

from milterd.core.mail import parse_message
from milterd.filters.dkim import DkimFilter, DkimOptions, SigningKey
from milterd.filters.dkim_verify import Verifier
from tests.filters.dkim_milter import edits_by, results_by
from tests.filters.dkim_world import ED25519, RSA, Dns
from tests.filters.test_dkim_interop import body, value
from tests.filters.verifiers import Verifiers
from tests.peers import opendkim

OURS = ("r", "e")
OTHERS = ("peer", "perl", "py")
"""Selectors of OpenDKIM, Mail::DKIM and dkimpy."""
RECORDS = {f"{each}._domainkey.example.net": RSA.record for each in ("r", *OTHERS)}
RECORDS["e._domainkey.example.net"] = ED25519.record
LINE_LIMIT = 998
SCRIPT = Path(__file__).with_name("mail_dkim_sign.pl")


def mails(count: int, seed: int) -> list[bytes]:
    """Mails that an MTA sends on as they came: their addresses are whole, and no line is longer
    than one may be (RFC 5321 section 4.5.3.1.6)."""
    chance = random.Random(seed)
    return [_mail(chance, number) for number in range(count)]


def _mail(chance: random.Random, number: int) -> bytes:
    fields = [
        b"From: A <a@example.net>",
        b"To: b@example.org",
        b"Subject:" + value(chance),
        b"Date: Fri, 21 Nov 2025 09:00:00 +0000",
        b"Message-ID: <%d@example.net>" % number,
        b"X-Number: %d" % number,
        *(chance.choice((b"X-Other:", b"LIST-id:", b"x-odd:")) + value(chance) for _ in range(2)),
    ]
    lines = [each[:LINE_LIMIT] for each in body(chance).split(b"\r\n")]
    return b"\r\n".join(fields) + b"\r\n\r\n" + b"\r\n".join(lines)


def whole(octets: bytes) -> bytes:
    """As SMTP carries it: the last line has its end."""
    return octets if octets.endswith(b"\r\n") else octets + b"\r\n"


def signed_by_others(those: Sequence[bytes], form: str, home: Path) -> list[bytes]:
    """Each mail under a signature by OpenDKIM, Mail::DKIM or dkimpy, in turn."""
    found = [whole(each) for each in those]
    _by_opendkim(found, form, home)
    _by_mail_dkim(found, form, home)
    private = (home / "r.pem").read_bytes()
    forms = tuple(each.encode() for each in form.split("/"))
    for at in range(2, len(found), 3):
        found[at] = dkim.sign(found[at], b"py", b"example.net", private, None, forms) + found[at]
    return found


def _by_opendkim(found: list[bytes], form: str, home: Path) -> None:
    place = home / "opendkim"
    place.mkdir()
    key = opendkim.Key(home / "r.pem", RSA.record)
    with opendkim.opendkim(place, "s", key=key, Canonicalization=form) as peer:
        for at in range(0, len(found), 3):
            mail = edits_by(str(peer.socket), parse_message(found[at]))
            found[at] = b"".join(mail.pieces())


def _by_mail_dkim(found: list[bytes], form: str, home: Path) -> None:
    paths = [home / f"{at}.perl" for at in range(1, len(found), 3)]
    for path in paths:
        path.write_bytes(found[int(path.stem)])
    command = ["perl", SCRIPT, form, "example.net", "perl", home / "r.pem"]
    subprocess.run([*command, *paths], check=True)
    for path in paths:
        found[int(path.stem)] = path.read_bytes()


def judge(arrived: Sequence[bytes], home: Path) -> None:
    """Four verifiers pass all three signatures of every mail; Debian's Mail::DKIM does not know
    Ed25519, nor does dkimpy without PyNaCl."""
    mails = [re.sub(rb"\r?\n", b"\r\n", each) for each in arrived]
    perl = Verifiers(_keys(home), home).mail_dkim(mails)
    place = home / "verifier"
    place.mkdir()
    with opendkim.opendkim(place, "v", records=RECORDS) as peer:
        for octets, by_perl in zip(mails, perl, strict=True):
            mail = parse_message(octets)
            found = Verifier(Dns(RECORDS)).verify(mail).results
            selectors = {each.selector for each in found}
            assert len(found) == 3
            assert {*OURS} < selectors
            assert {each.outcome.value for each in found} == {"pass"}, octets
            assert results_by(str(peer.socket), mail) == dict.fromkeys(selectors, "pass"), octets
            known = dict.fromkeys(selectors - {"e"}, "pass")
            assert {each: by_perl.get(each) for each in known} == known, octets
            assert _by_dkimpy(octets, [each.algorithm for each in found]) == [True, True], octets


def _by_dkimpy(octets: bytes, algorithms: Sequence[str]) -> list[bool]:
    """What dkimpy says of the RSA signatures."""

    def resolve(name: bytes, timeout: int = 5) -> bytes | None:
        return RECORDS[name.decode().rstrip(".")].encode()

    judged = dkim.DKIM(octets)
    those = (at for at, each in enumerate(algorithms) if each.startswith("rsa"))
    return [judged.verify(idx=at, dnsfunc=resolve) for at in those]


def _keys(home: Path) -> DkimFilter:
    """A filter that knows the names and records of all keys."""
    rows = [SigningKey("example.net", each, home / "r.pem") for each in ("r", *OTHERS)]
    rows.append(SigningKey("example.net", "e", home / "e.pem"))
    return DkimFilter(DkimOptions(tuple(rows)))


def results(octets: bytes, records: Mapping[str, str] = RECORDS) -> list[str]:
    """What our verifier says of each signature."""
    mail = parse_message(re.sub(rb"\r?\n", b"\r\n", octets))
    found = Verifier(Dns(records)).verify(mail).results
    return [f"{each.outcome.value} {each.why}".rstrip() for each in found]
