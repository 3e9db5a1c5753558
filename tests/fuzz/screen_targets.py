"""Fuzz targets of screening: the grammar of postscreen_dnsbl_sites, and the dialogue that takes
no mail.  As in :mod:`tests.fuzz.edge_targets`; no socket.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

if __name__ == "__main__":
    # Run as a script: the project's root is not on the path then.
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ipaddress import IPv4Address

from smtpgw.screen.deep import SHOWN, Deep
from smtpgw.screen.dummy import LONGEST_NAME, Dummy, Wanted
from smtpgw.screen.options import UNAVAILABLE, Action, ScreenOptions
from smtpgw.screen.passes import DEEP, Test
from smtpgw.screen.sites import parse_entry
from tests.fuzz.driver import Target, run

ACTIONS: tuple[Action, ...] = ("ignore", "enforce", "drop")
_REPLIES = re.compile(rb"(?:[2-5][0-9]{2}[ -][ -~]{0,506}\r\n)*\Z")
_LINE = 64


def fuzz_sites(data: bytes) -> None:
    """Any entry is a list or a ValueError, and one that is a list can be asked."""
    try:
        domain, rule = parse_entry(data.decode("utf-8", "surrogateescape"))
    except ValueError:
        return
    assert re.fullmatch(r"[a-z0-9_.-]{1,253}", domain), domain
    rule.fits([IPv4Address(bytes(data[:4].ljust(4, b"\0")))])


def fuzz_dummy(data: bytes) -> None:
    """A dialogue in pieces of one size: it answers properly, keeps little, and refuses all."""
    if len(data) < 2:
        return
    action = ACTIONS[data[0] % 3]
    options = ScreenOptions(
        actions=dict.fromkeys(Test, action),
        ttl=dict.fromkeys(Test, 60.0),
        line_limit=_LINE,
        helo_required=bool(data[0] & 8),
        tls_required=bool(data[0] & 16),
        starttls=bool(data[0] & 32),
        forbidden=lambda word: word.upper() == b"GET",
    )
    wanted: list[Wanted] = []
    deep = Deep(options, DEEP)
    dummy = Dummy(
        options, UNAVAILABLE, deep, lambda: 1.0, lambda x: (wanted.append(x), x.answer)[1]
    )
    size, sent = data[1] % 32 or len(data), data[2:]
    ended = False
    for at in range(0, len(sent), size):
        if ended:
            return
        output = dummy.feed(sent[at : at + size])
        assert _REPLIES.match(output.reply), output.reply
        assert b"\r\n250 2.1.5" not in output.reply
        assert len(dummy._buffer) <= _LINE + size
        assert all(len(each.sent) <= SHOWN for each in output.offences)
        if output.tls:
            dummy.secured()
        ended = output.ends
    assert all(each.answer.code >= 400 for each in wanted)
    assert all(len(each.recipient) <= LONGEST_NAME for each in wanted)
    assert not deep.failed or action != "ignore"


TARGETS: dict[str, Target] = {
    "screen_sites": fuzz_sites,
    "screen_dummy": fuzz_dummy,
}


if __name__ == "__main__":
    sys.exit(run(TARGETS, sys.argv))
