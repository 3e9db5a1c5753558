"""Our milter's side against miltertest, OpenDKIM's tool to play an MTA."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from milterd.wire import messages as m
from milterd.wire.constants import Actions, Protocol
from milterd.wire.milter import MilterConnection
from tests.peers.process import program
from tests.wire.programs import served

SCRIPT = """
conn = mt.connect("SOCKET")
assert(conn ~= nil, "no connection")
assert(mt.conninfo(conn, "mx.example.org", "192.0.2.1") == nil, "conninfo")
assert(mt.getreply(conn) == SMFIR_CONTINUE, "connect")
assert(mt.helo(conn, "mx.example.org") == nil, "helo")
mt.macro(conn, SMFIC_MAIL, "i", "QUEUEID", "{auth_authen}", "joe")
assert(mt.mailfrom(conn, "<a@example.net>", "SIZE=10") == nil, "mail")
assert(mt.rcptto(conn, "<b@example.net>") == nil, "rcpt")
assert(mt.data(conn) == nil, "data")
assert(mt.header(conn, "Subject", "hello") == nil, "header")
assert(mt.header(conn, "X-Mailer", "x") == nil, "header")
assert(mt.eoh(conn) == nil, "eoh")
assert(mt.bodystring(conn, "body\\r\\n") == nil, "body")
assert(mt.eom(conn) == nil, "eom")
assert(mt.getreply(conn) == SMFIR_ACCEPT, "verdict")
assert(mt.eom_check(conn, MT_HDRADD, "X-Added", "one"), "add")
assert(mt.eom_check(conn, MT_HDRCHANGE, "Subject", "changed"), "change")
assert(mt.eom_check(conn, MT_HDRDELETE, "X-Mailer"), "delete")
assert(mt.eom_check(conn, MT_HDRINSERT, "X-Top", "two"), "insert")
assert(mt.eom_check(conn, MT_RCPTADD, "<c@example.net>"), "rcpt+")
assert(mt.eom_check(conn, MT_RCPTDELETE, "<b@example.net>"), "rcpt-")
assert(mt.eom_check(conn, MT_BODYCHANGE, "new body\\r\\n"), "new body")
assert(mt.eom_check(conn, MT_QUARANTINE, "odd"), "quarantine")
mt.abort(conn)
mt.disconnect(conn)
"""
EDITS: list[m.Reply] = [
    m.Progress(),
    m.AddHeaderReply(b"X-Added", b"one"),
    m.ChangeHeaderReply(1, b"Subject", b"changed"),
    m.ChangeHeaderReply(1, b"X-Mailer", b""),
    m.InsertHeaderReply(0, b"X-Top", b"two"),
    m.AddRcptReply(b"<c@example.net>"),
    m.DelRcptReply(b"<b@example.net>"),
    m.ReplaceBodyChunk(b"new body\r\n"),
    m.QuarantineReply(b"odd"),
]


def _answer(event: m.CommandMessage) -> Sequence[m.Reply]:
    return [*EDITS, m.Accept()] if isinstance(event, m.EndOfMessage) else [m.Continue()]


def test_miltertest_gets_every_edit(tmp_path: Path) -> None:
    def make() -> MilterConnection:
        return MilterConnection(accept_actions=Actions.ALL, accept_protocol=Protocol.NONE)

    with served(make, _answer) as milter:
        script = tmp_path / "script.lua"
        script.write_text(SCRIPT.replace("SOCKET", milter.address))
        command = [program("miltertest", "miltertest"), "-s", str(script)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    assert m.Header(b"Subject", b"hello") in milter.heard
    assert m.BodyChunk(b"body\r\n") in milter.heard
    assert milter.heard[-1] in (m.Quit(), m.Abort())
