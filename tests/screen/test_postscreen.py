"""Debian's postscreen and ours say the same to the same clients (docs/screening.md)."""

from __future__ import annotations

import dataclasses
import os
import random
import signal
from collections.abc import Mapping

import pytest

from tests.peers import dns as faulty
from tests.screen.side_by_side import Case, Settings, Value, sides

CASES = int(os.environ.get("GATEPOST_SCREENS", "40"))
SEED = os.environ.get("GATEPOST_SEED", "7")
BATCH = 60
"""Cases before one Postfix and one gateway."""

EHLO, MAIL, RCPT, QUIT = (
    b"EHLO client.example\r\n", b"MAIL FROM:<a@example.org>\r\n", b"RCPT TO:<u@example.net>\r\n",
    b"QUIT\r\n",
)  # fmt: skip
LISTS = {
    "postscreen_dnsbl_sites": [
        "bl.example*2", "other.example=127.0.0.[2;4..6]*3", "white.example*-4"
    ],
}  # fmt: skip
LISTED = {
    **{f"{each}.0.0.127.bl.example": {"A": ["127.0.0.2"]} for each in (202, 203, 204, 205)},
    **{f"{each}.0.0.127.other.example": {"A": ["127.0.0.5"]} for each in (202, 203, 204, 205)},
    **{f"{each}.0.0.127.white.example": {"A": ["127.0.0.9"]} for each in (212, 213)},
}

Zone = dict[str, Mapping[str, list[str]]]
NAMED = [
    Case({}, visits=2),
    Case({"postscreen_greet_action": "enforce"}, early=EHLO, steps=(MAIL, RCPT, QUIT)),
    Case({"postscreen_greet_action": "drop"}, early=EHLO, steps=(None, MAIL)),
    Case({"postscreen_greet_action": "ignore"}, early=EHLO, steps=(None, MAIL, RCPT, QUIT)),
    Case({**LISTS, "postscreen_dnsbl_action": "enforce"}, address="127.0.0.202"),
    Case({**LISTS, "postscreen_dnsbl_action": "enforce",
          "postscreen_dnsbl_reply_map": "inline:{other.example=hidden.example}"},
         address="127.0.0.205"),
    Case({**LISTS, "postscreen_dnsbl_action": "drop"}, address="127.0.0.203"),
    Case({**LISTS, "postscreen_dnsbl_action": "ignore"}, address="127.0.0.204"),
    Case({**LISTS, "postscreen_dnsbl_allowlist_threshold": -1,
          "postscreen_pipelining_enable": True}, address="127.0.0.212"),
    Case({**LISTS, "postscreen_dnsbl_whitelist_threshold": -5,
          "postscreen_pipelining_enable": True}, address="127.0.0.213"),
    Case({"postscreen_access_list": ["static:reject"]}),
    Case({"postscreen_access_list": ["static:reject"], "postscreen_denylist_action": "enforce"}),
    Case({"postscreen_access_list": ["static:reject"], "postscreen_blacklist_action": "drop"}),
    Case({"postscreen_access_list": ["static:permit"], "postscreen_bare_newline_enable": True}),
    Case({"postscreen_access_list": ["static:dunno", "permit"],
          "postscreen_bare_newline_enable": True}),
    Case({"postscreen_access_list": ["dunno", "permit"], "postscreen_bare_newline_enable": True}),
    Case({"postscreen_pipelining_enable": True}, visits=2),
    Case({"postscreen_pipelining_enable": True}, steps=(EHLO, MAIL + RCPT, None, RCPT, QUIT)),
    Case({"postscreen_pipelining_enable": True, "postscreen_pipelining_action": "drop"},
         steps=(EHLO, MAIL + RCPT, None)),
    Case({"postscreen_pipelining_enable": True, "postscreen_pipelining_action": "ignore"},
         steps=(EHLO, MAIL + RCPT, None, QUIT), visits=2),
    Case({"postscreen_non_smtp_command_enable": True}, steps=(b"Subject: x\r\n", QUIT)),
    Case({"postscreen_non_smtp_command_enable": True,
          "postscreen_non_smtp_command_action": "enforce"},
         steps=(EHLO, b"GET / HTTP/1.0\r\n", MAIL, RCPT, QUIT)),
    Case({"postscreen_non_smtp_command_enable": True, "postscreen_forbidden_commands": ["FOO"],
          "postscreen_non_smtp_command_action": "enforce"},
         steps=(EHLO, b"GET /\r\n", MAIL, RCPT, b"FOO\r\n", RCPT, QUIT)),
    Case({"postscreen_bare_newline_enable": True, "postscreen_bare_newline_action": "enforce"},
         steps=(b"EHLO x\n", MAIL, RCPT, QUIT)),
    Case({"postscreen_bare_newline_enable": True, "postscreen_bare_newline_action": "drop"},
         steps=(b"EHLO x\n", MAIL)),
    Case({"postscreen_bare_newline_enable": True}, steps=(b"EHLO x\n", MAIL, RCPT, QUIT),
         visits=2),
    Case({"postscreen_bare_newline_enable": True, "postscreen_bare_newline_ttl": "2s",
          "postscreen_greet_ttl": "2s"}, visits=3, pause=3.0),
    Case({"postscreen_bare_newline_enable": True},
         steps=(b"STARTTLS\r\n", b"VRFY u\r\n", b"ETRN x\r\n", b"NOOP\r\n", b"RSET\r\n",
                b"RCPT TO:<x@y>\r\n", b"MAIL x\r\n", b"HELO\r\n", b"XFOO\r\n", b"DATA\r\n")),
    Case({"postscreen_bare_newline_enable": True, "postscreen_disable_vrfy_command": True},
         steps=(b"EHLO\r\n", MAIL, MAIL, b"RCPT x\r\n", b"HELP\r\n", b"EXPN\r\n", b"VRFY x\r\n",
                b"AUTH PLAIN\r\n", b"BDAT 5\r\n")),
    Case({"postscreen_bare_newline_enable": True, "postscreen_command_count_limit": 3},
         steps=(EHLO, b"NOOP\r\n", b"NOOP\r\n", b"NOOP\r\n")),
    Case({"postscreen_bare_newline_enable": True, "postscreen_command_time_limit": "1s"},
         steps=(EHLO, None)),
    Case({"postscreen_bare_newline_enable": True, "postscreen_helo_required": True},
         steps=(MAIL, b"ETRN x\r\n", EHLO, MAIL, b"DATA x\r\n")),
    Case({"postscreen_bare_newline_enable": True}, steps=(EHLO, b"X" * 3000 + b"\r\n")),
    Case({"postscreen_allowlist_interfaces": ["!127.0.0.1", "static:all"]}),
    Case({"postscreen_whitelist_interfaces": ["127.0.0.1"]}),
    Case({"postscreen_greet_banner": ""}, early=EHLO, steps=(None, MAIL, RCPT, QUIT)),
]  # fmt: skip


def _agree(cases: list[Case], zone: Zone, faults: Mapping[str, str] | None = None) -> None:
    cases = [
        each
        if each.address
        else dataclasses.replace(each, address=f"127.0.{1 + at // 200}.{at % 200 + 2}")
        for at, each in enumerate(cases)
    ]
    found = _differences(cases, zone, faults or {})
    print(f"{len(cases) - len(found)} of {len(cases)} agree")
    if found:
        # Who waits a second for an answer misses it on a busy machine: only what differs on a
        # fresh pair of both too is a difference.
        cases = [each for each, _ in found]
        found = _differences(cases, zone, faults or {})
    assert not found, "\n".join(told for _, told in found)


def _differences(
    cases: list[Case], zone: Zone, faults: Mapping[str, str]
) -> list[tuple[Case, str]]:
    with sides(cases, zone) as both:
        both.dns.faults.update(faults)
        found = both.differences(cases)
    return [
        (cases[at], f"{cases[at]}\n  postfix {left.visits}\n  ours    {right.visits}")
        for at, left, right in found
    ]


def test_what_each_parameter_does() -> None:
    _agree(NAMED, dict(LISTED))


class Making:
    """Cases by chance."""

    def __init__(self, seed: str) -> None:
        self._chance = random.Random(seed)
        self.zone: Zone = {}
        self.faults: dict[str, str] = {}

    def case(self, number: int) -> Case:
        """One of them, with its client's entries in the lists."""
        chance, address = self._chance, f"127.{1 + number // 200}.0.{number % 200 + 2}"
        settings: dict[str, Value] = {}
        odd = chance.random() < 0.35
        if chance.random() < 0.7:
            self._lists(settings, address, allow=not odd)
        if not odd and chance.random() < 0.25:
            settings["postscreen_access_list"] = [
                chance.choice(["static:reject", "static:permit", "dunno", "static:dunno"])
            ]
            settings["postscreen_denylist_action"] = self._action()
        settings["postscreen_greet_action"] = self._action()
        deep = [each for each in _DEEP if chance.random() < 0.4]
        if odd and not deep:
            deep = [chance.choice(_DEEP)]
        for each in deep:
            settings[f"postscreen_{each}_enable"] = True
            settings[f"postscreen_{each}_action"] = self._action()
        if odd:
            return Case(settings, self._odd_steps(), address=address)
        early = chance.random() < 0.3
        steps = (None, MAIL, RCPT, QUIT) if early else (EHLO, MAIL, RCPT, QUIT)
        if early and settings["postscreen_greet_action"] != "ignore":
            steps = (MAIL, RCPT, QUIT)
        return Case(
            settings, steps, early=EHLO if early else b"", visits=chance.choice((1, 2)),
            address=address,
        )  # fmt: skip

    def _action(self) -> str:
        return self._chance.choice(("ignore", "enforce", "drop"))

    def _lists(self, settings: dict[str, Value], address: str, *, allow: bool) -> None:
        chance = self._chance
        weights = chance.sample([each for each in range(-9, 10) if each], 6)
        domains = [f"l{each}.example" for each in range(chance.randint(1, 4))]
        entries = []
        for _ in range(chance.randint(len(domains), 6)):
            pattern = self._pattern() if chance.random() < 0.6 else ""
            entries.append(f"{chance.choice(domains)}{pattern}*{weights.pop()}")
        settings["postscreen_dnsbl_sites"] = entries
        settings["postscreen_dnsbl_threshold"] = chance.randint(1, 8)
        settings["postscreen_dnsbl_action"] = self._action()
        if allow and chance.random() < 0.5:
            settings["postscreen_dnsbl_allowlist_threshold"] = -chance.randint(1, 5)
        reverse = ".".join(reversed(address.split(".")))
        for each in domains:
            self._entry(f"{reverse}.{each}")

    def _entry(self, name: str) -> None:
        chance = self._chance
        kind = chance.random()
        if kind < 0.6:
            number = chance.randint(1, 3)
            answers = [
                f"127.0.{chance.randint(0, 1)}.{chance.randint(1, 9)}" for _ in range(number)
            ]
            self.zone[name] = {"A": list(dict.fromkeys(answers))}
        elif kind < 0.7:
            self.zone[name] = {"TXT": ['"text only"']}
        elif kind < 0.8:
            self.zone[name] = {"A": ["127.0.0.2"]}
            self.faults[name] = chance.choice((faulty.SERVFAIL, faulty.REFUSED, faulty.SILENT))
        elif kind < 0.85:
            self.zone[name] = {"CNAME": ["target.example."]}
            self.zone["target.example"] = {"A": ["127.0.0.3"]}

    def _pattern(self) -> str:
        chance = self._chance

        def octet(low: int, high: int) -> str:
            if chance.random() < 0.5:
                return str(chance.randint(low, high))
            parts = []
            for _ in range(chance.randint(1, 3)):
                first, last = sorted((chance.randint(low, high), chance.randint(low, high)))
                parts.append(f"{first}..{last}" if chance.random() < 0.6 else str(first))
            return f"[{';'.join(parts)}]"

        return f"=127.0.{octet(0, 1)}.{octet(1, 9)}"

    def _odd_steps(self) -> tuple[bytes | None, ...]:
        chance = self._chance
        steps: list[bytes | None] = []
        for _ in range(chance.randint(2, 9)):
            line = chance.choice(_LINES)
            if chance.random() < 0.15:
                line = line.replace(b"\r\n", b"\n")
            steps.append(line)
            # What follows a refused STARTTLS at once is never answered by postscreen.
            if chance.random() < 0.12 and not line.startswith(b"STARTTLS"):
                steps[-1] = line + chance.choice(_LINES)
                steps.append(None)
        return (*steps, QUIT)


_DEEP = ("pipelining", "non_smtp_command", "bare_newline")
_LINES = (
    EHLO, MAIL, RCPT, EHLO, MAIL, RCPT, b"HELO x\r\n", b"RSET\r\n", b"NOOP\r\n", b"VRFY u\r\n",
    b"ETRN example.net\r\n", b"STARTTLS\r\n", b"AUTH LOGIN\r\n", b"XCLIENT ADDR=1.2.3.4\r\n",
    b"Received: from x\r\n", b"GET / HTTP/1.0\r\n", b"FOO\r\n", b"\xff\xfe\r\n", b"\r\n",
    b"mail from: b@example.org\r\n", b'RCPT TO:<"a b"@example.net>\r\n', b"MAIL FROM:<>\r\n",
    b" NOOP\r\n", b"connect x:25\r\n", b"123\r\n", b"HELO\r\n", b"RCPT\r\n", b"DATA\r\n",
    b"BDAT 1 LAST\r\n", b"a:b\r\n",
)  # fmt: skip


@pytest.mark.parametrize("first", range(0, CASES, BATCH))
def test_generated_clients(first: int) -> None:
    """GATEPOST_SCREENS of them, 40 usually."""
    making = Making(f"{SEED}-{first}")
    cases = [making.case(each) for each in range(min(BATCH, CASES - first))]
    _agree(cases, making.zone, making.faults)


def test_how_long_a_pass_from_the_lists_is_good() -> None:
    """postscreen_dnsbl_min_ttl, postscreen_dnsbl_max_ttl: a client that is listed after it has
    passed is not asked about until then."""
    settings: Settings = {
        "postscreen_dnsbl_sites": ["l.example"], "postscreen_dnsbl_action": "enforce",
        "postscreen_greet_banner": "",
    }  # fmt: skip
    bounds = [("1s", "60s"), ("30s", "60s"), ("1s", "2s")]
    cases = [
        Case({**settings, "postscreen_dnsbl_min_ttl": low, "postscreen_dnsbl_max_ttl": high},
             address=f"127.0.9.{at + 1}")
        for at, (low, high) in enumerate(bounds)
    ]  # fmt: skip
    with sides(cases, {}) as both:
        assert not both.differences(cases)
        for at in range(len(bounds)):
            both.dns.zone[f"{at + 1}.9.0.127.l.example"] = {"A": ["127.0.0.2"]}
        signal.sigtimedwait([], 4.0)  # for the time itself is what is tested
        theirs, ours = both.seen(cases)
        assert [each.visits for each in ours] == [each.visits for each in theirs]
