"""What `send --as postfix` shows is what a real Postfix queues: mails and edits of every kind."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator

import pytest

from milterd.core.mail import Client, Envelope, Family, Mail, Recipient, Session, parse_message
from milterd.lab.client import Played, play
from milterd.lab.postfix import QUEUE_ID
from tests.lab import edit_lists
from tests.lab.edit_lists import Case
from tests.lab.postfix_queue import (
    Asking,
    Person,
    Queued,
    asking,
    flags_of,
    read_back,
    submit,
)
from tests.peers.postfix import Postfix, postfix

CASES = 500
MAIN = {
    "smtpd_milters": "unix:m.sock",
    "local_header_rewrite_clients": "",
    "hopcount_limit": "1000",
}
_SESSION = Session(Client(b"[127.0.0.1]", Family.INET, b"127.0.0.1", 1), b"", macros={
    "j": b"postfix.example.org",
})  # fmt: skip


@pytest.fixture(scope="module")
def mta() -> Iterator[Postfix]:
    with postfix(MAIN) as running:
        yield running


def mail_of(name: bytes, case: Case) -> Mail:
    """The case as the lab plays it."""
    parsed = parse_message(case.message)
    people = tuple(Recipient(*each) for each in case.recipients)
    session = Session(_SESSION.client, name, macros=_SESSION.macros)
    envelope = Envelope(case.sender, case.sender_args, people)
    return Mail(session, envelope, parsed.headers, parsed.body, parsed.separator)


async def _play_all(address: str, cases: dict[bytes, Case]) -> dict[bytes, Played]:
    return {name: await play(address, mail_of(name, case)) for name, case in cases.items()}


def _own(octets: bytes, queue_id: bytes) -> bytes:
    """The mail with the MTA's own Received field, which has its queue id and a date, set aside."""
    field = (
        rb"Received: from [^\r]*\r\n\tby [^\r]* id %b(?:;|\r\n\tfor <[^>\r]*>;)\s[^\r]*" % queue_id
    )
    own, count = re.subn(field, b"Received: (own)", octets)
    assert count <= 1, octets  # none, where a milter deleted it
    return own


def _near(ours: bytes, theirs: bytes) -> str:
    """Both from shortly before the first octet that differs."""
    pairs = enumerate(zip(ours, theirs, strict=False))
    at = next((at for at, (one, other) in pairs if one != other), min(len(ours), len(theirs)))
    start = max(0, at - 60)
    return f"octet {at}:\n  {ours[start : at + 60]!r}\n  {theirs[start : at + 60]!r}"


def _argument(args: tuple[bytes, ...], name: bytes) -> bytes:
    found = [each.partition(b"=")[2] for each in args if each.upper().startswith(name + b"=")]
    return found[-1] if found else b""


def _plain(xtext: bytes) -> bytes:
    """RFC 3461 section 4."""
    return re.sub(rb"\+([0-9A-F]{2})", lambda each: bytes.fromhex(each[1].decode()), xtext)


def _people(mail: Mail, clients: Mail) -> list[Person]:
    """The lab's recipients as Postfix's queue has them."""
    found = []
    for each in mail.envelope.recipients:
        orcpt = _plain(_argument(each.args, b"ORCPT"))
        if not orcpt and any(each is one for one in clients.envelope.recipients):
            orcpt = b"rfc822;" + each.address
        found.append((each.address, orcpt, flags_of(_argument(each.args, b"NOTIFY"))))
    return found


def differences(played: Played, queued: Queued) -> list[str]:
    """What the lab has otherwise than the queue."""
    found = []
    ours = _own(b"".join(played.after.pieces()), QUEUE_ID)
    theirs = _own(queued.octets, queued.queue_id)
    if ours != theirs:
        found.append(f"message, {_near(ours, theirs)}")
    envelope = played.after.envelope
    flag = {b"FULL": b"1", b"HDRS": b"2", b"": b""}[_argument(envelope.sender_args, b"RET").upper()]
    envid = _plain(_argument(envelope.sender_args, b"ENVID"))
    names = [each.partition(b"=")[0].upper() for each in envelope.sender_args]
    if len(set(names)) < len(names):
        found.append(f"the same parameter twice: {envelope.sender_args!r}")
    if (envelope.sender, flag, envid) != (queued.sender, queued.ret, queued.envid):
        found.append(f"sender: {envelope} {queued}")
    if _people(played.after, played.before) != list(queued.recipients):
        found.append(f"recipients: {envelope.recipients} {queued.recipients}")
    return found


def compare(mta: Postfix, milter: Asking, cases: dict[bytes, Case]) -> tuple[list[str], int]:
    """Send the cases both ways; the differences, and how many were queued."""
    answers = submit(mta.port, cases)
    heard = dict(milter.heard)
    milter.heard = {}
    played = asyncio.run(_play_all(f"unix:{milter.path}", cases))
    ids = {name: each.rpartition(b" ")[2] for name, each in answers.items() if b"queued as" in each}
    queue = read_back(mta, list(ids.values()))
    found = []
    for name, case in cases.items():
        one, said = played[name], answers[name]
        if name in ids:
            wrong = differences(one, queue[ids[name]])
        else:
            told = f"{one.reply.code} {one.reply.enhanced} {one.reply.text}" if one.reply else ""
            wrong = [] if told.encode() == said else [f"answer: {told} {said!r}"]
        if milter.heard[name] != heard[name]:
            shown = repr(milter.heard[name]).encode(), repr(heard[name]).encode()
            wrong.append(f"shown, {_near(*shown)}")
        found += [f"{name.decode()} {str(case.edits)[:500]} {each}" for each in wrong]
    return found, len(ids)


def test_what_send_shows_is_what_postfix_queues(
    mta: Postfix, record_property: Callable[[str, object], None]
) -> None:
    cases = {b"c%d" % seed: edit_lists.case(seed) for seed in range(CASES)}
    listed = list(cases.items())
    halves = dict(listed[::2]), dict(listed[1::2])
    wrong: list[str] = []
    queued = 0
    with asking(mta.queue / "m.sock", cases) as milter:
        for spaces, half in zip((False, True), halves, strict=True):
            milter.spaces = spaces
            found, count = compare(mta, milter, half)
            wrong += found
            queued += count
    edits = sum(len(each.edits) for each in cases.values())
    record_property(
        "measured",
        f"{CASES} mails with {edits} edits through Postfix and `send --as postfix`: "
        f"{queued} queued, {CASES - queued} refused, {len(wrong)} differences",
    )
    assert not wrong, f"{len(wrong)} differences; the first:\n" + "\n".join(wrong[:12])
