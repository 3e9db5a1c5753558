"""`milterlab replay`: what it sends, what it takes for a difference, and how it ends."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from milterd.lab import tape
from milterd.lab.cli import app
from milterd.lab.differences import Difference, Mask, MaskError, Rules
from milterd.lab.link import MilterError, Patience
from milterd.lab.replay import Replayed, replay
from milterd.lab.tape import Closed, Conversation, Said, Side
from milterd.wire import messages as m
from milterd.wire.constants import Actions, Command, Protocol
from milterd.wire.frames import FrameDecoder, frame
from tests.peers.process import directory
from tests.wire.programs import pymilter

Message = m.CommandMessage | m.Reply
Answer = list[Message | bytes]
OFFER, AGREED = (
    m.Negotiate(6, Actions.ALL, Protocol.ALL),
    m.Negotiate(6, Actions.ALL, Protocol.SKIP),
)
PATIENCE = Patience(5, 20)
C = m.Continue()


def _turns(*said: tuple[Message | bytes, Answer]) -> Conversation:
    """A conversation: what the MTA said, and what it was answered."""
    found = Conversation(1)
    for asked, answered in said:
        sides: list[tuple[Side, Message | bytes]] = [("mta", asked)]
        sides += [("milter", each) for each in answered]
        for side, each in sides:
            octets = each if isinstance(each, bytes) else each.encode()
            found.said.append(Said(1, 0, side, octets, not isinstance(each, bytes)))
    return found


def _mail(*end: Message | bytes, name: bytes = b"a") -> list[tuple[Message | bytes, Answer]]:
    return [
        (m.Macros(Command.MAIL, ((b"i", b"ABC"),)), []),
        (m.MailFrom(b"<%b@example.org>" % name), [C]),
        (m.RcptTo(b"<b@example.net>"), [C]),
        (m.Data(), [C]),
        (m.Header(b"Subject", b"x"), [C]),
        (m.EndOfHeaders(), [C]),
        (m.BodyChunk(b"x\r\n"), [C]),
        (m.EndOfMessage(), [*end, C]),
        (m.Abort(), []),
    ]


BEGIN: list[tuple[Message | bytes, Answer]] = [
    (OFFER, [AGREED]),
    (m.Connect(b"mx.example.org"), [C]),
    (m.Helo(b"mx.example.org"), [C]),
]
END: list[tuple[Message | bytes, Answer]] = [(m.Quit(), [])]

Does = Callable[[Message], Sequence[Message | bytes] | None]
"""What a milter answers to a message; None: it closes."""


class _Milter:
    """A milter that answers what the tape has, but for what `does` says otherwise."""

    def __init__(self, tape: Conversation, does: dict[type, list[Message | bytes] | None]) -> None:
        self.heard: list[bytes] = []
        self._answers: dict[bytes, deque[list[bytes]]] = {}
        said: list[bytes] = []
        for each in tape.said:
            if each.side == "mta":
                said = []
                self._answers.setdefault(each.octets, deque()).append(said)
            else:
                said.append(each.octets)
        self._does = does

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        frames = FrameDecoder(1 << 20)
        try:
            while data := await reader.read(65536):
                frames.feed(data)
                for code, payload in frames:
                    packet = frame(bytes((code,)), payload)
                    self.heard.append(packet)
                    if not self._answer(m.decode_command(code, payload), packet, writer):
                        return
        finally:
            writer.close()

    def _answer(self, asked: Message, packet: bytes, writer: asyncio.StreamWriter) -> bool:
        if type(asked) in self._does:
            answer = self._does[type(asked)]
            if answer is None:
                return False
            octets = [each if isinstance(each, bytes) else each.encode() for each in answer]
        else:
            left = self._answers.get(packet)
            octets = left.popleft() if left else []
        writer.write(b"".join(octets))
        return True


def _replay(
    conversation: Conversation,
    does: dict[type, list[Message | bytes] | None] | None = None,
    rules: Rules = Rules(),  # noqa: B008 - frozen
    patience: Patience = PATIENCE,
) -> tuple[Replayed, list[bytes]]:
    milter = _Milter(conversation, does or {})

    async def run(home: Path) -> Replayed:
        server = await asyncio.start_unix_server(milter.serve, home / "m")
        async with server:
            return await replay(conversation, f"unix:{home}/m", rules, patience)

    with directory("replay") as home:
        return asyncio.run(run(home)), milter.heard


def _found(done: Replayed) -> list[tuple[str, str, str | None, str | None]]:
    return [(each.event, each.what, each.expected, each.seen) for each in done.differences]


WHOLE = _turns(*BEGIN, *_mail(m.AddHeaderReply(b"X-A", b"1")), *_mail(name=b"c"), *END)


def test_what_was_recorded_is_sent_to_the_octet() -> None:
    done, heard = _replay(WHOLE)
    assert done == Replayed(1, messages=2, events=len(BEGIN) + 2 * 8 + 1)
    assert b"".join(heard) == WHOLE.of("mta")


def test_a_message_that_ends_sooner() -> None:
    """The rest of it is left out, as any MTA would; the next one is played."""
    done, heard = _replay(WHOLE, {m.EndOfHeaders: [m.ReplyCode(b"550 5.7.1 no")]})
    assert done.worst == 1
    first = [each for each in done.differences if each.message == 1]
    assert [(each.event, each.what, each.expected, each.seen) for each in first] == [
        ("end of headers", "reply", "continue", "reply text=550 5.7.1 no"),
        ("end of message", "edit missing", "add header name=X-A value=1", None),
        ("end of headers", "rest", None, "2 events left out"),
    ]
    assert len(done.differences) == 5
    assert [each[4:5] for each in heard].count(b"B") == 0
    assert [each[4:5] for each in heard].count(b"A") == 2


def test_a_session_that_ends_at_once() -> None:
    done, heard = _replay(WHOLE, {m.Connect: [m.TempFail()]})
    assert _found(done)[0] == ("connect", "reply", "continue", "tempfail")
    assert [each[4:5] for each in heard] == [b"O", b"C", b"Q"]


def test_a_refused_recipient_ends_nothing() -> None:
    done, heard = _replay(WHOLE, {m.RcptTo: [m.Reject()]})
    assert [each[1:] for each in _found(done)] == [("reply", "continue", "reject")] * 2
    assert b"".join(heard) == WHOLE.of("mta")


@pytest.mark.parametrize(
    ("was", "now", "found"),
    [
        ([m.AddHeaderReply(b"X-A", b"1")], [],
         [("edit missing", "add header name=X-A value=1", None)]),
        ([], [m.DelRcptReply(b"<a@b>")], [("edit added", None, "delete recipient address=<a@b>")]),
        ([m.AddHeaderReply(b"X-A", b"1"), m.AddHeaderReply(b"X-B", b"1")],
         [m.AddHeaderReply(b"X-B", b"1")], [("edit missing", "add header name=X-A value=1", None)]),
        ([m.ChangeHeaderReply(1, b"X-A", b"1")], [m.ChangeHeaderReply(1, b"X-A", b"")],
         [("edit missing", "change header index=1 name=X-A value=1", None),
          ("edit added", None, "delete header index=1 name=X-A")]),
        ([m.InsertHeaderReply(0, b"X-A", b"1")], [m.InsertHeaderReply(1, b"X-A", b"1")],
         [("edit changed", "insert header index=0 name=X-A value=1",
           "insert header index=1 name=X-A value=1")]),
        ([m.ReplaceBodyChunk(b"one "), m.ReplaceBodyChunk(b"two")],
         [m.ReplaceBodyChunk(b"one two")], []),
        ([m.ReplaceBodyChunk(b"one two")], [m.ReplaceBodyChunk(b"one tow")],
         [("edit changed", "replace body octets=7",
           "replace body octets=7 (differs from octet 5)")]),
        ([m.Progress(), m.AddRcptReply(b"<a>")], [m.AddRcptReply(b"<a>"), m.Progress()], []),
        ([m.QuarantineReply(b"a")], [m.QuarantineReply(b"b")],
         [("edit changed", "quarantine reason=a", "quarantine reason=b")]),
    ],
)  # fmt: skip
def test_edits(was: Answer, now: Answer, found: list[tuple[str, str | None, str | None]]) -> None:
    done, _ = _replay(_turns(*BEGIN, *_mail(*was), *END), {m.EndOfMessage: [*now, C]})
    assert _found(done) == [("end of message", *each) for each in found]
    assert done.worst == bool(found)


def test_masks_and_ignored_fields() -> None:
    was, now = m.AddHeaderReply(b"X-A", b"t=12; b=x"), m.AddHeaderReply(b"X-A", b"t=345; b=x")
    conversation = _turns(*BEGIN, *_mail(was), *END)
    for text, worst in ((r"x-a:\bt=\d+", 0), (r"*:\d+", 0), (r"X-B:\d+", 1), (r"X-A:t=1", 1)):
        rules = Rules((Mask.of(text),))
        done, _ = _replay(conversation, {m.EndOfMessage: [now, C]}, rules)
        assert done.worst == worst, text
        if worst:  # what is shown is what was sent
            assert _found(done)[0][2:] == (
                "add header name=X-A value=t=12; b=x", "add header name=X-A value=t=345; b=x",
            )  # fmt: skip
    rules = Rules(ignored=frozenset({b"x-a"}))
    assert _replay(conversation, {m.EndOfMessage: [C]}, rules)[0].worst == 0
    rules = Rules((Mask.of(r"*:id \d+"),))
    conversation = _turns(*BEGIN, (m.MailFrom(b"<a>"), [m.ReplyCode(b"451 4.7.1 id 12")]), *END)
    done, _ = _replay(conversation, {m.MailFrom: [m.ReplyCode(b"451 4.7.1 id 77")]}, rules)
    assert done.differences == []


def test_a_mask_that_takes_for_ever_ends() -> None:
    with pytest.raises(MaskError, match="takes more than"):
        Mask.of(r"*:^(x|xx)+$").apply(b"", b"x" * 200 + b"z")
    for text in ("none", ":x", "x:", "x:("):
        with pytest.raises(MaskError):
            Mask.of(text)


def test_a_milter_that_wants_less_is_told_less() -> None:
    less = m.Negotiate(6, Actions.ALL, Protocol.SKIP | Protocol.NOHDRS | Protocol.NR_CONN)
    done, heard = _replay(WHOLE, {m.Negotiate: [less], m.Connect: []})
    assert _found(done) == [
        ("negotiate", "negotiation", "protocol=SKIP", "protocol=NOHDRS,SKIP,NR_CONN")
    ]
    assert b"L" not in [each[4:5] for each in heard]
    assert b"B" in [each[4:5] for each in heard]


def test_a_milter_that_wants_more_is_heard() -> None:
    quiet = m.Negotiate(6, Actions.ALL, Protocol.SKIP | Protocol.NR_HDR | Protocol.NR_EOH)
    mail = [(asked, [] if isinstance(asked, m.Header | m.EndOfHeaders) else answer)
            for asked, answer in _mail()]  # fmt: skip
    conversation = _turns((OFFER, [quiet]), *BEGIN[1:], *mail, *END)
    answers = {m.Negotiate: [AGREED], m.Header: [C], m.EndOfHeaders: [m.Discard()]}
    done, _ = _replay(conversation, answers)  # type: ignore[arg-type]
    assert _found(done)[1:] == [
        ("end of headers", "reply", "no answer", "discard"),
        ("end of headers", "rest", None, "2 events left out"),
    ]


def test_skip() -> None:
    mail = _mail()
    mail[7:7] = [(m.BodyChunk(b"y"), [C]), (m.BodyChunk(b"z"), [C])]
    done, heard = _replay(_turns(*BEGIN, *mail, *END), {m.BodyChunk: [m.Skip()]})
    assert _found(done) == [("body", "reply", "continue", "skip")]
    assert [each[4:5] for each in heard].count(b"B") == 1


def test_an_mta_that_does_not_wait() -> None:
    """Sent before the answers came, so sent again before they come."""
    conversation = Conversation(1)
    asked = [OFFER, m.Connect(b"x"), m.Helo(b"x")]
    for each in asked:
        conversation.said.append(Said(1, 0, "mta", each.encode(), True))
    for answer in (AGREED, C, m.Accept()):
        conversation.said.append(Said(1, 0, "milter", answer.encode(), True))
    answers = {m.Negotiate: [], m.Connect: [], m.Helo: [AGREED, C, m.Reject()]}
    done, _ = _replay(conversation, answers)  # type: ignore[arg-type]
    assert _found(done) == [("helo", "reply", "accept", "reject")]


def test_a_milter_that_answers_twice_may_do_so_again() -> None:
    conversation = _turns(*BEGIN, (m.Helo(b"x"), [C, m.Reject()]), *END)
    assert _replay(conversation)[0].differences == []


def test_garbage_of_the_mta_and_a_milter_that_hangs_up() -> None:
    conversation = _turns(*BEGIN, (b"\0\0\0\0", []))
    conversation.closed.append(Closed(1, 0, "milter"))

    async def serve(hang_up: bool, home: Path) -> Replayed:
        async def milter(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            for _, answer in BEGIN:
                size = int.from_bytes(await reader.readexactly(4), "big")
                await reader.readexactly(size)
                writer.write(answer[0].encode())  # type: ignore[union-attr]
            heard.append(await reader.readexactly(4))
            if not hang_up:
                await reader.read()
            writer.close()

        async with await asyncio.start_unix_server(milter, home / "m"):
            return await replay(conversation, f"unix:{home}/m", Rules(), Patience(0.5, 9))

    heard: list[bytes] = []
    with directory("replay") as home:
        assert asyncio.run(serve(True, home)).differences == []
    with directory("replay") as home:
        done = asyncio.run(serve(False, home))
    assert _found(done) == [("no packet", "connection", "closed by the milter", "still open")]
    assert heard == [b"\0\0\0\0"] * 2


@pytest.mark.parametrize(
    ("answer", "worst", "words"),
    [
        (None, 5, "closed by the milter"),
        ([], 4, "silent at mail <a@example.org>, octet "),
        ([b"\xff\xff\xff\xff"], 3, "protocol error at mail <a@example.org>, octet "),
        ([frame(b"?")], 3, "unreadable packet ?: unknown reply b'?'"),
        ([frame(b"c", b"more")], 3, "unreadable packet cmore: 4 octets of payload"),
        ([b"\0\0\0\5h"], 4, "silent"),
    ],
)
def test_faults(answer: list[Message | bytes] | None, worst: int, words: str) -> None:
    done, _ = _replay(WHOLE, {m.MailFrom: answer}, patience=Patience(0.3, 20))
    assert done.worst == worst
    fault = done.differences[0]
    assert fault.expected == "continue"
    assert words in str(fault.seen)


def test_what_was_wrong_then_may_be_wrong_again() -> None:
    for answer in ([frame(b"?")], [b"\xff\xff\xff\xff"]):
        conversation = _turns(*BEGIN, (m.Helo(b"y"), list(answer)))
        if len(answer[0]) > 4:
            last = conversation.said[-1]
            conversation.said[-1] = Said(1, 0, last.side, last.octets, True)
        assert _replay(conversation)[0].differences == []


def test_nobody_there() -> None:
    with directory("replay") as home, pytest.raises(MilterError) as caught:
        asyncio.run(replay(WHOLE, f"unix:{home}/none", Rules(), PATIENCE))
    assert caught.value.fault.value == 5


# The command.

run = CliRunner()


@pytest.fixture(scope="module")
def peer() -> Iterator[str]:
    with pymilter() as (path, _):
        yield f"unix:{path}"


@pytest.fixture
def recorded(peer: str, tmp_path: Path) -> Path:
    """Two connections with pymilter, on a tape."""
    from milterd.lab.client import play
    from tests.lab.test_play import _asking

    path = tmp_path / "a.tape"
    with tape.create(path) as writer:
        for asked in (("add", "body"), ("reply",)):
            number = writer.opened()
            asyncio.run(play(peer, _asking(*asked), tap=writer.tap(number)))
            writer.closed(number, "mta")
    return path


def _changed(path: Path, old: bytes, new: bytes) -> Path:
    assert len(old) == len(new)
    octets = path.read_bytes()
    assert old in octets
    changed = path.with_name("changed.tape")
    changed.write_bytes(octets.replace(old, new))
    return changed


def test_no_difference(peer: str, recorded: Path) -> None:
    done = run.invoke(app, ["replay", str(recorded), peer])
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("2 connections, 2 messages, ")
    assert done.stdout.endswith(" events: no differences\n")


def test_a_difference_in_words_and_as_json(peer: str, recorded: Path) -> None:
    changed = _changed(recorded, b"one\n\ttwo", b"one\n\txxx")
    done = run.invoke(app, ["replay", str(changed), peer])
    assert done.exit_code == 1
    assert done.stdout.splitlines()[:3] == [
        "connection 1, message 1, end of message: edit changed",
        "  - add header name=X-Added value=one\\n\\txxx",
        "  + add header name=X-Added value=one\\n\\ttwo",
    ]
    assert done.stdout.splitlines()[3].endswith("events: 1 difference")
    done = run.invoke(app, ["replay", str(changed), peer, "--json"])
    assert done.exit_code == 1
    assert Difference(**json.loads(done.stdout)) == Difference(
        1, 1, "end of message", "edit changed",
        "add header name=X-Added value=one\\n\\txxx", "add header name=X-Added value=one\\n\\ttwo",
    )  # fmt: skip
    for options in (["--ignore", "x-added"], ["--mask", "X-Added:xxx|two"], ["--connection", "2"]):
        done = run.invoke(app, ["replay", str(changed), peer, *options])
        assert done.exit_code == 0, done.output


def test_a_torn_tape_is_played_as_far_as_it_goes(peer: str, recorded: Path) -> None:
    torn = recorded.with_name("torn.tape")
    torn.write_bytes(recorded.read_bytes()[:-4])
    done = run.invoke(app, ["replay", str(torn), peer])
    assert done.exit_code == 0, done.output
    assert "the tape is torn" in done.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--mask", "("], "NAME:REGEX"),
        (["--mask", "x:("], "--mask"),
        (["--parallel", "0"], "--parallel"),
    ],
)
def test_usage(peer: str, recorded: Path, options: list[str], words: str) -> None:
    done = run.invoke(app, ["replay", str(recorded), peer, *options])
    assert done.exit_code == 2
    assert words in " ".join(done.output.split())


def test_more_usage(peer: str, recorded: Path, tmp_path: Path) -> None:
    assert run.invoke(app, ["replay", str(recorded), "nonsense"]).exit_code == 2
    assert run.invoke(app, ["replay", f"{tmp_path}/none", peer]).exit_code == 2
    assert run.invoke(app, ["replay", str(recorded), f"unix:{tmp_path}/none"]).exit_code == 5
    (tmp_path / "no.tape").write_bytes(b"no tape")
    done = run.invoke(app, ["replay", f"{tmp_path}/no.tape", peer])
    assert done.exit_code == 2
    assert "no.tape: octet 0: not a tape" in done.stderr


def test_show(recorded: Path) -> None:
    done = run.invoke(app, ["show", str(recorded), "--connection", "2"])
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert all(each.split()[1] == "2" for each in lines)
    assert lines[0].split()[2:] == ["--", "opened"]
    assert "->       @0 negotiate version=6 actions=ADDHDRS," in lines[1]
    assert any("<-" in each and "reply text=554-5.7.1 no" in each for each in lines)
    assert any("macros for=mail" in each and "{auth_authen}=joe" in each for each in lines)
    assert "Subject value=gr\\\\xfc\\n\\t\\\\xdfe" in done.stdout
    assert lines[-1].split()[2:] == ["--", "recorder", "cut"]
    values = run.invoke(app, ["show", str(recorded), "--json", "--raw"])
    found = [json.loads(each) for each in values.stdout.splitlines()]
    bodies = [each for each in found if each["event"] == "body"]
    assert bytes.fromhex(bodies[0]["hex"]).startswith(b"body\r\n")
    assert {"seconds", "connection", "from", "octet", "event", "fields"} <= set(bodies[0])


def test_show_garbage(tmp_path: Path) -> None:
    with tape.create(tmp_path / "t", clock=lambda: 0.0) as writer:
        writer.note("by hand")
        said: list[tuple[Side, bytes]] = [("mta", b"\0\0\0\0\x1b[2Jhello"), ("milter", frame(b"?"))]
        writer.conversation(said, note="odd")
    done = run.invoke(app, ["show", f"{tmp_path}/t", "--raw"])
    assert done.exit_code == 0
    assert "\x1b" not in done.stdout
    assert [each.split(None, 1)[1].strip() for each in done.stdout.splitlines()] == [
        "0 --          note text=by hand",
        "1 --          opened",
        "1 --          note text=odd",
        "1 ->       @0 no packet octets=13 begin=\\x00\\x00\\x00\\x00\\x1b[2Jhello",
        "00 00 00 00 1b 5b 32 4a 68 65 6c 6c 6f           .....[2Jhello",
        "1 <-       @0 unreadable code=? octets=5 why=unknown reply b'?'",
        "00 00 00 01 3f                                   ....?",
        "1 ->          mta closed",
        "1 <-          milter closed",
    ]
    (tmp_path / "t").write_bytes((tmp_path / "t").read_bytes()[:-1])
    done = run.invoke(app, ["show", f"{tmp_path}/t"])
    assert done.exit_code == 0
    assert "is torn, 4 octets" in done.stderr
