"""`smtpgw check` on the filters that each worker runs itself."""

from __future__ import annotations

from pathlib import Path

from milterd.base import toml_file
from milterd.base.settings import placed
from milterd.base.toml_file import ConfigError
from smtpgw.config import Loaded
from smtpgw.finding import Finding


def examine(settings: Loaded, path: Path) -> tuple[list[Finding], bool]:
    """What is wrong with them or their peers, and whether they can be used at all."""
    names = settings.smtpgw.filters_inside
    if not names:
        return [], True
    from milterd import inside

    found: list[Finding] = []
    usable = True
    for name in names:
        try:
            wrong = inside.trouble(settings.filters, name)
        except ConfigError as error:
            problems = placed(error.problems, toml_file.read(path), file=str(path))
            found += [Finding(f"filter {name}", "error", str(each)) for each in problems]
            usable = False
        else:
            found += [Finding(f"filter {name}", "warning", each) for each in wrong]
            found += [Finding(f"filter {name}", "ok", "in each worker")] if not wrong else []
    return found, usable
