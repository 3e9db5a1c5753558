"""The rows of attacks on framing, commands, pipelining and STARTTLS, as one table.

A case is a script: octets to send, the replies they must bring, and what the
road must have been given in the end.  `354>` begins a message's octets.
"""

# ruff: noqa: E501 - a row of the table is a line

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from smtpgw.edge.framing import BARE_LF_NOTE
from smtpgw.edge.options import ContentOptions, EdgeOptions, Limits
from tests.edge.harness import QUICK, Server

MAIL = b"MAIL FROM:<a@example.com>\r\n"
RCPT = b"RCPT TO:<u@example.net>\r\n"
SMUGGLED = b"MAIL FROM:<evil@example.com>\r\nRCPT TO:<v@example.net>\r\nDATA\r\nevil\r\n"
EOD = b"\r\n.\r\n"


@dataclass(frozen=True)
class Message:
    """Octets sent after 354; the reply; the content accepted (None: none)."""

    id: str
    sent: bytes
    reply: str
    content: bytes | None = None
    notes: tuple[str, ...] = ()
    options: ContentOptions = field(default_factory=ContentOptions)


REJECT = ContentOptions(bare_newline="reject")
BODY = b"A: b\r\n\r\n"
EVIL = b"MAIL FROM:<evil@example.com>\r\nRCPT TO:<v@example.net>\r\nDATA\r\nevil\r\n"
LF = (BARE_LF_NOTE,)

MESSAGES = [
    # Only CRLF.CRLF ends a message; a dot next to a bare LF goes, the line stays.
    Message("A01", BODY + b"x\n.\n" + SMUGGLED + b".\r\n", "250", BODY + b"x\r\n\r\n" + EVIL, LF),
    Message("A01-reject", BODY + b"x\n.\n" + SMUGGLED + b".\r\n", "550 5.5.2", options=REJECT),
    Message("A02", BODY + b"x\n.\r\n" + SMUGGLED + b".\r\n", "250", BODY + b"x\r\n\r\n" + EVIL, LF),
    Message("A02-reject", BODY + b"x\n.\r\n" + SMUGGLED + b".\r\n", "550 5.5.2", options=REJECT),
    Message("A03", BODY + b"x\r\n.\n" + SMUGGLED + b".\r\n", "250", BODY + b"x\r\n\r\n" + EVIL, LF),
    Message("A03-reject", BODY + b"x\r\n.\n" + SMUGGLED + b".\r\n", "550 5.5.2", options=REJECT),
    Message("A04-cr.cr", BODY + b"x\r.\r" + SMUGGLED + b".\r\n", "550 5.5.2"),
    Message("A04-cr.lf", BODY + b"x\r.\n" + SMUGGLED + b".\r\n", "550 5.5.2"),
    Message("A04-cr.crlf", BODY + b"x\r.\r\n" + SMUGGLED + b".\r\n", "550 5.5.2"),
    Message("A04-lf.cr", BODY + b"x\n.\r" + SMUGGLED + b".\r\n", "550 5.5.2"),
    Message("A05", BODY + b"x\r\r\n.\r\r\n" + SMUGGLED + b".\r\n", "550 5.5.2"),
    Message("A06", BODY + b"x\r\n\0.\r\n" + SMUGGLED + b".\r\n", "550 5.6.0"),
    Message("A08", b".\r\n", "250", b""),
    Message("A09", BODY + b"..\r\n..x\r\n...y\r\n.\r\n", "250", BODY + b".\r\n.x\r\n..y\r\n"),
    Message("A09-lone", BODY + b".x\r\n.\r\n", "250", BODY + b"x\r\n"),
    Message("A10", BODY + b"x\ny\r\n.\r\n", "250", BODY + b"x\r\ny\r\n", LF),
    Message("A10-reject", BODY + b"x\ny\r\n.\r\n", "550 5.5.2", options=REJECT),
    Message("A11-header", b"Subject: x\rBcc: evil@e\r\n\r\n.\r\n", "550 5.5.2"),
    Message("A11-body", BODY + b"x\ry\r\n.\r\n", "550 5.5.2"),
    Message(
        "A12",
        b"S: a\x0bB: c\x0c\x1c\x1d\x1e\x1f\xc2\x85\xe2\x80\xa8T: d\r\n\r\nx\r\n.\r\n",
        "250",
        b"S: a\x0bB: c\x0c\x1c\x1d\x1e\x1f\xc2\x85\xe2\x80\xa8T: d\r\n\r\nx\r\n",
    ),
    Message("A17", b" x: y\r\n.\r\n", "250", b"\r\n x: y\r\n", ("blank line after the header inserted",)),
    Message(
        "A18",
        b"From x Thu\r\nA: b\r\n\r\n.\r\n",
        "250",
        b"X-Mailbox-Line: From x Thu\r\nA: b\r\n\r\n",
        ("mbox From line made X-Mailbox-Line",),
    ),
    Message("E01", BODY + b"x" * 2000 + EOD, "552 5.3.4", options=ContentOptions(message_size_limit=1000)),
    Message("B17", BODY + b"x" * 3000, "421 4.3.4", options=ContentOptions(message_size_limit=1000)),
    Message("E03", b"A: " + b"x" * 200_000 + EOD, "552 5.3.4"),
    Message("E03-fold", b"A: " + b"x\r\n " * 300_000 + EOD, "552 5.3.4"),
    Message("E04", b"Received: x\r\n" * 51 + EOD, "554 5.4.6"),
    Message("E04-many", b"Received: x\r\n" * 1_000_000 + EOD, "554 5.4.6"),
    Message("F06", b"A: b\0c\r\n\r\n.\r\n", "550 5.6.0"),
]  # fmt: skip


@pytest.mark.parametrize("case", MESSAGES, ids=lambda case: case.id)
def test_message(case: Message) -> None:
    with Server(replace(QUICK, content=case.options)) as server, server.client() as client:
        client.begin()
        client.send(case.sent)
        code, _, enhanced = case.reply.partition(" ")
        client.expect(int(code), enhanced)
        if code == "421":
            assert client.closed() == b""
        else:
            client.command(b"RCPT TO:<u@example.net>", 503, "5.5.1")  # no second transaction began
            client.command(b"QUIT", 221)
        got = [(each.octets, each.notes) for each in server.accepted]
        assert got == ([] if case.content is None else [(case.content, case.notes)])


@pytest.mark.parametrize(
    "case", [each for each in MESSAGES if len(each.sent) < 400], ids=lambda c: c.id
)
def test_message_one_octet_a_segment(case: Message) -> None:  # A07
    with Server(replace(QUICK, content=case.options)) as server, server.client() as client:
        client.begin()
        client.slowly(case.sent)
        client.expect(int(case.reply[:3]))
        client.command(b"QUIT", 221)
        assert [each.octets for each in server.accepted] == (
            [] if case.content is None else [case.content]
        )


def test_the_end_split_by_a_pause_is_seen_once() -> None:  # A07
    with Server() as server, server.client() as client:
        client.begin()
        client.send(b"x\r\n.\r")
        client.socket.settimeout(0.3)
        with pytest.raises(TimeoutError):
            client.reply()
        client.socket.settimeout(10)
        client.send(b"\n")
        client.expect(250)
        client.command(b"NOOP", 250)
        assert len(server.accepted) == 1


@dataclass(frozen=True)
class Dialogue:
    """Lines sent one after the other, each with its reply; "close" means closed after it."""

    id: str
    steps: list[tuple[bytes, str]]
    greeted: bool = True
    accepted: int = 0
    options: EdgeOptions = QUICK


STRICT = replace(QUICK, strict_rfc821_envelopes=True)
FEW = replace(QUICK, limits=Limits(recipient_limit=3, error_sleep_time=0.0))
SMALL = replace(QUICK, content=ContentOptions(message_size_limit=1000))
OK = "250"
MAIL_OK = (MAIL, "250 2.1.0")
RCPT_OK = (RCPT, "250 2.1.5")
LONG = b"x" * 300


def mail(path: bytes, reply: str, row: str, options: EdgeOptions = QUICK) -> Dialogue:
    return Dialogue(row, [(b"MAIL FROM:" + path + b"\r\n", reply)], options=options)


def rcpt(path: bytes, reply: str, row: str, options: EdgeOptions = QUICK) -> Dialogue:
    return Dialogue(row, [MAIL_OK, (b"RCPT TO:" + path + b"\r\n", reply)], options=options)


def alone(line: bytes, reply: str, row: str, *, greeted: bool = True) -> Dialogue:
    return Dialogue(row, [(line, reply)], greeted=greeted)


DIALOGUES = [
    Dialogue("A13", [(b"EHLO x\n", OK), (b"NOOP\n", OK)], greeted=False),
    alone(b"EHLO x\nMAIL FROM:<a@b>\n", "500 5.5.2 close", "A13-pipelined", greeted=False),
    Dialogue(
        "A13-reject",
        [(b"NOOP\n", "500 5.5.2 close")],
        options=replace(QUICK, content=ContentOptions(bare_newline="reject")),
    ),
    Dialogue(
        "A14",
        [(b"NOOP a\0b\r\n", "500 5.5.2"), (b"NOOP a\rb\r\n", "500 5.5.2"),
         (b"NOOP \xff\r\n", "500 5.5.2"), (b"N\0OP\r\n", "500 5.5.2"), (b"\r\n", "500 5.5.2"),
         (b"N\xd6OP\r\n", "500 5.5.2"), (b"NOOP\r\n", OK)],
    ),
    Dialogue("B01", [(MAIL, "503 5.5.1")], greeted=False),
    Dialogue("B02", [(RCPT, "503 5.5.1"), (b"DATA\r\n", "503 5.5.1"), MAIL_OK,
                     (b"DATA\r\n", "503 5.5.1"), (b"RCPT TO:<refused@x>\r\n", "550"),
                     (b"DATA\r\n", "554 5.5.1")]),
    Dialogue("B03", [MAIL_OK, (b"MAIL FROM:<b@example.com>\r\n", "503 5.5.1"), RCPT_OK,
                     (b"DATA\r\n", "354"), (b"x" + EOD, OK)], accepted=1),
    Dialogue("B04", [MAIL_OK, RCPT_OK, (b"EHLO y\r\n", OK), (b"DATA\r\n", "503 5.5.1")]),
    Dialogue("B05", [(b"MAIL FROM:<>\r\n", OK), RCPT_OK, (b"DATA\r\n", "354"), (b"x" + EOD, OK)], accepted=1),
    rcpt(b"<postmaster>", OK, "B06"),
    rcpt(b"<PostMaster>", OK, "B06-case"),
    rcpt(b"<nobody>", "501 5.1.3", "B06-other"),
    rcpt(b"<@a,@b:u@d>", OK, "B07"),
    rcpt(b"<user@evil@local>", "501 5.1.3", "B08-two-at"),
    rcpt(b"u@d", OK, "B12-lax"),
    rcpt(b" <u@d>", OK, "B12-lax-space"),
    rcpt(b"u@d", "501 5.5.4", "B12-strict", STRICT),
    rcpt(b" <u@d>", "501 5.5.4", "B12-strict-space", STRICT),
    Dialogue("B12-case", [(b"mail from:<a@b>\r\n", OK), (b"rcpt to:<U@D>\r\n", OK)]),
    rcpt(b"<" + b"x" * 64 + b"@d>", OK, "B13-64"),
    rcpt(b"<" + b"x" * 65 + b"@d>", "501 5.1.3", "B13-65"),
    rcpt(b"<u@" + b".".join([b"d" * 60] * 5) + b">", "501 5.1.3", "B13-domain"),
    rcpt(b"<u@" + b".".join([b"d" * 49] * 5) + b".ee>", OK, "B13-256"),
    rcpt(b"<u@" + b".".join([b"d" * 49] * 5) + b".eee>", "501 5.1.3", "B13-257"),
    Dialogue("B14", [(b"NOOP " + b"a" * 1_048_576 + b"\r\n", "500 5.5.2"), (b"NOOP\r\n", OK)]),
    Dialogue("B14-513", [(b"NOOP " + b"a" * 506 + b"\r\n", "500 5.5.2"), (b"NOOP " + b"a" * 505 + b"\r\n", OK)]),
    Dialogue("B14-endless", [(b"a" * 3_000_000, "500 5.5.2 close")]),
    mail(b"<a@b> FOO=1", "555 5.5.4", "B15"),
    rcpt(b"<a@b> FOO=1", "555 5.5.4", "B15-rcpt"),
    mail(b"<a@b> SIZE=99999999999999999999", "552 5.3.4", "B16"),
    mail(b"<a@b> SIZE=999999999999999999999", "501 5.5.4", "B16-21-digits"),
    mail(b"<a@b> SIZE=-1", "501 5.5.4", "B16-negative"),
    mail(b"<a@b> SIZE=1e3", "501 5.5.4", "B16-float"),
    mail(b"<a@b> SIZE=", "501 5.5.4", "B16-empty"),
    mail(b"<a@b> SIZE=1001", "552 5.3.4", "B16-over", SMALL),
    mail(b"<a@b> SIZE=1000", OK, "B16-limit", SMALL),
    mail(b"<a@b> BODY=8BITMIME BODY=7BIT", "501 5.5.4", "B18"),
    mail(b"<a@b> BODY=BINARYMIME", "555 5.5.4", "B18-binary"),
    rcpt(b"<a@b> NOTIFY=NEVER,FAILURE", "501 5.5.4", "B19-notify"),
    rcpt(b"<a@b> ORCPT=rfc822;a+0Ab@c", "501 5.5.4", "B19-orcpt"),
    rcpt(b"<a@b> ORCPT=rfc822;" + b"a" * 500, "501 5.5.4", "B19-orcpt-long"),
    mail(b"<a@b> ENVID=a+0D+0Ab", "501 5.5.4", "B19-envid"),
    Dialogue("B21", [(b"HELO x\r\n", OK), (b"MAIL FROM:<a@b> RET=HDRS\r\n", "555 5.5.4")]),
    Dialogue(
        "B22",
        [(b"VRFY root\r\n", "252 2.0.0"), (b"EXPN staff\r\n", "502 5.5.1"), (b"HELP\r\n", "214 2.0.0"),
         (b"ETRN x\r\n", "502 5.5.1"), (b"TURN\r\n", "500 5.5.1"), (b"XCLIENT A=b\r\n", "550 5.7.0"),
         (b"XFORWARD A=b\r\n", "550 5.7.0"), (b"DEBUG\r\n", "500 5.5.1"), (b"WIZ\r\n", "500 5.5.1")],
    ),
    alone(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "421 4.7.0 close", "B23-http", greeted=False),
    alone(b"\x16\x03\x01\x02\x00\x01\x00", "421 4.7.0 close", "B23-tls", greeted=False),
    alone(b"\x03\x00\x00\x13\x0e", "421 4.7.0 close", "B23-rdp", greeted=False),
    alone(b"SSH-2.0-OpenSSH_9.2\r\n", "421 4.7.0 close", "B23-ssh", greeted=False),
    alone(b"POST / HTTP/1.1\r\nContent-Length: 99\r\n\r\nEHLO x\r\n" + MAIL + RCPT + b"DATA\r\nx" + EOD,
          "421 4.7.0 close", "B24", greeted=False),
    Dialogue("B26", [(b"EHLO\r\n", "501 5.5.4"), (b"EHLO [1.2.3.4\r\n", "501 5.5.4"),
                     (b"EHLO " + b"x" * 300 + b"\r\n", "501 5.5.4"), (b"EHLO </script>\r\n", "501 5.5.4"),
                     (b"EHLO a b\r\n", "501 5.5.4"), (b"EHLO a\x1bb\r\n", "500 5.5.2"),
                     (b"EHLO " + b"x" * 4096 + b"\r\n", "500 5.5.2"), (b"EHLO [127.0.0.1]\r\n", OK),
                     (b"EHLO [IPv6:::1]\r\n", OK), (b"HELO a_b.example.\r\n", OK)], greeted=False),
    Dialogue("B27", [(b"NOOP\r\n", OK)] * 120 + [(b"", "421 4.7.0 close")]),
    Dialogue("B27-rset", [(b"RSET\r\n", OK)] * 120 + [(b"", "421 4.7.0 close")]),
    Dialogue("B28", [(b"BLAH\r\n", "500 5.5.1")] * 20 + [(b"", "421 4.7.0 close")]),
    Dialogue("B29", [MAIL_OK, *[RCPT_OK] * 3, *[(RCPT, "452 4.5.3")] * 30, (b"DATA\r\n", "354"), (b"x" + EOD, OK)],
             accepted=1, options=FEW),
    Dialogue("B29-1000", [MAIL_OK, *[RCPT_OK] * 1000, (RCPT, "452 4.5.3"), (b"DATA\r\n", "354"), (b"x" + EOD, OK)],
             accepted=1),
    *(rcpt(b"<" + each + b">", "501 5.1.3", f"B35-{each!r}")
      for each in (b"../../etc/passwd@d", b":include:/x@d", b";id@d", b"a\0b@d")),
    *(rcpt(b"<" + each + b"@d>", OK, f"B35-{each!r}") for each in (b"a/b", b"|cmd", b"/dev/null", b"-oQ/tmp")),
    *(rcpt(each, "501 5.1.3", f"B38-{each[:20]!r}") for each in
      (b"<a\0b@c.d>", b"<a@b.c\rX>", b"<a@b.c", b"<a..b@c.d>", b"<a\xff@b.c>", b"<" + LONG + b"@b.c>", b"<>", b"")),
    *(mail(each, "501 5.1.7", f"B38-mail-{each[:20]!r}") for each in
      (b"<a\0b@c.d>", b"<a@b.c\rX>", b"<a@b.c", b"<a..b@c.d>", b"<a\xff@b.c>", b"<" + LONG + b"@b.c>", b"")),
    mail("<ü@b>".encode(), "553 5.6.7", "B38-needs-smtputf8"),
    mail("<ü@b> SMTPUTF8".encode(), OK, "B38-smtputf8"),
    rcpt("<ü@b>".encode(), "553 5.6.7", "B38-rcpt-needs-smtputf8"),
    rcpt(b"<u@d> NOTIFY=NEVER", OK, "B39"),
    alone(b"AUTH PLAIN AGEAYg==\r\n", "503 5.5.1", "B36"),
    Dialogue("C04", [(b"HELO x\r\n", OK), (b"BDAT 5\r\nQUIT\r\n", "502 5.5.1 close")]),
    *(Dialogue(f"C05-{each!r}", [MAIL_OK, RCPT_OK, (b"BDAT" + each + b"\r\n", "501 5.5.4 close")])
      for each in (b" -1", b" 99999999999999999999", b" 5 LAST x", b"", b" x", b" 1 FIRST")),
    Dialogue("C05-far-too-large", [MAIL_OK, RCPT_OK, (b"BDAT 9999999999\r\n", "552 5.3.4 close")]),
    Dialogue("C06", [MAIL_OK, RCPT_OK, *[(b"BDAT 0\r\n", "551")] * 20, (b"BDAT 0\r\n", "421 4.7.0 close")]),
    Dialogue("C07", [MAIL_OK, RCPT_OK, (b"BDAT 3\r\na\r\n", OK), (b"DATA\r\n", "503 5.5.1"), (MAIL, "503 5.5.1"),
                     (RCPT, "503 5.5.1"), (b"BDAT 0 LAST\r\n", OK)], accepted=1),
    Dialogue("C08", [MAIL_OK, RCPT_OK, (b"BDAT 3\r\na\rb", "550 5.5.2"), (b"DATA\r\n", "503 5.5.1"),
                     (b"BDAT 4 LAST\r\nQUIT", "503 5.5.1"), (b"NOOP\r\n", OK)]),
    Dialogue("C08-no-mail", [(b"BDAT 6 LAST\r\nQUIT\r\n", "503 5.5.1"), (b"NOOP\r\n", OK)]),
    Dialogue("C08-no-recipient", [MAIL_OK, (b"RCPT TO:<refused@x>\r\n", "550"), (b"BDAT 6 LAST\r\nQUIT\r\n", "554 5.5.1"),
                                  (b"NOOP\r\n", OK)]),
    Dialogue("C12", [MAIL_OK, RCPT_OK, (b"BDAT 3\r\na\r\n", OK), (b"RSET\r\n", OK),
                     (b"BDAT 3 LAST\r\nb\r\n", "503 5.5.1"), MAIL_OK, RCPT_OK, (b"BDAT 3 LAST\r\nc\r\n", OK)], accepted=1),
    Dialogue("C02", [MAIL_OK, (b"RCPT TO:<refused@x>\r\n", "550"),
                     (b"DATA\r\nSubject: x\r\n\r\n" + MAIL + EOD, "554 5.5.1 close")]),
    Dialogue("C01", [MAIL_OK, RCPT_OK, (b"DATA\r\nx" + EOD + MAIL, "503 5.5.0 close")]),
    Dialogue("C01-allowed", [MAIL_OK, RCPT_OK, (b"DATA\r\nx" + EOD, "354"), (b"", OK)], accepted=1,
             options=replace(QUICK, forbid_unauth_pipelining=False)),
    Dialogue("D02-no-tls", [(b"STARTTLS\r\n", "502 5.5.1"), (b"STARTTLS foo\r\n", "502 5.5.1")]),
]  # fmt: skip


@pytest.mark.parametrize("case", DIALOGUES, ids=lambda case: case.id)
def test_dialogue(case: Dialogue) -> None:
    with Server(case.options) as server, server.client(greeted=case.greeted) as client:
        if not case.greeted:
            client.expect(220)
        for sent, reply in case.steps:
            client.send(sent)
            code, enhanced, closes = (*reply.split(), "", "")[:3]
            client.expect(int(code), enhanced)
            if closes:
                assert client.closed() == b""
        assert len(server.accepted) == case.accepted
