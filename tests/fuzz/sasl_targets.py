"""Fuzz targets of logins: what Dovecot may say, the password file, SCRAM, the AUTH dialogue.

`python tests/fuzz/sasl_targets.py NAME` runs one under atheris, where that is installed, else the
saved seeds.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
from dataclasses import replace
from pathlib import Path

if __name__ == "__main__":
    # Run as a script: the project's root is not on the path then.
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from smtpgw.edge.auth import (
    AuthOptions,
    Challenge,
    Circumstances,
    Failure,
    Mechanism,
    Step,
    Success,
)
from smtpgw.sasl.dovecot import codec
from smtpgw.sasl.file import entries, scram
from tests.fuzz.driver import Target, run
from tests.fuzz.edge_targets import OPTIONS, run_session

_REPLIES = re.compile(rb"(?:[2-5][0-9]{2}[ -][ -~]{0,506}\r\n)*\Z")


def fuzz_dovecot(data: bytes) -> None:
    """Events or ProtocolError, the same however it is cut; never more than a line is kept."""
    found: list[list[codec.Event]] = []
    for size in (1, 7, max(1, len(data))):
        decoder, events = codec.Decoder(), list[codec.Event]()
        with contextlib.suppress(codec.ProtocolError):
            for at in range(0, len(data), size):
                events += decoder.feed(data[at : at + size])
        assert len(decoder._buffer) <= codec.LONGEST_LINE + len(data)
        found.append(events)
    # What is read before a mistake is the same in all; lists made of one piece end at it too.
    assert found[0] == found[1] == found[2]


def fuzz_passwords(data: bytes) -> None:
    """Any file can be read, and an entry that is taken is written as it was understood."""
    for each in entries.parse(data).users.values():
        assert entries.parse_line(each.encode()) == each


def fuzz_scram(data: bytes) -> None:
    """A client that does not know the password gets nowhere, whatever it says."""
    first, _, final = data.partition(b"\n")
    one = scram.Dialogue(b"nonce")
    with contextlib.suppress(scram.ScramError):
        one.first(first)
        one.challenge(scram.unknown_keys(b"secret", b"user", 4096))
        assert one.final(final) is None


class _Judge:
    """ "good" is good; "ask" asks again; anything else is bad."""

    async def mechanisms(self) -> tuple[Mechanism, ...]:
        return (Mechanism("PLAIN"), Mechanism("LOGIN"))

    def exchange(self, _mechanism: str, _circumstances: Circumstances, /) -> _Judge:
        return self

    async def begin(self, initial: bytes | None) -> Step:
        return Challenge(b"") if initial is None else await self.respond(initial)

    async def respond(self, response: bytes) -> Step:
        if response == b"ask":
            return Challenge(b"?")
        return Success(b"u") if response == b"good" else Failure("bad")

    def end(self) -> None:
        return


def fuzz_auth(data: bytes) -> None:
    """A whole session with AUTH: it ends, answers properly, and logs in nobody but the good."""
    if not data:
        return
    everything = lambda _mechanism: True  # noqa: E731 - once
    auth = AuthOptions(_Judge(), plain=everything, over_tls=everything, tls_only=False)
    size, sent = data[0] % 64 or len(data), b"EHLO x\r\n" + data[1:]
    pieces = [sent[at : at + size] for at in range(0, len(sent), size)]
    writes, ledger = asyncio.run(run_session(pieces, replace(OPTIONS, auth=auth)))
    written = b"".join(writes)
    assert _REPLIES.match(written), written
    if b"Z29vZA==" not in data:
        assert "login" not in ledger.calls


TARGETS: dict[str, Target] = {
    "sasl_dovecot": fuzz_dovecot,
    "sasl_passwords": fuzz_passwords,
    "sasl_scram": fuzz_scram,
    "sasl_auth": fuzz_auth,
}


if __name__ == "__main__":
    sys.exit(run(TARGETS, sys.argv))
