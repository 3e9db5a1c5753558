"""The mails that the scenarios send, and the judgement of what arrives."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence

from tests.filters.clamd_peer import attachment, eicar, zipped
from tests.peers import mail_dkim, opendkim

AGENT = b"User-Agent: Something 1.0"
FORGED = b"X-Virus-Scanned: by everybody, honestly"
SIGNATURE = "Eicar-Test-Signature"
"""What clamd calls the test virus, by rules/eicar.ndb."""

ORDINARY = (
    b"From: A <a@example.net>\r\n"
    b"To: u@example.net\r\n"
    b"Subject: Gr\xc3\xbc\xc3\x9fe,\r\n\tfolded  oddly\r\n"
    b"Date: Fri, 21 Nov 2025 09:00:00 +0000\r\n"
    b"Message-ID: <1@example.net>\r\n" + FORGED + b"\r\n" + AGENT + b"\r\n"
    b"x-virus-scanned: and twice\r\n"
    b"\r\n"
    b"hello\r\n.\r\n..dots\r\n\r\ntrailing space \r\n"
)
BODY = ORDINARY.partition(b"\r\n\r\n")[2]


def infected() -> bytes:
    """A mail with the EICAR test file in a zip archive in base64."""
    return attachment(zipped(eicar()))


def infected_attachment() -> bytes:
    """The archive alone, in base64."""
    return base64.encodebytes(zipped(eicar()))


def fields(mail: bytes, name: str) -> list[bytes]:
    """The values of every field of that name, unfolded; either kind of line end."""
    head = mail.replace(b"\r\n", b"\n").partition(b"\n\n")[0] + b"\n"
    found = re.findall(rb"(?im)^%b[ \t]*:((?:.*\n)(?:[ \t].*\n)*)" % re.escape(name.encode()), head)
    return [b" ".join(each.split()) for each in found]


def signed_by(mail: bytes, records: Mapping[str, str]) -> set[tuple[str, str, str]]:
    """(judge, algorithm, domain) for every signature that a judge finds good.

    OpenDKIM's test mode judges one signature of a mail, so each is shown to it alone.
    """
    whole = _crlf(mail)
    good = {
        ("Mail::DKIM", each["algorithm"], each["domain"])
        for each in mail_dkim.verify(whole, records)
        if each["result"] == "pass"
    }
    for text, only in _each_signature(whole):
        tags = dict(re.findall(r"\b(\w+)=([^;\s]*)", text))
        if "succeeded" in opendkim.verify(only, records):
            good.add(("OpenDKIM", tags["a"], tags["d"]))
    return good


def good_signatures(domain: str) -> set[tuple[str, str, str]]:
    """What :func:`signed_by` says of our mail.  Debian 12's Mail::DKIM knows no Ed25519."""
    return {
        ("Mail::DKIM", "rsa-sha256", domain),
        ("OpenDKIM", "rsa-sha256", domain),
        ("OpenDKIM", "ed25519-sha256", domain),
    }


def check_treated(mail: bytes, records: Mapping[str, str], domain: str = "example.net") -> None:
    """All three filters did their work on a mail that was sent from here."""
    assert signed_by(mail, records) == good_signatures(domain)
    assert fields(mail, "User-Agent") == []
    scanned = fields(mail, "X-Virus-Scanned")
    assert len(scanned) == 1, scanned
    assert scanned[0].startswith(b"clamav at ")


def check_from_outside(mail: bytes) -> None:
    """The scanner's mark is on a mail that is not from here, and nothing of it but forgeries is
    gone."""
    scanned = fields(mail, "X-Virus-Scanned")
    assert [each.partition(b" mx")[0] for each in scanned] == [b"clamav at"], scanned
    assert fields(mail, "DKIM-Signature") == []
    assert fields(mail, "User-Agent") != []


def check_marked(mail: bytes) -> None:
    """What was found in a mail is said in its header, for whoever files it."""
    (status,) = fields(mail, "X-Virus-Status")
    assert status.startswith(b"infected ("), status
    assert SIGNATURE.encode() in status


def check_infected(code: int, text: str) -> None:
    """The refusal of an infected mail names the signature."""
    assert code == 550, text
    assert text.startswith("5.7.1 "), text
    assert SIGNATURE in text


def zone(text: str) -> dict[str, str]:
    """The TXT records of a zone file, by name."""
    lines = [line.partition(" IN TXT ") for line in text.splitlines()]
    return {
        name.removesuffix("."): "".join(re.findall(r'"([^"]*)"', value)) for name, _, value in lines
    }


def _crlf(mail: bytes) -> bytes:
    return mail.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")


def _each_signature(mail: bytes) -> Sequence[tuple[str, bytes]]:
    """Each DKIM-Signature field, with the mail that has this one only."""
    found = list(re.finditer(rb"(?im)^DKIM-Signature:.*\r\n(?:[ \t].*\r\n)*", mail))
    head_end = mail.index(b"\r\n\r\n")
    found = [each for each in found if each.start() < head_end]
    alone = []
    for kept in found:
        only = mail
        for other in reversed(found):
            if other is not kept:
                only = only[: other.start()] + only[other.end() :]
        alone.append((kept[0].decode(), only))
    return alone
