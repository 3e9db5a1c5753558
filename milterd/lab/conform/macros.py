"""Macro packets: empty, unknown, repeated, for events that are not sent."""

from __future__ import annotations

from collections.abc import Sequence

from milterd.lab.conform.check import Check
from milterd.lab.conform.context import Context, poked
from milterd.lab.conform.talk import MacroOctets
from milterd.wire import messages as m
from milterd.wire.constants import Command
from milterd.wire.frames import frame
from milterd.wire.states import COMMAND_OF

_SOURCE = "libmilter engine.c, st_macros; Postfix sends empty lists, and lists for unsent events"
_SAME = "the mail is judged as ever."
Pairs = Sequence[tuple[bytes, bytes]]

_OTHERS = (
    (b"{no_such_macro}", b"value"),
    (b"Z", b"z"),
    (b"{empty}", b""),
    (b"{8bit}", b"gr\xfc\xdfe \xff"),
    (b"{long}", b"x" * 20_000),
)


def _packet(event: m.CommandMessage, pairs: Pairs) -> bytes:
    return m.Macros(COMMAND_OF[type(event)], tuple(pairs)).encode()


def _absent(_: m.CommandMessage, _pairs: Pairs) -> bytes:
    return b""


def _empty(event: m.CommandMessage, _pairs: Pairs) -> bytes:
    return _packet(event, ())


def _empty_first(event: m.CommandMessage, pairs: Pairs) -> bytes:
    return _packet(event, ()) + _packet(event, pairs)


def _for_every_command(event: m.CommandMessage, pairs: Pairs) -> bytes:
    return b"".join(m.Macros(each).encode() for each in Command) + _packet(event, pairs)


def _unknown_names(event: m.CommandMessage, pairs: Pairs) -> bytes:
    return _packet(event, (*pairs, *_OTHERS))


def _twice(event: m.CommandMessage, pairs: Pairs) -> bytes:
    return _packet(event, pairs) * 2 if pairs else b""


def _replaced(event: m.CommandMessage, pairs: Pairs) -> bytes:
    stale = _packet(event, [(name, b"stale") for name, _ in pairs])
    return stale + _packet(event, pairs) if pairs else b""


def _check(name: str, title: str, rule: str, octets: MacroOctets, *, same: bool = True) -> Check:
    async def run(context: Context) -> str:
        async with context.connected() as talk:
            talk.macro_octets = octets
            await talk.open()
            judged = await talk.message()
            if same:
                await context.expect_same(judged)
            await talk.quit()
        return await context.expect_alive(judged)

    return Check(f"macros/{name}", title, rule, _SOURCE, run)


def _poke(name: str, title: str, octets: bytes) -> Check:
    async def run(context: Context) -> str:
        async with context.connected() as talk:
            await talk.negotiate()
            said = await poked(context, talk, octets)
        await context.serves()
        return said

    rule = "The packet is ignored or ends the connection, and the next client is served."
    return Check(f"macros/{name}", title, rule, _SOURCE, run)


CHECKS: tuple[Check, ...] = (
    _check(
        "usual",
        "Macros before every event, wanted or not",
        f"Macros are not answered; {_SAME}",
        _packet,
    ),
    _check(
        "empty-first",
        "An empty list before each full one",
        f"An empty list is no error; {_SAME}",
        _empty_first,
    ),
    _check(
        "for-every-command",
        "Empty lists for every command there is",
        f"A list may be empty, and for any command; {_SAME}",
        _for_every_command,
    ),
    _check(
        "unknown-names",
        "Names that nobody knows, 8-bit and long values",
        f"Unknown macros are ignored; {_SAME}",
        _unknown_names,
    ),
    _check("twice", "Every list twice", f"The list that came last counts; {_SAME}", _twice),
    _check(
        "replaced",
        "Every list twice, with wrong values first",
        f"The list that came last counts; {_SAME}",
        _replaced,
    ),
    _check(
        "empty",
        "Only empty lists",
        "A milter does without macros, if need be by its policy, but does not defer.",
        _empty,
        same=False,
    ),
    _check(
        "absent",
        "No macros at all",
        "A milter does without macros, if need be by its policy, but does not defer.",
        _absent,
        same=False,
    ),
    _poke("unknown-command", "A list for a command that does not exist", frame(b"D", b"?j\0x\0")),
    _poke("no-command", "A list for no command", frame(b"D")),
    _poke("no-value", "A name without its value", frame(b"D", b"Cj\0")),
    _poke("no-nul", "A value without its NUL", frame(b"D", b"Cj\0value")),
)
