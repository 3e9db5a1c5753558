"""What must hold for any mail, any script and any cut of the stream into pieces (I16)."""

from __future__ import annotations

import asyncio
import functools
import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from milterd.core.actions import (
    AddHeader,
    AddRecipient,
    ChangeHeader,
    ChangeSender,
    DeleteRecipient,
    Edit,
    InsertHeader,
    ReplaceBody,
)
from milterd.core.apply import apply
from milterd.core.decision import Verdict
from milterd.core.mail import BytesBody, HeaderField, Mail, body_octets
from milterd.wire import messages as m
from milterd.wire.constants import Protocol
from milterd.wire.convert import edit_to_replies
from tests.chain.scripted import MAIL, NOTHING_DUE, ChainResult, chain_of, run, scripted, walk

NAMES = st.sampled_from([b"Subject", b"X-A", b"x-a", b"Received", b"From"])
TEXT = st.binary(max_size=20).map(lambda octets: bytes(b for b in octets if b > 13))
VALUES = st.lists(TEXT, min_size=1, max_size=3).map(lambda lines: b" v" + b"\r\n\t".join(lines))
ADDRESSES = st.sampled_from([b"a@example.net", b"b@example.net", b"c@example.net"])
FIELDS = st.builds(HeaderField, NAMES, VALUES)
INDEXES = st.integers(0, 5) | st.just(2**32 - 1)
BODIES = st.binary(max_size=200).map(
    lambda octets: BytesBody(octets.replace(b"\r", b"\n").replace(b"\n", b"\r\n") + b"\r\n")
)
EDITS = st.lists(
    st.one_of(
        st.builds(AddHeader, NAMES, VALUES),
        st.builds(InsertHeader, INDEXES, NAMES, VALUES),
        st.builds(ChangeHeader, NAMES, INDEXES, VALUES | st.just(b"")),
        st.builds(AddRecipient, ADDRESSES),
        st.builds(ChangeSender, ADDRESSES | st.just(b"")),
    ),
    max_size=6,
)
FLAGS = st.sets(
    st.sampled_from(
        [Protocol.NR_HDR, Protocol.NR_BODY, Protocol.NR_EOH, Protocol.HDR_LEADSPC, NOTHING_DUE]
    )
).map(lambda chosen: functools.reduce(operator.or_, chosen, Protocol.NONE))


def replies(edits: Sequence[Edit], protocol: Protocol) -> list[m.Reply]:
    leading = Protocol.HDR_LEADSPC in protocol
    asked: list[m.Reply] = [each for edit in edits for each in edit_to_replies(edit, leading)]
    return [*asked, m.Continue()]


@settings(max_examples=60, deadline=None)
@given(
    fields=st.lists(FIELDS, max_size=6),
    first=EDITS,
    second=EDITS,
    body=st.none() | BODIES,
    flags=st.tuples(FLAGS, FLAGS),
)
def test_two_milters_in_turn_equal_the_edits_of_both(
    fields: list[HeaderField],
    first: list[Edit],
    second: list[Edit],
    body: BytesBody | None,
    flags: tuple[Protocol, Protocol],
) -> None:
    mail = MAIL.with_headers([HeaderField(b"Received", b" by us", hidden=True), *fields])
    if body is not None:
        first = [*first, ReplaceBody(body)]

    async def main() -> None:
        async with (
            scripted({m.EndOfMessage: replies(first, flags[0])}, protocol=flags[0]) as one,
            scripted({m.EndOfMessage: replies(second, flags[1])}, protocol=flags[1]) as two,
        ):
            result = await walk(chain_of(one.options(), two.options("two")), mail)
            assert isinstance(result, ChainResult)
            assert result.verdict is Verdict.CONTINUE
            between = apply(mail, first)
            assert result.mail == apply(between, second)
            shown = [each.value for each in two.events if isinstance(each, m.Header)]
            assert len(shown) == len(list(between.visible()))
            chunks = [each.octets for each in two.events if isinstance(each, m.BodyChunk)]
            assert b"".join(chunks) == body_octets(between.body)

    run(main())


@dataclass(frozen=True)
class CutBody:
    """A body that comes in pieces of its own choosing, however small."""

    octets: bytes
    cut: int

    @property
    def size(self) -> int:
        return len(self.octets)

    def pieces(self, limit: int = 65535) -> object:
        step = min(limit, self.cut)
        for at in range(0, len(self.octets), step):
            yield self.octets[at : at + step]


@settings(max_examples=30, deadline=None)
@given(octets=st.binary(max_size=300), cut=st.integers(1, 7), split=st.integers(1, 9), flags=FLAGS)
def test_pieces_and_fragments_change_nothing(
    octets: bytes, cut: int, split: int, flags: Protocol
) -> None:
    edits: list[Edit] = [
        AddHeader(b"X-Sum", b" %d" % len(octets)),
        DeleteRecipient(b"b@example.net"),
        ReplaceBody(BytesBody(b"other\r\n" * 3)),
    ]
    bodies = (BytesBody(octets), CutBody(octets, cut))

    async def dribble(writer: asyncio.StreamWriter, reply: bytes) -> None:
        for at in range(0, len(reply), split):
            writer.write(reply[at : at + split])
            await writer.drain()
            await asyncio.sleep(0)

    async def through(mail: Mail, slowly: bool) -> tuple[ChainResult, bytes]:
        script = {m.EndOfMessage: replies(edits, flags)}
        write = dribble if slowly else None
        async with scripted(script, protocol=flags, write=write) as one:
            result = await walk(chain_of(one.options()), mail)
            assert isinstance(result, ChainResult)
            chunks = [each.octets for each in one.events if isinstance(each, m.BodyChunk)]
            return result, b"".join(chunks)

    async def main() -> None:
        whole, all_of_it = await through(replace(MAIL, body=bodies[0]), False)
        cut_up, the_same = await through(replace(MAIL, body=bodies[1]), True)
        assert all_of_it == the_same == octets
        assert whole == cut_up
        assert whole.mail == apply(MAIL, edits)

    run(main())
