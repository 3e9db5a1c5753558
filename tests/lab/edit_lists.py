"""Mails and edit lists of every kind, from a seed: what a client and a milter can send."""

from __future__ import annotations

import random
from dataclasses import dataclass

from milterd.wire import messages as m

NAMES = [b"Received", b"received", b"Subject", b"SUBJECT", b"X-A", b"x-a", b"X-B", b"To"]
ODD_NAMES = [b"", b"X Bad", b"X\xe9", b"X:Y", b":", b"X\nZ", b"-"]
DOMAINS = [b"example.org", b"Example.ORG", b"example.net"]
LOCALS = [b"a", b"A", b"b", b"c+d", b"e.f", b"o'g", b"h_i"]


@dataclass(frozen=True)
class Case:
    """A mail as the client sends it, and what the milter asks for."""

    message: bytes
    sender: bytes
    sender_args: tuple[bytes, ...]
    recipients: tuple[tuple[bytes, tuple[bytes, ...]], ...]
    edits: tuple[m.EditReply, ...]


def case(seed: int) -> Case:
    """The same for the same seed."""
    chance = random.Random(seed)
    recipients = tuple(
        (_address(chance), _recipient_args(chance)) for _ in range(chance.randint(1, 4))
    )
    return Case(
        _message(chance),
        chance.choice([b"", _address(chance)]),
        _sender_args(chance),
        recipients,
        _edits(chance, [address for address, _ in recipients]),
    )


def _text(chance: random.Random, more: list[bytes]) -> bytes:
    ink = [b"word", b"x", b" ", b"  ", b"\t", b"%", b"\\", b"\xe9", b"\xc3\xbc", b"\xff", b"\x01"]
    return b"".join(chance.choices([*ink, *more], k=chance.randint(0, 9)))


def _value(chance: random.Random, end: bytes) -> bytes:
    """What stands after a colon in a client's mail."""
    space = chance.choice([b" ", b" ", b"", b"\t", b"  "])
    lines = [_text(chance, [b":"]) for _ in range(chance.choice([1, 1, 1, 2, 3]))]
    text = b"".join(each + end + chance.choice([b" ", b"\t", b" \t"]) for each in lines[:-1])
    long = b"y" * chance.choice([0] * 40 + [100, 1000, 3000] * 5 + [59_990, 70_000])
    return space + text + lines[-1] + long


def _message(chance: random.Random) -> bytes:
    names = [*NAMES, *NAMES, b"Bcc", b"Return-Path", b"content-length", b"Resent-Bcc"]
    fields = [
        chance.choice(names) + chance.choice([b"", b"", b"", b" "]) + b":" + _value(chance, b"\r\n")
        for _ in range(chance.randint(0, 7))
    ]
    head = b"".join(each + b"\r\n" for each in fields)
    kind = chance.randint(0, 11)
    if kind == 0:
        return head
    if kind == 1:
        return head + b"no field\r\n" + _body(chance)
    if kind == 2:
        return head + b"\r\n"
    return head + b"\r\n" + _body(chance)


def _body(chance: random.Random) -> bytes:
    lines = [
        _text(chance, [b".", b"\r", b"From "]).rstrip(b"\r") for _ in range(chance.randint(1, 6))
    ]
    long = b"z" * chance.choice([0] * 20 + [998, 5000, 70_000])
    return b"\r\n".join([*lines, long]) + chance.choice([b"\r\n", b"\r\n", b""])


def _milters_value(chance: random.Random) -> bytes:
    """What a milter can send: folds with and without white space, CR, CRLF, nothing."""
    kind = chance.randint(0, 9)
    if kind == 0:
        return b""
    if kind == 1:
        return chance.choice([b" ", b"\t", b"\n", b"\r", b"\r\n", b"\n\n", b" \n "])
    odd = [b"\n ", b"\n\t", b"\r\n ", b"\n", b"\r", b"\r\n"]
    text = _text(chance, odd if kind < 6 else [b"\n ", b"\n\t"])
    long = chance.choice([b""] * 30 + [b"v" * 70_000, b"\n ".join([b"w" * 997] * 70)])
    return text + long


def _edits(chance: random.Random, people: list[bytes]) -> tuple[m.EditReply, ...]:
    made = [_edit(chance, people) for _ in range(chance.choice([0, 1, 1, 2, 3, 4, 6, 8]))]
    if chance.random() < 0.2:
        # Of one recipient, in either case: whether it is there then depends on the order.
        person = [chance.choice(people)]
        made += [_of_recipient(chance, person) for _ in range(chance.randint(2, 5))]
    if chance.random() < 0.3:
        at = chance.randint(0, len(made))
        made[at:at] = _new_body(chance)
        if chance.random() < 0.05:
            made[at + 1 : at + 1] = [_edit(chance, people)]  # between two pieces, perhaps
    return tuple(made)


def _new_body(chance: random.Random) -> list[m.EditReply]:
    odd = [b"\r\n", b"\r\n", b"\n", b"\r", b"\r\r\n", b"\n\n", b".", b"\0"]
    whole = b"".join(_text(chance, odd) for _ in range(chance.randint(0, 5)))
    whole += chance.choice([b""] * 8 + [b"long line " * 7000])
    pieces, at = [], 0
    while at < len(whole) or not pieces:
        size = chance.choice([1, 2, 7, 65_535])
        pieces.append(whole[at : at + size])
        at += size
    return [m.ReplaceBodyChunk(each) for each in pieces]


def _of_recipient(chance: random.Random, people: list[bytes]) -> m.EditReply:
    address = chance.choice(people)
    if chance.random() < 0.4:
        address = address.swapcase()
    kind = chance.randint(0, 2)
    if kind == 0:
        return m.DelRcptReply(b"<" + address + b">")
    if kind == 1:
        return m.AddRcptReply(b"<" + address + b">")
    return m.AddRcptParReply(b"<" + address + b">", b" ".join(_recipient_args(chance)))


def _edit(chance: random.Random, people: list[bytes]) -> m.EditReply:
    name = chance.choice(NAMES if chance.random() < 0.93 else ODD_NAMES)
    kind = chance.randint(0, 13)
    if kind <= 2:
        return m.AddHeaderReply(name, _milters_value(chance))
    if kind <= 5:
        index = chance.choice([0, 0, 1, 1, 2, 3, 4, 5, 8, 20, 2**31 - 1, 2**32 - 2])
        return m.InsertHeaderReply(index, name, _milters_value(chance))
    if kind <= 9:
        index = chance.choice([0, 1, 1, 1, 2, 2, 3, 4, 9, 2**31 - 1])
        value = b"" if chance.random() < 0.35 else _milters_value(chance)
        return m.ChangeHeaderReply(index, name, value)
    if kind <= 12 and chance.random() < 0.5:
        return _of_recipient(chance, people)
    address = _bracketed(chance)
    if kind == 10:
        return m.AddRcptReply(address)
    if kind == 11:
        args = b" ".join([*_recipient_args(chance), *chance.choice([(), (b"FOO=bar",)])])
        return m.AddRcptParReply(address, args)
    if kind == 12:
        return m.DelRcptReply(address)
    args = b" ".join([*_sender_args(chance), *chance.choice([(), (b"SIZE=9",)])])
    return m.ChangeFromReply(chance.choice([b"<>", address]), args)


def _address(chance: random.Random) -> bytes:
    return chance.choice(LOCALS) + b"@" + chance.choice(DOMAINS)


def _bracketed(chance: random.Random) -> bytes:
    address = chance.choice([_address(chance)] * 8 + [chance.choice(LOCALS)])
    return address if chance.random() < 0.2 else b"<" + address + b">"


def _recipient_args(chance: random.Random) -> tuple[bytes, ...]:
    notify = [b"NOTIFY=NEVER", b"NOTIFY=SUCCESS,FAILURE", b"notify=delay"]
    orcpt = [b"ORCPT=rfc822;a@example.org", b"ORCPT=rfc822;plus+2Bsign@example.org"]
    given = [chance.choice(notify)] if chance.random() < 0.3 else []
    return (*given, chance.choice(orcpt)) if chance.random() < 0.2 else tuple(given)


def _sender_args(chance: random.Random) -> tuple[bytes, ...]:
    given = [chance.choice([b"RET=FULL", b"RET=HDRS"])] if chance.random() < 0.3 else []
    envid = [b"ENVID=one", b"ENVID=two+2Bthree"]
    return (*given, chance.choice(envid)) if chance.random() < 0.3 else tuple(given)
