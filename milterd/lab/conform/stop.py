"""How a milter ends: by SIGTERM, in the middle of a message."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import replace
from pathlib import Path

from milterd.lab.conform.check import Check, fail, not_applicable
from milterd.lab.conform.context import Context
from milterd.lab.conform.talk import Talk
from milterd.lab.link import Fault, MilterError
from milterd.wire import messages as m

_LOOK = 0.05
"""Seconds between two looks at a process that nobody here has started."""


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and is not yet reaped does not."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] not in "ZX"


async def _sigterm(context: Context) -> str:
    pid, patience = context.pid, context.options.stop
    if pid is None:
        not_applicable("needs --command, or --pid with the milter's process")
    async with context.connected() as talk:
        await talk.reach_open(m.Header)
        os.kill(pid, signal.SIGTERM)
        # libmilter takes five seconds to end, and answers nobody meanwhile.
        talk.link.patience = replace(talk.link.patience, answer=patience)
        how = await _rest(talk)
    try:
        async with asyncio.timeout(patience):
            while alive(pid):  # noqa: ASYNC110 - it may be nobody's child here
                await asyncio.sleep(_LOOK)
    except TimeoutError:
        fail(f"{how}; still there {patience:g} s after SIGTERM")
    return f"{how}; ended"


async def _rest(talk: Talk) -> str:
    """The message goes on as if nothing had been; what becomes of it."""
    try:
        for event in (m.EndOfHeaders(), m.BodyChunk(b"text\r\n"), m.EndOfMessage()):
            reply = await talk.say(event)
        answered = f"the message is answered: {talk.told(reply)}"
        await talk.link.write(talk.mta.send(m.Quit()))
        await talk.rest()
    except MilterError as error:
        if error.fault is Fault.GONE:
            return "the connection is closed"
        if error.fault is Fault.SILENT:
            fail(f"neither answers nor closes: {error}", error.stage, error.octet)
        raise
    return answered


CHECKS: tuple[Check, ...] = (
    Check(
        "stop/sigterm",
        "SIGTERM in the middle of a message",
        "The message is answered or its connection closed, so that the MTA can do as it was "
        "configured, and the process ends.",
        "libmilter main.c, mi_stop_milters: within five seconds; systemd TimeoutStopSec",
        _sigterm,
        last=True,
        weight=3,
    ),
)
