"""A pytest plugin: `*.milter` files are tests, and the fixture `milter` talks to a milter.

Everything but pytest is imported when it is first needed: who has no scenario pays
nothing for it.  Documentation: docs/lab/scenarios.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from milterd.lab.scenario.run import Outcome
    from milterd.lab.testing import Dialogue, Milter, Result

SUFFIX = ".milter"


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options and settings of the plugin."""
    group = parser.getgroup("milter", "milters under test")
    group.addoption(
        "--milter-socket",
        metavar="ADDRESS",
        help="The milter's address, unix:PATH or inet:PORT@HOST, instead of the scenarios' own.",
    )
    group.addoption(
        "--milter-set",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="A value for ${NAME} in scenarios; may be repeated.",
    )
    parser.addini("milter_socket", "The milter's address where nothing else names one.", default="")


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line(
        "markers", "milter(address): the milter that the fixture `milter` talks to."
    )


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """A scenario is a file with one test."""
    if file_path.suffix != SUFFIX:
        return None
    found: ScenarioFile = ScenarioFile.from_parent(parent, path=file_path)
    return found


class ScenarioFailed(Exception):  # noqa: N818 - it is no error: the test has failed
    """What came of a scenario that did not pass."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.name)
        self.outcome = outcome


class ScenarioFile(pytest.File):
    """A file with a scenario."""

    def collect(self) -> Iterable[pytest.Item]:
        """Its one test; a mistake in the file fails the test, and not the collection."""
        yield ScenarioItem.from_parent(self, name="scenario")


class ScenarioItem(pytest.Item):
    """A scenario as a test."""

    def runtest(self) -> None:
        """Play it."""
        from milterd.lab.scenario.load import play_file

        given = dict(_assigned(each) for each in self.config.getoption("--milter-set"))
        outcome = play_file(
            self.path,
            given,
            socket=self.config.getoption("--milter-socket"),
            default=self.config.getini("milter_socket"),
        )
        if not outcome.passed:
            raise ScenarioFailed(outcome)

    def repr_failure(  # type: ignore[override]  # pytest's own docs narrow it to a string
        self, excinfo: pytest.ExceptionInfo[BaseException]
    ) -> object:
        """All that was said, and what was wrong with it."""
        if not isinstance(excinfo.value, ScenarioFailed):
            return super().repr_failure(excinfo)
        from milterd.lab.scenario.report import lines

        return "\n".join(lines(excinfo.value.outcome, talk=True))

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Where it is."""
        return self.path, None, self.nodeid


class Milters:
    """What the fixture `milter` is: `milter(address)` is the milter there, and `milter.send`,
    `milter.session` talk to the one of the marker, the option or the setting."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._made: dict[str, Milter] = {}

    def __call__(self, address: str = "") -> Milter:
        from milterd.lab.testing import Milter

        found = address or self._address
        if not found:
            raise pytest.UsageError(
                "no milter to talk to: call milter(ADDRESS), mark the test with "
                "pytest.mark.milter(ADDRESS), give --milter-socket or set milter_socket"
            )
        if found not in self._made:
            self._made[found] = Milter(found)
        return self._made[found]

    @property
    def send(self) -> Callable[..., Result]:
        """`Milter.send` of the milter that is set."""
        return self().send

    @property
    def session(self) -> Callable[..., Dialogue]:
        """`Milter.session` of the milter that is set."""
        return self().session

    def close(self) -> None:
        """End every connection."""
        for each in self._made.values():
            each.close()


@pytest.fixture
def milter(request: pytest.FixtureRequest) -> Iterator[Milters]:
    """The milter under test: `milter.send(message)`, `milter.session()`, `milter(ADDRESS)`."""
    found = Milters(_address(request.node))
    yield found
    found.close()


def _address(node: pytest.Item) -> str:
    """The milter's address: the option's, the marker's, or the setting's."""
    mark = node.get_closest_marker("milter")
    marked = mark.args[0] if mark is not None and mark.args else ""
    option, setting = node.config.getoption("--milter-socket"), node.config.getini("milter_socket")
    return str(option or marked or setting)


def _assigned(text: str) -> tuple[str, bytes]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise pytest.UsageError(f"--milter-set: expected NAME=VALUE, found {text!r}")
    return name, value.encode("utf-8", "surrogateescape")
