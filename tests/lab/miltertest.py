"""A scenario as a Lua script for OpenDKIM's miltertest, and what both saw, in one form.

The script prints, for each event, the reply; and at the end of a message, what it
knows of the edits: every field that was added, and answers to questions made from
the edits that milterlab saw.  What miltertest cannot know is left out on both
sides: ADDRCPT_PAR and CHGFROM, and the text of a reply in several lines.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from milterd.core.mail import Family
from milterd.lab.scenario import steps as s
from milterd.lab.scenario.run import Exchange
from milterd.wire import messages as m
from milterd.wire.constants import Actions, Command, Protocol
from milterd.wire.convert import edit_to_replies
from milterd.wire.states import EVENTS
from tests.peers.process import program

Fact = tuple[object, ...]
Seen = dict[int, set[Fact]]
"""What is known of each line."""

_PRELUDE = r"""
local function hex(text)
  return (tostring(text):gsub(".", function(c) return string.format("%02x", string.byte(c)) end))
end
local function say(...) print(table.concat({...}, "\t")) end
local function has(option) return option ~= 0 and mt.test_option(conn, option) end
function event(line, unsent, unanswered, call, ...)
  if has(unsent) then return say(line, "reply", "") end
  local fine, trouble = pcall(call, conn, ...)
  if not fine or trouble ~= nil then return say(line, "trouble", hex(trouble)) end
  if has(unanswered) then return say(line, "reply", "") end
  say(line, "reply", hex(string.char(mt.getreply(conn))))
end
function field(value)
  if has(SMFIP_HDR_LEADSPC) or value:sub(1, 1) ~= " " then return value end
  return value:sub(2)
end
function ask(line, op, ...)
  local fine, answer = pcall(mt.eom_check, conn, op, ...)
  local words = {}
  for _, each in ipairs({...}) do words[#words + 1] = hex(each) end
  say(line, "answer", string.format("%d", op), table.concat(words, " "), tostring(fine and answer))
end
function fields(line, name)
  for n = 0, 20 do
    local value = mt.getheader(conn, name, n)
    if value == nil then return end
    say(line, "field", hex(name), hex(value))
    if mt.eom_check(conn, MT_HDRADD, name, value) then say(line, "added", hex(name), hex(value)) end
    for index = 0, 20 do
      if mt.eom_check(conn, MT_HDRINSERT, name, value, index) then
        say(line, "inserted", hex(name), hex(value), index)
      end
    end
  end
end
"""
PATIENCE = 10
"""Seconds that miltertest waits for an answer."""

_CONNECT = """
mt.set_timeout(PATIENCE)
conn = mt.connect(ADDRESS, 20, 0.1)
assert(mt.negotiate(conn, nil, nil, nil) == nil)
"""
_CALLS: dict[type[m.CommandMessage], str] = {
    m.Connect: "mt.conninfo",
    m.Helo: "mt.helo",
    m.MailFrom: "mt.mailfrom",
    m.RcptTo: "mt.rcptto",
    m.Data: "mt.data",
    m.Header: "mt.header",
    m.EndOfHeaders: "mt.eoh",
    m.EndOfMessage: "mt.eom",
    m.Unknown: "mt.unknown",
}
_MACROS = {
    Command.CONNECT: "SMFIC_CONNECT",
    Command.HELO: "SMFIC_HELO",
    Command.MAIL: "SMFIC_MAIL",
    Command.RCPT: "SMFIC_RCPT",
}
_OPS = {
    "MT_HDRADD": 1,
    "MT_HDRINSERT": 2,
    "MT_HDRCHANGE": 3,
    "MT_HDRDELETE": 4,
    "MT_RCPTADD": 5,
    "MT_RCPTDELETE": 6,
    "MT_BODYCHANGE": 7,
    "MT_QUARANTINE": 8,
}
_DECOY = b"something else"
FIELDS = (
    *(b"X-Added", b"X-Inserted", b"Subject", b"DKIM-Signature", b"Authentication-Results"),
    *(b"X-Virus-Scanned", b"X-Virus-Status", b"X-Other"),
)
"""The fields that a milter here may add; a field of another name fails the comparison."""


def text(octets: bytes) -> str:
    """Octets as a Lua string."""
    assert b"\0" not in octets, "miltertest loses NULs"
    return '"' + "".join(f"\\{each:03d}" for each in octets) + '"'


@dataclass(frozen=True)
class Question:
    """What to ask with eom_check, and the answer if miltertest saw the same."""

    op: str
    params: tuple[bytes, ...]
    answer: bool

    @property
    def words(self) -> tuple[str, ...]:
        return (self.op, *map(text, self.params))

    @property
    def fact(self) -> Fact:
        params = " ".join(each.hex() for each in self.params)
        return ("answer", str(_OPS[self.op]), params, str(self.answer).lower())


def _connect(address: str, patience: int) -> str:
    return _CONNECT.replace("ADDRESS", text(address.encode())).replace("PATIENCE", str(patience))


def script(
    scenario: s.Scenario,
    address: str,
    asked: dict[int, list[Question]],
    patience: int = PATIENCE,
) -> str:
    """The dialogue for miltertest, which offers everything as milterlab does."""
    lines = [_PRELUDE]
    connected = False
    for step in scenario.steps:
        if isinstance(step.action, s.Expect):
            continue
        if not connected and isinstance(step.action, s.Say | s.SetMacros):
            connected = True
            lines.append(_connect(address, patience))
        lines += _line(step, asked.get(step.line, []))
        connected = connected and step.action != s.Say(m.Quit())
    if connected:
        lines.append("mt.disconnect(conn)")
    return "\n".join([*lines, ""])


def agreement(home: Path, address: str) -> tuple[Actions, Protocol]:
    """What miltertest says was agreed."""
    lines = [_PRELUDE, _connect(address, PATIENCE)]
    for word, kind in (("action", Actions), ("option", Protocol)):
        for each in kind:
            ask = f"mt.test_{word}(conn, {int(each)})"
            lines.append(f'if {ask} then say({int(each)}, "{word}") end')
    found = run(home, "\n".join([*lines, "mt.disconnect(conn)"]))
    return (
        Actions(sum(number for number, facts in found.items() if ("action",) in facts)),
        Protocol(sum(number for number, facts in found.items() if ("option",) in facts)),
    )


def _line(step: s.Step, asked: Sequence[Question]) -> Iterator[str]:
    match step.action:
        case s.SetMacros(command, values) if values:
            flat = [text(each) for pair in values for each in pair]
            yield f"mt.macro(conn, {_MACROS[command]}, {', '.join(flat)})"
        case s.Say(m.Abort()):
            yield "mt.abort(conn)"
        case s.Say(m.Quit()):
            yield "mt.disconnect(conn)"
        case s.Body(s.Octets(octets, times)):
            yield _event(step.line, m.BodyChunk, "mt.bodystring", text(octets * times))
        case s.Say(event):
            yield _event(step.line, type(event), _CALLS[type(event)], *_words(event))
            if isinstance(event, m.EndOfMessage):
                yield from (f"fields({step.line}, {text(each)})" for each in FIELDS)
                for each in asked:
                    yield f"ask({step.line}, {', '.join(each.words)})"
        case _:
            raise AssertionError(f"{step.action} cannot be said in Lua")


def _event(line: int, kind: type[m.CommandMessage], call: str, *words: str) -> str:
    flags = [int(EVENTS[kind].unsent), int(EVENTS[kind].unanswered)]
    return f"event({', '.join([*map(str, (line, *flags)), call, *words])})"


def _words(event: m.CommandMessage) -> list[str]:
    match event:
        case m.Connect():
            assert event.family is Family.UNKNOWN or event.port == 12345, "miltertest's own port"
            unknown = event.family is Family.UNKNOWN
            return [text(event.host), '"unspec"' if unknown else text(event.address)]
        case m.Helo():
            return [text(event.name)]
        case m.MailFrom() | m.RcptTo():
            return [text(event.address), *map(text, event.args)]
        case m.Header():
            return [text(event.name), f"field({text(event.value)})"]
        case m.Unknown():
            return [text(event.line)]
        case _:
            return []


def run(home: Path, lua: str) -> Seen:
    """What miltertest printed, as facts by line."""
    path = home / "script.lua"
    path.write_text(lua)
    command = [program("miltertest", "miltertest"), "-s", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found: Seen = {}
    for line in done.stdout.splitlines():
        number, *words = line.split("\t")
        found.setdefault(int(number), set()).add(tuple(words))
    return {line: set(map(_steady, facts)) for line, facts in found.items()}


def seen(
    exchanges: Sequence[Exchange], leading_space: bool
) -> tuple[Seen, dict[int, list[Question]]]:
    """What milterlab saw, as facts by line; and what to ask miltertest at each end."""
    found: Seen = {}
    asked: dict[int, list[Question]] = {}
    for each in exchanges:
        for answer in () if each.did in ("abort", "quit") else each.answers:
            letter = b"" if answer.final is None else answer.final.encode()[4:5]
            found[each.line] = {("reply", letter.hex())}
            if each.did.startswith("end"):
                edits = [r for edit in answer.edits for r in edit_to_replies(edit, leading_space)]
                asked[each.line] = list(_questions(edits))
                facts = [fact for edit in edits for fact in _field_facts(edit)]
                found[each.line].update(map(_steady, facts))
                found[each.line].update(question.fact for question in asked[each.line])
    return found, asked


def _field_facts(edit: m.EditReply) -> Iterator[Fact]:
    match edit:
        case m.AddHeaderReply() | m.InsertHeaderReply():
            assert edit.name in FIELDS, f"{edit.name!r} is none of the fields asked for"
            known = (edit.name.hex(), edit.value.hex())
            yield ("field", *known)
            if isinstance(edit, m.InsertHeaderReply):
                yield ("inserted", *known, str(edit.index))
            else:
                yield ("added", *known)
        case _:
            return


def _questions(edits: Sequence[m.EditReply]) -> Iterator[Question]:
    """For every kind whether there was any; for every edit it, and one that was not."""
    changes = [e for e in edits if isinstance(e, m.ChangeHeaderReply)]
    bodies = [e.octets for e in edits if isinstance(e, m.ReplaceBodyChunk)]
    reasons = [e.reason for e in edits if isinstance(e, m.QuarantineReply)]
    added, removed = m.AddRcptReply, m.DelRcptReply
    yield Question("MT_HDRADD", (), any(isinstance(e, m.AddHeaderReply) for e in edits))
    yield Question("MT_HDRINSERT", (), any(isinstance(e, m.InsertHeaderReply) for e in edits))
    yield Question("MT_HDRCHANGE", (), bool(changes))
    yield Question("MT_HDRDELETE", (), any(not e.value for e in changes))
    yield Question("MT_BODYCHANGE", (), bool(bodies))
    yield Question("MT_QUARANTINE", (), bool(reasons))
    yield Question("MT_RCPTADD", (_DECOY,), False)
    yield Question("MT_RCPTDELETE", (_DECOY,), False)
    yield from (Question("MT_RCPTADD", (e.address,), True) for e in edits if isinstance(e, added))
    yield from (
        Question("MT_RCPTDELETE", (e.address,), True) for e in edits if isinstance(e, removed)
    )
    for each in changes:
        yield Question("MT_HDRCHANGE", (each.name, each.value), True)
        yield Question("MT_HDRCHANGE", (each.name, _DECOY), False)
        yield Question("MT_HDRDELETE", (each.name,), not each.value)
    if bodies:
        yield Question("MT_BODYCHANGE", (b"".join(bodies),), True)
        yield Question("MT_BODYCHANGE", (_DECOY,), False)
    for reason in reasons:
        yield Question("MT_QUARANTINE", (reason,), True)
        yield Question("MT_QUARANTINE", (_DECOY,), False)


_VARYING = re.compile(rb"(?<![a-z])(t=)\d+|(?<![a-z])(b=)[^;]*")


def _steady(fact: Fact) -> Fact:
    """A fact without the time of a signature, and what depends on it."""
    if fact[0] not in ("field", "added", "inserted") or fact[1] != b"DKIM-Signature".hex():
        return fact
    value = _VARYING.sub(rb"\1\2", bytes.fromhex(str(fact[2])))
    return (*fact[:2], value.hex(), *fact[3:])
