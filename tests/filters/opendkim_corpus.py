"""The mails of OpenDKIM's own tests, from Debian's source package: its scripts say with which
fields and which body a mail comes in, and what has to stand in Authentication-Results."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_HEADER = re.compile(r'mt\.header\(conn, "([^"]*)", ("(?:[^"\\]|\\.)*")\)')
_BODY = re.compile(r'mt\.bodystring\(conn, ("(?:[^"\\]|\\.)*")\)')
_ESCAPES = {"r": "\r", "n": "\n", "t": "\t", '"': '"', "\\": "\\"}
_EXPECTED = re.compile(r'"dkim=(\w+)')
SOURCES = Path("/etc/apt/sources.list.d/debian.sources")


@dataclass(frozen=True)
class Script:
    """One of OpenDKIM's scripts: the mail it sends, and the result that it asks for."""

    name: str
    mail: bytes
    expected: str


def fetch(place: Path) -> Path:
    """The directory of the tests; the package is fetched into `place` from where the system gets
    its packages, beside its own lists and settings."""
    parts, lists, cache = (place / each for each in ("parts", "lists", "cache"))
    for each in (parts, lists / "partial", cache / "archives" / "partial"):
        each.mkdir(parents=True)
    text = re.sub(r"(?m)^Types:.*", "Types: deb-src", SOURCES.read_text())
    (parts / "source.sources").write_text(text)
    settings = {
        "Dir::Etc::sourcelist": "/dev/null",
        "Dir::Etc::sourceparts": parts,
        "Dir::State::lists": lists,
        "Dir::Cache": cache,
        "APT::Sandbox::User": "root",
    }
    options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
    for words in (["update", "-q"], ["source", "-q", "--download-only", "opendkim"]):
        command = ["apt-get", *options, *words]
        subprocess.run(command, cwd=place, check=True, capture_output=True, timeout=300)
    (archive,) = place.glob("opendkim_*.orig.tar.gz")
    subprocess.run(["tar", "-xzf", archive, "-C", place], check=True)
    (found,) = place.glob("*/opendkim/tests")
    return found


def records(directory: Path) -> dict[str, str]:
    """The keys that the scripts use, by their names in DNS."""
    lines = (directory / "pubkeys").read_text().splitlines()
    return {line.split(None, 1)[0]: line.split(None, 1)[1] for line in lines if line.strip()}


def scripts(directory: Path) -> Iterator[Script]:
    """Every script that verifies a mail and says of it what becomes of its signature."""
    for path in sorted(directory.glob("t-verify-*.lua")):
        text = path.read_text()
        expected = _EXPECTED.search(text)
        if expected is not None:
            yield Script(path.stem, _mail(text), expected[1])


def _mail(text: str) -> bytes:
    fields = [f"{call[1]}: {_unquoted(call[2])}\r\n" for call in _HEADER.finditer(text)]
    body = [_unquoted(call[1]) for call in _BODY.finditer(text)]
    return ("".join(fields) + "\r\n" + "".join(body)).encode()


def _unquoted(text: str) -> str:
    return re.sub(r"\\(.)", lambda found: _ESCAPES[found[1]], text[1:-1])
