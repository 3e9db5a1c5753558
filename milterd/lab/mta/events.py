"""The events of an SMTP session as the milter hears them, and those it does not want."""

from __future__ import annotations

import re

from milterd.core.mail import Family
from milterd.lab.conform.check import Check, NotApplicableError
from milterd.lab.mta.check import Trial, require, sound
from milterd.lab.mta.outcomes import passed
from milterd.lab.mta.smtp import CLOSED
from milterd.lab.server import Heard, Plan, Terms
from milterd.wire import messages as m
from milterd.wire.constants import Protocol
from milterd.wire.states import EVENTS, CommandType

_API = "libmilter API, xxfi_ callbacks"
_POSTFIX = "Postfix milter8.c"
_NEGOTIATE = "libmilter, xxfi_negotiate"
_ORDER = re.compile(
    r"Negotiate Connect Helo MailFrom RcptTo Data (Header )+EndOfHeaders (BodyChunk )*"
    r"EndOfMessage( Abort)*( Quit)?"
)


async def _order(trial: Trial) -> str:
    kinds = " ".join((await passed(trial)).kinds())
    short = re.sub(r"(Header|BodyChunk)( \1)+", r"\1...", kinds)
    require(_ORDER.fullmatch(kinds), short)
    return short


async def _connect(trial: Trial) -> str:
    async with trial.session() as session:
        port = session.client.port
        heard = await session.quit()
    sound(heard)
    found = heard.of(m.Connect)
    require(len(found) == 1, f"{len(found)} CONNECT events")
    event = found[0]
    assert isinstance(event, m.Connect)  # noqa: S101 - asked for by its kind
    right = event.family in (Family.INET, Family.INET6) and event.port == port
    require(right, f"family {event.family.name}, and the port is {event.port == port}")
    require(event.address in (b"127.0.0.1", b"::1"), f"address {event.address!r}")
    require(event.host, "no host name")
    return f"family {event.family.name}, the client's address and port, and a name"


async def _helo(trial: Trial) -> str:
    heard = await passed(trial)
    names = [each.name for each in heard.of(m.Helo) if isinstance(each, m.Helo)]
    require(names == [trial.helo], f"{len(names)} HELO events, not with the name as sent")
    return "the name as sent"


async def _helo_again(trial: Trial) -> str:
    async with trial.session() as session:
        await session.client.say(b"EHLO second.example")
        told = await session.send()
        heard = await session.quit()
    sound(heard)
    names = [each.name for each in heard.of(m.Helo) if isinstance(each, m.Helo)]
    require(names[1:] == [b"second.example"], f"{len(names)} HELO events")
    require(told.taken, str(told))
    return "both names, in their order"


async def _mail(trial: Trial) -> str:
    async with trial.session() as session:
        told = await session.send(mail_args=b" BODY=8BITMIME SIZE=1000")
        heard = await session.quit()
    sound(heard)
    require(told.taken, str(told))
    found = heard.of(m.MailFrom)
    require(len(found) == 1, f"{len(found)} MAIL events")
    event = found[0]
    wanted = m.MailFrom(b"<%b>" % trial.address(b"from"), (b"BODY=8BITMIME", b"SIZE=1000"))
    assert isinstance(event, m.MailFrom)  # noqa: S101 - asked for by its kind
    require(event.address == wanted.address, "not the address as sent")
    require(event.args == wanted.args, f"arguments {event.args!r}")
    return "the address in brackets, and both arguments"


async def _null_sender(trial: Trial) -> str:
    async with trial.session() as session:
        told = await session.client.send(trial.message(), b"", [trial.address(b"to")])
        heard = await session.quit()
    sound(heard)
    require(told.taken, str(told))
    require(heard.of(m.MailFrom) == [m.MailFrom(b"<>")], "not <>")
    return "<>"


async def _rcpt(trial: Trial) -> str:
    recipients = [trial.address(b"one"), trial.address(b"two")]
    async with trial.session() as session:
        dsn = session.helo is not None and any(each == "DSN" for each in session.helo.lines)
        args = b" NOTIFY=FAILURE" if dsn else b""
        told = await session.send(recipients=recipients, rcpt_args=args)
        heard = await session.quit()
    sound(heard)
    require(told.taken, str(told))
    wanted = [m.RcptTo(b"<%b>" % each, tuple(args.split())) for each in recipients]
    require(heard.of(m.RcptTo) == wanted, "not the addresses and arguments as sent")
    return "two addresses in brackets, in their order, and their arguments"


async def _refused_recipient(trial: Trial) -> str:
    if trial.site.refused is None:
        raise NotApplicableError("no recipient is known that the MTA refuses by itself")
    path = b"<%b>" % trial.site.refused
    seen = []
    for flag in (Protocol.NONE, Protocol.RCPT_REJ):
        async with trial.session(Plan(terms=Terms(protocol=flag))) as session:
            told = await session.send(recipients=[trial.site.refused, trial.address(b"to")])
            heard = await session.quit()
        sound(heard)
        require((told.at("rcpt") or CLOSED).kind == 5, f"the recipient is not refused: {told}")
        seen.append(any(isinstance(e, m.RcptTo) and e.address == path for e in heard.events))
    require(seen == [False, True], f"shown without the flag: {seen[0]}, with it: {seen[1]}")
    mailer = heard.macros(m.RcptTo).get("rcpt_mailer", b"")
    require(mailer == b"error", f"rcpt_mailer is {mailer!r}")
    return "shown with RCPT_REJ alone, rcpt_mailer is error"


async def _unknown(trial: Trial) -> str:
    async with trial.session() as session:
        said = await session.client.say(b"FOO bar")
        heard = await session.quit()
    sound(heard)
    require(said.kind == 5, f"the client hears {said}")
    lines = [each.line for each in heard.of(m.Unknown) if isinstance(each, m.Unknown)]
    require(len(lines) == 1 and lines[0].startswith(b"FOO"), f"told {lines!r}")
    return f"told {lines[0].decode('utf-8', 'replace')!r}"


async def _reset(trial: Trial) -> str:
    async with trial.session() as session:
        client = session.client
        await client.say(b"MAIL FROM:<%b>" % trial.address(b"from"))
        await client.say(b"RCPT TO:<%b>" % trial.address(b"to"))
        await client.say(b"RSET")
        told = await session.send()
        heard = await session.quit()
    sound(heard)
    require(told.taken, str(told))
    kinds = [each for each in heard.kinds() if each in ("MailFrom", "RcptTo", "Abort")]
    require(kinds[:4] == ["MailFrom", "RcptTo", "Abort", "MailFrom"], " ".join(kinds))
    return "ABORT between the two"


async def _two_mails(trial: Trial) -> str:
    async with trial.session() as session:
        told = [await session.send(), await session.send()]
        heard = await session.quit()
    sound(heard)
    require(all(each.taken for each in told), "; ".join(str(each) for each in told))
    counts = {
        kind: heard.kinds().count(kind) for kind in ("Connect", "Helo", "MailFrom", "EndOfMessage")
    }
    require(list(counts.values()) == [1, 1, 2, 2], str(counts))
    return "one CONNECT, one HELO, two mails whole"


async def _gone_client(trial: Trial) -> str:
    async with trial.session() as session:
        client = session.client
        await client.say(b"MAIL FROM:<%b>" % trial.address(b"from"))
        await client.say(b"RCPT TO:<%b>" % trial.address(b"to"))
        await client.say(b"DATA")
        client.drop()
        await session.over()
        heard = session.heard
    sound(heard)
    require("EndOfMessage" not in heard.kinds(), "the milter was told of an end of message")
    await trial.nothing(needed=False)
    return "no end of message, the milter's connection ended"


async def _quit(trial: Trial) -> str:
    heard = await passed(trial)
    last = heard.kinds()[-1:]
    require(last == ["Quit"], f"the last event is {' '.join(last)}")
    return "QUIT last"


# --- what a milter does not want ---

_LABELS: dict[CommandType, str] = {
    m.Connect: "connect",
    m.Helo: "helo",
    m.MailFrom: "mail",
    m.RcptTo: "rcpt",
    m.Data: "data",
    m.Unknown: "unknown",
    m.Header: "header",
    m.EndOfHeaders: "eoh",
    m.BodyChunk: "body",
}


async def _all_events(trial: Trial, plan: Plan) -> Heard:
    async with trial.session(plan) as session:
        await session.client.say(b"FOO bar")
        told = await session.send()
        heard = await session.quit()
    sound(heard)
    require(told.taken, str(told))
    return heard


def _withheld(kind: CommandType) -> Check:
    async def run(trial: Trial) -> str:
        heard = await _all_events(trial, Plan(terms=Terms(protocol=EVENTS[kind].unsent)))
        require(not heard.of(kind), "sent all the same")
        missing = [_LABELS[each] for each in _LABELS if each is not kind and not heard.of(each)]
        require(not missing, f"{', '.join(missing)} withheld too")
        return "withheld, and nothing else"

    return Check(
        f"withheld/{_LABELS[kind]}",
        f"{EVENTS[kind].unsent.name}",
        "An event the milter does not want is not sent; every other one is.",
        _NEGOTIATE,
        run,
    )


def _unanswered(kind: CommandType) -> Check:
    async def run(trial: Trial) -> str:
        heard = await _all_events(trial, Plan(terms=Terms(protocol=EVENTS[kind].unanswered)))
        require(heard.of(kind), "not sent at all")
        return "sent, and no answer awaited"

    return Check(
        f"unanswered/{_LABELS[kind]}",
        f"{EVENTS[kind].unanswered.name}",
        "The MTA sends the event and does not wait for an answer.",
        _NEGOTIATE,
        run,
    )


async def _all_unanswered(trial: Trial) -> str:
    flags = Protocol.NONE
    for kind in _LABELS:
        flags |= EVENTS[kind].unanswered
    plan = Plan({m.EndOfMessage: m.ReplyCode(b"554 5.7.9 at last")}, Terms(protocol=flags))
    async with trial.session(plan) as session:
        await session.client.say(b"FOO bar")
        told = await session.send()
        heard = await session.quit()
    sound(heard)
    require((told.last_step, told.last.code) == ("end", 554), str(told))
    return str(told)


CHECKS = (
    Check(
        "event/order",
        "The order of events",
        "Connection, HELO, envelope, DATA, header, body, end of message, and no other order.",
        _API,
        _order,
    ),
    Check(
        "event/connect",
        "The fields of CONNECT",
        "Host name, family, port and address of the SMTP client.",
        "libmilter, xxfi_connect",
        _connect,
    ),
    Check("event/helo", "The HELO name", "As the client sent it.", "libmilter, xxfi_helo", _helo),
    Check(
        "event/helo-again",
        "EHLO twice",
        "The milter is told of each.",
        "libmilter, xxfi_helo",
        _helo_again,
    ),
    Check(
        "event/mail",
        "MAIL with arguments",
        "The address in angle brackets, and the ESMTP arguments as the client sent them.",
        "libmilter, xxfi_envfrom",
        _mail,
    ),
    Check(
        "event/null-sender",
        "MAIL of the null sender",
        "The address is <>.",
        "libmilter, xxfi_envfrom; RFC 5321 section 4.5.5",
        _null_sender,
    ),
    Check(
        "event/rcpt",
        "Two recipients",
        "Each in an event of its own, with its ESMTP arguments.",
        "libmilter, xxfi_envrcpt",
        _rcpt,
    ),
    Check(
        "event/rcpt-refused",
        "A recipient the MTA refuses itself",
        "It is shown to a milter that asked for RCPT_REJ, and to no other.",
        "libmilter, SMFIP_RCPT_REJ; Postfix MILTER_README",
        _refused_recipient,
    ),
    Check(
        "event/unknown",
        "A command that SMTP has not",
        "The milter is told of it, and the client refused.",
        "libmilter, xxfi_unknown",
        _unknown,
    ),
    Check(
        "event/rset",
        "RSET between two mails",
        "The first transaction is ended by ABORT before the second begins.",
        "libmilter, xxfi_abort",
        _reset,
    ),
    Check(
        "event/two-mails",
        "Two mails in a session",
        "One connection to the milter, and every event of each mail.",
        _API,
        _two_mails,
    ),
    Check(
        "event/client-gone",
        "The client leaves after DATA",
        "No end of message comes, and nothing is delivered.",
        "libmilter, xxfi_abort",
        _gone_client,
    ),
    Check(
        "event/quit",
        "The end of the session",
        "QUIT before the connection is closed.",
        "libmilter, xxfi_close",
        _quit,
    ),
    *(_withheld(kind) for kind in _LABELS),
    *(_unanswered(kind) for kind in _LABELS),
    Check(
        "unanswered/all",
        "All NR_ flags together",
        "Only the end of the message waits for an answer, and that answer counts.",
        _NEGOTIATE,
        _all_unanswered,
    ),
)
