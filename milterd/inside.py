"""The filters of a settings file in the process of a gateway that asks them itself.

What a filter needs of milterd's settings it gets here as its own process would; sockets, their
modes and owners, and the number of processes mean nothing.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping

from milterd.base import logs, metrics
from milterd.base.settings import parse, placed
from milterd.base.toml_file import ConfigError, Problem
from milterd.check import build
from milterd.config import MilterdConfig, bad_names
from milterd.config_own import OwnSettings
from milterd.filters.setup import SetupError
from milterd.host.inside import Inside
from milterd.host.judge import Judge, Surroundings


class _Meter:
    """Counts as a filter's own process does, but for the time: who asks measures that."""

    def __init__(self, name: str) -> None:
        self._name = name

    def decided(self, outcome: str, _seconds: float) -> None:
        metrics.mails("milterd", self._name, outcome).inc()

    def failed(self, kind: str) -> None:
        metrics.FILTER_FAILURES.labels(self._name, kind).inc()


def settings(text: str, *, file: str) -> str:
    """What the text of a settings file says about filters, for :func:`filters`.  Raises
    ConfigError."""
    config = parse(text, MilterdConfig, file=file)
    problems = [Problem("", 0, *each) for each in bad_names(config)]
    if problems:
        raise ConfigError(placed(problems, text, file=file))
    return config.model_dump_json()


def filters(said: str, names: Iterable[str]) -> Mapping[str, Inside]:
    """The filters of these names, by what :func:`settings` said.  Reads keys, tables and rules.
    Raises ConfigError with all that is wrong."""
    config = MilterdConfig.model_validate_json(said, strict=True)
    found: dict[str, Inside] = {}
    problems: list[Problem] = []
    for name in names:
        try:
            found[name] = _filter(config, name)
        except SetupError as error:
            problems += [_problem(config, name, each) for each in error.problems]
    if problems:
        raise ConfigError(problems)
    return found


def trouble(said: str, name: str) -> tuple[str, ...]:
    """What is wrong with a filter or its peers now.  Raises ConfigError where it cannot be built
    at all."""
    config = MilterdConfig.model_validate_json(said, strict=True)
    try:
        return build(config, name).check()
    except SetupError as error:
        raise ConfigError([_problem(config, name, each) for each in error.problems]) from error


def _filter(config: MilterdConfig, name: str) -> Inside:
    built, options = build(config, name), config.host_options(name)
    # What was only thought of is not counted with what was done.
    counted = f"shadow:{name}" if options.shadow else name
    log = logs.get("filter").bind()  # now: otherwise each line looks at the settings anew
    around = Surroundings(log, lambda: secrets.token_hex(5), _Meter(counted))
    return Inside(Judge(built, options, around), around)


def _problem(config: MilterdConfig, name: str, what: str) -> Problem:
    """What keeps a filter from being built, at its table's place."""
    own = isinstance(config.filter.present()[name], OwnSettings)
    found, _, expected = what.partition(", expected ")
    key = f"filter.own.{name}" if own else f"filter.{name}"
    return Problem("settings", 0, key, found, expected or "a filter that can be used")
