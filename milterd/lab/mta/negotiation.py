"""What an MTA offers, what it makes of the milter's answer, and the macros it tells."""

from __future__ import annotations

from collections.abc import Mapping

from milterd.lab.conform.check import Check
from milterd.lab.mta.check import Trial, require, sound
from milterd.lab.mta.outcomes import deferred, passed
from milterd.lab.server import Answer, Do, Heard, Plan, Terms
from milterd.wire import messages as m
from milterd.wire.constants import (
    ACTIONS_OF_VERSION,
    NEWEST_VERSION,
    OLDEST_VERSION,
    PROTOCOL_OF_VERSION,
    Actions,
    Command,
    Protocol,
    Stage,
)
from milterd.wire.frames import frame
from milterd.wire.states import COMMAND_OF

_LIBMILTER = "libmilter engine.c, st_optionneg"
_MFDEF = "libmilter mfdef.h"
_POSTFIX = "Postfix milter8.c, milter8_connect"
_MACROS = "Postfix MILTER_README, macros"
_LISTS = "libmilter, smfi_setsymlist"


def _offer(heard: Heard) -> m.Negotiate:
    found = heard.events[0] if heard.events else None
    if not isinstance(found, m.Negotiate):
        sound(heard)
    require(isinstance(found, m.Negotiate), "no offer came")
    assert isinstance(found, m.Negotiate)  # noqa: S101 - said above
    return found


async def _version(trial: Trial) -> str:
    offer = _offer((await trial.send())[1])
    seen = f"version {offer.version}"
    require(offer.version >= OLDEST_VERSION, seen)
    return seen


async def _actions(trial: Trial) -> str:
    offer = _offer((await trial.send())[1])
    seen = f"actions {int(offer.actions):#x}"
    known = ACTIONS_OF_VERSION[min(offer.version, NEWEST_VERSION)]
    require(not int(offer.actions) & ~int(known), f"{seen}, with bits that version has not")
    return seen


async def _protocol(trial: Trial) -> str:
    offer = _offer((await trial.send())[1])
    seen = f"protocol {int(offer.protocol):#x}"
    known = PROTOCOL_OF_VERSION[min(offer.version, NEWEST_VERSION)]
    require(not int(offer.protocol) & ~int(known), f"{seen}, with bits that version has not")
    return seen


def _older(version: int, absent: tuple[str, ...]) -> Check:
    async def run(trial: Trial) -> str:
        async with trial.session(Plan(terms=Terms(version=version))) as session:
            await session.client.say(b"FOO bar")
            told = await session.send()
            heard = await session.quit()
        sound(heard)
        require(told.taken, str(told))
        came = [each for each in absent if each in heard.kinds()]
        require(not came, f"the milter was told {', '.join(came)}")
        return f"{told}; no {' and no '.join(absent)}" if absent else str(told)

    new = {2: "UNKNOWN and DATA", 3: "DATA", 4: "nothing"}[version]
    return Check(
        f"offer/version-{version}",
        f"A milter of version {version}",
        f"The MTA speaks version {version} with a milter that has no newer one: {new} withheld.",
        _POSTFIX,
        run,
    )


def _lie(name: str, title: str, rule: str, answer: Answer, source: str = _POSTFIX) -> Check:
    async def run(trial: Trial) -> str:
        return await deferred(trial, Plan(terms=Terms(answer=answer)), shown=False)

    return Check(f"lie/{name}", title, rule, source, run)


async def _unoffered_protocol(trial: Trial) -> str:
    flags = Protocol(0x0020_0000)
    answer = m.Negotiate(6, Actions.NONE, flags)
    told, heard = await trial.send(Plan(terms=Terms(answer=answer.encode())))
    require(told.taken or told.last.kind == 4, str(told))
    return f"{told}, the flag left aside" if "EndOfMessage" in heard.kinds() else str(told)


LIES = (
    _lie(
        "version-7",
        "The milter answers version 7",
        "A version above the one offered is a failed milter.",
        m.Negotiate(7, Actions.NONE, Protocol.NONE).encode(),
    ),
    _lie(
        "version-0",
        "The milter answers version 0",
        "A version that does not exist is a failed milter.",
        m.Negotiate(0, Actions.NONE, Protocol.NONE).encode(),
        "libmilter mfdef.h, SMFI_PROT_VERSION_MIN",
    ),
    _lie(
        "actions",
        "The milter claims edits that were not offered",
        "Actions beyond the offer are a failed milter.",
        m.Negotiate(6, Actions(0x8000), Protocol.NONE).encode(),
    ),
    _lie(
        "no-answer",
        "The milter answers the offer with Continue",
        "What is no negotiation is no answer to an offer.",
        m.Continue(),
    ),
    _lie(
        "short",
        "The milter's answer lacks the protocol flags",
        "An answer of two numbers is a failed milter.",
        frame(Command.NEGOTIATE, bytes((0, 0, 0, 6, 0, 0, 0, 0))),
    ),
    _lie(
        "silence",
        "The milter does not answer the offer",
        "The MTA waits for its command timeout and counts the milter as failed.",
        Do.SILENCE,
    ),
    _lie("close", "The milter closes at the offer", "It is a failed milter.", Do.CLOSE),
)

# --- macros ---

_ASKED: Mapping[Stage, tuple[str, ...]] = {
    Stage.CONNECT: ("j", "{client_addr}"),
    Stage.HELO: ("{client_name}",),
    Stage.MAIL: ("{mail_addr}",),
    Stage.RCPT: ("{rcpt_addr}",),
    Stage.DATA: ("i", "{mail_addr}"),
    Stage.END_OF_HEADERS: ("j", "i"),
    Stage.END_OF_MESSAGE: ("i", "{client_addr}"),
}
_KINDS = {
    Stage.CONNECT: m.Connect,
    Stage.HELO: m.Helo,
    Stage.MAIL: m.MailFrom,
    Stage.RCPT: m.RcptTo,
    Stage.DATA: m.Data,
    Stage.END_OF_HEADERS: m.EndOfHeaders,
    Stage.END_OF_MESSAGE: m.EndOfMessage,
}


def _told(heard: Heard, stage: Stage, names: set[str]) -> set[str]:
    return names - set(heard.macros(_KINDS[stage]))


async def _defaults(trial: Trial) -> str:
    heard = await passed(trial)
    wanted = {
        Stage.CONNECT: {"j", "daemon_name"},
        Stage.MAIL: {"mail_addr"},
        Stage.RCPT: {"rcpt_addr"},
        Stage.DATA: {"i"},
        Stage.END_OF_HEADERS: {"i"},
        Stage.END_OF_MESSAGE: {"i"},
    }
    for stage, names in wanted.items():
        missing = _told(heard, stage, names)
        require(not missing, f"no {', '.join(sorted(missing))} at {stage.name}")
    return "all there"


async def _queue_id(trial: Trial) -> str:
    heard = await passed(trial)
    found = {heard.macros(each).get("i") for each in (m.Data, m.EndOfHeaders, m.EndOfMessage)}
    require(len(found) == 1 and all(found), f"{len(found)} values of i")
    return "one id from DATA to end of message"


async def _addresses(trial: Trial) -> str:
    heard = await passed(trial)
    sender = heard.macros(m.MailFrom).get("mail_addr", b"")
    recipient = heard.macros(m.RcptTo).get("rcpt_addr", b"")
    require(sender == trial.address(b"from"), "mail_addr is not the address in MAIL")
    require(recipient == trial.address(b"to"), "rcpt_addr is not the address in RCPT")
    return "the addresses without brackets"


async def _lists(trial: Trial) -> str:
    heard = await passed(trial, Plan(terms=Terms(macros=_ASKED)))
    for stage, names in _ASKED.items():
        told, asked = set(heard.macros(_KINDS[stage])), {each.strip("{}") for each in names}
        require(told == asked, f"at {stage.name} {sorted(told)} where {sorted(asked)} was asked")
    require(heard.macros(m.Connect).get("client_addr"), "client_addr is empty")
    return "exactly what was asked, at each of 7 stages"


async def _empty_list(trial: Trial) -> str:
    heard = await passed(trial, Plan(terms=Terms(macros={Stage.CONNECT: ()})))
    require(heard.macros(m.EndOfMessage).get("i"), "no i at end of message")
    none = "nothing" if not heard.macros(m.Connect) else "the defaults"
    return f"{none} at CONNECT, the defaults elsewhere"


async def _before(trial: Trial) -> str:
    heard = await passed(trial)
    for packet, event in zip(heard.events, heard.events[1:], strict=False):
        if isinstance(packet, m.Macros):
            name = type(event).__name__
            require(COMMAND_OF[type(event)] is packet.command, f"macros of another before {name}")
    return "each packet just before its event"


CHECKS = (
    Check(
        "offer/version",
        "The version offered",
        "The offer comes first, and is of version 2 or later.",
        _LIBMILTER,
        _version,
    ),
    Check(
        "offer/actions",
        "The edits offered",
        "Only actions that exist in the version offered.",
        _MFDEF,
        _actions,
    ),
    Check(
        "offer/protocol",
        "The protocol flags offered",
        "Only flags that exist in the version offered.",
        _MFDEF,
        _protocol,
    ),
    *(
        _older(version, absent)
        for version, absent in ((2, ("Unknown", "Data")), (3, ("Data",)), (4, ()))
    ),
    *LIES,
    Check(
        "lie/protocol",
        "The milter asks for a flag that was not offered",
        "The flag is left aside, or the milter counts as failed; the mail is not lost.",
        _POSTFIX,
        _unoffered_protocol,
    ),
    Check(
        "macros/defaults",
        "Macros nobody asked for",
        "j and {daemon_name} at CONNECT, {mail_addr}, {rcpt_addr}, and i from DATA on.",
        _MACROS,
        _defaults,
    ),
    Check(
        "macros/queue-id",
        "One queue id",
        "i is the same at DATA, end of headers and end of message.",
        _MACROS,
        _queue_id,
    ),
    Check(
        "macros/addresses",
        "The addresses as macros",
        "{mail_addr} and {rcpt_addr} are the envelope's addresses, without brackets.",
        _MACROS,
        _addresses,
    ),
    Check(
        "macros/lists",
        "The milter's own lists",
        "A stage with a list of the milter's gets those macros, and no others.",
        _LISTS,
        _lists,
    ),
    Check(
        "macros/empty-list",
        "A list of no macro",
        "It may mean none or the defaults; the other stages keep theirs.",
        "libmilter, smfi_setsymlist, which refuses to make one",
        _empty_list,
    ),
    Check(
        "macros/before",
        "Macros before their event",
        "A macro packet names the event that follows it.",
        "libmilter engine.c, st_macros",
        _before,
    ),
)
