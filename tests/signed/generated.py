"""Generated mails under several signatures, and rules that want to change them."""

from __future__ import annotations

import base64
import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import dkim

from milterd.core.mail import HeaderField, Mail, parse_message
from milterd.signed.canonical import Header
from milterd.signed.dkim_hash import covered, digest, hash_body
from tests.filters.dkim_world import NOW, RSA
from tests.filters.test_dkim_interop import body as odd_body

DOMAIN = "example.net"
SELECTORS = ("a", "b", "c", "peer", "py")
RECORDS = {f"{each}._domainkey.{DOMAIN}": RSA.record for each in SELECTORS}
FORMS = ("relaxed", "simple")
NAMES = ("Subject", "To", "Reply-To", "X-A", "X-B", "Comments", "List-Id", "User-Agent")
WORDS = (b"one", b"two", b"(a note)", b"<l@example.org>", b"x" * 30, b"Gr\xc3\xbc\xc3\x9fe", b"1")
SPACES = (b" ", b" ", b"  ", b"\t", b"\r\n ", b"\r\n\t  ")

Signer = Callable[[Mail, random.Random], Mail]


@dataclass(frozen=True)
class Case:
    """A mail and a rule set's text."""

    number: int
    mail: Mail
    rules: str


def value(chance: random.Random) -> bytes:
    """A field's value, folded now and then."""
    words = [chance.choice(WORDS) for _ in range(chance.randrange(1, 5))]
    text = chance.choice((b" ", b" ", b"", b"  "))
    for word in words:
        text += word + chance.choice(SPACES)
    return text.rstrip() + chance.choice((b"", b"", b"", b" "))


def body(chance: random.Random) -> bytes:
    """One that an MTA sends on as it came."""
    text = re.sub(rb"z{300,}", b"z" * 300, odd_body(chance)).replace(b"\r\n.", b"\r\n,")
    text = text.removeprefix(b".")
    if max(map(len, text.split(b"\r\n"))) > 900:
        text = b"short\r\n"
    return text if text.endswith(b"\r\n") else text + b"\r\n"


def plain(chance: random.Random, number: int) -> Mail:
    """A mail without signatures, with fields that are there once, more often, or not at all."""
    fields = [
        (chance.choice(NAMES).encode(), value(chance)) for _ in range(chance.randrange(1, 10))
    ]
    fields.append((b"From", b" A <a@example.net>"))
    fields.append((b"Date", b" Fri, 21 Nov 2025 09:00:00 +0000"))
    fields.append((b"Message-ID", b" <%d@example.net>" % number))
    fields.append((b"X-Case", b" %d" % number))
    chance.shuffle(fields)
    head = b"".join(b"%b:%b\r\n" % each for each in fields)
    return parse_message(head + b"\r\n" + body(chance))


def _names(mail: Mail, chance: random.Random) -> list[str]:
    """An `h=`: some names, each as often as it is there, or less often, or more."""
    found = ["from"] * chance.choice((1, 1, 2))
    for name in NAMES:
        if chance.random() < 0.6:
            there = len(mail.values(name.encode()))
            found += [name.lower()] * max(0, there + chance.choice((-1, 0, 0, 0, 1)))
    chance.shuffle(found)
    return found


def ours(selector: str) -> Signer:
    """A signer that takes every liberty of RFC 6376."""

    def sign(mail: Mail, chance: random.Random) -> Mail:
        header_form, body_form = chance.choice(FORMS), chance.choice(FORMS)
        hashes = hash_body(mail.body, body_form)
        hashed, length = hashes.whole, ""
        if chance.random() < 0.25:
            first = chance.randrange(hashes.size + 1)
            hashed = hash_body(mail.body, body_form, [first]).first[first]
            length = f" l={first};"
        names = _names(mail, chance)
        space = chance.choice((" ", "\r\n\t"))
        text = (
            f" v=1; a=rsa-sha256; c={header_form}/{body_form}; d={DOMAIN}; s={selector};{length}"
            f"{space}t={NOW}; h={':'.join(names)};{space}bh={base64.b64encode(hashed).decode()}; b="
        )
        field = HeaderField(b"DKIM-Signature", text.encode())
        octets = covered(Header(mail.headers), [each.encode() for each in names], header_form)
        made = bytearray(RSA.sign(digest(octets, field, header_form)))
        made[0] ^= chance.random() < 0.1  # now and then it is not good
        field = HeaderField(field.name, field.value + base64.b64encode(made))
        return mail.with_headers((field, *mail.headers))

    return sign


def dkimpy(private: bytes) -> Signer:
    """dkimpy with a header list."""

    def sign(mail: Mail, chance: random.Random) -> Mail:
        signer = dkim.DKIM(b"".join(mail.pieces()))
        signer.should_not_sign = set()  # it warns of Comments
        made = signer.sign(
            b"py", DOMAIN.encode(), private,
            canonicalize=(chance.choice(FORMS).encode(), chance.choice(FORMS).encode()),
            include_headers=[each.encode() for each in _names(mail, chance)],
            length=chance.random() < 0.2,
        )  # fmt: skip
        field = parse_message(made + b"\r\n").headers[0]
        return mail.with_headers((field, *mail.headers))

    return sign


def case(number: int, signers: Sequence[Signer], chance: random.Random) -> Case:
    """A mail under one to three signatures, with its rules."""
    mail = plain(chance, number)
    for sign in chance.sample(signers, chance.choice((1, 1, 2, 3))):
        mail = sign(mail, chance)
    rules = [_rule(chance) for _ in range(chance.randrange(1, 5))]
    head = f'name = "case{number}"\ndescription = "Generated."\n'
    return Case(number, mail, head + "".join(map(_text, range(len(rules)), rules)))


def _rule(chance: random.Random) -> dict[str, object]:
    name = chance.choice((*NAMES, *NAMES, "From", "DKIM-Signature"))
    other = chance.choice(NAMES)
    word = chance.choice(("one", "two", "new", "one two"))
    kinds: list[dict[str, object]] = [
        {"action": "remove", "header": name},
        {"action": "remove", "header": name, "value": word},
        {"action": "remove", "header": name, "nth": chance.choice((1, 2, -1))},
        {"action": "replace", "header": name, "value": chance.choice((word, r"\s+")), "with": " "},
        {"action": "replace", "header": name, "value": "one", "with": word},
        {"action": "replace", "header": name, "with": word, "nth": chance.choice((1, -1))},
        {"action": "rename", "header": name, "with": other},
        {"action": "limit", "header": name, "keep": chance.choice(("first", "last"))},
        {"action": "add", "header": other, "with": word, "at": chance.choice(("top", "bottom"))},
        {"action": "add", "header": other, "with": word, "if_missing": True},
        {"action": "insert", "header": other, "with": word, "position": chance.randrange(1, 9)},
        {"action": "prepend", "header": name, "with": f"{other}: {word}"},
        {"action": "fold", "header": name, "width": chance.choice((20, 40))},
        {"action": "strip-comments", "header": name},
    ]
    if name == "DKIM-Signature":
        # Rewritten it is malformed, and then OpenDKIM says nothing of the others either.
        kinds = [each for each in kinds if each["action"] in ("remove", "limit", "fold", "add")]
    on_signed = chance.choice(("skip", "skip", "force", "force", "reject"))
    return chance.choice(kinds) | {"on_signed": on_signed}


def _text(number: int, rule: dict[str, object]) -> str:
    keys = "".join(f"{key} = {json.dumps(each)}\n" for key, each in rule.items())
    example = 'direction = "inbound"\nbefore = ["X: 1"]\nafter = ["X: 1"]\n'
    return f'\n[[rule]]\nname = "r{number}"\n{keys}\n[[rule.example]]\n{example}'
