"""One run shows every mistake, each where it is."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Literal

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from milterd.base import reference, settings, toml_file
from milterd.base.durations import octets, seconds
from milterd.base.fields import Duration, Size
from milterd.base.toml_lines import key_lines


class Listener(settings.Table):
    """One place to listen at."""

    name: str = Field(description="its name", examples=["mx"])
    address: str = Field(default="127.0.0.1:25", description="where")


class Half(settings.Table):
    """A table with one of everything."""

    workers: int = Field(default=1, description="processes", ge=1)
    timeout: Duration = Field(default=300.0, description="seconds a client may be silent")
    limit: Size = Field(default=26214400, description="octets")
    mode: Literal["strict", "lax"] = Field(default="strict", description="how")
    names: tuple[str, ...] = Field(default=("a", "b"), description="some | names")
    maybe: int | None = Field(default=None, description="or nothing", examples=[7])
    listener: tuple[Listener, ...] = Field(
        default=(), description="Where to listen.", examples=[{"name": "submission"}]
    )
    by_name: dict[str, Listener] = Field(default={}, description="By name.")


class Root(settings.CommonSettings):
    smtpgw: Half = Half()


def problems(text: str) -> list[toml_file.Problem]:
    with pytest.raises(toml_file.ConfigError) as caught:
        settings.parse(text, Root, file="gatepost.toml")
    return list(caught.value.problems)


def test_every_mistake_is_reported_at_once_with_its_place() -> None:
    found = problems(
        """
[lgo]
level = "debug"
[log]
format = "xml"
[milterd]
of_the_other_half = true
[smtpgw]
workers = "two"
timeout = "5x"
wrokers = 3
limit = -1
[[smtpgw.listener]]
name = "a"
[[smtpgw.listener]]
adress = "b"
[smtpgw.by_name."example.net"]
name = 7
"""
    )
    assert [(each.line, each.key) for each in found] == [
        (2, "lgo"),
        (5, "log.format"),
        (9, "smtpgw.workers"),
        (10, "smtpgw.timeout"),
        (11, "smtpgw.wrokers"),
        (12, "smtpgw.limit"),
        (15, "smtpgw.listener[1].name"),
        (16, "smtpgw.listener[1].adress"),
        (18, 'smtpgw.by_name."example.net".name'),
    ]
    assert [each.nearest for each in found if each.nearest] == ["log", "workers", "address"]
    assert str(found[4]) == (
        "gatepost.toml:11: smtpgw.wrokers: found the unknown key 'wrokers', "
        "expected a key of this table; did you mean 'workers'?"
    )
    assert str(found[2]) == (
        'gatepost.toml:9: smtpgw.workers: found "two", expected a whole number'
    )


def test_nothing_is_taken_for_something_else() -> None:
    """TOML has types: a number in quotes is not a number, 1 is not true."""
    found = problems('[smtpgw]\nworkers = "1"\nnames = "a"\n[metrics]\nallow_remote = 1\n')
    assert [each.key for each in found] == [
        "smtpgw.workers",
        "smtpgw.names",
        "metrics.allow_remote",
    ]


@pytest.mark.parametrize("address", ["0.0.0.0:9810", "9810", "192.0.2.1:1"])
def test_metrics_are_for_this_machine_unless_said_otherwise(address: str) -> None:
    (found,) = problems(f'[metrics]\nsmtpgw = "{address}"\n')
    assert (found.line, found.key) == (2, "metrics.smtpgw")
    text = f'[metrics]\nallow_remote = true\nsmtpgw = "{address}"\n'
    if address != "9810":
        assert settings.parse(text, Root).metrics.smtpgw == address


def test_good_settings_become_values() -> None:
    text = '[smtpgw]\ntimeout = "5m"\nlimit = "25M"\nmaybe = 3\n[[smtpgw.listener]]\nname = "x"\n'
    half = settings.parse(text, Root).smtpgw
    assert (half.timeout, half.limit, half.maybe) == (300.0, 26214400, 3)
    assert half.listener == (Listener(name="x"),)


def test_broken_toml_names_its_line() -> None:
    (found,) = problems("[smtpgw]\nworkers = = 1\n")
    assert (found.file, found.line) == ("gatepost.toml", 2)


def test_nesting_without_end_is_refused() -> None:
    assert problems("a = " + "[" * 5000 + "]" * 5000)


@pytest.mark.parametrize("mode", [0o666, 0o646])
def test_a_file_that_anyone_may_write_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "gatepost.toml"
    path.write_text("[smtpgw]\nworkers = 2\n")
    assert settings.load(path, Root).smtpgw.workers == 2
    path.chmod(mode)
    with pytest.raises(toml_file.ConfigError, match="anyone may write"):
        settings.load(path, Root)


def test_a_directory_that_anyone_may_write_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    path = tmp_path / "open" / "gatepost.toml"
    path.write_text("")
    with pytest.raises(toml_file.ConfigError, match="directory that anyone may write"):
        settings.load(path, Root)


@pytest.mark.parametrize(
    ("octets", "found"),
    [(b"a = 1\n\xff\xfe", "not UTF-8"), (b"#" * (toml_file.MAX_FILE + 1), "huge")],
)
def test_what_is_no_settings_file_is_said_so(tmp_path: Path, octets: bytes, found: str) -> None:
    path = tmp_path / "gatepost.toml"
    path.write_bytes(octets)
    with pytest.raises(toml_file.ConfigError, match=found):
        settings.load(path, Root)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(toml_file.ConfigError, match=r"none\.toml: found No such file"):
        settings.load(tmp_path / "none.toml", Root)


def test_the_generated_file_loads_and_is_the_default(tmp_path: Path) -> None:
    text = reference.generate(Root)
    path = tmp_path / "gatepost.toml"
    path.write_text(text)
    assert settings.load(path, Root) == Root()


def test_the_generated_file_with_every_line_in_force_loads() -> None:
    text = reference.generate(Root)
    lines = [
        line[1:] if line.startswith("#") and line[1:2] != " " else line for line in text.split("\n")
    ]
    loaded = settings.parse("\n".join(lines), Root)
    assert loaded.log == settings.LogSettings()
    assert loaded.smtpgw.maybe == 7
    assert loaded.smtpgw.timeout == 300.0
    assert loaded.smtpgw.listener == (Listener(name="submission"),)
    assert '#timeout = "5m"' in text
    assert "# seconds a client may be silent (duration)" in text


def test_the_reference_has_a_row_for_every_key() -> None:
    text = reference.reference(Root)
    for key in (*Half.model_fields, *Listener.model_fields, *settings.LogSettings.model_fields):
        if key not in ("listener", "by_name"):
            assert f"| `{key}` |" in text
    assert '| `mode` | "strict", "lax" | `"strict"` | how |' in text
    assert "some \\| names" in text


@pytest.mark.parametrize(
    ("text", "value"), [(5, 5.0), ("30s", 30.0), ("5m", 300.0), ("1.5h", 5400.0), ("5d", 432000.0)]
)
def test_durations(text: object, value: float) -> None:
    assert seconds(text) == value


@pytest.mark.parametrize(
    "text", ["", "5x", "-1", -1, True, "1h30m", float("inf"), float("nan"), "٣s", None]
)
def test_what_is_no_duration(text: object) -> None:
    with pytest.raises(ValueError, match="expected seconds"):
        seconds(text)


def test_sizes() -> None:
    assert (octets("25M"), octets("1k"), octets(7)) == (26214400, 1024, 7)
    for wrong in ("25MB", -1, True, 1.5, ""):
        with pytest.raises(ValueError, match="expected octets"):
            octets(wrong)


relaxed = hypothesis.settings(
    max_examples=60, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
"""The machine is shared: how long an example takes says nothing."""

_names = st.text("abcXYZ-_ .é\"'\\#=[]\n", min_size=1, max_size=6)
_scalars = st.one_of(
    st.integers(),
    st.booleans(),
    st.text(max_size=8),
    st.floats(allow_nan=False, allow_infinity=False),
)
_values = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_names, inner, max_size=3),
    max_leaves=8,
)


def _paths(value: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    found = [path] if path else []
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, each in items:
        found += _paths(each, (*path, key))
    return found


@relaxed
@given(st.dictionaries(_names, _values, max_size=5))
def test_every_key_of_any_toml_has_its_line(data: dict[str, object]) -> None:
    lines = []
    for key, value in data.items():
        lines += ["# a = [", f"{reference.toml({key: value})[2:-2]} # ]", ""]
    text = "\n".join(lines)
    assert tomllib.loads(text) == data
    found = key_lines(text)
    for at, (key, value) in enumerate(data.items()):
        for path in _paths(value):
            assert found[(key, *path)] == 2 + 3 * at
        assert found[(key,)] == 2 + 3 * at


@relaxed
@given(st.text("[]{}=.,\"'#\n ab1", max_size=40))
def test_the_walk_ends_on_any_text(text: str) -> None:
    key_lines(text)
