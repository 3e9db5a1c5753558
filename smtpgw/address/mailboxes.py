"""The addresses in a To, Cc or Bcc field (RFC 5322 section 3.4), for `sendmail -t`.

Lax, as people write them: comments anywhere, missing commas inside a name, a name without
quotes that holds dots.  What comes out are candidates, to be checked by
:func:`smtpgw.address.path.parse_path`.  Pure, and linear in the length of the input.
"""

from __future__ import annotations

from collections.abc import Iterator

from smtpgw.address.tokens import tokens


def addresses(value: bytes) -> list[bytes]:
    """Every address of a field's value, in order; group names and display names are not."""
    found: list[bytes] = []
    phrase: list[tuple[str, bytes]] = []
    route: list[bytes] | None = None
    for kind, token in [*_texts(value), ("mark", b",")]:
        if route is not None:
            if (kind, token) == ("mark", b">"):
                found.append(b"".join(route))
                phrase, route = [("done", b"")], None
            elif kind != "space":
                route.append(token)
        elif kind != "mark":
            phrase.append((kind, token))
        elif token == b"<":
            route = []
        elif token in (b",", b";"):
            found += _bare(phrase)
            phrase = []
        elif token == b":":
            phrase = []
    return [each for each in found if each]


def _texts(value: bytes) -> Iterator[tuple[str, bytes]]:
    """A comment parts words as white space does."""
    for kind, start, end in tokens(value):
        yield ("space", b" ") if kind == "comment" else (kind, value[start:end])


def _bare(phrase: list[tuple[str, bytes]]) -> list[bytes]:
    """The address of a phrase without angle brackets: white space in it counts for nothing
    beside `@` and `.`, and parts addresses elsewhere."""
    if any(kind == "done" for kind, _ in phrase):
        return []
    words = [b""]
    for kind, token in phrase:
        if kind == "space":
            words.append(b"")
        else:
            words[-1] += token
    found: list[bytes] = []
    for word in filter(None, words):
        if found and (found[-1].endswith((b"@", b".")) or word.startswith((b"@", b"."))):
            found[-1] += word
        else:
            found.append(word)
    return found
