"""Every row of the table of legal moves, over the wire, and every command in every state."""

from __future__ import annotations

import pytest

from smtpgw.edge.states import REFUSALS, State
from tests.edge.harness import Server

COMMANDS = {
    "EHLO": b"EHLO x",
    "HELO": b"HELO x",
    "MAIL": b"MAIL FROM:<b@example.com>",
    "RCPT": b"RCPT TO:<v@example.net>",
    "DATA": b"DATA",
    "BDAT": b"BDAT 1",
    "RSET": b"RSET",
    "NOOP": b"NOOP",
    "VRFY": b"VRFY x",
    "HELP": b"HELP",
}

MAIL = b"MAIL FROM:<a@example.com>"
WAY = {
    State.START: [],
    State.GREETED: [b"EHLO x"],
    State.MAIL: [b"EHLO x", MAIL],
    State.REFUSED: [b"EHLO x", MAIL, b"RCPT TO:<refused@example.net>"],
    State.RCPT: [b"EHLO x", MAIL, b"RCPT TO:<u@example.net>"],
    State.CHUNKS: [b"EHLO x", MAIL, b"RCPT TO:<u@example.net>", b"BDAT 1\r\nx"],
}

AFTER = {
    ("EHLO", 250): State.GREETED,
    ("HELO", 250): State.GREETED,
    ("MAIL", 250): State.MAIL,
    ("RCPT", 250): State.RCPT,
    ("BDAT", 250): State.CHUNKS,
}


@pytest.mark.parametrize("verb", COMMANDS)
@pytest.mark.parametrize("state", State, ids=lambda each: each.name)
def test_move(state: State, verb: str) -> None:
    with Server() as server, server.client(greeted=False) as client:
        client.expect(220)
        for each in WAY[state]:
            client.send(each if b"\r\n" in each else each + b"\r\n")
            client.reply()
        (session,) = server.listener._sessions.values()
        assert session.state is state
        client.send(COMMANDS[verb] + (b"\r\ny" if verb == "BDAT" else b"\r\n"))
        code, _ = client.reply()
        refusal = REFUSALS[state].get(verb)
        if verb == "BDAT" and state is State.START:
            assert code == 502  # nothing was announced
        elif refusal is not None:
            assert code == refusal.code
            assert session.state is state
        else:
            assert code in (250, 252, 214, 354)
            rset = State.START if state is State.START else State.GREETED
            usual = rset if verb == "RSET" else state
            assert session.state is AFTER.get((verb, code), usual)
