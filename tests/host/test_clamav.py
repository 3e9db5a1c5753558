"""The clamav filter and Debian's clamd, through both hosts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from milterd.wire import messages as m
from tests.host.mta import Mta
from tests.host.test_daemon import Milterd
from tests.peers.clamd import Clamd

EICAR = rb"X5O!P%@AP[4\PZX54(P^)7CC)7}$" + b"EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*\r\n"
HEADERS = [(b"From", b" a@example.net"), (b"Content-Type", b" text/plain")]


@pytest.fixture(params=["libmilter", "native"])
def address(request: pytest.FixtureRequest, short_path: Path, clamd: Clamd) -> Iterator[str]:
    made = Milterd(short_path, "native")
    table = f'[filter.clamav]\nhost = "{request.param}"\nclamd = "unix:{clamd.socket}"\n'
    text = made.config.read_text()
    made.config.write_text(text.partition("[filter.headers]")[0] + table)
    made.start().ready()
    yield str(short_path / "clamav.sock")
    made.close()


def test_clean_and_infected_small_and_spooled(address: str) -> None:
    large = [b"some text that is clean\r\n" * 2500] * 40  # over what is kept in memory
    with Mta(address) as mta:
        mta.greet()
        for body in ([b"clean\r\n"], large):
            answer = mta.message(HEADERS, body=body)
            assert answer.reply == m.Continue()
            assert [each.name for each in answer.edits] == [b"X-Virus-Scanned"]
        answer = mta.message(HEADERS, body=[EICAR])
        assert answer.reply.text.startswith(b"550 5.7.1 ")
        assert b"Eicar" in answer.reply.text or b"EICAR" in answer.reply.text
        attached = [(b"Content-Type", b" multipart/mixed; boundary=b"), (b"MIME-Version", b" 1.0")]
        begin = [b"--b\r\nContent-Type: text/plain\r\n\r\n", *large, b"\r\n--b\r\n"]
        end = [b"Content-Type: application/octet-stream\r\n\r\n", EICAR, b"--b--\r\n"]
        answer = mta.message(attached, body=[*begin, *end])
        assert answer.reply.text.startswith(b"550 5.7.1 ")
