"""What a milter says to a message, and when two such judgements are the same.

A filter's edits may hold times, ids and signatures that differ each time.  What differs
between judgements of one mail on connections of its own is let differ; the rest is not.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from milterd.lab.show import readable, reply_name
from milterd.wire import messages as m

_SPACE = re.compile(rb"\s+")
_TOKEN = re.compile(rb"[A-Za-z0-9+/=]+|[^A-Za-z0-9+/=]")
_TEXTS = ("name", "value", "address", "args", "reason", "text")


@dataclass(frozen=True, slots=True)
class Judged:
    """What a milter said to one message: where, with which reply, after which edits."""

    stage: str
    reply: m.Reply
    edits: tuple[m.EditReply, ...] = field(default=())

    @property
    def verdict(self) -> str:
        """`continue`, `accept`, `reject`, `tempfail`, `discard`..."""
        if isinstance(self.reply, m.ReplyCode):
            return "tempfail" if self.reply.text[:1] == b"4" else "reject"
        return reply_name(self.reply)

    @property
    def shape(self) -> tuple[object, ...]:
        """What must be the same each time: the stage, the verdict, and the edits' kinds."""
        return (self.stage, self.verdict, *map(_kind, self.edits))

    @property
    def parts(self) -> tuple[m.EditReply | m.Reply, ...]:
        """Everything that was said."""
        return (*self.edits, self.reply)

    def __str__(self) -> str:
        edits = f", {len(self.edits)} edits" if self.edits else ""
        return f"{reply_name(self.reply)} at {self.stage}{edits}"


def _kind(edit: m.EditReply) -> tuple[object, ...]:
    name = getattr(edit, "name", b"")
    return (type(edit).__name__, getattr(edit, "index", 0), name)


def difference(seen: Judged, alone: Sequence[Judged]) -> str:
    """In what a judgement differs from all that were made alone; empty if in nothing."""
    first = alone[0]
    if seen.shape != first.shape:
        return f"{_long(seen)}, expected {_long(first)}"
    for number, part in enumerate(seen.parts):
        others = [each.parts[number] for each in alone if each.shape == first.shape]
        if not _same(part, others):
            return f"{readable(part.encode()[4:])}, expected {readable(others[0].encode()[4:])}"
    return ""


def _long(judged: Judged) -> str:
    names = [readable(getattr(each, "name", b"")) or type(each).__name__ for each in judged.edits]
    return f"{judged} ({', '.join(names)})" if names else str(judged)


def _same(part: m.Reply, others: Sequence[m.Reply]) -> bool:
    """Whether a part is as the others are, but for what differs among these."""
    if part in others:
        return True
    lists = [_tokens(each) for each in (part, *others)]
    if len({len(each) for each in lists[1:]}) > 1:
        return True  # of a length of its own each time
    if len(lists[0]) != len(lists[1]):
        return False
    return all(
        mine == theirs[0] or len(set(theirs)) > 1 for mine, *theirs in zip(*lists, strict=True)
    )


def _tokens(part: m.Reply) -> list[bytes]:
    """Words and the characters between them; white space is left out, where folds may be."""
    if isinstance(part, m.ReplaceBodyChunk):
        return _TOKEN.findall(part.octets)
    text = b"\0".join(getattr(part, name, b"") for name in _TEXTS)
    return _TOKEN.findall(_SPACE.sub(b"", text))
