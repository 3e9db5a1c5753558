"""What changes while a listener is near its number of connections, and when."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from milterd.base import logs
from smtpgw.config import parse
from smtpgw.edge.options import Deadlines, Limits, StressMode
from smtpgw.edge.stress import Stress
from tests.edge.harness import QUICK, Client, Server, wait_for

TEN = replace(QUICK, limits=Limits(error_sleep_time=0.0, connections=10))
SHORT = replace(
    TEN,
    deadlines=Deadlines(smtpd_timeout=0.3),
    limits=Limits(error_sleep_time=0.0, connections=10, hard_error_limit=1),
)


def test_it_begins_and_ends_with_room_between() -> None:
    stress = Stress("mx", logs.get("edge"))
    with capture_logs() as lines:
        seen = [stress.look(number, 100, "auto") for number in (89, 90, 89, 70, 69, 70, 89, 90)]
    assert seen == [False, True, True, True, False, False, False, True]
    assert [each["event"] for each in lines] == ["stress begins", "stress is over", "stress begins"]


@pytest.mark.parametrize(("mode", "on"), [("yes", True), ("no", False)])
def test_it_can_be_told(mode: StressMode, on: bool) -> None:
    stress = Stress("mx", logs.get("edge"))
    assert [stress.look(number, 100, mode) for number in (0, 100, 0)] == [on] * 3


def test_sessions_that_begin_under_stress_go_by_its_limits() -> None:
    strict = replace(TEN, limits=replace(TEN.limits, hard_error_limit=1))
    with Server(TEN, stressed=strict) as server, contextlib.ExitStack() as stack:
        calm = [stack.enter_context(server.client()) for _ in range(8)]
        stressed = stack.enter_context(server.client())
        assert [each.stressed for each in server.ledger.connections] == [False] * 8 + [True]
        stressed.command(b"BLAH", 500)
        stressed.expect(421, "4.7.0")  # the first error was one too many
        calm[0].command(b"BLAH", 500)
        calm[0].command(b"NOOP", 250)
        for each in calm[:4]:
            each.command(b"QUIT", 221)
        wait_for(lambda: server.listener.connections <= 5)
        stack.enter_context(server.client())
        assert server.ledger.connections[-1].stressed is False


def test_under_stress_those_who_are_here_have_to_hurry_too() -> None:  # E11, E12
    with Server(TEN, stressed=SHORT) as server, contextlib.ExitStack() as stack:
        idle = [stack.enter_context(server.client()) for _ in range(7)]
        slow = stack.enter_context(server.client())
        slow.begin()
        slow.send(b"Subject: begun\r\n")
        stack.enter_context(server.client(greeted=False))
        for each in (*idle, slow):
            each.expect(421, "4.4.2")
            assert each.closed() == b""
        wait_for(lambda: server.listener.connections == 0)


def test_a_message_that_dribbles_when_stress_begins() -> None:  # E11
    rated = replace(SHORT, deadlines=Deadlines(smtpd_timeout=0.6, per_request=True))
    with Server(TEN, stressed=rated) as server, contextlib.ExitStack() as stack:
        slow = stack.enter_context(server.client())
        slow.begin()
        for number in range(8):
            stack.enter_context(server.client(greeted=number < 7))  # the last one makes it stress
        slow.until_told(421, "4.4.2", lambda: slow.send(b"x"))


def test_beyond_the_limit_there_is_an_answer_that_says_so() -> None:
    with Server(TEN, stressed=TEN) as server, contextlib.ExitStack() as stack:
        for _ in range(10):
            stack.enter_context(server.client())
        with Client(server.port) as one:
            one.expect(421, "4.3.2")
            assert one.closed() == b""


SETTINGS = """
[smtpgw]
{}
[[smtpgw.listener]]
name = "mx"
address = "127.0.0.1:25"
{}
[smtpgw.stress]
{}
"""


@pytest.mark.parametrize(
    ("general", "own", "stress", "timeout"),
    [
        ("", "", "", 10.0),
        ("smtpd_timeout = 60", "", "", 60.0),
        ("", "smtpd_timeout = 5", "", 5.0),
        ("smtpd_timeout = 60", "smtpd_timeout = 50", "smtpd_timeout = 3", 3.0),
    ],
)
def test_what_is_set_stays_unless_stress_says_otherwise(
    general: str, own: str, stress: str, timeout: float
) -> None:
    settings = parse(SETTINGS.format(general, own, stress)).smtpgw
    found = settings.reception(settings.listener[0], stress=True)
    assert found.smtpd_timeout == timeout


def test_the_defaults_under_stress_are_those_of_postfix() -> None:
    """`${stress?...}` in postconf -d."""
    settings = parse(SETTINGS.format("", "", "")).smtpgw
    usual = settings.reception(settings.listener[0])
    found = settings.reception(settings.listener[0], stress=True)
    changed = {
        name: getattr(found, name)
        for name in type(found).model_fields
        if getattr(found, name) != getattr(usual, name)
    }
    assert changed == {
        "smtpd_timeout": 10.0,
        "smtpd_starttls_timeout": 10.0,
        "smtpd_hard_error_limit": 1,
        "smtpd_junk_command_limit": 1,
        "smtpd_per_request_deadline": True,
    }
