"""The file of passwords: what a line says, and which lines serve.

    # comment
    user@example.net:$argon2id$v=19$m=65536,t=3,p=4$...$...
    other@example.net:$argon2id$...:SCRAM-SHA-256$65536:...$...:...

A name is in lower case, and has no colon, space or control character.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from smtpgw.sasl.file.scram import Keys, parse_keys

LONGEST_NAME = 255
"""Octets of a login name."""

_ARGON2 = re.compile(
    rb"\$argon2id\$v=19\$m=[0-9]{1,8},t=[0-9]{1,4},p=[0-9]{1,3}"
    rb"\$[A-Za-z0-9+/]{8,128}\$[A-Za-z0-9+/]{16,200}\Z"
)
_UNUSABLE = re.compile(r"[:\s\x00-\x20\x7f-\x9f#]")


@dataclass(frozen=True, slots=True)
class Entry:
    """One user: the name, the argon2 hash, and perhaps keys for SCRAM."""

    name: bytes
    argon2: bytes = field(repr=False)
    scram: Keys | None = field(default=None, repr=False)

    def encode(self) -> bytes:
        """The line, without its end."""
        tail = b"" if self.scram is None else b":" + self.scram.encode()
        return self.name + b":" + self.argon2 + tail


def name(octets: bytes) -> bytes:
    """A login name as the file has it.  Raises ValueError for what can be none."""
    text = octets.decode("utf-8")
    if not text or len(octets) > LONGEST_NAME or _UNUSABLE.search(text):
        raise ValueError("a login name has no colon, space, # or control character")
    return text.lower().encode("utf-8")


def parse_line(line: bytes) -> Entry | None:
    """The entry in a line, None for a comment.  Raises ValueError."""
    text = line.strip()
    if not text or text.startswith(b"#"):
        return None
    user, _, rest = text.partition(b":")
    argon2, _, scram = rest.partition(b":")
    if _ARGON2.match(argon2) is None:
        raise ValueError("expected name:$argon2id$...")
    return Entry(name(user), argon2, parse_keys(scram) if scram else None)


@dataclass(frozen=True, slots=True)
class Entries:
    """Whom the file knows, and what is wrong in it: number of line and reason."""

    users: Mapping[bytes, Entry] = field(default_factory=dict)
    problems: tuple[tuple[int, str], ...] = ()

    @property
    def scram(self) -> Keys | None:
        """The keys of one who can log in by SCRAM, if there is any."""
        return next((each.scram for each in self.users.values() if each.scram is not None), None)


def parse(octets: bytes) -> Entries:
    """What a file says.  A bad line, and a second one for the same name, is passed over."""
    users: dict[bytes, Entry] = {}
    problems: list[tuple[int, str]] = []
    for number, line in enumerate(octets.split(b"\n"), 1):
        try:
            found = parse_line(line)
        except ValueError as error:
            problems.append((number, str(error)))
            continue
        if found is None:
            continue
        if found.name in users:
            problems.append((number, "the same name again"))
        else:
            users[found.name] = found
    return Entries(users, tuple(problems))


def changed(octets: bytes, user: bytes, entry: Entry | None) -> bytes:
    """The file with this entry in place of the user's, or without it; all else as it was."""
    lines = list(_others(octets, user))
    if entry is not None:
        lines.append(entry.encode())
    return b"".join(each + b"\n" for each in lines)


def _others(octets: bytes, user: bytes) -> Iterator[bytes]:
    for line in octets.removesuffix(b"\n").split(b"\n") if octets else ():
        if line.partition(b":")[0].strip().lower() != user:
            yield line
