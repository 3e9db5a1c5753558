"""Holding what a milter did against what was expected, one block at a time."""

from __future__ import annotations

from milterd.lab.link import Fault, MilterError
from milterd.lab.scenario import steps as s
from milterd.lab.scenario.format import format_action
from milterd.lab.scenario.matching import (
    agreement_matches,
    agreement_told,
    answer_matches,
    edit_matches,
    edit_told,
    reply_matches,
    text_matches,
    told,
    wish_told,
)
from milterd.lab.scenario.talk import Answer, Conversation
from milterd.lab.show import readable
from milterd.wire import messages as m
from milterd.wire.errors import LocalError

_WIDTH = 100
"""Characters of what was done, and octets of a packet, that are shown."""


class Block:
    """One thing done to the milter, and what it answered so far.

    After `raw` and `packet` (`by_hand`) every expected answer is read anew; else
    there is one answer at most, read when it is first asked for.
    """

    def __init__(self, step: s.Step, talk: Conversation | None) -> None:
        self.line = step.line
        self.talk = talk
        self.by_hand = isinstance(step.action, s.Raw | s.Packet)
        self.quits = step.action == s.Say(m.Quit())
        did = format_action(step.action).decode("ascii", "backslashreplace")
        self.did = did if len(did) <= _WIDTH else f"{did[:_WIDTH]}..."
        self.answers: list[Answer] = []
        self.fault: MilterError | None = None
        self.excused = False
        """Whether the fault was expected."""
        self.judged = False
        """Whether what came last was held against an expectation."""
        self.used: set[int] = set()
        """Which of its edits were."""

    async def answer(self) -> Answer:
        """The answer in question; MilterError where none can be had."""
        if self.fault is not None:
            raise self.fault
        if not self.answers:
            await self._read()
        return self.answers[-1]

    async def next_answer(self) -> Answer:
        """The answer that has not been judged yet."""
        if self.by_hand and self.judged and self.fault is None:
            await self._read()
        found = await self.answer()
        self.judged = True
        return found

    async def _read(self) -> None:
        if self.talk is None:
            raise LocalError("there is no connection any more")
        try:
            due = self.talk.due or self.by_hand
            self.answers.append(await self.talk.answer() if due else Answer())
        except MilterError as error:
            self.fault = error
            raise
        self.judged, self.used = False, set()

    async def fault_of(self, kind: Fault) -> str | None:
        """None if the milter is at fault in this way; else what came instead."""
        try:
            answer = await self.next_answer()
        except MilterError as error:
            if error.fault is not kind:
                raise
            self.excused = True
            return None
        return told(answer)


class Judge:
    """Says of each wish in a block what is wrong, or None."""

    def __init__(self, block: Block) -> None:
        self._block = block

    async def judge(self, wish: s.Wish) -> str | None:
        """What came instead of what was wished for.

        Raises MilterError for a fault that was not, LocalError for a wish that
        makes no sense here, TimeoutError for a search that takes too long.
        """
        found = await self._found(wish)
        return None if found is None else f"expected {wish_told(wish)}, found {found}"

    async def finish(self) -> str | None:
        """The end of the block: what went on by itself must have been `continue`."""
        block = self._block
        if block.fault is not None and not block.excused:
            raise block.fault
        if block.judged or block.by_hand or block.excused or block.talk is None:
            return None
        answer = await block.answer()
        if answer.final is None or isinstance(answer.final, m.Continue):
            return None
        return f"expected continue, since nothing else is expected below, found {told(answer)}"

    async def _found(self, wish: s.Wish) -> str | None:
        match wish:
            case s.AnswerIs() | s.ReplyIs() | s.Nothing() | s.NoAnswer():
                return await self._answer(wish)
            case s.EditIs() | s.NoEdit():
                return self._edits(wish, await self._block.answer())
            case s.ProgressCame():
                came = (await self._block.answer()).progress
                return None if came else "none"
            case s.Silence():
                return await self._silence(wish.seconds)
            case s.Closed():
                return await self._closed()
            case s.Broken():
                return await self._broken(wish)
            case s.Violation():
                return await self._violation(wish)
            case s.PacketIs():
                return await self._packet(wish)
            case s.VersionIs() | s.FlagsAre() | s.MacrosAre():
                return await self._agreement(wish)

    async def _answer(self, wish: s.AnswerIs | s.ReplyIs | s.Nothing | s.NoAnswer) -> str | None:
        answer = await self._block.next_answer()
        match wish:
            case s.AnswerIs():
                right = answer_matches(wish, answer)
            case s.ReplyIs():
                right = reply_matches(wish, answer.final)
            case s.NoAnswer():
                right = answer.final is None
            case s.Nothing():
                right = answer.final is None or isinstance(answer.final, m.Continue)
                if right and answer.edits:
                    return _listed(answer)
        return None if right else told(answer)

    def _edits(self, wish: s.EditIs | s.NoEdit, answer: Answer) -> str | None:
        used = self._block.used
        if isinstance(wish, s.NoEdit):
            left = [e for at, e in enumerate(answer.edits) if not (wish.other and at in used)]
            return "; ".join(edit_told(each) for each in left) or None
        for at, edit in enumerate(answer.edits):
            if wish.absent and edit_matches(wish, edit):
                return edit_told(edit)
            if not wish.absent and at not in used and edit_matches(wish, edit):
                used.add(at)
                return None
        return None if wish.absent else _listed(answer)

    async def _silence(self, seconds: float) -> str | None:
        block = self._block
        if block.fault is not None:
            raise block.fault
        block.judged = True
        try:
            quiet = await self._talk().quiet(seconds)
        except MilterError as error:
            block.fault = error
            raise
        return None if quiet else "octets"

    async def _closed(self) -> str | None:
        block = self._block
        if block.fault is not None or (self._talk().due or block.by_hand):
            return await block.fault_of(Fault.GONE)
        await block.answer()
        if await self._talk().closed():
            block.excused = True
            return None
        return "octets that nobody asked for"

    async def _broken(self, wish: s.Broken) -> str | None:
        found = await self._block.fault_of(Fault.BROKEN)
        if found is None and wish.text is not None:
            said = str(self._block.fault)
            return None if wish.text.found_in(said.encode()) else said
        return found

    async def _violation(self, wish: s.Violation) -> str | None:
        if not self._block.by_hand:
            await self._block.answer()  # it may be in there
        seen = self._talk().violations
        there = [e for e in seen if wish.text is None or wish.text.found_in(e.encode())]
        if wish.absent:
            return "; ".join(there) or None
        return None if there else "; ".join(seen) or "none"

    async def _packet(self, wish: s.PacketIs) -> str | None:
        if not self._block.by_hand:
            raise LocalError("expect packet must come after raw or packet")
        self._block.judged = True
        try:
            code, payload = await self._talk().packet()
        except MilterError as error:
            self._block.fault = error
            raise
        right = code == wish.code and (wish.payload is None or text_matches(wish.payload, payload))
        shown = f'packet {readable(code)} "{readable(payload[:_WIDTH])}"'
        return None if right else shown

    async def _agreement(self, wish: s.Agreement) -> str | None:
        if self._block.by_hand and self._talk().agreed is None:
            await self._block.next_answer()
        agreed = self._talk().agreed
        if agreed is None and self._block.fault is not None:
            raise self._block.fault
        if agreed is None:
            raise LocalError("nothing has been negotiated yet")
        return None if agreement_matches(wish, agreed) else agreement_told(wish, agreed)

    def _talk(self) -> Conversation:
        if self._block.talk is None:
            raise LocalError("there is no connection any more")
        return self._block.talk


def _listed(answer: Answer) -> str:
    return "; ".join(edit_told(each) for each in answer.edits) or "no edit"
