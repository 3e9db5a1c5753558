"""The limits of one milter connection, in one place."""

from __future__ import annotations

from dataclasses import dataclass

from milterd.wire.constants import CHUNK

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much a peer may send; in octets unless said otherwise.

    `frame`: one frame, its code included.  `body_chunk`: one piece of body.
    `macros`: one macro packet.  `reply_line`, `reply_lines`: a line of an SMTP
    reply, and how many lines (libmilter's own limits).  `edits`: how many edits
    one message may get.  `edit_octets`: all of these together, body apart.
    `replaced_body`: a new body.  `backlog`: octets a peer may send without
    waiting for an answer that is due.
    """

    frame: int = MIB
    body_chunk: int = CHUNK
    macros: int = 256 * KIB
    reply_line: int = 980
    reply_lines: int = 32
    edits: int = 10_000
    edit_octets: int = 8 * MIB
    replaced_body: int = 64 * MIB
    backlog: int = 4 * MIB
