"""The order of filters: found wrong in both halves' settings, with the table and what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from milterd import config as milterd_config
from milterd.base import row, toml_file
from milterd.base.toml_file import ConfigError
from milterd.check import examine
from milterd.cli import app
from smtpgw import config as smtpgw_config

LISTENERS = """
[[smtpgw.listener]]
name = "mx"
address = "inet:2525@127.0.0.1"
[[smtpgw.listener]]
name = "submission"
address = "inet:2587@127.0.0.1"
"""


def milter(filter_: str, more: str = "", name: str = "") -> str:
    address = f"unix:/run/x/{filter_}.sock"
    return f'[[smtpgw.milter]]\nname = "{name or filter_}"\naddress = "{address}"\n{more}\n'


def settings(*milters: str, dkim: str = "rotation_file = 'x'", headers: str = "") -> str:
    return (
        f"{LISTENERS}{''.join(milters)}\n[milterd]\nsocket_directory = '/run/x'\n"
        f"socket_group = ''\n[filter.dkim]\n{dkim}\n[filter.headers]\n{headers}\n[filter.clamav]\n"
    )


def found(text: str) -> list[str]:
    return [str(each) for each in row.problems(toml_file.tables(text))]


def test_a_filter_of_one_s_own_has_its_address_and_its_place() -> None:
    text = settings() + "[filter.own.trap]\nmodule = '/etc/trap.py'\n"
    addresses = row.filters_at(toml_file.tables(text))
    assert addresses["unix:/run/x/trap.sock"] == "trap"
    assert "own" not in addresses.values()
    line = row.smtpd_milters(addresses)
    assert line.index("clamav") < line.index("trap") < line.index("dkim")


INBOUND, ORIGINATING = 'directions = ["inbound"]', 'directions = ["originating"]'


@pytest.mark.parametrize(
    "text",
    [
        settings(milter("clamav"), milter("headers"), milter("dkim")),
        settings(milter("dkim"), milter("headers"), dkim=""),
        settings(milter("dkim", INBOUND), milter("headers", ORIGINATING)),
        settings(
            milter("dkim", INBOUND), milter("clamav"), milter("dkim", ORIGINATING, name="sign")
        ),
        settings(milter("dkim", 'listeners = ["mx"]'), milter("headers", 'listeners = ["a"]')),
        settings(milter("dkim"), milter("somebody-else-s")),
        settings(milter("dkim"), milter("headers"), headers='mode = "shadow"'),
        LISTENERS + milter("dkim") + milter("headers"),
    ],
)
def test_a_right_order_is_left_alone(text: str) -> None:
    assert found(text) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            settings(milter("dkim"), milter("headers")),
            "it below 'headers', since it changes mail that is signed by then",
        ),
        (
            settings(milter("clamav"), milter("dkim"), milter("clamav", name="again")),
            "it below 'again', since it changes mail that is signed by then",
        ),
        (
            settings(milter("dkim", INBOUND), milter("headers"), dkim="verify = true"),
            "it below 'headers', since it takes off Authentication-Results that dkim has put on",
        ),
        (
            settings(
                milter("headers"), milter("dkim"), dkim="verify = true", headers="on_signed='force'"
            ),
            "inbound mail verified above 'headers', which breaks signatures",
        ),
    ],
)
def test_a_wrong_order_is_found(text: str, expected: str) -> None:
    (problem,) = found(text)
    assert expected in problem


def test_listeners_choose_their_milters() -> None:
    text = settings(milter("dkim"), milter("headers"))
    assert found(text.replace('"mx"\n', '"mx"\nmilters = ["dkim"]\n'))
    apart = text.replace('"mx"\n', '"mx"\nmilters = ["dkim"]\n')
    assert not found(apart.replace('"submission"\n', '"submission"\nmilters = ["headers"]\n'))


def test_both_halves_refuse_it_with_the_place(tmp_path: Path) -> None:
    file = tmp_path / "gatepost.toml"
    text = settings(milter("dkim"), milter("headers"))
    file.write_text(text)
    line = text[: text.index("[[smtpgw.milter]]")].count("\n") + 1
    for load in (milterd_config.load, smtpgw_config.load):
        with pytest.raises(ConfigError) as raised:
            load(file)
        assert str(raised.value).startswith(
            f"{file}:{line}: smtpgw.milter[0]: found 'dkim' (filter dkim) above 'headers'"
        )
    result = CliRunner().invoke(app, ["check", "-c", str(file)])
    assert result.exit_code == 78
    assert "move its table down" in result.stdout


OWN = """
from milterd.core import Decision, Need

needs = Need.{needs}


def gather(mail):
    return None


def decide(mail, facts):
    return Decision()
"""


@pytest.mark.parametrize(
    ("needs", "milters", "wrong"),
    [
        ("CHANGE_HEADERS", ("dkim", "tidy"), True),
        ("CHANGE_BODY", ("dkim", "tidy"), True),
        ("HEADERS", ("dkim", "tidy"), False),
        ("CHANGE_HEADERS", ("tidy", "dkim"), False),
    ],
)
def test_one_s_own_filter_that_changes_mail_comes_before_signing(
    needs: str, milters: tuple[str, str], *, wrong: bool, tmp_path: Path
) -> None:
    (tmp_path / "tidy.py").write_text(OWN.format(needs=needs))
    file = tmp_path / "gatepost.toml"
    own = f"[filter.own.tidy]\nmodule = '{tmp_path}/tidy.py'\n"
    file.write_text(settings(*map(milter, milters)) + own)
    found = [each.problem for each in examine(file, offline=True) if each.level == "error"]
    placed = [each for each in found if "expected it below 'tidy'" in each]
    assert bool(placed) is wrong
    if wrong:
        assert placed[0].startswith(f"{file}:")


def test_check_shows_postfix_s_line(tmp_path: Path) -> None:
    file = tmp_path / "gatepost.toml"
    text = '[milterd]\nsocket_group = ""\n[filter.dkim]\n[filter.headers]\n'
    file.write_text(text + '[filter.clamav]\nsocket = "inet:9000@127.0.0.1"\n')
    shown = json.loads(CliRunner().invoke(app, ["check", "-c", str(file), "--json"]).stdout)
    milters = "inet:127.0.0.1:9000, unix:milterd/headers.sock, unix:milterd/dkim.sock"
    assert shown["postfix"] == f"smtpd_milters = {milters}"
    plain = CliRunner().invoke(app, ["check", "-c", str(file), "--offline"])
    assert f"for main.cf: smtpd_milters = {milters}" in plain.stdout
