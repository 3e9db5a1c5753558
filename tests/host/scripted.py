"""Filters for the tests, chosen by name; they run in the host's process.

`script` answers a mail by its X-Case field, from the table below, which the tests read
too.  `mirror` sends back what it was shown.
"""

from __future__ import annotations

import base64
import json
import os
import time
from typing import Any

from milterd.base import logs
from milterd.core.actions import (
    AddHeader,
    AddRecipient,
    ChangeHeader,
    ChangeSender,
    DeleteRecipient,
    InsertHeader,
    Quarantine,
    ReplaceBody,
)
from milterd.core.decision import Decision, Reason, Reply, Verdict
from milterd.core.filter import Need, NoFacts
from milterd.core.mail import BytesBody, Mail, body_octets

EVERYTHING = ~Need(0)
LONG_BODY = b"".join(b"line %d of a body\r\n" % number for number in range(20_000))

CASES = {
    "nothing": Decision(),
    "accept": Decision(Verdict.ACCEPT, edits=(AddHeader(b"X-A", b" accepted"),)),
    "headers": Decision(
        edits=(
            AddHeader(b"X-Plain", b" one"),
            AddHeader(b"X-Tight", b"no space"),
            AddHeader(b"X-Fold", b" one\r\n\ttwo\r\n  three"),
            AddHeader(b"X-Tab", b"\ttab"),
            InsertHeader(0, b"X-Top", b"  two spaces"),
            InsertHeader(3, b"X-Third", b" 50% off"),
            ChangeHeader(b"Subject", 1, b" new"),
            ChangeHeader(b"X-Gone", 2, b""),
            ChangeHeader(b"X-Gone", 1, b""),
        )
    ),
    "utf8": Decision(edits=(AddHeader(b"X-Utf8", " grüße 漢".encode()),)),
    "8bit": Decision(edits=(AddHeader(b"X-A", b" a"), AddHeader(b"X-Latin", b" gr\xfc\xdfe"))),
    "body": Decision(edits=(ReplaceBody(BytesBody(b"new body\r\n")),)),
    "8bit-body": Decision(edits=(ReplaceBody(BytesBody(b"gr\xfc\xdfe \x00\xff\r\n")),)),
    "long-body": Decision(edits=(ReplaceBody(BytesBody(LONG_BODY)),)),
    "empty-body": Decision(edits=(ReplaceBody(BytesBody(b"")),)),
    "envelope": Decision(
        edits=(
            ChangeSender(b"other@example.net"),
            AddRecipient(b"plain@example.org"),
            AddRecipient(b"dsn@example.org", (b"NOTIFY=NEVER",)),
            DeleteRecipient(b"r@example.org"),
        )
    ),
    "null-sender": Decision(edits=(ChangeSender(b"", (b"RET=HDRS",)),)),
    "quarantine": Decision(edits=(Quarantine(b"looks odd"), AddHeader(b"X-Q", b" yes"))),
    "reject": Decision(Verdict.REJECT, reply=Reply(550, "5.7.1", "100% no"),
                       edits=(AddHeader(b"X-Not", b" said"),),
                       reasons=(Reason("rule", "refused", {"rule": "r1"}),)),
    "tempfail": Decision(Verdict.TEMPFAIL, reply=Reply(451, "4.7.1", "later")),
    "discard": Decision(Verdict.DISCARD),
    "plain-reject": Decision(Verdict.REJECT),
    "plain-tempfail": Decision(Verdict.TEMPFAIL),
    "odd-code": Decision(Verdict.REJECT, reply=Reply(450, "4.1.1", "does not go with reject")),
    "injection": Decision(edits=(AddHeader(b"X-A", b" a"), AddHeader(b"X-B", b" b\r\nBcc: evil"))),
    "bare-cr": Decision(edits=(ChangeHeader(b"Subject", 1, b" a\rBcc: evil"),)),
    "bad-address": Decision(edits=(AddRecipient(b"a>\r\nb"),)),
    "huge-header": Decision(edits=(AddHeader(b"X-Huge", b" " + b"x" * 70_000),)),
}  # fmt: skip


class Script:
    """Answers by the X-Case field: a case of the table, or `raise`, or `slow:SECONDS`."""

    name = "script"
    needs = EVERYTHING

    def gather(self, mail: Mail) -> str:
        case = b"".join(mail.values(b"X-Case")).strip().decode()
        if case.startswith("slow:"):
            logs.get("script").info("slow begins")
            time.sleep(float(case[5:]))
        if case == "raise-gather":
            raise RuntimeError("secret of gather in /etc/passwd")
        if case == "die":
            os.abort()
        return case

    def decide(self, _mail: Mail, facts: str) -> Decision:
        if facts == "raise":
            raise RuntimeError("secret of decide in /etc/passwd")
        return CASES.get(facts, Decision())


class ReadOnly(Script):
    """Says what it may not say: it needs no edits."""

    name = "read-only"
    needs = Need.HEADERS


class Mirror:
    """Sends back what it was shown, in a header field."""

    name = "mirror"
    needs = EVERYTHING

    def gather(self, _mail: Mail) -> NoFacts:
        return NoFacts()

    def decide(self, mail: Mail, _facts: NoFacts) -> Decision:
        value = base64.b64encode(json.dumps(seen(mail)).encode())
        return Decision(edits=(AddHeader(b"X-Seen", b" " + value),))


class MirrorLess(Mirror):
    """Needs nothing but to add its field."""

    name = "mirror-less"
    needs = Need.ADD_HEADERS


def seen(mail: Mail) -> dict[str, Any]:
    """A mail as JSON can hold it; octets as latin-1, a long body as its length."""
    session, envelope = mail.session, mail.envelope
    client = session.client
    body = body_octets(mail.body)
    return {
        "client": [_text(client.name), client.family.name, _text(client.address), client.port],
        "helo": _text(session.helo),
        "direction": session.direction.value,
        "macros": {name: _text(value) for name, value in sorted(session.macros.items())},
        "sender": [_text(envelope.sender), [_text(each) for each in envelope.sender_args]],
        "recipients": [
            [_text(each.address), [_text(arg) for arg in each.args]] for each in envelope.recipients
        ],
        "headers": [[_text(each.name), _text(each.value)] for each in mail.headers],
        "body": _text(body) if len(body) < 2000 else len(body),
        "stored": type(mail.body).__name__,
    }


def _text(octets: bytes) -> str:
    return octets.decode("latin-1")


FILTERS = {each.name: each for each in (Script, ReadOnly, Mirror, MirrorLess)}
