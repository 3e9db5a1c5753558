"""Fixtures and reports for the whole suite."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Generator, Iterator
from ipaddress import ip_address
from typing import Any, NoReturn

import hypothesis
import pytest

from tests.peers.fixtures import (
    clamav_milter,
    clamd,
    dkim_key,
    dovecot,
    opendkim,
    peer_directory,
    postfix,
    smtp_sink,
)
from tests.peers.process import tails
from tests.steady import SteadyPolicy

hypothesis.settings.register_profile("suite", deadline=None)  # an example's time is the machine's
hypothesis.settings.load_profile("suite")
asyncio.set_event_loop_policy(SteadyPolicy())

LONGEST = (
    "milter-cards",
    "tests/crash/test_kill.py",
    "tests/gateway/test_process.py",
    "recipients",
    "mta-cards",
    "tests/lab/test_conform_broken.py",
    "tests/run/test_run.py",
    "tests/screen/test_postscreen.py",
    "scenario-postfix",
    "tests/crash/test_syscalls.py",
    "tests/crash/test_power_cut.py",
    "tests/gateway/test_takeover.py",
    "reception",
    "databases",
    "tests/filters/test_matrix_live.py",
    "tests/address/test_tokens.py",
    "tests/sasl/test_clients.py",
    "scenario-both-halves",
    "tests/faults/test_log.py",
    "scenario-make-run",
    "tests/filters/test_checks_differential.py",
    "tests/verify/test_gateway.py",
    "tests/filters/test_matrix_roads.py",
    "tests/filters/test_dkim_roads.py",
    "tests/lab/test_bench.py",
    "tests/lab/test_miltertest_agrees.py",
    "tests/gateway/test_quarantine.py",
    "rates-redis",
    "faults-restart",
    "tests/gateway/test_sendmail.py",
    "tests/gateway/test_rewriting.py",
    "tests/gateway/test_routing.py",
    "golden",
)
"""Groups of tests that take longer than a quarter of a minute, the longest first: so they begin,
and at the end of the suite no process has a long one before it while the others have nothing."""

LONGEST_NAME = 200
"""Characters of a value that a test's name may have."""

__all__ = [
    "clamav_milter",
    "clamd",
    "dkim_key",
    "dovecot",
    "opendkim",
    "peer_directory",
    "postfix",
    "smtp_sink",
]

collect_ignore_glob = ["*.milter"]
"""Scenarios are played by tests that start their milter; the project's own pytest plugin, where
it is installed, leaves them alone."""


_asked: list[str] = []
"""The name servers that the test has tried to ask."""


def _fence(event: str, arguments: tuple[Any, ...]) -> None:
    """No question to a name server leaves the machine, whoever asks it."""
    if event in ("socket.connect", "socket.sendto") and isinstance(arguments[1], tuple):
        host, port, *_ = arguments[1]
        if port == 53 and not ip_address(host).is_loopback:
            _asked.append(host)
            raise AssertionError(f"a test asks {host}: it needs a name server of its own")


@pytest.fixture(scope="session", autouse=True)
def _fenced_in() -> Iterator[None]:
    """Tests ask a name server that they run themselves (tests.peers.dns), never the machine's."""

    def refuse() -> NoReturn:
        raise AssertionError("no settings for DNS: a test needs a name server of its own")

    sys.addaudithook(_fence)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("smtpgw.dns.resolver.system_nameservers", refuse)
        yield


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With several workers (pytest -n), the tests of a file share one, and so what they start;
    a mark xdist_group puts tests of several files together instead."""
    place = {group: at for at, group in enumerate(LONGEST)}
    for each in items:
        if each.get_closest_marker("xdist_group") is None:
            each.add_marker(pytest.mark.xdist_group(each.nodeid.partition("::")[0]))
    items.sort(key=lambda each: place.get(_group(each), len(place)))


def _group(item: pytest.Item) -> str:
    mark = item.get_closest_marker("xdist_group")
    return str(mark.args[0] if mark.args else mark.kwargs["name"]) if mark else ""


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """A short name for a long text: the test's name is in the environment of what it starts."""
    if isinstance(val, str | bytes) and len(val) > LONGEST_NAME:
        return f"{argname}-of-{len(val)}"
    return None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, None, None]:
    """A resolver takes what the fence raises for a server that is broken, and asks on."""
    yield
    if _asked:
        asked = ", ".join({*_asked})
        _asked.clear()
        pytest.fail(f"the test asks {asked}: it needs a name server of its own")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show with a failure the log of every peer that runs."""
    report = yield
    if report.failed:
        report.sections += [(f"log of {name}", text) for name, text in tails()]
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests measured (record_property "measured"), passed or failed."""
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            for name, value in getattr(report, "user_properties", ()):
                if name == "measured" and report.when == "call":
                    terminalreporter.write_line(str(value))
