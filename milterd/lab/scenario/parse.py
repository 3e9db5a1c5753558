"""Reading a scenario: octets in, steps out; nothing is opened and nothing is run."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

from milterd.base.near import nearest
from milterd.core.mail import Family
from milterd.lab.scenario import steps as s
from milterd.lab.scenario.expecting import parse_expect
from milterd.lab.scenario.values import code, flags, number, octet_words, seconds
from milterd.lab.scenario.words import LineError, Words, shown
from milterd.wire import messages as m
from milterd.wire.constants import Actions, Protocol

_BLANKS = b" \t"
_PORT = 25000
_MOST = 64 * 1024 * 1024
"""Octets that one line may stand for."""
_HEREDOC = re.compile(rb"<<([A-Za-z0-9_]+)[ \t]*\Z")


def parse(source: bytes, name: str, variables: Mapping[str, bytes] | None = None) -> s.Scenario:
    """The scenario in the octets of a file called `name`.

    `variables` are the values of `${NAME}`.  Raises ScenarioError with the first
    line that is wrong.
    """
    reader, given = _Lines(source), variables or {}
    found: list[s.Step] = []
    for at, line in reader:
        try:
            action = _statement(line, reader, given)
        except LineError as mistake:
            raise s.ScenarioError(name, at, str(mistake)) from None
        _check_place(action, found, name, at)
        found.append(s.Step(at, action))
    if not any(isinstance(each.action, s.Talk) for each in found):
        raise s.ScenarioError(name, max(reader.number, 1), "expected an event, found none")
    return s.Scenario(name, tuple(found))


class _Lines:
    """The lines that say something, each with its number."""

    def __init__(self, source: bytes) -> None:
        self._lines = source.split(b"\n")
        self.number = 0

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        while self.number < len(self._lines):
            line = self._next().strip(_BLANKS)
            if line and not line.startswith(b"#"):
                yield self.number, line

    def until(self, mark: bytes) -> bytes:
        """The lines up to one that is `mark`, each with CRLF."""
        found: list[bytes] = []
        while self.number < len(self._lines):
            line = self._next()
            if line.strip(_BLANKS) == mark:
                return b"".join(found)
            found.append(line + b"\r\n")
        raise LineError(f"expected a line {shown(mark)} after it, found the end of the file")

    def _next(self) -> bytes:
        self.number += 1
        return self._lines[self.number - 1].removesuffix(b"\r")


def _check_place(action: s.Action, before: list[s.Step], name: str, line: int) -> None:
    said = any(isinstance(each.action, s.Talk) for each in before)
    match action:
        case s.Socket() | s.Start():
            word = type(action).__name__.lower()
            if said:
                raise s.ScenarioError(name, line, f"expected {word} before every event")
            if any(type(each.action) is type(action) for each in before):
                raise s.ScenarioError(name, line, f"found a second {word}")
        case s.Expect(wish) if not said and not isinstance(wish, s.Agreement):
            raise s.ScenarioError(name, line, "expected an event before it, found none")


def _statement(line: bytes, reader: _Lines, variables: Mapping[str, bytes]) -> s.Action:
    words = Words(line, variables)
    word = words.keyword("an action")
    if word in ("body", "message"):
        content = _content(words, reader)
        return s.Body(content) if word == "body" else s.Message(content)
    if word in s.BARE:
        words.done()
        return s.Say(s.BARE[word])
    read = _STATEMENTS.get(word)
    if read is None:
        close = nearest(word, WORDS)
        hint = f", perhaps {close}" if close else ""
        raise LineError(f"expected an action, found {shown(word.encode())}{hint}")
    action = read(words)
    words.done()
    return action


def _content(words: Words, reader: _Lines) -> s.Content:
    what = '"TEXT", @FILE or <<WORD'
    heredoc = _HEREDOC.fullmatch(words.peek())
    if heredoc is not None:
        words.raw_rest()
        return s.Octets(reader.until(heredoc[1]))
    word = words.take(what)
    if word.quoted:
        times = 1
        if words.more():
            if words.keyword("* and a number") != "*":
                raise LineError("expected * and a number, or the end of the line")
            times = number(words, "how many times")
        words.done()
        if len(word.octets) * times > _MOST:
            raise LineError(f"expected at most {_MOST} octets")
        return s.Octets(word.octets, times)
    words.done()
    if not word.octets.startswith(b"@") or len(word.octets) == 1:
        raise LineError(f"expected {what}, found {shown(word.octets)}")
    return s.FromFile(word.octets[1:])


def _socket(words: Words) -> s.Action:
    return s.Socket(words.octets("an address: unix:PATH or inet:PORT@HOST"))


def _start(words: Words) -> s.Action:
    return s.Start((words.octets("a command"), *_others(words)))


def _others(words: Words) -> Iterator[bytes]:
    while words.more():
        yield words.octets("a word")


def _offer(words: Words) -> s.Action:
    found: dict[str, int] = {}
    part = ""
    while words.more():
        word = words.keyword("version, actions or protocol")
        if word in ("version", "actions", "protocol"):
            if word in found:
                raise LineError(f"found a second {word}")
            part = word
            found[part] = number(words, "a version") if part == "version" else 0
        elif part in ("actions", "protocol"):
            found[part] |= flags(Actions if part == "actions" else Protocol, word)
        else:
            raise LineError(f"expected version, actions or protocol, found {shown(word.encode())}")
    return s.Offer(found.get("version", 6), found.get("actions"), found.get("protocol"))


def _connect(words: Words) -> s.Action:
    host = words.octets("a host name")
    if not words.more():
        return s.Say(m.Connect(host))
    address = words.octets("an address")
    if address.startswith(b"unix:"):
        return s.Say(m.Connect(host, Family.UNIX, 0, address.removeprefix(b"unix:")))
    port = number(words, "a port", 65535) if words.more() else _PORT
    family = Family.INET6 if b":" in address else Family.INET
    return s.Say(m.Connect(host, family, port, address))


def _helo(words: Words) -> s.Action:
    return s.Say(m.Helo(words.octets("a name")))


def _mail(words: Words) -> s.Action:
    return s.Say(m.MailFrom(words.octets("an address"), tuple(_others(words))))


def _rcpt(words: Words) -> s.Action:
    return s.Say(m.RcptTo(words.octets("an address"), tuple(_others(words))))


def _header(words: Words) -> s.Action:
    name, colon = words.until_colon()
    if not colon:
        raise LineError("expected NAME: VALUE, found no colon")
    return s.Say(m.Header(name, words.rest_as_it_is()))


def _end(words: Words) -> s.Action:
    return s.Say(m.EndOfMessage(words.octets("a piece of body") if words.more() else b""))


def _unknown(words: Words) -> s.Action:
    return s.Say(m.Unknown(words.rest()))


def _macro(words: Words) -> s.Action:
    stage = words.keyword("a stage")
    command = s.EVENTS.get(stage)
    if command is None:
        raise LineError(f"expected one of {', '.join(s.EVENTS)}, found {shown(stage.encode())}")
    if words.peek() == b"off":
        words.raw_rest()
        return s.SetMacros(command, None)
    pairs = []
    while words.more():
        word = words.octets("NAME=VALUE")
        name, equals, value = word.partition(b"=")
        if not equals or not name.strip(b"{}"):
            raise LineError(f"expected NAME=VALUE, found {shown(word)}")
        bare = len(name) == 1 or name.startswith(b"{")
        pairs.append((name if bare else b"{%b}" % name, value))
    return s.SetMacros(command, tuple(pairs))


def _raw(words: Words) -> s.Action:
    """Hexadecimal digits and texts in quotes, one after another."""
    found = b"".join(octet_words(words))
    if not found:
        raise LineError('expected octets, as hexadecimal digits or "TEXT", found none')
    return s.Raw(found)


def _packet(words: Words) -> s.Action:
    return s.Packet(code(words), b"".join(octet_words(words)))


def _fragment(words: Words) -> s.Action:
    if words.peek() == b"off":
        words.raw_rest()
        return s.Fragment(0)
    return s.Fragment(number(words, "how many octets at a time, or off"))


_STATEMENTS: dict[str, Callable[[Words], s.Action]] = {
    "socket": _socket,
    "start": _start,
    "offer": _offer,
    "connect": _connect,
    "helo": _helo,
    "mail": _mail,
    "rcpt": _rcpt,
    "header": _header,
    "end": _end,
    "unknown": _unknown,
    "macro": _macro,
    "raw": _raw,
    "packet": _packet,
    "sleep": lambda words: s.Sleep(seconds(words)),
    "within": lambda words: s.Within(seconds(words)),
    "fragment": _fragment,
    "stall": lambda words: s.Stall(seconds(words)),
    "drop": lambda _: s.Drop(),
    "half-close": lambda _: s.HalfClose(),
    "expect": lambda words: s.Expect(parse_expect(words)),
}
WORDS = (*_STATEMENTS, *s.BARE, "body", "message")
"""The words that a statement may begin with."""
