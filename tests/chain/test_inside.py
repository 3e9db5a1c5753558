"""A filter in the chain's own process: it counts as one behind a socket does."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from milterd.core.actions import AddHeader, AddRecipient, Edit, Quarantine, ReplaceBody
from milterd.core.decision import Verdict
from milterd.core.finding import MACRO, Found
from milterd.core.mail import BytesBody, HeaderField, Mail
from milterd.wire import messages as m
from milterd.wire.messages import FinalReply
from smtpgw.chain.options import MilterOptions, Word
from tests.chain.scripted import (
    MAIL,
    NOTHING_DUE,
    ChainResult,
    EditLimits,
    Log,
    chain_of,
    run,
    scripted,
    transact,
    until,
    walk,
)

GO_ON: Word = (m.Continue(), (), "")


@dataclass
class Inside:
    """Says the same to every mail: at once, later, or never; keeps what it was shown."""

    word: Word = GO_ON
    later: bool = False
    edits: bool = True
    shown: list[Mail] = field(default_factory=list)
    macros: list[Mapping[str, bytes]] = field(default_factory=list)
    waiting: list[Callable[[Word], None]] = field(default_factory=list)
    called_off: int = 0

    def ask(
        self,
        mail: Mail,
        macros: Mapping[str, bytes],
        _known: dict[object, Any],
        then: Callable[[Word], None],
    ) -> tuple[Word | None, Callable[[], None] | None]:
        self.shown.append(mail)
        self.macros.append(dict(macros))
        if not self.later:
            return self.word, None
        self.waiting.append(then)
        return None, self._call_off

    def _call_off(self) -> None:
        self.called_off += 1

    def options(self, name: str = "own", **more: Any) -> MilterOptions:
        return MilterOptions(name, f"filter:{name}", inside=self, **more)


def through(*milters: MilterOptions, mail: Mail = MAIL, **more: Any) -> ChainResult:
    async def main() -> ChainResult:
        found = await walk(chain := chain_of(*milters, **more), mail)
        await chain.close()
        assert isinstance(found, ChainResult)
        return found

    return run(main())


def word(*edits: Edit, reply: FinalReply = GO_ON[0]) -> Word:
    return reply, edits, ""


def test_it_sees_what_milters_see() -> None:
    one = Inside()
    result = through(one.options())
    (shown,) = one.shown
    assert shown.headers == tuple(each for each in MAIL.headers if not each.hidden)
    assert (shown.session, shown.envelope, shown.body) == (MAIL.session, MAIL.envelope, MAIL.body)
    (macros,) = one.macros
    assert {name: macros[name] for name in ("i", "j", "daemon_name", "mail_addr")} == {
        "i": b"Q1",
        "j": b"mx.example.net",
        "daemon_name": b"mx",
        "mail_addr": b"s@example.org",
    }
    assert result.mail == MAIL
    assert result.verdict is Verdict.CONTINUE


def test_each_sees_the_edits_before_it_and_the_envelope_of_the_client() -> None:
    first = Inside(word(AddHeader(b"X-One", b" 1"), AddRecipient(b"c@example.net")))
    second = Inside(word(AddHeader(b"X-Two", b" 2")))
    result = through(first.options("first"), second.options("second"))
    assert second.shown[0].headers[-1] == HeaderField(b"X-One", b" 1")
    assert second.shown[0].envelope == MAIL.envelope
    assert [each.name for each in result.mail.headers[-2:]] == [b"X-One", b"X-Two"]
    assert result.mail.envelope.recipients[-1].address == b"c@example.net"
    assert [name for name, _ in result.edits] == ["first", "second"]


@pytest.mark.parametrize(
    ("reply", "verdict", "code"),
    [
        (m.Reject(), Verdict.REJECT, 550),
        (m.TempFail(), Verdict.TEMPFAIL, 451),
        (m.ReplyCode(b"554 5.7.1 no"), Verdict.REJECT, 554),
        (m.Discard(), Verdict.DISCARD, None),
    ],
)
def test_its_refusal_ends_the_row(reply: FinalReply, verdict: Verdict, code: int | None) -> None:
    first, second = Inside(word(AddHeader(b"X", b" 1"), reply=reply)), Inside()
    result = through(first.options("first"), second.options("second"))
    assert (result.verdict, result.reply.code if result.reply else None) == (verdict, code)
    assert result.mail == MAIL
    assert second.shown == []


def test_who_accepts_leaves_the_others_alone_and_hears_of_the_next() -> None:
    one, other = Inside(word(reply=m.Accept())), Inside()

    async def main() -> None:
        chain = chain_of(one.options("one"), other.options("other"))
        await walk(chain)
        result = await transact(chain, queue_id="Q2")
        assert result.verdict is Verdict.CONTINUE
        await chain.close()

    run(main())
    assert [len(one.shown), len(other.shown)] == [2, 2]


def test_who_takes_its_time_is_waited_for_and_others_go_on_meanwhile() -> None:
    slow = Inside(later=True, edits=False)
    quick = Inside(word(AddHeader(b"X", b" 1")))

    async def main() -> ChainResult:
        chain = chain_of(slow.options("slow"), quick.options("quick"))
        walking = asyncio.ensure_future(walk(chain))
        await until(lambda: slow.waiting)
        assert len(quick.shown) == 1  # it sees the same, whatever the first says
        slow.waiting[0](GO_ON)
        result = await walking
        await chain.close()
        assert isinstance(result, ChainResult)
        return result

    result = run(main())
    assert result.mail.headers[-1].name == b"X"
    assert slow.called_off == 0


def test_who_may_edit_is_waited_for_by_those_behind() -> None:
    slow, quick = Inside(later=True), Inside()

    async def main() -> None:
        chain = chain_of(slow.options("slow"), quick.options("quick"))
        walking = asyncio.ensure_future(walk(chain))
        await until(lambda: slow.waiting)
        assert quick.shown == []
        slow.waiting[0](word(AddHeader(b"X", b" 1")))
        await walking
        await chain.close()

    run(main())
    assert quick.shown[0].headers[-1].name == b"X"


@pytest.mark.parametrize(
    ("action", "verdict"), [("tempfail", Verdict.TEMPFAIL), ("accept", Verdict.CONTINUE)]
)
def test_who_never_answers_fails_as_configured_and_is_asked_again(
    action: str, verdict: Verdict
) -> None:
    never, log = Inside(later=True), Log()

    async def main() -> None:
        options = never.options(content_timeout=0.01, default_action=action)
        chain = chain_of(options, log=log)
        result = await walk(chain)
        assert result.verdict is verdict
        never.later = False
        result = await transact(chain, queue_id="Q2")
        assert result.verdict is Verdict.CONTINUE
        await chain.close()

    run(main())
    assert never.called_off == 1
    assert [each["fault"] for each in log.said("milter failed")] == ["timeout"]


def test_a_late_word_is_for_nobody() -> None:
    never = Inside(later=True)

    async def main() -> None:
        chain = chain_of(never.options())
        walking = asyncio.ensure_future(walk(chain))
        await until(lambda: never.waiting)
        walking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await walking
        assert never.called_off == 1
        never.later = False
        result = await transact(chain, queue_id="Q2")
        assert result.verdict is Verdict.CONTINUE
        assert len(never.shown) == 2
        await chain.close()

    run(main())


def test_who_is_refused_over_is_called_off() -> None:
    async def main() -> None:
        slow = Inside(later=True, edits=False)
        async with scripted({m.EndOfMessage: m.Reject()}, protocol=NOTHING_DUE) as milter:
            chain = chain_of(milter.options("outside"), slow.options("slow"))
            result = await walk(chain)
            assert result.verdict is Verdict.REJECT
            assert slow.called_off == len(slow.waiting)
            await chain.close()

    run(main())


def test_it_stands_in_a_row_with_milters_behind_sockets() -> None:
    async def main() -> None:
        inside = Inside(word(AddHeader(b"X-Inside", b" 1")))
        last = Inside()
        edit = [m.AddHeaderReply(b"X-Outside", b" 2"), m.Continue()]
        async with scripted({m.EndOfMessage: edit}) as milter:
            chain = chain_of(inside.options("in"), milter.options("out"), last.options("last"))
            result = await walk(chain)
            assert isinstance(result, ChainResult)
            await chain.close()
        names = [each.name for each in result.mail.headers[-2:]]
        assert names == [b"X-Inside", b"X-Outside"]
        assert [each.name for each in last.shown[0].headers[-2:]] == names
        told = [each for each in milter.events if isinstance(each, m.Header)]
        assert told[-1].name == b"X-Inside"

    run(main())


@pytest.mark.parametrize(
    "edits",
    [
        [AddHeader(b"X", b" 1")] * 4,
        [AddHeader(b"X", b" " + b"1" * 100)] * 3,
        [ReplaceBody(BytesBody(b"x" * 65))],
    ],
)
def test_what_it_may_ask_for_is_bounded(edits: list[Edit]) -> None:
    one = Inside(word(*edits))
    limits = EditLimits(count=3, octets=200, body_size=64)
    result = through(one.options(), limits=limits)
    assert result.verdict is Verdict.TEMPFAIL
    assert result.mail == MAIL


def test_a_quarantine_holds_and_one_that_was_released_does_not() -> None:
    reason = b"virus"
    found = Found.of("own", reason.decode())
    one = Inside(word(Quarantine(reason)))
    assert through(one.options()).quarantine == reason
    assert through(one.options(), passing=[found]).quarantine is None


def test_it_is_told_what_a_postmaster_let_pass() -> None:
    one, found = Inside(), Found("own", "clamav/eicar")
    through(one.options(), passing=[replace(found, milter="other"), found])
    assert MACRO in one.macros[0]


@pytest.mark.parametrize(
    ("reply", "edits", "outcome"),
    [
        (m.Continue(), (), "continue"),
        (m.Continue(), (AddHeader(b"X", b" 1"),), "edited"),
        (m.Reject(), (), "reject"),
        (m.Accept(), (AddHeader(b"X", b" 1"),), "accept"),
    ],
)
def test_its_own_reasons_stand_with_what_it_says(
    reply: FinalReply, edits: tuple[Edit, ...], outcome: str
) -> None:
    result = through(Inside((reply, edits, "own: because")).options())
    said = {each.outcome: each.facts.get("said") for each in result.reasons}
    assert "own: because" in said.values()
    assert outcome in said


def test_a_listeners_own_name_is_told() -> None:
    one = Inside()
    through(one.options(macro_daemon_name="INTERNAL"))
    assert one.macros[0]["daemon_name"] == b"INTERNAL"


@pytest.mark.parametrize("now", [True, False])
def test_nothing_holds_a_filter_when_its_sessions_are_over(now: bool) -> None:
    """A filter that was replaced is to end with them, not with the time it might have taken."""
    slow = Inside(later=True)
    gone = weakref.ref(slow)

    async def main(filter_: Inside) -> None:
        chain = chain_of(filter_.options(content_timeout=300.0))
        walking = asyncio.ensure_future(walk(chain))
        await until(lambda: filter_.waiting)
        assert not chain.close_now()  # it is under way
        filter_.waiting.pop()(GO_ON)
        await walking
        if now:
            assert chain.close_now()
        else:
            await chain.close()

    async def after() -> None:
        nonlocal slow
        await main(slow)
        del slow
        gc.collect()  # the loop lives, and so would its timers
        assert gone() is None

    run(after())
