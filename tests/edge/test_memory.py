"""Memory stays bounded whatever comes: measured in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

PROGRAM = """
import json, os, resource, sys, tempfile
from pathlib import Path
from smtpgw.edge.data import BdatReader, DataReader
from smtpgw.edge.inbox import Inbox, LineTooLongError
from smtpgw.edge.options import ContentOptions

def rss():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

kind, piece = sys.argv[1], 65536
options = ContentOptions(message_size_limit=64 << 20, spool_directory=Path(tempfile.gettempdir()))
before = rss()
if kind == "command":
    inbox = Inbox()
    for _ in range(768):
        inbox.feed(b"a" * piece)
        try:
            inbox.line(512)
        except LineTooLongError:
            pass
else:
    reader = BdatReader(options) if kind == "bdat" else DataReader(options)
    feed = {"line": b"a" * piece, "crlf": b"\\r\\n" * (piece // 2), "lf": b"\\n" * piece,
            "dots": b"\\n." * (piece // 2), "cr": b"\\r" * piece,
            "folds": b"\\r\\n " * (piece // 3), "bdat": b"\\r\\n.\\r\\n\\n" * (piece // 6)}[kind]
    if kind != "folds":
        reader.feed(b"A: b\\r\\n\\r\\n")
    else:
        reader.feed(b"A: b")
    for _ in range((48 << 20) // piece):
        reader.feed(feed)
    if kind == "bdat":
        reader.finish()
    else:
        reader.feed(b"\\r\\n.\\r\\n")
        assert reader.finished
        reader.finish()
print(json.dumps(rss() - before))
"""


@pytest.mark.parametrize("kind", ["line", "crlf", "lf", "dots", "cr", "folds", "bdat", "command"])
def test_48_mib_cost_little_memory(kind: str) -> None:
    """E01, E02, E03: a line without end, empty lines, every odd line end, BDAT, a command."""
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, kind], capture_output=True, text=True, check=True
    )
    assert json.loads(run.stdout) < 8 << 20
