"""What a milter does wrong is the milter's, and its failure action answers (F07-F10, I01-I14)."""

from __future__ import annotations

import asyncio
import socket
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from milterd.core.decision import Verdict
from milterd.core.mail import BytesBody, HeaderField
from milterd.wire import messages as m
from milterd.wire.constants import Actions, Protocol
from smtpgw.chain import Chain, HealthOptions, MilterOptions
from tests.chain.scripted import (
    HANG_UP,
    MAIL,
    SESSION,
    STALL,
    ChainResult,
    EditLimits,
    Health,
    Log,
    chain_of,
    run,
    scripted,
    transact,
    until,
    walk,
)
from tests.peers.process import directory

EVENTS = [
    m.Connect, m.Helo, m.MailFrom, m.RcptTo, m.Data,
    m.Header, m.EndOfHeaders, m.BodyChunk, m.EndOfMessage,
]  # fmt: skip
SHORT = {"command_timeout": 0.1, "content_timeout": 0.1, "total_timeout": 0.3}
UNAVAILABLE = "451 4.7.1 Service unavailable - try again later"
ADD = m.AddHeaderReply(b"X-Half", b"done").encode()


def frame(code: bytes, payload: bytes = b"") -> bytes:
    return struct.pack(">I", 1 + len(payload)) + code + payload


# --- a milter that is not there (F07, I12) ---


def _nothing(path: Path) -> None:
    """No socket at all."""


def _stale(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


def _regular_file(path: Path) -> None:
    path.write_bytes(b"")


def _dangling(path: Path) -> None:
    path.symlink_to("/nonexistent/socket")


@pytest.mark.parametrize("make", [_nothing, _stale, _regular_file, _dangling])
@pytest.mark.parametrize(
    ("action", "reply", "hangup"),
    [
        ("tempfail", UNAVAILABLE, False),
        ("reject", "550 5.5.0 Service unavailable", False),
        ("shutdown", "421 4.7.1 Service unavailable - try again later", True),
    ],
)
def test_a_milter_that_is_down(
    tmp_path: Path, make: Any, action: str, reply: str, hangup: bool
) -> None:
    make(tmp_path / "s")
    options = MilterOptions("gone", f"unix:{tmp_path / 's'}", default_action=action)

    async def main() -> None:
        log = Log()
        result = await walk(chain_of(options, log=log))
        assert (str(result.reply), result.hangup) == (reply, hangup)
        assert result.reasons[0].facts["fault"] == "unreachable"
        assert log.said("milter failed")[0]["milter"] == "gone"

    run(main())


@pytest.mark.parametrize(
    ("action", "held"), [("accept", None), ("quarantine", b"milter gone failed")]
)
def test_mail_goes_on_without_a_milter_that_is_down(action: str, held: bytes | None) -> None:
    options = MilterOptions("gone", "unix:/nonexistent/socket", default_action=action)

    async def main() -> None:
        async with scripted({m.EndOfMessage: [m.AddHeaderReply(b"X", b"y"), m.Continue()]}) as two:
            chain = chain_of(options, two.options("two"))
            for result in (await walk(chain), await transact(chain)):
                assert isinstance(result, ChainResult)
                assert (result.verdict, result.quarantine) == (Verdict.CONTINUE, held)
                assert result.reasons[0].outcome == "failed"
                assert result.reasons[0].facts["action"] == action
                assert result.mail.values(b"X") == [b" y"]

    run(main())


def test_a_tcp_port_where_nobody_listens() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        options = MilterOptions("gone", f"inet:{probe.getsockname()[1]}@127.0.0.1")

        async def main() -> None:
            assert str((await walk(chain_of(options))).reply) == UNAVAILABLE

        run(main())


# --- a milter that hangs, or goes away (F08, F11, I12, I13) ---


@pytest.mark.parametrize("stage", EVENTS)
@pytest.mark.parametrize(("fault", "kind"), [(STALL, "timeout"), (HANG_UP, "closed")])
def test_a_milter_that_stalls_or_dies_at_any_stage(stage: type, fault: object, kind: str) -> None:
    async def main() -> None:
        async with scripted({stage: fault}) as one, scripted() as two:
            chain = chain_of(one.options(**SHORT), two.options("two"))
            result = await walk(chain)
            assert str(result.reply) == UNAVAILABLE
            assert result.reasons[-1].facts["fault"] == kind
            # The same answer for the rest of the session, and no new connection.
            assert str((await chain.mail(b"x@example.org")).reply) == UNAVAILABLE
            assert len(one.sessions) == 1
            assert "EndOfMessage" not in two.kinds

    run(main(), steady=True)


@pytest.mark.parametrize("greeting", [STALL, HANG_UP])
def test_a_milter_that_never_negotiates(greeting: object) -> None:
    async def main() -> None:
        async with scripted(greeting=greeting) as one:
            assert str((await walk(chain_of(one.options(**SHORT)))).reply) == UNAVAILABLE

    run(main())


def test_a_milter_that_does_not_read_is_not_waited_for_for_ever() -> None:
    big = MAIL.with_headers(HeaderField(b"X-%d" % n, b" " + b"x" * 900) for n in range(2000))

    async def main() -> None:
        async with scripted(
            {m.EndOfHeaders: STALL, m.Header: STALL}, protocol=Protocol.NR_HDR
        ) as one:
            result = await walk(chain_of(one.options(**SHORT)), big)
            assert str(result.reply) == UNAVAILABLE
            assert result.reasons[-1].facts["fault"] == "timeout"

    run(main())


def test_a_late_reply_is_not_taken_for_another_events(tmp_path: Path) -> None:
    gate = asyncio.Event()

    async def late(writer: asyncio.StreamWriter, octets: bytes) -> None:
        if octets == m.Accept().encode():
            await gate.wait()
        writer.write(octets)

    async def main() -> None:
        async with scripted({m.MailFrom: m.Accept()}, write=late) as one:
            chain = chain_of(one.options(**SHORT))
            assert str((await walk(chain)).reply) == UNAVAILABLE
            gate.set()
            assert str((await chain.mail(b"x@example.org")).reply) == UNAVAILABLE
            assert str((await chain.rcpt(b"y@example.org")).reply) == UNAVAILABLE

    run(main())


def test_a_reply_that_dribbles_in_does_not_gain_time() -> None:
    async def slowly(writer: asyncio.StreamWriter, octets: bytes) -> None:
        for at in range(len(octets)):
            writer.write(octets[at : at + 1])
            await asyncio.sleep(0.05 if octets == m.Continue().encode() else 0)

    async def main() -> None:
        async with scripted(write=slowly) as one:
            result = await walk(chain_of(one.options(command_timeout=0.12)))
            assert str(result.reply) == UNAVAILABLE
            assert result.reasons[-1].facts["fault"] == "timeout"

    run(main())


def test_progress_extends_one_wait_but_not_the_total() -> None:
    async def main() -> None:
        finished = asyncio.Event()

        async def forever(writer: asyncio.StreamWriter, octets: bytes) -> None:
            while octets == b"wait":
                writer.write(m.Progress().encode())
                await asyncio.sleep(0.03)
                if finished.is_set():
                    break
            writer.write(m.Continue().encode() if octets == b"wait" else octets)

        async with scripted({m.EndOfMessage: b"wait"}, write=forever) as one:
            options = one.options(content_timeout=0.1, total_timeout=0.4)
            result = await walk(chain_of(options))
            assert str(result.reply) == UNAVAILABLE
            assert "no verdict within 0.4 s" in result.reasons[-1].facts["detail"]
        async with scripted({m.EndOfMessage: b"wait"}, write=forever) as one:
            asyncio.get_running_loop().call_later(0.3, finished.set)
            options = one.options(content_timeout=0.1, total_timeout=5)
            assert (await walk(chain_of(options))).verdict is Verdict.CONTINUE

    run(main(), steady=True)


def test_one_stalled_session_does_not_hold_up_another() -> None:
    async def main() -> None:
        async with scripted({m.MailFrom: STALL}) as slow, scripted() as quick:
            stuck = asyncio.create_task(walk(chain_of(slow.options())))
            assert (await walk(chain_of(quick.options()))).verdict is Verdict.CONTINUE
            assert not stuck.done()
            stuck.cancel()
            with pytest.raises(asyncio.CancelledError):
                await stuck
            await until(lambda: slow.ended or slow.sessions)

    run(main())


def test_a_cancelled_wait_leaves_no_half_spoken_connection() -> None:
    async def main() -> None:
        async with scripted({m.EndOfMessage: STALL}) as one:
            chain = chain_of(one.options())
            task = asyncio.create_task(walk(chain))
            await until(lambda: one.sessions and "EndOfMessage" in one.kinds)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (await chain.mail(b"x@example.org")).refused
            await chain.close()

    run(main())


# --- a milter that speaks wrongly (F10, I01, I02, I03, I04, I11) ---

GARBAGE = {
    "length 0": b"\0\0\0\0",
    "length 4 GiB": b"\xff\xff\xff\xffc",
    "length 512 KiB too much": struct.pack(">I", 2**21) + b"h",
    "unknown byte": frame(b"Z"),
    "two answers": frame(b"c") + frame(b"c"),
    "data after continue": frame(b"c", b"x"),
    "a negotiation": frame(b"O", struct.pack(">III", 6, 0, 0)),
    "an SMTP reply": b"250 ok\r\n",
    "a reply that is no refusal": frame(b"y", b"250 ok\0"),
    "a code that is none": frame(b"y", b"999 5.0.0 x\0"),
    "a code and a space": frame(b"y", b"550 \0"),
    "a bare code": frame(b"y", b"550\0"),
    "classes that differ": frame(b"y", b"550 4.7.1 x\0"),
    "a reply of two lines, one code": frame(b"y", b"550 5.7.1 a\r\nInjected\0"),
    "a reply without NUL": frame(b"y", b"550 5.7.1 a"),
    "a reply of 70 KiB": frame(b"y", b"550 5.7.1 " + b"x" * 70_000 + b"\0"),
    "an edit too early": ADD + frame(b"c"),
}


@pytest.mark.parametrize("octets", GARBAGE.values(), ids=GARBAGE)
def test_garbage_at_mail(octets: bytes) -> None:
    async def main() -> None:
        async with scripted({m.MailFrom: octets}) as one:
            chain = chain_of(one.options(default_action="reject"))
            await chain.connect(SESSION)
            result = await chain.mail(b"s@example.org")
            if result.verdict is Verdict.CONTINUE:  # the second answer came with the next event
                result = await chain.rcpt(b"a@example.net")
            assert str(result.reply) == "550 5.5.0 Service unavailable"
            assert result.reasons[-1].facts["fault"] == "protocol"
            await until(lambda: one.ended)

    run(main())


@pytest.mark.parametrize(
    "octets",
    [
        frame(b"O", struct.pack(">III", 0, 0, 0)),
        frame(b"O", struct.pack(">III", 99, 0, 0)),
        frame(b"O", struct.pack(">III", 6, 0xFFFFFFFF, 0)),
        frame(b"O", struct.pack(">II", 6, 0)),
        frame(b"O"),
        frame(b"c"),
        frame(b"O", struct.pack(">IIIIs", 6, 0, 0, 99, b"\0")),
    ],
)
def test_a_bad_negotiation(octets: bytes) -> None:
    async def main() -> None:
        async with scripted(greeting=octets) as one:
            result = await walk(chain_of(one.options()))
            assert str(result.reply) == UNAVAILABLE

    run(main())


@pytest.mark.parametrize("octets", [frame(b"c"), frame(b"a")])
def test_an_answer_to_an_event_that_wants_none(octets: bytes) -> None:
    async def main() -> None:
        async with scripted({m.Header: octets}, protocol=Protocol.NR_HDR) as one:
            assert str((await walk(chain_of(one.options()))).reply) == UNAVAILABLE

    run(main())


def test_skip_where_it_has_no_place() -> None:
    async def main() -> None:
        async with scripted({m.RcptTo: m.Skip().encode()}) as one:
            assert str((await walk(chain_of(one.options()))).reply) == UNAVAILABLE

    run(main())


@pytest.mark.parametrize("action", ["tempfail", "accept", "quarantine"])
@pytest.mark.parametrize("end", [HANG_UP, STALL, b"\0\0\0\0", frame(b"Z"), ADD[:-3]])
def test_edits_of_a_milter_that_fails_halfway_change_nothing(end: object, action: str) -> None:
    async def halfway(writer: asyncio.StreamWriter, octets: bytes) -> None:
        writer.write(octets)
        await writer.drain()
        if octets.startswith(ADD):
            if end is HANG_UP:
                writer.close()
            else:
                await asyncio.Event().wait()

    octets = ADD + m.DelRcptReply(b"<a@example.net>").encode()
    octets += end if isinstance(end, bytes) else b""

    async def main() -> None:
        async with scripted({m.EndOfMessage: octets}, write=halfway) as one:
            result = await walk(chain_of(one.options(default_action=action, **SHORT)))
            assert isinstance(result, ChainResult)
            assert result.mail == MAIL
            assert result.edits == ()
            assert result.refused if action == "tempfail" else True
            assert (result.quarantine is not None) == (action == "quarantine")
            assert result.reasons[-1].outcome == "failed"

    run(main(), steady=True)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    stage=st.sampled_from(EVENTS),
    octets=st.one_of(
        st.binary(min_size=1, max_size=40),
        st.builds(frame, st.binary(min_size=1, max_size=1), st.binary(max_size=30)),
    ),
)
def test_whatever_a_milter_sends_there_is_an_answer(stage: type, octets: bytes) -> None:
    async def main() -> None:
        async with scripted({stage: octets}) as one:
            times = {"command_timeout": 0.02, "content_timeout": 0.02, "total_timeout": 0.1}
            result = await walk(chain_of(one.options(**times)))
            assert result.verdict in Verdict
            assert result.verdict is not Verdict.ACCEPT

    run(main())


# --- limits on edits (I05-I08) ---


async def edited(*replies: m.Reply, limits: EditLimits | None = None, **more: Any) -> Any:
    log = Log()
    async with scripted({m.EndOfMessage: [*replies, m.Continue()]}, **more) as one:
        return await walk(chain_of(one.options(), log=log, limits=limits)), log


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"X:Y", b"v"),
        (b"\r\nBcc", b"v"),
        (b"", b"v"),
        (b"X Y", b"v"),
        (b"X\xe9", b"v"),
        (b"X", b"a\nBcc: x@y"),
        (b"X", b"a\r\nBcc: x@y"),
        (b"X", b"a\rb"),
        (b"X", b"a\n"),
        (b"X", b"x" * 102_400),
    ],
)
def test_a_field_that_would_break_the_header_is_refused_alone(name: bytes, value: bytes) -> None:
    bad = [
        m.AddHeaderReply(name, value),
        m.InsertHeaderReply(0, name, value),
        m.ChangeHeaderReply(1, name, value),
    ]

    async def main() -> None:
        good = m.AddHeaderReply(b"X-Good", b"two\n\tlines")
        result, log = await edited(*bad, good)
        assert result.verdict is Verdict.CONTINUE
        added = HeaderField(b"X-Good", b" two\r\n\tlines")
        assert result.mail.headers == (*MAIL.headers, added)
        assert [each.outcome for each in result.reasons].count("edit refused") == 3
        assert len(log.said("milter edit refused")) == 3

    run(main())


def test_a_field_with_nul_or_of_a_mebibyte_is_a_broken_frame() -> None:
    async def main() -> None:
        for reply in (
            frame(b"h", b"X\0a\0b\0"),
            frame(b"h", b"X\0" + b"x" * 2**20 + b"\0"),
        ):
            async with scripted({m.EndOfMessage: reply + frame(b"c")}) as one:
                result = await walk(chain_of(one.options()))
                assert str(result.reply) == UNAVAILABLE
                assert result.mail == MAIL

    run(main())


def test_a_new_body_has_the_messages_limit_and_our_line_ends() -> None:
    async def main() -> None:
        result, _ = await edited(
            m.ReplaceBodyChunk(b"one\ntwo\r"), m.ReplaceBodyChunk(b"\nthree\rfour")
        )
        assert result.mail.body == BytesBody(b"one\r\ntwo\r\nthree\r\nfour\r\n")
        limits = EditLimits(body_size=100_000)
        chunks = [m.ReplaceBodyChunk(b"x" * 60_000)] * 2
        result, _ = await edited(*chunks, limits=limits)
        assert str(result.reply) == UNAVAILABLE
        assert result.mail == MAIL

    run(main())


def test_a_new_body_in_two_places_is_a_fault() -> None:
    async def main() -> None:
        result, _ = await edited(
            m.ReplaceBodyChunk(b"a\n"), m.AddHeaderReply(b"X", b"y"), m.ReplaceBodyChunk(b"b\n")
        )
        assert str(result.reply) == UNAVAILABLE
        assert result.mail == MAIL

    run(main())


def test_too_many_edits_are_a_fault() -> None:
    async def main() -> None:
        many = [m.AddRcptReply(b"<u%d@example.net>" % n) for n in range(200)]
        result, _ = await edited(*many, limits=EditLimits(count=100))
        assert str(result.reply) == UNAVAILABLE
        result, _ = await edited(*many, limits=EditLimits(octets=1000))
        assert str(result.reply) == UNAVAILABLE
        assert result.mail == MAIL

    run(main())


def test_addresses_are_checked_by_whoever_knows_what_may_be_relayed() -> None:
    def ours(address: bytes) -> str | None:
        return None if address.endswith(b"@example.net") else "relay access denied"

    async def main() -> None:
        result, log = await edited(
            m.AddRcptReply(b"<new@example.net>"),
            m.AddRcptReply(b"<x@elsewhere.example>"),
            m.AddRcptReply(b"<no brackets"),
            m.AddRcptParReply(b"<par@example.net>", b"NOTIFY=NEVER BODY=8BITMIME"),
            m.ChangeFromReply(b"<bad@@>\r\nRCPT", b""),
            m.ChangeFromReply(b"<>", b"RET=HDRS SIZE=1"),
            limits=EditLimits(recipient=ours),
        )
        added = result.mail.envelope.recipients[2:]
        assert [(each.address, each.args) for each in added] == [
            (b"new@example.net", ()),
            (b"par@example.net", (b"NOTIFY=NEVER",)),
        ]
        assert (result.mail.envelope.sender, result.mail.envelope.sender_args) == (
            b"",
            (b"RET=HDRS",),
        )
        refused = [str(each["edit"]) for each in log.said("milter edit refused")]
        assert sum("relay access denied" in each for each in refused) == 1
        assert len(refused) == 5

    run(main())


def test_a_mail_whose_recipients_are_all_deleted_is_discarded() -> None:
    async def main() -> None:
        result, log = await edited(
            m.DelRcptReply(b"<a@example.net>"), m.DelRcptReply(b"<b@example.net>")
        )
        assert result.verdict is Verdict.DISCARD
        assert result.reasons[-1].source == "chain"
        assert log.said("milters deleted every recipient")

    run(main())


def test_an_edit_that_was_not_negotiated_is_ignored_with_a_warning() -> None:
    octets = ADD + m.QuarantineReply(b"why").encode() + m.Continue().encode()

    async def main() -> None:
        log = Log()
        async with scripted({m.EndOfMessage: octets}, actions=Actions.NONE) as one:
            result = await walk(chain_of(one.options(), log=log))
            assert isinstance(result, ChainResult)
            assert (result.verdict, result.mail) == (Verdict.CONTINUE, MAIL)
            assert result.quarantine is None
            assert len(log.said("milter edit refused")) == 2

    run(main())


@pytest.mark.parametrize("verdict", [m.Reject(), m.TempFail(), m.Discard(), m.Shutdown()])
def test_edits_under_a_refusal_do_not_count(verdict: m.Reply) -> None:
    edits = [m.AddHeaderReply(b"X", b"y"), m.QuarantineReply(b"q"), verdict]

    async def main() -> None:
        async with scripted({m.EndOfMessage: edits}) as one:
            result = await walk(chain_of(one.options()))
            assert isinstance(result, ChainResult)
            assert (result.mail, result.quarantine, result.edits) == (MAIL, None, ())

    run(main())


# --- what sessions learn from each other (I12, I14, I19) ---


def test_a_milter_that_times_out_again_and_again_is_left_alone_for_a_while() -> None:
    now = [0.0]

    async def main() -> None:
        async with scripted(greeting=STALL) as one:
            health = Health(lambda: now[0], HealthOptions(timeouts=2, pause=10))
            for _ in range(4):
                result = await walk(chain_of(one.options(**SHORT), health=health))
                assert str(result.reply) == UNAVAILABLE
            assert result.reasons[0].facts["fault"] == "paused"
            assert len(one.sessions) == 2
            now[0] = 11
            one.greeting = None
            assert (await walk(chain_of(one.options(), health=health))).verdict is Verdict.CONTINUE
            assert (await walk(chain_of(one.options(), health=health))).verdict is Verdict.CONTINUE

    run(main())


def test_one_may_try_for_each_session_that_leaves_a_milter_that_timed_out() -> None:
    """What had no room for more connections has it again."""

    async def main() -> None:
        async with scripted() as one:
            health = Health(lambda: 0.0, HealthOptions(timeouts=2, pause=10))

            async def fault() -> str:
                result = await walk(chain_of(one.options(**SHORT), health=health))
                return result.reasons[0].facts.get("fault", "")

            served = [chain_of(one.options(), health=health) for _ in range(3)]
            for each in served:
                await walk(each)
            one.greeting = STALL
            assert [await fault() for _ in range(3)] == ["timeout", "timeout", "paused"]
            await served[0].close()
            assert [await fault() for _ in range(2)] == ["timeout", "paused"]
            one.greeting = None
            assert await fault() == "paused"
            await served[1].close()
            await served[2].close()
            assert [await fault() for _ in range(3)] == ["", "", ""]

    run(main())


def test_a_mail_that_kills_the_milter_is_held_the_third_time() -> None:
    async def main() -> None:
        log = Log()
        async with scripted({m.BodyChunk: HANG_UP}) as one:
            health = Health(lambda: 0.0)
            seen = [await walk(chain_of(one.options(), health=health, log=log)) for _ in range(3)]
            assert [each.verdict for each in seen] == [Verdict.TEMPFAIL] * 2 + [Verdict.CONTINUE]
            assert seen[2].quarantine == b"milter one fails on this message"
            assert log.said("milter killed by message")
            other = MAIL.with_headers([HeaderField(b"Subject", b" other")])
            assert (await walk(chain_of(one.options(), health=health), other)).refused

    run(main())


def test_a_full_backlog_is_waited_for() -> None:
    """Connecting to a UNIX socket whose backlog is full is EAGAIN, not a wait."""

    async def main() -> None:
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(home / "s"))
        listening.listen(0)
        fillers = []
        for _ in range(3):
            filler = socket.socket(socket.AF_UNIX)
            filler.setblocking(False)
            if filler.connect_ex(str(home / "s")) == 0:
                fillers.append(filler)
        options = MilterOptions("full", f"unix:{home / 's'}", connect_timeout=0.2)
        result = await walk(chain_of(options))
        assert result.reasons[0].facts["fault"] == "timeout"
        patient = MilterOptions(
            "full", f"unix:{home / 's'}", connect_timeout=5, command_timeout=0.2
        )
        task = asyncio.create_task(walk(chain_of(patient)))
        await asyncio.sleep(0.05)
        assert not task.done()
        for _ in fillers:
            listening.accept()[0].close()
        result = await task
        assert "answering" in result.reasons[0].facts["detail"]
        for each in (listening, *fillers):
            each.close()

    with directory("chain") as home:
        run(main(), steady=True)


def test_no_descriptor_is_left_behind() -> None:
    def held() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    async def main() -> None:
        async with scripted({m.BodyChunk: HANG_UP}) as one, scripted({m.Helo: STALL}) as two:
            before = held()
            for _ in range(5):
                for each in (one, two):
                    chain: Chain = chain_of(each.options(**SHORT))
                    await walk(chain)
                    await chain.close()
            one.answers = {}
            chain = chain_of(one.options())
            await walk(chain)
            await chain.close()
            await until(lambda: held() <= before + 5)  # the stalled script keeps its own ends

    run(main())
