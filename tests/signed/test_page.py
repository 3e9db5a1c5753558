"""docs/signatures.md: its rules, log lines, error, and what explain shows, as the page has them."""

from __future__ import annotations

import re
from pathlib import Path

from typer.testing import CliRunner

from milterd.base import row, toml_file
from milterd.cli import app as milterd
from milterd.core.mail import Mail
from milterd.filters.headers import HeadersFilter, HeadersOptions
from milterd.host.judge import _reason
from milterd.lab.cli import app as milterlab
from tests.base.test_row import milter, settings
from tests.filters.dkim_world import by_hand

PAGE = (Path(__file__).parents[2] / "docs" / "signatures.md").read_text()
FENCES = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.M | re.S)
MAIL = by_hand(
    b"From: a@example.net\r\nSubject: news\r\nComments: x\r\nPrecedence: bulk\r\n\r\nhello\r\n",
    h="from:from:comments:precedence",
)


def plain(beginning: str) -> str:
    """The text in a fence that begins so."""
    (found,) = (each for _, each in FENCES if each.startswith(beginning))
    return str(found)


def rules(home: Path) -> Path:
    (home / "tidy.toml").write_text(plain('name = "tidy"'))
    return home


def test_the_rules_do_what_the_log_says(tmp_path: Path) -> None:
    filter_ = HeadersFilter(HeadersOptions(("tidy",), rules(tmp_path)))
    assert filter_.check() == ()
    decision = filter_.decide(MAIL, filter_.gather(MAIL))
    assert "\n".join(map(_reason, decision.reasons)) == plain("headers: tidy").strip()


def test_the_wrong_order_is_told_as_here() -> None:
    (problem,) = row.problems(toml_file.tables(settings(milter("dkim"), milter("headers"))))
    assert str(problem).removeprefix(": ") in plain("gatepost.toml:")


def test_postfix_s_line_is_printed(tmp_path: Path) -> None:
    file = tmp_path / "gatepost.toml"
    tables = '[milterd]\nsocket_group = ""\n[filter.dkim]\n[filter.headers]\n[filter.clamav]\n'
    file.write_text(tables)
    shown = CliRunner().invoke(milterd, ["check", "-c", str(file), "--offline"]).stdout
    assert plain("for main.cf:").strip() in shown


def test_explain_shows_it(tmp_path: Path) -> None:
    mail, file = tmp_path / "mail.eml", tmp_path / "gatepost.toml"
    mail.write_bytes(b"".join(MAIL.pieces()))
    file.write_text(
        '[milterd]\nsocket_group = ""\n[filter.headers]\nrules = ["tidy"]\n'
        f'rules_directory = "{rules(tmp_path)}"\ncheck_signatures = false\n'
    )
    command = ["explain", str(mail), "-c", str(file), "--client", "mx.example.org[192.0.2.7]"]
    assert plain("signatures:") in CliRunner().invoke(milterlab, command).stdout


def test_the_lines_for_a_filter_of_one_s_own() -> None:
    (code,) = (text for language, text in FENCES if language == "python")
    names: dict[str, Mail] = {"mail": MAIL}
    exec(code, names)  # the page's own
    kept: object = names["kept"]
    assert getattr(kept, "edits", None) == ()
