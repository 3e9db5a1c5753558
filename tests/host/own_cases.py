"""What the tests of own filters share: the page's example, files of filters, a milterd of them."""

from __future__ import annotations

import re
from pathlib import Path

from tests.host.test_daemon import Milterd

PAGE = Path(__file__).parents[2] / "docs/write-a-filter.md"

CASES = """
from milterd.core import BytesBody, Mail, Need, ReplaceBody
from tests.host.scripted import Script

needs = ~Need(0)
_script = Script()


def gather(mail: Mail):
    return _script.gather(mail)


def decide(mail, facts):
    if facts == "exit":
        raise SystemExit(3)
    if facts in ("none", "text"):
        return None if facts == "none" else "reject"
    return _script.decide(mail, facts)
"""
"""A filter that answers by X-Case, as the table of tests.host.scripted has it."""

READER = """
from milterd.core import AddHeader, Decision, Need

needs = Need.HEADERS


def gather(mail):
    return None


def decide(mail, facts):
    return Decision(edits=(AddHeader(b"X-Not", b" asked for"),))
"""
"""A filter that says what it may not say."""


def example() -> tuple[str, str]:
    """The filter of the page, and its test."""
    found = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    assert len(found) == 2
    return found[0], found[1]


def example_settings() -> str:
    (found,) = re.findall(r"^```toml\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    return str(found)


def put(path: Path, text: str) -> Path:
    """A file that is as a filter's has to be."""
    path.write_text(text)
    path.chmod(0o644)
    return path


def configure(milterd: Milterd, tables: str) -> None:
    """Filters of one's own in place of the one that class has."""
    milterd.write()
    milterd.config.write_text(milterd.config.read_text().partition("[filter.headers]")[0] + tables)
