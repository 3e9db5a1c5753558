"""cidr: - rules for addresses and networks, the first that fits counts (cidr_table(5)).

    192.0.2.0/24  OK        !192.0.2.1  ...        if 2001:db8::/32 ... endif

Rules in a row that are neither negated nor conditional are one step of the search, which
looks an address up once for each length of a prefix among them, whatever their number.
"""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass, field

from smtpgw.tables.context import Context
from smtpgw.tables.ruled import Ruled
from smtpgw.tables.sources import Report, logical_lines

_SPACE = b" \t\r\n\v\f"
_BITS = {socket.AF_INET: 32, socket.AF_INET6: 128}
_WORD = re.compile(rb"(if|endif)(?![A-Za-z0-9])", re.IGNORECASE)
_BRACKETED = re.compile(rb"\[([^]]*)\]([^ \t\r\n\v\f]*)")


@dataclass(frozen=True, slots=True)
class Address:
    """`bits` is the address as a number."""

    family: socket.AddressFamily
    bits: int


@dataclass(frozen=True, slots=True)
class Pattern:
    """A network: addresses of the family that are `network` but for the last `rest` bits."""

    family: socket.AddressFamily
    network: int
    rest: int
    positive: bool = True

    def matches(self, address: Address) -> bool:
        """An address of the other family never matches, be the pattern negated or not."""
        if address.family != self.family:
            return False
        return (address.bits >> self.rest == self.network) is self.positive


@dataclass(slots=True)
class Networks:
    """Rules in a row, by family and length of the prefix: the first rule for each network."""

    by_length: dict[tuple[socket.AddressFamily, int], dict[int, tuple[int, bytes]]] = field(
        default_factory=dict
    )
    lengths: dict[socket.AddressFamily, list[tuple[int, dict[int, tuple[int, bytes]]]]] = field(
        default_factory=dict
    )

    def add(self, pattern: Pattern, line: int, value: bytes) -> None:
        """The next rule."""
        key = pattern.family, pattern.rest
        if key not in self.by_length:
            self.by_length[key] = {}
            lengths = self.lengths.setdefault(pattern.family, [])
            lengths.append((pattern.rest, self.by_length[key]))
        self.by_length[key].setdefault(pattern.network, (line, value))

    def find(self, address: Address) -> tuple[int, bytes] | None:
        """Line and value of the first rule that fits."""
        best = None
        for rest, networks in self.lengths.get(address.family, ()):
            found = networks.get(address.bits >> rest)
            if found is not None and (best is None or found[0] < best[0]):
                best = found
        return best


@dataclass(slots=True)
class Block:
    """What stands between if and endif; `test` None: the whole table.  Without its endif it is
    the last thing that is looked at, whether it applies or not."""

    test: Pattern | None = None
    steps: list[Networks | Block | tuple[Pattern, int, bytes]] = field(default_factory=list)
    closed: bool = False
    line: int = 0


class Rules:
    """A table read from its lines."""

    def __init__(self, content: bytes, report: Report) -> None:
        self._report, self._stack = report, [Block()]
        for line, text in logical_lines(content, report):
            try:
                self._read(line, text.strip(_SPACE))
            except ValueError as error:
                report.skip(line, repr(text[:100]), str(error))
        for each in self._stack[1:]:
            report.note(each.line, "if without endif", "endif")

    def _read(self, line: int, text: bytes) -> None:
        word = _WORD.match(text)
        if word is None:
            self._add(line, *_split(text))
        elif word[1].lower() == b"if":
            pattern, rest = _split(text[2:].lstrip(_SPACE))
            if rest:
                raise ValueError("one address or network")
            block = Block(_pattern(pattern), line=line)
            self._stack[-1].steps.append(block)
            self._stack.append(block)
        elif text[5:].strip(_SPACE):
            raise ValueError("endif alone")
        elif len(self._stack) == 1:
            raise ValueError("an if before endif")
        else:
            self._stack.pop().closed = True

    def _add(self, line: int, pattern: bytes, value: bytes) -> None:
        if not value:
            raise ValueError("pattern result")
        made, steps = _pattern(pattern), self._stack[-1].steps
        if not made.positive:
            steps.append((made, line, value))
            return
        if not steps or not isinstance(steps[-1], Networks):
            steps.append(Networks())
        last = steps[-1]
        assert isinstance(last, Networks)  # noqa: S101 - said to the type checker
        last.add(made, line, value)

    def find(self, address: Address) -> tuple[int, bytes] | None:
        """Line and value of the first rule that fits."""
        return self._search(self._stack[0], address)[0]

    def _search(self, block: Block, address: Address) -> tuple[tuple[int, bytes] | None, bool]:
        """What was found, and whether the search goes on behind the block."""
        for step in block.steps:
            if isinstance(step, Networks):
                found = step.find(address)
            elif isinstance(step, Block):
                found, goes_on = None, step.closed
                if step.test is None or step.test.matches(address):
                    found, goes_on = self._search(step, address)
                if found is None and not goes_on:
                    return None, False
            else:
                found = step[1:] if step[0].matches(address) else None
            if found is not None:
                return found, True
        return None, True


def _split(text: bytes) -> tuple[bytes, bytes]:
    """The pattern with its signs, and the rest of the line."""
    signs = re.match(rb"[!\s]*", text)
    begin = signs.end() if signs else 0
    parts = text[begin:].split(None, 1)
    if not parts:
        raise ValueError("an address or network")
    negated = text[:begin].count(b"!") % 2
    return b"!" * negated + parts[0], parts[1] if len(parts) > 1 else b""


def _pattern(text: bytes) -> Pattern:
    """Raises ValueError saying what was expected."""
    positive = not text.startswith(b"!")
    text = text.lstrip(b"!")
    bracketed = _BRACKETED.fullmatch(text)
    if text.startswith(b"["):
        if bracketed is None:
            raise ValueError("']' behind the address")
        inner, behind = bracketed.groups()
        text = inner + behind
    host, slash, length = text.partition(b"/")
    address = parse(host)
    if address is None:
        raise ValueError("an address or network")
    bits = _BITS[address.family]
    if slash and (not length.isdigit() or int(length) > bits):
        raise ValueError(f"a prefix length of 0 to {bits}")
    rest = bits - int(length) if slash else 0
    if address.bits & ((1 << rest) - 1):
        raise ValueError("zeros behind the network's own bits")
    return Pattern(address.family, address.bits >> rest, rest, positive)


def parse(text: bytes) -> Address | None:
    """An address as inet_pton(3) reads it, None if it is none."""
    family = socket.AF_INET6 if b":" in text else socket.AF_INET
    try:
        return Address(family, int.from_bytes(socket.inet_pton(family, text.decode("ascii"))))
    except (OSError, ValueError):
        return None


class Cidr(Ruled[Rules]):
    """Rules for addresses."""

    def __init__(self, name: str, context: Context) -> None:
        super().__init__(name, context, Rules)

    def rule(self, content: Rules, key: bytes) -> tuple[int, bytes] | None:
        """A key that is no address is in no table."""
        address = parse(key)
        return content.find(address) if address is not None else None


def open(name: str, context: Context) -> Cidr:
    """Raises TableError."""
    return Cidr(name, context)
