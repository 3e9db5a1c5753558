"""The arrows of the house, read from the imports: which room may know which.

A room is the longest entry of ROOMS that a module's name begins with.  An import may go
to the module's own room or to one its row names, never the other way, and no circle of
modules exists.  Imports inside functions and under TYPE_CHECKING count too.
"""

from __future__ import annotations

import ast
import functools
import re
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

TOP = Path(__file__).parents[1]

ROOMS: dict[str, set[str]] = {
    "milterd.core": set(),
    # Tables with patterns, which both halves read.
    "milterd.patterns": set(),
    "milterd.wire": {"milterd.core"},
    "milterd.base": set(),
    "milterd.ports": {"milterd.core", "milterd.base", "milterd.mime"},
    "milterd.mime": {"milterd.core"},
    # What signatures cover and what edits do to them: no socket, clock, or file.
    "milterd.signed": {"milterd.core", "milterd.mime"},
    # milterd.base: durations and sizes as a postmaster writes them.
    "milterd.filters": {
        "milterd.core", "milterd.base", "milterd.ports", "milterd.mime", "milterd.signed",
        "milterd.patterns",
    },
    "milterd.host": {"milterd.wire", "milterd.core", "milterd.base"},
    "milterd.lab": {"milterd.wire", "milterd.core", "milterd.base"},
    "milterd.lab.commands": {"milterd.lab", "milterd.wire", "milterd.core", "milterd.base"},
    # Loaded by pytest, in projects that test a milter of theirs; pytest is no dependency.
    "milterd.lab.pytest_plugin": {"milterd.lab"},
    "milterd.lab.cli": {"milterd.lab", "milterd.lab.commands", "milterd.explain"},
    # Filters in the process of a gateway: the composition root of what it asks without a socket.
    "milterd.inside": {
        "milterd", "milterd.core", "milterd.base", "milterd.filters", "milterd.host",
    },
    # `milterlab explain`: a composition root of its own, since it shows what the settings make
    # of the filters; milterd itself, the filters and the rest of the lab know nothing of it.
    "milterd.explain": {
        "milterd", "milterd.core", "milterd.wire", "milterd.base", "milterd.filters",
        "milterd.host", "milterd.lab", "milterd.signed",
    },
    # The composition root of the milter half: daemon, cli, config and what they start.
    "milterd": {
        "milterd.core", "milterd.base", "milterd.ports", "milterd.filters", "milterd.host",
        "milterd.signed",
    },
    # What tables answer; who asks, and what for, is nothing they know.
    "smtpgw.tables": {"milterd.base", "milterd.patterns"},
    "smtpgw.address": set(),
    "smtpgw.chain": {"milterd.core", "milterd.wire", "milterd.base", "smtpgw.address"},
    "smtpgw.edge": {"milterd.core", "milterd.base", "smtpgw.address"},
    "smtpgw.local": {"milterd.core", "smtpgw.address"},
    "smtpgw.policy": {
        "milterd.core", "milterd.base", "smtpgw.address", "smtpgw.edge", "smtpgw.dns",
        "smtpgw.tables",
    },
    # TLS with clients: certificates, what is negotiated, who the client is.
    "smtpgw.tls": {"milterd.base", "smtpgw.edge"},
    # How clients log in; before the dialogue; how often they may come.
    "smtpgw.sasl": {"milterd.base", "smtpgw.edge"},
    "smtpgw.screen": {
        "milterd.base", "milterd.core", "smtpgw.dns", "smtpgw.edge", "smtpgw.stores",
    },
    "smtpgw.rates": {"milterd.base"},
    # Postfix's policy protocol, both sides, and what is decided there.
    "smtpgw.delegation": {"milterd.base"},
    "smtpgw.greylist": {"milterd.base", "smtpgw.stores"},
    "smtpgw.verify": {"milterd.base", "milterd.core", "smtpgw.address", "smtpgw.stores"},
    # What workers remember together and may lose.
    "smtpgw.stores": set(),
    # What was decided, kept for `smtpgw why`.
    "smtpgw.decisions": {"milterd.base", "milterd.core", "smtpgw.policy"},
    "smtpgw.queue": {"milterd.core", "milterd.base"},
    "smtpgw.dns": set(),
    "smtpgw.delivery": {
        "milterd.core", "milterd.base", "smtpgw.queue", "smtpgw.address", "smtpgw.dns",
    },
    "smtpgw.dsn": {"milterd.core", "smtpgw.queue", "smtpgw.address"},
    # The composition root of the gateway half, and what stands between its rooms.
    "smtpgw": {
        "milterd.core", "milterd.wire", "milterd.base", "smtpgw.address", "smtpgw.chain",
        "smtpgw.edge", "smtpgw.policy", "smtpgw.queue", "smtpgw.delivery", "smtpgw.dns",
        "smtpgw.dsn", "smtpgw.local", "smtpgw.tables", "smtpgw.sasl", "smtpgw.screen",
        "smtpgw.rates", "smtpgw.delegation", "smtpgw.greylist", "smtpgw.verify", "smtpgw.decisions",
        "smtpgw.stores", "smtpgw.tls",
        # Its filters, where it runs them itself: nothing of how they are hosted.
        "milterd.inside",
    },
}  # fmt: skip

LIBRARIES = {
    # Each row: the only rooms that may import it.
    "clamd": {"milterd.ports"},
    "dkim": {"milterd.signed"},
    "cryptography": {"milterd.ports", "smtpgw.tls"},
    "puremagic": {"milterd.ports"},
    "oletools": {"milterd.ports"},
    "olefile": {"milterd.ports"},
    "Milter": {"milterd.host"},
    "milter": {"milterd.host"},
    "aiosmtpd": {"smtpgw.edge"},
    # milterd.ports: keys of other people's signatures.
    "dns": {"smtpgw.dns", "milterd.ports"},
    # milterd.ports: OpenDKIM's tables in databases; the gateway's own readers need its event loop.
    "sqlite3": {
        "milterd.ports",
        "smtpgw.queue",
        "smtpgw.tables",
        "smtpgw.stores",
        "smtpgw.screen",
        "smtpgw.greylist",
        "smtpgw.decisions",
        "smtpgw.verify",
    },
    "limits": {"smtpgw.rates"},
    "redis": {"smtpgw.rates"},
    "lmdb": {"smtpgw.tables", "milterd.ports"},
    "argon2": {"smtpgw.sasl"},
    "asyncmy": {"smtpgw.tables", "milterd.ports"},
    "asyncpg": {"smtpgw.tables", "milterd.ports"},
    "ldap3": {"smtpgw.tables"},
    "pydantic": {"milterd.base", "milterd.filters", "milterd", "smtpgw"},
    "typer": {
        "milterd",
        "milterd.explain",
        "milterd.lab",
        "milterd.lab.cli",
        "milterd.lab.commands",
        "smtpgw",
    },
    "rich": {
        "milterd",
        "milterd.explain",
        "milterd.lab",
        "milterd.lab.commands",
        "milterd.base",
        "smtpgw",
    },
    "prometheus_client": {"milterd.base"},
    "pytest": {"milterd.lab.pytest_plugin"},
    "uvloop": {"milterd", "milterd.host", "milterd.lab", "smtpgw"},
}

PURE = {"milterd.core", "milterd.wire", "milterd.signed"}
"""Rooms without sockets, clocks, event loops, files to open, threads or logs."""
IMPURE = {
    "asyncio", "concurrent", "ctypes", "datetime", "fcntl", "io", "logging", "multiprocessing",
    "pathlib", "random", "secrets", "select", "selectors", "shutil", "signal", "socket", "ssl",
    "structlog", "subprocess", "tempfile", "threading", "time", "uuid",
}  # fmt: skip

NOWHERE = {"pickle", "shelve", "marshal", "email", "smtplib", "argparse"}
"""What no module of ours imports: see docs/architecture.md."""
MAY = {
    # Dates of our own making, in RFC 5322's form: no untrusted octet is parsed.
    ("email.utils", ""),
    ("email.utils", "format_datetime"),
    ("email.utils", "formatdate"),
}


@functools.cache
def modules() -> dict[str, Path]:
    """Every module of ours by its full name."""
    found = {}
    for package in ("milterd", "smtpgw"):
        for path in sorted((TOP / package).rglob("*.py")):
            parts = path.relative_to(TOP).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@functools.cache
def imports(name: str) -> frozenset[tuple[str, str]]:
    """What a module imports: (module, name taken from it or "")."""
    path = modules()[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found: set[tuple[str, str]] = set()
    for node in ast.walk(ast.parse(path.read_text(), path)):
        if isinstance(node, ast.Import):
            found.update((each.name, "") for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([node.module] if node.module else [])])
            found.update((base, each.name) for each in node.names)
    return frozenset(found)


def uses(name: str) -> Iterator[str]:
    """The modules of ours that a module imports, itself left out."""
    for base, taken in imports(name):
        full = f"{base}.{taken}"
        used = full if full in modules() else base
        if used in modules() and used != name:
            yield used


def room(name: str) -> str:
    """The room a module is in."""
    fitting = [each for each in ROOMS if name == each or name.startswith(f"{each}.")]
    return max(fitting, key=len)


@pytest.mark.parametrize("each", sorted(ROOMS))
def test_arrows_only_go_down(each: str) -> None:
    wrong = {
        f"{name} imports {used}"
        for name in modules()
        if room(name) == each
        for used in uses(name)
        if room(used) not in ROOMS[each] | {each}
    }
    assert not wrong


def test_the_rooms_themselves_have_no_circle() -> None:
    TopologicalSorter(ROOMS).prepare()


def test_no_circle_of_modules() -> None:
    graph = {name: set(uses(name)) for name in modules()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" → ".join(error.args[1]))


@pytest.mark.parametrize("library", sorted(LIBRARIES))
def test_a_library_has_its_room(library: str) -> None:
    wrong = {
        name
        for name in modules()
        if room(name) not in LIBRARIES[library]
        and any(base.split(".")[0] == library for base, _ in imports(name))
    }
    assert not wrong


@pytest.mark.parametrize("name", sorted(name for name in modules() if room(name) in PURE))
def test_core_and_wire_are_pure(name: str) -> None:
    wrong = {base for base, _ in imports(name) if base.split(".")[0] in IMPURE}
    assert not wrong


def test_the_gateway_never_knows_the_milter_daemon() -> None:
    theirs = {
        "milterd", "milterd.host", "milterd.filters", "milterd.ports", "milterd.lab",
        "milterd.signed",
    }  # fmt: skip
    wrong = {
        f"{name} imports {used}"
        for name in modules()
        if name.startswith("smtpgw")
        for used in uses(name)
        if room(used) in theirs and used != "milterd"
    }
    assert not wrong


def test_settings_are_known_to_composition_roots_only() -> None:
    """Every other room is given its own Options."""
    wrong = {
        f"{name} imports {used}"
        for name in modules()
        for used in uses(name)
        if used.startswith(("milterd.config", "smtpgw.config"))
        and room(name) not in ("milterd", "milterd.explain", "milterd.inside", "smtpgw")
    }
    assert not wrong


def test_nobody_imports_what_the_house_has_banned() -> None:
    wrong = {
        f"{name} imports {base} {taken}"
        for name in modules()
        for base, taken in imports(name)
        if base.split(".")[0] in NOWHERE and (base, taken) not in MAY
    }
    assert not wrong


def test_every_import_is_ours_standard_or_a_declared_dependency() -> None:
    import tomllib

    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    extras = [each for extra in project["optional-dependencies"].values() for each in extra]
    declared = {
        each.split(">")[0].replace("-", "_").lower() for each in [*project["dependencies"], *extras]
    }
    named_otherwise = {
        "milter": "pymilter", "dkim": "dkimpy", "dns": "dnspython",
        "argon2": "argon2_cffi", "pydantic_core": "pydantic",
    }  # fmt: skip
    known = set(sys.stdlib_module_names) | {"milterd", "smtpgw", "_typeshed"}
    wrong = set()
    for name in modules():
        for top in {base.split(".")[0] for base, _ in imports(name)}:
            package = named_otherwise.get(top.lower(), top.lower())
            if (name, top) == ("milterd.lab.pytest_plugin", "pytest"):
                continue  # pytest itself is what loads this module
            if top not in known and package not in declared:
                wrong.add(f"{name} imports {top}")
    assert not wrong


def test_no_pattern_has_a_possessive_or_atomic_group() -> None:
    """In CPython before 3.11.5 (Debian 12 has 3.11.2) such a group may match too much: the
    octets of an iteration that fails stay taken.  On a class of octets (`[a-z]++`) it is right."""
    faulty = re.compile(r"\)(?:[*+?]|\{[0-9,]+\})\+|\(\?>")
    # Writes patterns for the library regex, which is right about them.
    others = {"milterd.patterns.perl"}
    wrong = set()
    for name, path in modules().items():
        if name in others:
            continue
        for node in ast.walk(ast.parse(path.read_text(), path)):
            value = getattr(node, "value", None) if isinstance(node, ast.Constant) else None
            text = value.decode("latin-1") if isinstance(value, bytes) else value
            if isinstance(text, str) and faulty.search(text):
                wrong.add(f"{name}: {text}")
    assert not wrong


def test_the_reader_of_imports_reads_them_all() -> None:
    """The tests above are worth what this function sees."""
    assert ("milterd.core.actions", "Edit") in imports("milterd.core.apply")
    assert "milterd.core.mail" in set(uses("milterd.core.apply"))
    assert room("milterd.core.apply") == "milterd.core"
    assert room("milterd.config") == "milterd"
