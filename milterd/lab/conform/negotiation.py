"""Negotiation: every version, every offer, and the answer within it."""

from __future__ import annotations

import re

from milterd.lab.conform.check import Check, NotApplicableError, fail, not_applicable
from milterd.lab.conform.context import Context, poked
from milterd.lab.conform.talk import Talk, settles
from milterd.lab.link import Fault, MilterError
from milterd.lab.postfix import session_events
from milterd.wire import messages as m
from milterd.wire.agreement import Negotiated
from milterd.wire.constants import (
    ACTIONS_OF_VERSION,
    NEWEST_VERSION,
    OLDEST_VERSION,
    PROTOCOL_OF_VERSION,
    Actions,
    Protocol,
)
from milterd.wire.errors import PeerError
from milterd.wire.frames import frame

_LIBMILTER = "libmilter engine.c, st_optionneg"
_POSTFIX = "Postfix milter8.c, milter8_connect"
_V1_ACTIONS = Actions(0x0F)
_V1_PROTOCOL = Protocol(0x3F)
_HIGH = 0x0FE0_0000
"""Protocol bits without a name in mfdef.h 8.17."""
_MDS = 0x3000_0000
_ACTIONS = [each for each in Actions if each]
_BRACED = re.compile(r"\{[^{}]+\}")


def _offer(version: int, actions: int | None = None, protocol: int | None = None) -> m.Negotiate:
    """What Postfix offers in a version, or other flags."""
    known = min(version, NEWEST_VERSION)
    return m.Negotiate(
        version,
        ACTIONS_OF_VERSION[known] if actions is None else Actions(actions),
        PROTOCOL_OF_VERSION[known] if protocol is None else Protocol(protocol),
    )


async def agree(talk: Talk, *, may_refuse: bool = True) -> Negotiated:
    """Negotiate; where the milter `may_refuse` and closes, the check does not apply."""
    try:
        agreed = await talk.negotiate()
    except MilterError as error:
        if may_refuse and error.fault is Fault.GONE:
            not_applicable("the milter closes: it needs what this offer lacks")
        raise
    if talk.mta.violations:
        talk.fail("; ".join(talk.mta.violations))
    return agreed


def flags(agreed: Negotiated | m.Negotiate) -> str:
    """What was agreed on, in words."""
    return (
        f"version {agreed.version}, actions {int(agreed.actions):#x}, "
        f"protocol {int(agreed.protocol):#x}"
    )


async def _mail_goes(talk: Talk) -> str:
    """A session and a mail under what was agreed; its judgement in words."""
    for event in session_events(talk.mail):
        reply = await talk.say(event)
        if settles(reply):
            return talk.told(reply)
    return str(await talk.message())


def _version(version: int) -> Check:
    async def run(context: Context) -> str:
        async with context.connected(offer=_offer(version)) as talk:
            agreed = await agree(talk, may_refuse=version < NEWEST_VERSION)
            if agreed.version > NEWEST_VERSION:
                talk.fail(f"version {agreed.version}, which does not exist")
            return f"{flags(agreed)}: {await _mail_goes(talk)}"

    return Check(
        f"negotiate/version-{version}",
        f"An MTA that offers version {version}",
        "The answer's version is at most the one offered, its flags are among those offered, "
        "and mail is judged under them; a milter that needs more closes.",
        f"{_LIBMILTER}; {_POSTFIX}",
        run,
    )


async def _each_action_withheld(context: Context) -> str:
    refusing = []
    for action in _ACTIONS:
        offer = _offer(NEWEST_VERSION, actions=Actions.ALL & ~action)
        async with context.connected(offer=offer) as talk:
            try:
                await agree(talk)
            except NotApplicableError:
                refusing.append(action.name or "")
                continue
            await _mail_goes(talk)
    if len(refusing) == len(_ACTIONS):
        fail("closes at every offer that lacks one action, whichever it is")
    return f"needs {', '.join(refusing)}" if refusing else "works without any of them"


async def _unset_flags(context: Context, actions: int, protocol: int) -> str:
    """An offer of no flags; libmilter takes that for the flags of version 1."""
    async with context.connected() as talk:
        await talk.link.write(m.Negotiate(6, Actions(actions), Protocol(protocol)).encode())
        answer = await talk.link.frame()
        if answer is None:
            not_applicable("the milter closes: it needs what this offer lacks")
        try:
            agreed = m.decode_reply(*answer)
        except PeerError as error:
            raise talk.link.broken(error) from error
        if not isinstance(agreed, m.Negotiate):
            return fail(f"answers {type(agreed).__name__}", "negotiate", 0)
        lies = int(agreed.actions) & ~actions, int(agreed.protocol) & ~protocol
        if lies[0] & ~_V1_ACTIONS or lies[1] & ~_V1_PROTOCOL:
            talk.fail(f"{flags(agreed)}: more than was offered")
        if any(lies):
            not_applicable(f"{flags(agreed)}: libmilter reads no flags as those of version 1")
    return flags(agreed)


async def _no_actions(context: Context) -> str:
    return await _unset_flags(context, 0, Protocol.ALL)


async def _no_protocol(context: Context) -> str:
    return await _unset_flags(context, Actions.ALL, 0)


async def _unknown_actions(context: Context) -> str:
    offer = _offer(NEWEST_VERSION, actions=0x7FFF_FFFF)
    async with context.connected(offer=offer) as talk:
        agreed = await agree(talk, may_refuse=False)
        went = await _mail_goes(talk)
    if agreed.actions & ~int(Actions.ALL):
        not_applicable(f"{flags(agreed)}: libmilter gives back all of an offer (SMFIS_ALL_OPTS)")
    return f"{flags(agreed)}: {went}"


async def _unknown_protocol(context: Context) -> str:
    offer = _offer(NEWEST_VERSION, protocol=Protocol.ALL | _HIGH)
    async with context.connected(offer=offer) as talk:
        agreed = await agree(talk, may_refuse=False)
        if int(agreed.protocol) & _HIGH:
            talk.fail(f"{flags(agreed)}: asks for what nobody knows the meaning of")
        return f"{flags(agreed)}: {await _mail_goes(talk)}"


async def _large_data(context: Context) -> str:
    """An MTA that can send large packets, and sends them where the milter says so."""
    offer = _offer(NEWEST_VERSION, protocol=Protocol.ALL | _MDS)
    async with context.connected(offer=offer) as talk:
        agreed = await agree(talk, may_refuse=False)
        return f"{flags(agreed)}: {await _mail_goes(talk)}"


async def _same_each_time(context: Context) -> str:
    found = []
    for _ in range(3):
        async with context.connected() as talk:
            found.append(await agree(talk, may_refuse=False))
    if any(each != found[0] for each in found):
        fail("; ".join(flags(each) for each in found), "negotiate")
    return flags(found[0])


async def _lists_well_formed(context: Context) -> str:
    async with context.connected() as talk:
        agreed = await agree(talk, may_refuse=False)
        if not agreed.macros:
            not_applicable("the milter has no macro lists")
        odd = [
            name
            for names in agreed.macros.values()
            for name in names
            if len(name) > 1 and not _BRACED.fullmatch(name)
        ]
        if odd:
            talk.fail(f"names without braces, which no MTA has: {' '.join(odd)}")
        if Actions.SETSYMLIST not in agreed.actions:
            not_applicable("lists without SETSYMLIST in the answer, as libmilter lets a filter do")
    return "; ".join(f"{stage.name}: {' '.join(names)}" for stage, names in agreed.macros.items())


async def _lists_not_offered(context: Context) -> str:
    offer = _offer(NEWEST_VERSION, actions=Actions.ALL & ~Actions.SETSYMLIST)
    async with context.connected(offer=offer) as talk:
        agreed = await agree(talk)
        return f"{flags(agreed)}, no lists"


def _refused(name: str, title: str, octets: bytes) -> Check:
    """An offer that is none: closed, or at least not answered with an agreement."""

    async def run(context: Context) -> str:
        async with context.connected() as talk:
            said = await poked(context, talk, octets)
        if said == "answers Negotiate":
            fail("agrees to it", "negotiate", 0)
        await context.serves()
        return said

    rule = "What is no offer is not agreed to, and the next client is served."
    return Check(f"negotiate/{name}", title, rule, _LIBMILTER, run)


_OFFER_RULE = "The answer's flags are among those offered, and mail is judged under them"
CHECKS: tuple[Check, ...] = (
    *[_version(each) for each in range(OLDEST_VERSION, NEWEST_VERSION + 2)],
    Check(
        "negotiate/same-each-time",
        "The same offer three times",
        "The answer to one offer is always the same: an MTA may keep it.",
        "Postfix milter8.c: one connection a session, the same expected of each",
        _same_each_time,
    ),
    Check(
        "negotiate/actions-withheld",
        "Offers that lack one action each",
        f"{_OFFER_RULE}; a milter that needs the action closes.",
        f"{_LIBMILTER}; {_POSTFIX}",
        _each_action_withheld,
    ),
    Check(
        "negotiate/no-actions",
        "An offer of no actions",
        "The answer asks for no action, or the milter closes.",
        _LIBMILTER,
        _no_actions,
    ),
    Check(
        "negotiate/no-protocol-flags",
        "An offer of no protocol flags",
        "The answer asks for no flag, or the milter closes.",
        _LIBMILTER,
        _no_protocol,
    ),
    Check(
        "negotiate/unknown-actions",
        "An offer of actions that nobody knows",
        f"{_OFFER_RULE}; unknown ones are not asked for.",
        _LIBMILTER,
        _unknown_actions,
    ),
    Check(
        "negotiate/unknown-protocol-flags",
        "An offer of protocol flags that nobody knows",
        f"{_OFFER_RULE}; unknown ones are not asked for.",
        _LIBMILTER,
        _unknown_protocol,
    ),
    Check(
        "negotiate/large-data",
        "An offer of packets over 64 KiB (MDS_256K, MDS_1M)",
        _OFFER_RULE + ".",
        "libmilter mfdef.h, SMFIP_MDS_*",
        _large_data,
    ),
    Check(
        "negotiate/macro-lists",
        "The milter's own macro lists",
        "A list names a stage that exists, and macros as they stand in packets: one letter, "
        "or a name in braces.",
        "libmilter smfi_setsymlist; Postfix milter8.c",
        _lists_well_formed,
    ),
    Check(
        "negotiate/macro-lists-not-offered",
        "An offer without SETSYMLIST",
        "Macro lists come only where the MTA offers SETSYMLIST.",
        "libmilter mfapi.h, SMFIF_SETSYMLIST; Postfix milter8.c",
        _lists_not_offered,
    ),
    _refused(
        "version-1", "An offer of version 1", m.Negotiate(1, _V1_ACTIONS, _V1_PROTOCOL).encode()
    ),
    _refused("short-offer", "An offer that lacks its last field", frame(b"O", bytes(8))),
)
