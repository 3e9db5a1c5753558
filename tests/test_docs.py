"""The documents say what the program does: commands, settings, metrics, examples and links."""

from __future__ import annotations

import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY
from pydantic import BaseModel

import milterd.config
import smtpgw.config
from milterd.base import metrics, reference

TOP = Path(__file__).parents[1]
PAGES = sorted([*(TOP / "docs").rglob("*.md"), TOP / "README.md", TOP / "CHANGELOG.md"])
OUR_PROGRAM = re.compile(
    r"^((?:/opt/gatepost/bin/)?(?:milterd|smtpgw|milterlab) [a-z].*)$", re.MULTILINE
)


def fences(page: Path, language: str) -> Iterator[str]:
    """The code blocks of a page in one language."""
    yield from re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.M | re.S)


def page_maker() -> Any:
    """packaging/commands.py, which has no package to be imported from."""
    import importlib.util

    found = importlib.util.spec_from_file_location("commands", TOP / "packaging/commands.py")
    assert found
    assert found.loader
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


COMMANDS: dict[str, Any] = dict(page_maker().commands())


def test_the_page_of_commands_is_the_commands() -> None:
    assert (TOP / "docs/commands.md").read_text() == page_maker().page(), (
        "run: python packaging/commands.py > docs/commands.md"
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_an_example(name: str) -> None:
    command = COMMANDS[name]
    assert command.help
    for each in command.params:
        assert getattr(each, "help", None), f"{name}: {each.name} has no help"
    if not hasattr(command, "commands"):
        assert command.epilog, f"{name} has no example"
        example = re.match(r"Example: (.+?)(?:\.  |$)", command.epilog)
        assert example, command.epilog
        check_command(example[1])


def check_command(line: str) -> None:
    """The command there is, with every option that the line gives it."""
    words = shlex.split(line.split(" | ")[0].split(" > ")[0], comments=True)
    name = Path(words.pop(0)).name
    while words and f"{name} {words[0]}" in COMMANDS:
        name += f" {words.pop(0)}"
    command = COMMANDS[name]
    assert not hasattr(command, "commands"), f"{line}: no such command below {name}"
    known = {"--help", *(option for each in command.params for option in each.opts)}
    for word in words:
        if word.startswith("-") and word != "-":
            assert word.split("=")[0] in known, f"{line}: {name} has no {word}"


@pytest.mark.parametrize("page", PAGES, ids=lambda each: each.name)
def test_every_command_that_is_shown_exists(page: Path) -> None:
    text = page.read_text()
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    shown = [*fences(page, "sh"), *re.findall(r"`([^`\n]+)`", prose)]
    for line in OUR_PROGRAM.findall("\n".join(shown)):
        if page.name != "commands.md" and line not in COMMANDS:  # a group may be named alone
            check_command(line)
    makefile = (TOP / "Makefile").read_text()
    for target in re.findall(r"`make ([a-z]+)", text):
        assert re.search(rf"^{target}:.*## ", makefile, re.M), f"no target {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda each: each.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda each: each.name)
def test_settings_that_are_shown_can_be_used(page: Path, tmp_path: Path) -> None:
    for number, block in enumerate(fences(page, "toml")):
        tomllib.loads(block)
        path = tmp_path / f"{number}.toml"
        path.write_text(block)
        milterd.config.load(path)
        smtpgw.config.load(path)


def every_field(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, Any]]:
    for name, field in model.model_fields.items():
        here = f"{path}.{name}".lstrip(".")
        below = reference._shape(field.annotation)[1]
        yield here, field
        if below is not None:
            yield from every_field(below, here)


def test_every_setting_is_explained() -> None:
    page = (TOP / "docs/configuration.md").read_text()
    for model in (milterd.config.MilterdConfig, smtpgw.config.GatewaySettings):
        for path, field in every_field(model):
            if reference._shape(field.annotation)[0] in ("one", "many", "named", "table"):
                continue  # a table: its keys are looked at
            assert field.description, f"{path} has no description"
            assert re.search(rf"[`.]{path.rpartition('.')[2]}`", page), (
                f"{path} is not in configuration.md"
            )


def test_every_metric_is_listed() -> None:
    page = (TOP / "docs/operations.md").read_text()
    listed = set(re.findall(r"^\| `(gatepost_\w+)` \|", page, re.M))
    known = {
        f"{each.name}_total" if each.type == "counter" else each.name
        for registry in (REGISTRY, metrics._supervisor)
        for each in registry.collect()
        if each.name.startswith("gatepost_")
    }
    assert listed == known


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads((TOP / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"].values()
    wanted = [*project["project"]["dependencies"], *(each for extra in extras for each in extra)]
    declared = {re.split(r"[><=]", each)[0] for each in wanted}
    table = (TOP / "README.md").read_text().partition("## Dependencies")[2]
    rows = re.findall(r"^\| ([a-z][\w, -]+?) \| .+ \| .+ \|$", table, re.M)
    named = {each.strip() for row in rows for each in row.split(",")} - {"library"}
    assert named == declared
    tools = {re.split(r"[><=]", each)[0] for each in project["dependency-groups"]["dev"]}
    for each in tools - {"pytest-timeout", "pytest-xdist"}:
        assert each in table


def test_the_changes_of_this_version_are_noted() -> None:
    version = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]["version"]
    changes = (TOP / "CHANGELOG.md").read_text()
    assert "## Unreleased" in changes or f"## {version}" in changes


def test_make_lists_every_target() -> None:
    said = subprocess.run(["make"], cwd=TOP, capture_output=True, text=True, check=True).stdout
    targets = re.search(r"^\.PHONY: (.+)$", (TOP / "Makefile").read_text(), re.M)
    assert targets
    assert sorted(re.findall(r"^  make (\w+) ", said, re.M)) == sorted(targets[1].split())
