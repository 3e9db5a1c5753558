"""Made-up tables and mails for header_checks: few words, so that patterns find something."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

NAMES = ("Subject", "X-One", "X-Two", "X-Mailer", "List-Id", "Comments")
WORDS = ("red", "green", "blue", "one two", "A.B", "x" * 60, "caf\u00e9", "", "--b1", "100%")
BOUNDARIES = ("b1", "b2", "b1x", "a b", "(*)", "x" * 70)
LISTS = ("header_checks", "mime_header_checks", "nested_header_checks", "body_checks")


@dataclass(frozen=True)
class Trial:
    """`kind` is regexp or pcre; a list without a table of its own is left to its default."""

    kind: str
    tables: dict[str, bytes]
    message: bytes
    recipients: tuple[bytes, ...]


def trial(random: Random) -> Trial:
    """One table for each of some lists, and a mail."""
    kind = random.choice(("regexp", "pcre"))
    lists = {"header_checks", *random.sample(LISTS[1:], random.randint(0, 3))}
    tables = {name: _table(random, kind, header=name != "body_checks") for name in sorted(lists)}
    count = random.randint(1, 3)
    recipients = tuple(b"r%d@example.net" % each for each in range(count))
    return Trial(kind, tables, _message(random), recipients)


def _table(random: Random, kind: str, *, header: bool) -> bytes:
    lines: list[str] = []
    opened = 0
    for _ in range(random.randint(1, 7)):
        choice = random.random()
        if choice < 0.12:
            lines.append(f"if {_pattern(random, kind, header=header)[0]}")
            opened += 1
        elif choice < 0.2 and opened:
            lines.append("endif")
            opened -= 1
        elif choice < 0.27:
            lines.append(random.choice(("# a comment", "", "   ")))
        else:
            lines.append(_rule(random, kind, header=header))
    lines += ["endif"] * opened
    return "".join(f"{each}\n" for each in lines).encode()


def _rule(random: Random, kind: str, *, header: bool) -> str:
    pattern, groups = _pattern(random, kind, header=header)
    if random.random() < 0.06:
        pattern, groups = f"!{pattern}", 0
    action = _action(random, groups, header=header)
    gap = random.choice((" ", "\t", "  ", "\n    "))
    return f"{pattern}{gap}{action}"


def _pattern(random: Random, kind: str, *, header: bool) -> tuple[str, int]:
    """A pattern with its flags, and how many groups it has."""
    word = random.choice(("red", "green", "blue", "one", "x+", "[a-c]", "%", "A\\.B", "\xe9", "b1"))
    name = random.choice((*NAMES, "Content-Type", "MIME-Version", "(X-One|X-Two)"))
    shapes: list[tuple[str, int]] = [(word, 0), (f"({word})", 1), (f"^(.*){word}(.*)$", 2)]
    if header:
        shapes += [(f"^{name}:", 0), (f"^{name}:.*{word}", 0), (f"^{name}: *(.*)", 1)] * 2
    else:
        shapes += [("^--", 0), (f"^{word}", 0), ("^$", 0), ("(.{1,20})$", 1)]
    shape, groups = random.choice(shapes)
    groups += shape.count("(X-One|X-Two)")
    flags = "".join(random.sample("im" if kind == "regexp" else "ims", random.randint(0, 1)))
    mark = random.choice("///!|") if "|" not in shape and "!" not in shape else "/"
    mark = "/" if mark == "!" or mark == "|" else mark
    return f"{mark}{shape}{mark}{flags}", groups


def _action(random: Random, groups: int, *, header: bool) -> str:
    taken = f"${random.randint(1, groups)}" if groups else random.choice(("plain", "a $$ b"))
    text = random.choice((taken, f"{taken} more", "fixed text", "${1}x" if groups else "x"))
    field = f"{random.choice(('X-New', 'X-One', 'Subject', 'Content-Type'))}: {text}"
    line = field if header else text
    actions = (
        ["IGNORE", "ignore", f"STRIP {text}", f"PREPEND {line}", f"REPLACE {line}"] * 4
        + ["DUNNO", "OK", f"WARN {text}", "WARN", f"INFO {text}", f"HOLD {text}", "HOLD"]
        + ["REJECT", f"REJECT {text}", f"REJECT 5.2.1 {text}", f"REJECT 4.3.2 {text}"]
        + [f"DISCARD {text}", f"PASS {text}", "REDIRECT new@example.org", "FILTER smtp:there"]
        + ["BCC copy@example.org", f"BCC {random.choice(('a', 'b'))}@example.org", "dunno text"]
    )
    return random.choice(actions)


def _message(random: Random) -> bytes:
    fields = "".join(_field(random) for _ in range(random.randint(1, 6)))
    return (fields + _entity(random, 0)).encode("utf-8").replace(b"\n", b"\r\n")


def _field(random: Random) -> str:
    name = random.choice(NAMES)
    name = random.choice((name, name, name, name.lower(), f"{name} "))
    words = [random.choice(WORDS) for _ in range(random.randint(1, 5))]
    text = "".join(
        f"{random.choice((' ', ' ', chr(10) + ' ', chr(10) + chr(9)))}{w}" for w in words
    )
    if random.random() < 0.03:
        text += "y" * random.choice((2040, 2100, 5000))
    return f"{name}:{random.choice(('', ' '))}{text.lstrip(chr(10))}\n"


def _entity(random: Random, depth: int) -> str:
    """MIME fields, the blank line and a body."""
    shape = random.random()
    if depth < 4 and shape < 0.45:
        return _multipart(random, depth)
    if depth < 4 and shape < 0.6:
        kind = random.choice(("message/rfc822", "Message/RFC822", "message/partial", "message"))
        inner = "".join(_field(random) for _ in range(random.randint(0, 3)))
        return f"Content-Type: {kind}\n\n{inner}{_entity(random, depth + 1)}"
    mime = random.choice(
        ("", "Content-Type: text/plain\n", "Content-Type: image/png; name=red\n"
         "Content-Transfer-Encoding: base64\n", "MIME-Version: 1.0\n")
    )  # fmt: skip
    blank = "\n" if random.random() < 0.93 or depth == 0 else ""
    return f"{mime}{blank}{_lines(random)}"


def _multipart(random: Random, depth: int) -> str:
    boundary = random.choice(BOUNDARIES)
    kind = random.choice(("mixed", "digest", "alternative"))
    quoted = f'"{boundary}"' if random.random() < 0.7 or " " in boundary else boundary
    fold = random.choice((" ", "\n ", "\n\t(a comment) "))
    double = "; boundary=b2" if random.random() < 0.1 else ""
    head = f"Content-Type: multipart/{kind};{fold}boundary={quoted}{double}\n"
    parts = "".join(
        f"--{boundary}{random.choice(('', '', ' ', 'cruft'))}\n"
        + "".join(_field(random) for _ in range(random.randint(0, 2)))
        + _entity(random, depth + 1)
        for _ in range(random.randint(0, 3))
    )
    end = f"--{boundary}--\n" if random.random() < 0.8 else ""
    before, after = (_lines(random) if random.random() < 0.3 else "" for _ in range(2))
    return f"{head}\n{before}{parts}{end}{after}"


def _lines(random: Random) -> str:
    found = []
    for _ in range(random.randint(0, 4)):
        line = " ".join(random.choice(WORDS) for _ in range(random.randint(0, 4)))
        if random.random() < 0.03:
            line += "z" * random.choice((2047, 2048, 2049, 4096, 9000))
        if random.random() < 0.1:
            line = random.choice((".", "..x", " ", "From me", "X-One: in a body", "--b2", "--b1--"))
        found.append(f"{line}\n")
    return "".join(found)
