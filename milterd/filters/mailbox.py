"""The addresses in a From field, read strictly (RFC 5322 section 3.4).

What cannot be read in exactly one way is an error, never a guess: two parsers
that disagree on who wrote a mail are how one gets signed in another's name.
Groups, source routes and empty list elements are errors too.  There is no
recursion, and the time is linear in the length of the field.
"""

from __future__ import annotations

import enum
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass

VALUE_LIMIT = 65_536
"""Octets of the longest field value that is read."""
MAILBOX_LIMIT = 1_000
"""Mailboxes read from one field."""
_SHORT = 256
"""Octets of a value that is remembered with what it says."""


class AddressError(ValueError):
    """The field does not read as addresses; the text says where and never quotes it."""


@dataclass(frozen=True, slots=True)
class Mailbox:
    """An address: local part with quotes undone, and domain in lower case."""

    local: bytes
    domain: bytes


class _Kind(enum.Enum):
    ATOM = "atom"
    QUOTED = "quoted string"
    LITERAL = "domain literal"
    SPECIAL = "special"
    END = "end"


@dataclass(frozen=True, slots=True)
class _Token:
    kind: _Kind
    text: bytes

    def is_special(self, sign: bytes) -> bool:
        return self.kind is _Kind.SPECIAL and self.text == sign

    @property
    def is_word(self) -> bool:
        return self.kind in (_Kind.ATOM, _Kind.QUOTED)


# Octets above 127 are allowed as RFC 6532 does; control characters nowhere.
# No possessive group: Debian 12's first CPython 3.11.2 takes one octet too many with it.
_BLANK = re.compile(rb"(?:[ \t]|\r\n(?=[ \t]))+")
_ATOM = re.compile(rb"[^\x00-\x20\x7f()<>\[\]:;@\\,.\"]+")
_QUOTED = re.compile(rb'"((?:[^"\\\x00-\x08\x0a-\x1f\x7f]|\\[\t -~\x80-\xff]|\r\n(?=[ \t]))*)"')
_LITERAL = re.compile(rb"\[[^\[\]\\\x00-\x1f\x7f]*+\]")
_COMMENT = re.compile(rb"\\[\t -~\x80-\xff]|[()]|(?:[^()\\\x00-\x08\x0a-\x1f\x7f]|\r\n(?=[ \t]))+")
_PAIR = re.compile(rb"\\(.)")


def mailboxes(value: bytes) -> tuple[Mailbox, ...]:
    """Every address in a field value, in order; at least one.  Raises AddressError."""
    return _mailboxes(value) if len(value) > _SHORT else _mailboxes_again(value)


def _mailboxes(value: bytes) -> tuple[Mailbox, ...]:
    tokens = _Tokens(value)
    found = [_mailbox(tokens)]
    while tokens.now.is_special(b","):
        tokens.step()
        found.append(_mailbox(tokens))
        if len(found) > MAILBOX_LIMIT:
            raise AddressError("too many addresses")
    if tokens.now.kind is not _Kind.END:
        raise AddressError(f"unexpected {tokens.now.kind.value} after an address")
    return tuple(found)


_mailboxes_again = functools.lru_cache(256)(_mailboxes)  # most authors write more than once


def first_word(value: bytes) -> bytes:
    """The first word of a structured field: comments passed over, quotes undone.

    Dots join words here, so that a host name is one.  Raises AddressError where
    the field does not begin with a word.
    """
    tokens = _Tokens(value)
    if not tokens.now.is_word:
        raise AddressError("the field does not begin with a word")
    parts = [tokens.step().text]
    while tokens.now.is_special(b"."):
        parts.append(tokens.step().text)
        if tokens.now.is_word:
            parts.append(tokens.step().text)
    return b"".join(parts)


class _Tokens:
    """The tokens of a value, one look ahead."""

    def __init__(self, value: bytes) -> None:
        if len(value) > VALUE_LIMIT:
            raise AddressError(f"longer than {VALUE_LIMIT} octets")
        self._source = _tokens(value)
        self.now = next(self._source)

    def step(self) -> _Token:
        """Take the token that is looked at; the last one stays."""
        taken = self.now
        self.now = next(self._source, taken)
        return taken


def _tokens(value: bytes) -> Iterator[_Token]:
    at = 0
    while at < len(value):
        sign = value[at : at + 1]
        if match := _BLANK.match(value, at):
            at = match.end()
        elif sign == b"(":
            at = _after_comment(value, at)
        elif match := _ATOM.match(value, at):
            yield _Token(_Kind.ATOM, match[0])
            at = match.end()
        elif match := _QUOTED.match(value, at):
            yield _Token(_Kind.QUOTED, _PAIR.sub(rb"\1", match[1].replace(b"\r\n", b"")))
            at = match.end()
        elif match := _LITERAL.match(value, at):
            yield _Token(_Kind.LITERAL, match[0])
            at = match.end()
        elif sign in b"<>@,.:;":
            yield _Token(_Kind.SPECIAL, sign)
            at += 1
        else:
            raise AddressError(f"octet {at} belongs to nothing")
    yield _Token(_Kind.END, b"")


def _after_comment(value: bytes, at: int) -> int:
    """Where the comment that begins at `at` ends; nested ones are counted."""
    depth = 0
    while match := _COMMENT.match(value, at):
        at = match.end()
        if match[0] == b"(":
            depth += 1
        elif match[0] == b")":
            depth -= 1
            if depth == 0:
                return at
    raise AddressError("a comment has no end")


def _mailbox(tokens: _Tokens) -> Mailbox:
    """One mailbox: an address, or a display name and an address in angle brackets."""
    words: list[_Token] = []
    while tokens.now.is_word or tokens.now.is_special(b"."):
        words.append(tokens.step())
    if tokens.now.is_special(b"@"):
        return _address(words, tokens)
    if tokens.now.is_special(b":"):
        raise AddressError("a group, not an address")
    if not tokens.now.is_special(b"<"):
        raise AddressError(f"expected an address, found {tokens.now.kind.value}")
    if words and words[0].is_special(b"."):
        raise AddressError("a display name begins with a dot")
    tokens.step()
    words = []
    while tokens.now.is_word or tokens.now.is_special(b"."):
        words.append(tokens.step())
    if not tokens.now.is_special(b"@"):
        raise AddressError("no address between angle brackets")
    mailbox = _address(words, tokens)
    if not tokens.now.is_special(b">"):
        raise AddressError("an angle bracket is not closed")
    tokens.step()
    return mailbox


def _address(local: list[_Token], tokens: _Tokens) -> Mailbox:
    """The address whose local part was read and whose `@` is looked at."""
    tokens.step()
    if tokens.now.kind is _Kind.LITERAL:
        return Mailbox(_dotted(local, _Kind.ATOM, _Kind.QUOTED), tokens.step().text.lower())
    domain: list[_Token] = []
    while tokens.now.kind is _Kind.ATOM or tokens.now.is_special(b"."):
        domain.append(tokens.step())
    return Mailbox(_dotted(local, _Kind.ATOM, _Kind.QUOTED), _dotted(domain, _Kind.ATOM).lower())


def _dotted(tokens: list[_Token], *kinds: _Kind) -> bytes:
    """Join words that must stand with one dot between each two."""
    if len(tokens) % 2 == 0:
        raise AddressError("a part of an address is missing")
    for place, token in enumerate(tokens):
        good = token.is_special(b".") if place % 2 else token.kind in kinds
        if not good:
            raise AddressError("words of an address are not joined by single dots")
    return b"".join(each.text for each in tokens)
