"""The command `milterd`: exit codes, output, and the settings it takes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from milterd.base.settings import Table
from milterd.base.toml_file import ConfigError
from milterd.cli import app
from milterd.config import MilterdConfig, load
from milterd.host.options import Options
from milterd.host.seam import HostKind
from tests.host.conftest import ROOT


def run(*words: str) -> Result:
    """The command, within this process."""
    return CliRunner().invoke(app, words)


def write(path: Path, text: str) -> Path:
    file = path / "gatepost.toml"
    file.write_text(text)
    return file


def test_help_names_every_command_with_an_example() -> None:
    assert all(each in run("--help").stdout for each in ("run", "check", "config"))
    for each in ("run", "check", "config"):
        done = run(each, "--help")
        assert done.exit_code == 0
        assert "Example: milterd" in done.stdout


def test_the_default_settings_are_valid_as_printed_and_with_every_key_set(tmp_path: Path) -> None:
    text = run("config").stdout
    assert not load(write(tmp_path, text)).filter.present()
    lines = [
        each[1:] if each[:1] == "#" and each[:2] != "# " else each for each in text.split("\n")
    ]
    full = load(write(tmp_path, "\n".join(lines).replace('"postfix"', '"root"')))
    assert set(full.filter.present()) == {
        "clamav", "attachments", "dkim", "headers", "trap",
    }  # fmt: skip
    plain = MilterdConfig.model_validate({"filter": {"clamav": {}}}).filter.clamav
    for name, field in type(plain).model_fields.items():
        if field.default not in (None, {}) and not isinstance(field.default, Table):
            assert getattr(full.filter.clamav, name) == getattr(plain, name), name


def test_check_says_all_is_well(tmp_path: Path) -> None:
    file = write(tmp_path, '[milterd]\nsocket_group = ""\n[filter.headers]\n')
    done = run("check", "--config", str(file))
    assert (done.exit_code, done.stdout.splitlines()[0]) == (0, f"{file}: all is well")


def test_check_finds_everything_at_once(tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    key.write_text("no key")
    file = write(
        tmp_path,
        f"""
[milterd]
socket_group = ""
[filter.headers]
rules = ["inbound-hygiene", "no-such"]
[filter.dkim]
signing_table = [{{domain = "example.net", selector = "s", key = "{key}"}}]
""",
    )
    done = run("check", "--config", str(file), "--json")
    assert done.exit_code == 78
    report = json.loads(done.stdout)
    assert not report["ok"]
    assert {(each["filter"], each["level"]) for each in report["findings"]} == {
        ("headers", "error"), ("dkim", "error"),
    }  # fmt: skip


def test_a_scanner_that_is_away_is_a_warning(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        f"""
[milterd]
socket_group = ""
[filter.clamav]
clamd = "unix:{tmp_path}/none"
""",
    )
    done = run("check", "--config", str(file))
    assert done.exit_code == 1
    assert "warning: clamav: clamd at unix:" in done.stdout
    assert run("check", "--offline", "--config", str(file)).exit_code == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[filter.headers]\nhots = 'native'", "did you mean 'host'"),
        ("[filter.headers]\nhost = 'other'", "libmilter"),
        ("[filter.headerz]", "did you mean 'headers'"),
        ("[milterdd]", "did you mean 'milterd'"),
        ("[milterd]\nsocket_mode = '0999'", "octal mode"),
        ("[milterd]\ntrusted_networks = ['10.0.0.1/8']", "a network such as"),
        ("[milterd]\nsocket_group = 'no-such-group'", "a group of this machine"),
        ("[milterd]\nsocket_owner = 'no-such-user'", "a user of this machine"),
        ("[milterd]\nspool_directory = '/nonexistent'", "a directory"),
        ("[milterd]\nmemory_total = '1K'", "header_limit and 16384 at least"),
        ("[filter.headers]\nsocket = 'nonsense'", "unix:"),
        ("[filter.headers]\n[filter.dkim]\nsocket = 'unix:headers.sock'", "another one"),
        ("[metrics]\nmilterd = '192.0.2.1:9'", "loopback"),
    ],
)
def test_wrong_settings(tmp_path: Path, text: str, said: str) -> None:
    if "socket_group" not in text and "[milterd]" not in text:
        text = f"{text}\n[milterd]\nsocket_group = ''"
    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path, text))
    assert said in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_the_other_halfs_tables_are_left_alone(tmp_path: Path) -> None:
    text = "[milterd]\nsocket_group = ''\n[smtpgw]\nwhatever = 1\n[[smtpgw.listener]]\nodd = true\n"
    assert load(write(tmp_path, text)).filter.present() == {}


def test_run_without_a_filter_or_a_file(tmp_path: Path) -> None:
    file = write(tmp_path, '[milterd]\nsocket_group = ""\n[metrics]\nmilterd = ""\n')
    command = [sys.executable, "-m", "milterd", "run", "--config", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 78
    assert "[filter.NAME]" in done.stderr
    missing = run("run", "--config", str(tmp_path / "none.toml"))
    assert missing.exit_code == 78
    assert "No such file" in missing.stderr


def test_defaults_agree_with_the_rooms() -> None:
    """What config.py says by default is what the rooms say by default."""
    config = MilterdConfig.model_validate({"filter": {"clamav": {}, "dkim": {}, "headers": {}}})
    found, plain = config.host_options("clamav"), Options()
    for name in ("memory_limit", "memory_total", "size_limit", "header_limit", "oversize",
                 "connections", "idle_timeout", "spool_directory"):  # fmt: skip
        assert getattr(found, name) == getattr(plain, name)
    for name, table in config.filter.present().items():
        ours, theirs = table.options(), type(table.options())()
        for each in type(ours).__dataclass_fields__:
            if each not in ("hostname", "parameters", "standing"):
                assert getattr(ours, each) == getattr(theirs, each), (name, each)
    hosts = {name: each.host for name, each in config.filter.present().items()}
    assert hosts == {
        "clamav": HostKind.NATIVE, "dkim": HostKind.NATIVE, "headers": HostKind.NATIVE,
    }  # fmt: skip
    # A silent name server or clamd keeps as many mails as Postfix lets in, and no mail behind them.
    for name in ("dkim", "clamav"):
        assert config.host_options(name).threads >= 100
