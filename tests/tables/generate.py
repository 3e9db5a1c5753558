"""Made-up tables and keys: small alphabets, so that keys meet, and every oddity of the formats."""

from __future__ import annotations

import re
from random import Random

KEYS = (
    b"foo", b"Foo", b"FOO@Example.NET", b"foo@example.net", b"@example.net", b"example.net",
    b".example.net", b"user+ext@example.net", b"\"a b\"", b"\"a b\"@example.net", b"a\\ b",
    b"q\"x y\"z", b"key:", b":", b"#x", b"*", b"%s", b"'", b"\xc3\x84rger", b"\xc3\xa4rger",
    b"STRASSE", b"stra\xc3\x9fe", b"\xe2\x84\xaa", b"k", b"\xc4\xb0", b"\xff", b"\xc3",
    b"\xed\xa0\x80", b"192.0.2.1", b"k" * 600, b"\"unclosed", b"back\\", b"{x}", b"a=b", b"a,b",
    b"\\\"", b"\x01", b"\xce\xa3\xcf\x82", b"\xf0\x90\x90\x80", b"\xef\xac\x81", b"x@[192.0.2.1]",
)  # fmt: skip
VALUES = (
    b"OK", b"REJECT", b"foo@example.net, bar@example.net", b"\"quoted  text\"", b"x y  z",
    b"# no comment", b"smtp:[mail.example.net]:25", b"$1", b"\xc3\xa9", b"a\tb", b":", b"v" * 300,
    b"\\", b"{", b"550 5.1.1 \"No",
)  # fmt: skip
GAPS = (b" ", b"\t", b"  ", b" \t ", b"\r", b"\v", b"\f ", b"")
ENDS = (
    b"\n", b"\n", b"\n", b"\n", b" \n", b"\r\n", b"\n\n", b"\n   \n", b"\n# c\n", b"\n  # c\n",
    b"\n more\n", b"\n\tmore text \n", b"\n#c\n more\n",
)  # fmt: skip


def pick(random: Random, choices: tuple[bytes, ...]) -> bytes:
    """One of them."""
    return random.choice(choices)


def fixed_source(random: Random) -> bytes:
    """A source for postmap(1); some are as plain as most are in life."""
    parts = []
    if random.random() < 0.3:
        plain = [each for each in KEYS if each.isascii()]
        lines = [random.choice(plain) + b" v%d\n" % n for n in range(random.randrange(40))]
        return b"".join(lines) + random.choice((b"", b"# c\n", b"foo more\n foo\nx y"))
    for _ in range(random.randrange(12)):
        gap = pick(random, GAPS) if random.random() < 0.3 else b" "
        value = pick(random, VALUES) if random.random() < 0.95 else b""
        end = pick(random, ENDS) if random.random() < 0.4 else b"\n"
        parts.append(pick(random, KEYS) + gap + value + end)
    if random.random() < 0.1:
        parts.insert(random.randrange(len(parts) + 1), b" begins with a blank\n")
    if random.random() < 0.05:
        parts.append(b"n\0ul v\0al\n")
    if random.random() < 0.03:
        parts.append(b"bad \xff value\n")
    source = b"".join(parts)
    return source.rstrip(b"\n") if random.random() < 0.1 else source


_WORDS = (
    b"root", b"Root", b"postmaster", b"a.b", b"x-y", b"\"a b\"", b"\"a\\\"b\"", b"a\\ b", b"(c)",
    b"(n (e) s)", b"\xc3\xa4", b"joe@example.net", b"@", b"%", b"!", b"[x]", b"[a\\]b]",
    b"<a@b.c>", b"|\"/bin/x y\"", b"|/bin/x", b":include:/x", b"/file", b"\"\"", b",", b", ",
    b" ,", b";", b".", b"\"open", b"(open", b"[open", b"\\", b"a\tb", b"\"a\tb\"", b"x\\y",
)  # fmt: skip


def alias_source(random: Random) -> bytes:
    """A source for postalias(1)."""
    parts = []
    for _ in range(random.randrange(8)):
        name = b" ".join(pick(random, _WORDS) for _ in range(random.choice((1, 1, 1, 1, 2, 0))))
        colon = random.choice((b":", b": ", b" : ", b"")) if random.random() < 0.3 else b": "
        gap = random.choice((b" ", b"", b", "))
        value = gap.join(pick(random, _WORDS) for _ in range(random.randrange(5)))
        end = pick(random, ENDS) if random.random() < 0.3 else b"\n"
        parts.append(name + colon + value + end)
    return b"".join(parts)


def fixed_keys(random: Random, count: int = 40) -> list[bytes]:
    """Keys to ask for."""
    found = []
    for _ in range(count):
        key = pick(random, KEYS)
        change = random.randrange(6)
        found.append((key.upper(), key.lower(), key.swapcase(), key[:-1], key, key)[change])
    found += [b"more", b"begins", b"n", b"x" * 10_000, b"", b" foo", b"foo "]
    return [each for each in found if b"\n" not in each and b"\0" not in each]


def address(random: Random) -> bytes:
    """An address of either family, now and then one that is none."""
    if random.random() < 0.5:
        octets = [random.choice((0, 1, 2, 3, 127, 128, 255)) for _ in range(4)]
        text = ".".join(map(str, octets))
        return (text if random.random() < 0.95 else "0" + text).encode()
    words = [random.choice(("0", "1", "db8", "ffff", "8000", "2001", "FE80")) for _ in range(8)]
    text = ":".join(words)
    if random.random() < 0.6:
        cut = random.randrange(8)
        left = min(7, cut + random.randrange(1, 7))
        text = ":".join(words[:cut]) + "::" + ":".join(words[left + 1 :])
    if random.random() < 0.05:
        text = "::ffff:192.0.2.1"
    return text.encode()


def cidr_pattern(random: Random) -> bytes:
    """A pattern, mostly one that can be used."""
    chosen = address(random)
    length = random.choice((0, 1, 7, 8, 9, 16, 24, 31, 32, 33, 48, 64, 127, 128, 129))
    slash = b"/%d" % length
    if random.random() < 0.8:
        chosen, slash = _masked(chosen, length)
    if random.random() < 0.3:
        slash = b""
    text = chosen + slash
    if random.random() < 0.1:
        text = random.choice((b"[" + text + b"]", b"[" + chosen + b"]" + slash, b"[" + text))
    if random.random() < 0.05:
        text = random.choice((b"foo", b"1.2.3/8", b"/8", b"1.2.3.4/", b"", text + b"x", b"\xff"))
    return text


def _masked(text: bytes, length: int) -> tuple[bytes, bytes]:
    import ipaddress

    try:
        given = ipaddress.ip_address(text.decode())
        length = min(length, given.max_prefixlen)
        network = ipaddress.ip_network((given, length), strict=False)
    except ValueError:
        return text, b"/8"
    return str(network.network_address).encode(), b"/%d" % length


def block_lines(random: Random, patterns: list[bytes], values: list[bytes]) -> bytes:
    """Rules with if and endif among them, not always in pairs."""
    lines = []
    for pattern, value in zip(patterns, values, strict=True):
        negation = random.choice((b"!", b"! ", b"!!")) if random.random() < 0.2 else b""
        lines.append(negation + pattern + random.choice((b" ", b"\t", b"  ")) + value)
        if random.random() < 0.2:
            word = random.choice((b"if ", b"IF ", b"if", b"if\t"))
            extra = b" x" if random.random() < 0.05 else b""
            sign = random.choice((b"", b"", b"!"))
            lines.append(word + sign + random.choice(patterns) + extra)
        if random.random() < 0.2:
            lines.append(random.choice((b"endif", b"endif", b"EndIf", b"endif x", b"endify")))
        if random.random() < 0.05:
            lines.append(
                random.choice((b"# c", b"", b"  # c", b"  continued", b"x", b"!", b"iffy"))
            )
    return b"".join(each + b"\n" for each in lines)


def cidr_source(random: Random) -> bytes:
    """A source for cidr:."""
    count = random.randrange(1, 14)
    patterns = [cidr_pattern(random) for _ in range(count)]
    values = [b"v%d" % n if random.random() < 0.95 else b"" for n in range(count)]
    return block_lines(random, patterns, values)


def cidr_keys(random: Random) -> list[bytes]:
    """Addresses, and what is none."""
    return [address(random) for _ in range(60)] + [b"foo", b"", b"[192.0.2.1]", b"1.2.3", b"\xff"]


def nullable(pattern: str) -> bool:
    """Whether it may match without taking anything, as far as that is seen easily."""
    plain = re.sub(r"\[\[:\w+:\]b?\]", "x", pattern)
    plain = re.sub(r"\\[bB]|[$]|\^(?![a\]])", "", plain)
    try:
        return re.fullmatch(plain, "") is not None
    except re.error:
        return True


class Regex:
    """Patterns of an alphabet that meets the keys often.  `perl`: PCRE's syntax, else POSIX's."""

    def __init__(self, random: Random, *, perl: bool) -> None:
        self.random, self.perl, self.groups, self.alternatives = random, perl, 0, False

    def pattern(self, depth: int = 3) -> str:
        """An expression."""
        branches = [self.branch(depth)]
        while self.random.random() < 0.15 * (depth > 1):
            branches.append(self.branch(depth))
            self.alternatives = self.alternatives or depth == 3
        return "|".join(branches)

    def branch(self, depth: int) -> str:
        pieces = [self.piece(depth) for _ in range(self.random.randrange(1, 4))]
        text = "".join(pieces)
        if depth == 3 and self.random.random() < 0.4:
            text = "^" + text
        return text + ("$" if depth == 3 and self.random.random() < 0.3 else "")

    def piece(self, depth: int) -> str:
        atom = self.atom(depth)
        chance = self.random.random()
        if chance < 0.65:
            return atom
        # Which of several repetitions inside each other $n shows differs: see docs/tables.md.
        if not self.perl and atom.startswith("(") and (nullable(atom) or set(atom) & set("*+?{")):
            return atom
        quantifier = self.random.choice(("*", "+", "?", "{2}", "{1,}", "{0,2}", "{1,3}"))
        if self.perl and chance > 0.9:
            quantifier += self.random.choice("?+")
        return atom + quantifier

    def atom(self, depth: int) -> str:
        chance = self.random.random()
        if chance < 0.25 and depth > 0:
            return self.group(depth)
        if chance < 0.4:
            return self.random.choice(
                (
                    "[a-c]",
                    "[^a]",
                    "[[:alpha:]]",
                    "[[:upper:]b]",
                    "[]a]",
                    "[^]b-]",
                    "[A-C.@]",
                    "[a-]",
                )
            )
        if chance < 0.5:
            return self.random.choice((".", ".", "\\.", "\\@", "\\w", "\\W", "\\b", "\\s", "@"))
        if chance < 0.55 and self.perl:
            return self.random.choice(
                ("\\d", "\\x61", "\\x{62}", "\\Qa.\\E", "\\h", "\\B", "\\A", "\\z", "\\N", "[\\w.]")
            )
        if chance < 0.58 and self.groups and depth == 3 and self.perl:
            return f"\\{self.random.randrange(1, min(self.groups, 9) + 1)}"
        return self.random.choice(("a", "b", "c", "A", "B", "ab", "a.b", "abc", " ", "é"))

    def group(self, depth: int) -> str:
        chance = self.random.random()
        if self.perl and chance < 0.35:
            opening = self.random.choice(("(?:", "(?=", "(?!", "(?>", "(?i:", "(?-i:", "(?s-i:"))
            return opening + self.pattern(depth - 1) + ")"
        inner = self.pattern(depth - 1)
        self.groups += 1
        return "(" + inner + ")"


BROKEN = (
    "(", ")", "[", "a{", "a{2,1}", "*a", "a**", "a{1", "[b-a]", "[[:foo:]]", "\\", "(?", "a|*b",
    "()", "(|a)", "(?|(a)|b)(c)", "a||b", "{2}", "a{,2}", "^*", "(*a)", "[a", "[z-]x", "\\9",
    "(a))", "a+?", "$a", "a^b", "x{70000}",
)  # fmt: skip


def regex_source(random: Random, *, perl: bool) -> bytes:
    """A source for regexp: or pcre:."""
    patterns, values = [], []
    for number in range(random.randrange(1, 8)):
        made = Regex(random, perl=perl)
        text = made.pattern() if random.random() < 0.93 else random.choice(BROKEN)
        flags = "".join(
            each
            for each in ("imsxAEUX" if perl else "im")
            if random.random() < (0.2 if each in "im" else 0.08)
        )
        flags += "q" if random.random() < 0.02 else ""
        patterns.append(f"/{text}/{flags}".encode())
        # Of two alternatives that take the same text, glibc shows either one's groups.
        known = perl or not made.alternatives
        values.append(_result(random, made.groups if known else 0, number))
    return block_lines(random, patterns, values)


def _result(random: Random, groups: int, number: int) -> bytes:
    chance = random.random()
    if chance < 0.4 or not groups:
        return b"v%d" % number if chance < 0.97 else b"$$ $1 ${x} ${1"
    which = random.randrange(1, groups + 1)
    forms = ("<$%d>", "<${%d}x>", "<$(%d)$$>", "v $%d ")
    return (random.choice(forms) % which).encode()


def regex_keys(random: Random, count: int = 40) -> list[bytes]:
    """Short texts of the patterns' alphabet."""
    letters = ("a", "b", "c", "A", "B", "C", ".", "@", " ", "ab", "abc", "é", "1", "-", "]")
    found = ["".join(random.choices(letters, k=random.randrange(1, 8))) for _ in range(count)]
    return [each.encode() for each in found] + [b"", b"\xff", b"x" * 12]
