"""Conversations spoiled: packets lost, doubled, swapped and cut, lengths and bits that lie."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random

from milterd.lab.fuzz.conversation import Conversation, Ending, Write
from milterd.wire.frames import frame

_LENGTHS = (0, 1, 2, 0x7F, 0xFFFF, 0x10000, 0x10001, 0x100000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
Writes = list[Write]


def mutate(conversation: Conversation, random: Random) -> Conversation:
    """One to four changes; fragments alone leave a legal conversation legal."""
    writes = list(conversation.writes)
    if writes and random.random() < 0.15:
        return fragment(conversation, random)
    ending = conversation.ending
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        if not writes:
            break
        if random.random() < 0.1:
            writes, ending = _leave(writes, random)
        else:
            random.choice(_CHANGES)(writes, random)
    return Conversation(tuple(writes), ending)


def fragment(conversation: Conversation, random: Random) -> Conversation:
    """The same octets in smaller pieces: what was legal still is."""
    return replace(
        conversation, writes=tuple(_fragments(each, random) for each in conversation.writes)
    )


def _fragments(write: Write, random: Random) -> Write:
    size = len(write.octets)
    if size <= 64 and random.random() < 0.2:
        return replace(write, cuts=tuple(range(1, size)))
    return replace(write, cuts=tuple(sorted({random.randint(1, size) for _ in range(3)} - {size})))


def _leave(writes: Writes, random: Random) -> tuple[Writes, Ending]:
    """The MTA goes at some point, perhaps within a packet."""
    at = random.randrange(len(writes))
    last = writes[at].octets
    kept = [*writes[:at], Write(last[: random.randint(0, len(last))])]
    return [each for each in kept if each.octets], random.choice(tuple(Ending))


def _drop(writes: Writes, random: Random) -> None:
    del writes[random.randrange(len(writes))]


def _double(writes: Writes, random: Random) -> None:
    at = random.randrange(len(writes))
    writes[at:at] = [writes[at]] * random.choice((1, 1, 3))


def _swap(writes: Writes, random: Random) -> None:
    one, two = random.randrange(len(writes)), random.randrange(len(writes))
    writes[one], writes[two] = writes[two], writes[one]


def _join(writes: Writes, random: Random) -> None:
    """Send several at once, without waiting for answers."""
    at = random.randrange(len(writes))
    end = min(len(writes), at + random.randint(2, 12))
    writes[at:end] = [Write(b"".join(each.octets for each in writes[at:end]))]


def _insert(writes: Writes, random: Random) -> None:
    """A packet that nobody knows, or a head without sense."""
    code = bytes([random.randrange(256)])
    packet = frame(code, random.randbytes(random.choice((0, 1, 4, 40))))
    if random.random() < 0.2:
        packet = random.choice(_LENGTHS).to_bytes(4, "big") + code
    writes.insert(random.randint(0, len(writes)), Write(packet))


def _in_place(change: Callable[[bytearray, Random], None], within: bool) -> Callable[..., None]:
    """A change of one write's octets; `within` leaves the length right afterwards."""

    def changed(writes: Writes, random: Random) -> None:
        at = random.randrange(len(writes))
        octets = bytearray(writes[at].octets)
        if len(octets) < 5:
            return
        change(octets, random)
        if within and len(octets) >= 5:
            start = _last_packet(octets)
            octets[start : start + 4] = max(1, len(octets) - start - 4).to_bytes(4, "big")
        if octets:
            writes[at] = Write(bytes(octets))
        else:
            del writes[at]

    return changed


def _last_packet(octets: bytearray) -> int:
    """Where the last packet begins, as far as the lengths tell."""
    at = 0
    while at + 5 <= len(octets):
        after = at + 4 + int.from_bytes(octets[at : at + 4], "big")
        if after + 5 > len(octets):
            break
        at = after
    return at


def _truncate(octets: bytearray, random: Random) -> None:
    del octets[random.randrange(len(octets)) :]


def _extend(octets: bytearray, random: Random) -> None:
    octets += random.choice((b"\0", b"x\0", b"\0" * 70, random.randbytes(20), b"y" * 66_000))


def _lie(octets: bytearray, random: Random) -> None:
    true = int.from_bytes(octets[:4], "big")
    length = random.choice((*_LENGTHS, max(0, true - 1), min(true + 1, 0xFFFFFFFF)))
    octets[:4] = length.to_bytes(4, "big")


def _flip(octets: bytearray, random: Random) -> None:
    for _ in range(random.choice((1, 1, 3, 10))):
        octets[random.randrange(len(octets))] ^= 1 << random.randrange(8)


def _unterminate(octets: bytearray, random: Random) -> None:
    found = [at for at in range(5, len(octets)) if octets[at] == 0]
    if found:
        del octets[random.choice(found)]


def _empty(octets: bytearray, random: Random) -> None:
    """Leave one string without its octets."""
    ends = [at for at in range(_last_packet(octets) + 5, len(octets)) if octets[at] == 0]
    if ends:
        at = random.randrange(len(ends))
        start = ends[at - 1] + 1 if at else _last_packet(octets) + 5
        del octets[start : ends[at]]


def _splice(octets: bytearray, random: Random) -> None:
    """Put a piece of it elsewhere, over what is there or between."""
    one, two = sorted(random.randrange(4, len(octets)) for _ in range(2))
    at = random.randrange(5, len(octets) + 1)
    over = random.choice((0, two - one))
    octets[at : at + over] = octets[one:two]


_CHANGES: tuple[Callable[[Writes, Random], None], ...] = (
    _drop, _double, _swap, _join, _insert,
    _in_place(_truncate, False), _in_place(_truncate, True), _in_place(_extend, False),
    _in_place(_extend, True), _in_place(_lie, False), _in_place(_flip, False),
    _in_place(_unterminate, True), _in_place(_unterminate, False), _in_place(_splice, True),
    _in_place(_empty, True),
)  # fmt: skip
