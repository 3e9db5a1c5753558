"""Clients and envelopes of every kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from milterd.core.mail import Client, Family, Mail, Recipient
from milterd.lab.conform.check import Check, fail, not_applicable
from milterd.lab.conform.context import Context
from milterd.lab.conform.judged import Judged
from milterd.lab.conform.talk import Talk, settles
from milterd.lab.postfix import session_events
from milterd.wire import messages as m
from milterd.wire.constants import Protocol

_REJECTED = (
    (b"{rcpt_mailer}", b"error"),
    (b"{rcpt_host}", b"5.1.1"),
    (b"{rcpt_addr}", b"User unknown"),
)
_RULE = (
    "The milter answers by its policy, and neither loses the connection nor defers what it "
    "would let pass otherwise."
)


async def _session_and_mail(context: Context, talk: Talk, mail: Mail) -> str:
    """A session in which the milter may settle anything."""
    talk.mail = mail
    await talk.negotiate()
    for event in session_events(mail):
        reply = await talk.say(event)
        if settles(reply) and not isinstance(reply, m.Discard):
            return await context.expect_alive(Judged(talk.link.stage, reply or m.Continue()))
    judged = await talk.message(mail)
    await talk.quit()
    return await context.expect_alive(judged)


def _client(name: str, title: str, client: Client, source: str) -> Check:
    async def run(context: Context) -> str:
        session = replace(context.mail.session, client=client)
        async with context.connected() as talk:
            return await _session_and_mail(context, talk, replace(context.mail, session=session))

    return Check(f"session/{name}", title, _RULE, source, run)


def _with(name: str, title: str, source: str, change: Callable[[Mail], Mail]) -> Check:
    async def run(context: Context) -> str:
        async with context.connected() as talk:
            return await _session_and_mail(context, talk, change(context.mail))

    return Check(f"envelope/{name}", title, _RULE, source, run)


def _to(mail: Mail, *recipients: Recipient) -> Mail:
    return replace(mail, envelope=replace(mail.envelope, recipients=recipients))


def _null_sender(mail: Mail) -> Mail:
    return replace(mail, envelope=replace(mail.envelope, sender=b"", sender_args=()))


def _long_sender(mail: Mail) -> Mail:
    sender = b"s" * 64 + b"@" + b".".join([b"d" * 60] * 4)
    return replace(mail, envelope=replace(mail.envelope, sender=sender))


def _long_recipient(mail: Mail) -> Mail:
    return _to(mail, Recipient(b"r" * 1000 + b"@example.net"), *mail.envelope.recipients)


def _sender_args(mail: Mail) -> Mail:
    args = (b"SIZE=1000000", b"BODY=8BITMIME", b"RET=HDRS", b"ENVID=" + b"e" * 900)
    return replace(mail, envelope=replace(mail.envelope, sender_args=args))


def _recipient_args(mail: Mail) -> Mail:
    args = (b"NOTIFY=SUCCESS,FAILURE,DELAY", b"ORCPT=rfc822;" + b"o" * 900)
    return _to(mail, *(replace(each, args=args) for each in mail.envelope.recipients))


def _many_recipients(mail: Mail) -> Mail:
    return _to(mail, *(Recipient(b"r%d@example.net" % each) for each in range(200)))


def _international(mail: Mail) -> Mail:
    address = "grüße@bücher.example".encode()
    envelope = replace(mail.envelope, sender=address, sender_args=(b"SMTPUTF8",))
    return _to(replace(mail, envelope=envelope), Recipient(address))


def _quoted(mail: Mail) -> Mail:
    return _to(mail, Recipient(b'"odd \\" <>@, name"@example.net'), *mail.envelope.recipients)


# --- HELO, and commands that no milter needs --------------------------------------------


def _hellos(name: str, title: str, hellos: tuple[bytes, ...], source: str) -> Check:
    async def run(context: Context) -> str:
        async with context.connected() as talk:
            await talk.negotiate()
            connect = next(iter(session_events(context.mail)))
            for event in (connect, *map(m.Helo, hellos)):
                reply = await talk.say(event)
                if settles(reply):
                    judged = Judged(talk.link.stage, reply or m.Continue())
                    return await context.expect_alive(judged)
            judged = await talk.message()
            await talk.quit()
            return await context.expect_alive(judged)

    return Check(f"session/{name}", title, _RULE, source, run)


async def _unknown(context: Context) -> str:
    # Not withheld where the milter can bear it, so that there is something to see.
    async with context.connected(protocol=Protocol.ALL & ~Protocol.NOUNKNOWN) as talk:
        await talk.open()
        if talk.withholds(m.Unknown):
            not_applicable("the milter closes, or does not want the event")
        for line in (b"XLAB", b"XLAB with arguments", b"\xff\xfe", b"X" * 2000):
            await talk.say(m.Unknown(line))
        judged = await talk.message()
        await context.expect_same(judged, when="after unknown commands")
        await talk.quit()
    return f"four unknown commands, then {judged}"


# --- recipients refused -----------------------------------------------------------------


async def _rejected_recipients(context: Context) -> str:
    async with context.connected() as talk:
        await talk.open()
        if Protocol.RCPT_REJ not in talk.agreed.protocol:
            not_applicable("the milter does not want them: RCPT_REJ is not negotiated")
        await talk.until(m.MailFrom)
        for each in (b"<unknown1@example.net>", b"<unknown2@example.net>"):
            await talk.say(m.RcptTo(each), _REJECTED)
        await talk.say(m.Abort())
        judged = await talk.message()
        await context.expect_same(judged, when="the message after rejected recipients")
    return f"two rejected recipients, then {judged}"


async def _no_recipients_left(context: Context) -> str:
    async with context.connected() as talk:
        await talk.open()
        for _ in range(3):
            await talk.until(m.MailFrom)
            await talk.say(m.Abort())
        judged = await talk.message()
        await context.expect_same(judged, when="the message after those without recipients")
        await talk.quit()
    if judged.verdict in ("shutdown", "connfail"):
        fail(str(judged), judged.stage)
    return f"three senders without recipients, then {judged}"


_CONNECT = "Postfix milter8.c, milter8_conn_event; libmilter engine.c, st_connectinfo"
CHECKS: tuple[Check, ...] = (
    _client(
        "inet6",
        "A client with an IPv6 address",
        Client(b"[2001:db8::1]", Family.INET6, b"2001:db8::1", 25000),
        _CONNECT,
    ),
    _client(
        "inet6-sendmail",
        "A client with an IPv6 address as Sendmail writes it",
        Client(b"[IPv6:2001:db8::1]", Family.INET6, b"IPv6:2001:db8::1", 25000),
        "Sendmail milter.c, milter_connect",
    ),
    _client(
        "unix", "A client on a UNIX socket", Client(b"localhost", Family.UNIX, b"/run/x"), _CONNECT
    ),
    _client("unknown-family", "A client of no known family", Client(b"localhost"), _CONNECT),
    _client(
        "unknown-name",
        "A client without a name",
        Client(b"unknown", Family.INET, b"192.0.2.1", 0),
        _CONNECT,
    ),
    _client(
        "long-name",
        "A client with a long name",
        Client(b".".join([b"n" * 60] * 4), Family.INET, b"192.0.2.1", 65535),
        _CONNECT,
    ),
    _hellos("helo-twice", "HELO twice", (b"one.example", b"two.example"), "RFC 5321 section 4.1.4"),
    _hellos("no-helo", "MAIL without HELO", (), "Postfix smtpd_helo_required; engine.c, NX_CONN"),
    _hellos("empty-helo", "An empty HELO", (b"",), "engine.c, st_helo"),
    _hellos("long-helo", "A HELO of 1,000 octets", (b"h" * 1000,), "RFC 5321 section 4.5.3.1"),
    _hellos("8bit-helo", "A HELO that is no UTF-8", (b"gr\xfc\xdfe.example",), "engine.c, st_helo"),
    Check(
        "session/unknown-command",
        "SMTP commands that the MTA does not know",
        "An unknown command is answered and changes nothing of the message after it.",
        "libmilter docs, xxfi_unknown",
        _unknown,
    ),
    _with("null-sender", "The null sender", "RFC 5321 section 4.5.5", _null_sender),
    _with("long-sender", "A sender as long as may be", "RFC 5321 section 4.5.3.1", _long_sender),
    _with(
        "long-recipient",
        "A recipient of 1,000 octets",
        "Postfix line_length_limit",
        _long_recipient,
    ),
    _with("sender-arguments", "MAIL with arguments", "RFC 3461 section 4.3, 4.4", _sender_args),
    _with("recipient-arguments", "RCPT with arguments", "RFC 3461 section 4.1", _recipient_args),
    _with("many-recipients", "200 recipients", "RFC 5321 section 4.5.3.1.8", _many_recipients),
    _with("international", "Addresses in UTF-8", "RFC 6531", _international),
    _with("quoted", "A quoted local part", "RFC 5321 section 4.1.2", _quoted),
    Check(
        "envelope/rejected-recipients",
        "Recipients that the MTA has rejected",
        "With RCPT_REJ the milter hears of rejected recipients, {rcpt_mailer} being error: they "
        "are none of the message's, nor of the next one's.",
        "libmilter docs, SMFIP_RCPT_REJ; Postfix smtpd_milter.c",
        _rejected_recipients,
    ),
    Check(
        "envelope/no-recipients",
        "Transactions of which no recipient is left",
        "A sender without recipients is followed by ABORT, and the next message judged as ever.",
        "RFC 5321 section 3.3; libmilter engine.c, NX_MAIL",
        _no_recipients_left,
    ),
)
