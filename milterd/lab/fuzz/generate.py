"""Conversations from the table of legal moves, and past it."""

from __future__ import annotations

from random import Random

from milterd.lab.fuzz.conversation import Conversation, Ending, Write
from milterd.lab.fuzz.referee import skips_ahead
from milterd.lab.fuzz.values import event, impossible, macros
from milterd.wire import messages as m
from milterd.wire.constants import ACTIONS_OF_VERSION, PROTOCOL_OF_VERSION, Actions, Protocol
from milterd.wire.states import COMMAND_OF, NEXT, CommandType, State

_LONGEST = 60
_WEIGHTS: dict[CommandType, int] = {
    m.Helo: 3, m.MailFrom: 10, m.RcptTo: 4, m.Data: 6, m.Header: 6, m.EndOfHeaders: 3,
    m.BodyChunk: 3, m.EndOfMessage: 4, m.Abort: 1, m.Quit: 1, m.Unknown: 1,
}  # fmt: skip
"""How likely a move is among those that are legal; what is not here does not come."""
_EVENTS = tuple(each for each in COMMAND_OF if each not in (m.Negotiate, m.Macros))
_BITS = (0, 1, 0x1FF, 0x200, 0x1FFFFF, 0x200000, 0x7FFFFFFF, 0xFFFFFFFF)


def offer(random: Random) -> m.Negotiate:
    """What some MTA offers: all of a version, mostly of the newest."""
    version = random.choice((6, 6, 6, 6, 2, 3, 4))
    return m.Negotiate(version, ACTIONS_OF_VERSION[version], PROTOCOL_OF_VERSION[version])


def legal(random: Random) -> Conversation:
    """A walk over the table, with odd values."""
    offered = offer(random)
    writes, state = [Write(offered.encode())], State.READY
    while state is not State.CLOSED and len(writes) < _LONGEST:
        kind = _move(state, offered.version, random)
        writes.append(said(kind, random))
        state = NEXT[state][kind]
        if kind is m.EndOfMessage:
            state = State.IDLE
            writes.append(Write(m.Abort().encode()))
    ending = Ending.END if random.random() < 0.9 else Ending.DROP
    return Conversation(tuple(writes), ending, adapt=True)


def _move(state: State, version: int, random: Random) -> CommandType:
    if state is State.READY:
        return m.Connect if random.random() < 0.97 else m.Quit
    moves = [
        each for each in NEXT[state] if each in _WEIGHTS and not skips_ahead(state, each, version)
    ]
    return random.choices(moves, [_WEIGHTS[each] for each in moves])[0]


def said(kind: CommandType, random: Random) -> Write:
    """An event, perhaps with macros before it."""
    octets = event(kind, random).encode()
    if random.random() < 0.5:
        octets = macros(COMMAND_OF[kind], random).encode() + octets
    return Write(octets)


def illegal(random: Random) -> Conversation:
    """A legal walk up to some point, and anything after it."""
    begun = legal(random).writes
    writes = list(begun[: random.randrange(len(begun) + 1)])
    for _ in range(random.randint(1, 8)):
        kind = random.random()
        if kind < 0.1:
            writes.append(Write(_odd_offer(random).encode()))
        elif kind < 0.4:
            writes.append(Write(impossible(random).encode()))
        else:
            writes.append(said(random.choice(_EVENTS), random))
    return Conversation(tuple(writes), _ending(random))


def _odd_offer(random: Random) -> m.Negotiate:
    version = random.choice((0, 1, 2, 6, 7, 0x7FFFFFFF, 0xFFFFFFFF))
    actions, protocol = random.choice(_BITS), random.choice(_BITS)
    return m.Negotiate(version, Actions(actions), Protocol(protocol))


def _ending(random: Random) -> Ending:
    return Ending.END if random.random() < 0.8 else Ending.DROP
