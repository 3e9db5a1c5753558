"""Making DKIM-Signature fields (RFC 6376 section 3.5 and 5, RFC 8463)."""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from milterd.core.mail import HeaderField, Mail
from milterd.filters.dkim_choice import Signer
from milterd.signed.canonical import HEADER_FORMS, Header
from milterd.signed.dkim_hash import hash_body

FIELD = b"DKIM-Signature"
NAMES_LIMIT = 300
"""Names in an `h=` tag; a mail that needs more is not signed."""
COLUMNS = 76
COMMON = 2048
"""Octets of the names of a header that is worth remembering."""
REMEMBERED = 256


@dataclass(frozen=True, slots=True, eq=False)
class Manner:
    """How signatures are made; made once for a filter, and looked up by for each mail.

    `oversign` and `sign` are field names in lower case: the first are named one time more than
    they are present, so that adding another breaks the signature (section 5.4.2, 8.15), the
    second as often as they are present.  `header_form` and `body_form` are "simple" or "relaxed".
    `lifetime`, in seconds, sets `x=`; 0 leaves it out.
    """

    oversign: tuple[bytes, ...]
    sign: tuple[bytes, ...]
    header_form: str = "relaxed"
    body_form: str = "relaxed"
    lifetime: int = 0


class TooManyNamesError(ValueError):
    """The mail has more fields to cover than :data:`NAMES_LIMIT`."""


def signatures(
    mail: Mail, signers: Sequence[Signer], manner: Manner, now: int
) -> list[tuple[str, str, bytes]]:
    """(selector, algorithm, value of the field) for each signer.

    Reads the body once, a piece at a time.  `now` is in seconds since the epoch.  Raises
    TooManyNamesError.
    """
    visible = [each for each in mail.headers if not each.hidden]
    named = tuple([each.name.lower() for each in visible])
    common = sum(map(len, named)) <= COMMON
    names, positions = _plan(named, manner) if common else _plan.__wrapped__(named, manner)
    if len(names) > NAMES_LIMIT:
        raise TooManyNamesError(f"{len(names)} names, limit {NAMES_LIMIT}")
    body_hash = base64.b64encode(hash_body(mail.body, manner.body_form).whole)
    form = HEADER_FORMS[manner.header_form]
    covered = b"".join([form(visible[at]) + b"\r\n" for at in positions])
    found = []
    for each in signers:
        value, formed = _unsigned(each, names, body_hash, manner, now)
        # The signature covers its own field with an empty b= (section 3.7).
        digest = hashlib.sha256(covered + formed).digest()
        octets = base64.b64encode(each.key.sign(digest))
        found.append((each.selector, each.key.algorithm, value + _folded_base64(value, octets)))
    return found


@functools.lru_cache(REMEMBERED)
def _plan(named: tuple[bytes, ...], manner: Manner) -> tuple[tuple[bytes, ...], tuple[int, ...]]:
    """For fields of these names, in this order: those for `h=`, and the positions of the fields
    that these cover.  Mail of one program mostly has the same."""
    header = Header([HeaderField(name, b"%d" % at) for at, name in enumerate(named)])
    names = tuple(_names(header, manner))
    return names, tuple([int(each.value) for each in header.chosen(names)])


def _names(header: Header, manner: Manner) -> list[bytes]:
    """The names for `h=`, in lower case and a fixed order."""
    names = [name for name in manner.oversign for _ in range(header.count(name) + 1)]
    return names + [name for name in manner.sign for _ in range(header.count(name))]


def _unsigned(
    signer: Signer, names: tuple[bytes, ...], body_hash: bytes, manner: Manner, now: int
) -> tuple[bytes, bytes]:
    """The value up to its `b=`, which is empty, and the field in the header's form."""
    times = [b"%d" % now] + [b"%d" % (now + manner.lifetime)] * bool(manner.lifetime)
    who = (signer.key.algorithm, signer.domain, signer.selector, signer.identity)
    lengths = tuple(map(len, (body_hash, *times)))
    common = sum(map(len, names)) <= COMMON
    value, formed = (_frame if common else _frame.__wrapped__)(who, names, manner, lengths)
    return value % (*times, body_hash), formed % (*times, body_hash)


@functools.lru_cache(REMEMBERED)
def _frame(
    who: tuple[str, str, str, str],
    names: tuple[bytes, ...],
    manner: Manner,
    lengths: tuple[int, ...],
) -> tuple[bytes, bytes]:
    """A value with `%b` where its times and its hash go, folded for these `lengths`: of the hash,
    and of the times.  The same of the field in the header's form: what goes there has no white
    space."""
    algorithm, domain, selector, identity = who
    # A control octet for each of theirs: nothing else in a value has one.
    hash_, *times = (b"%c" % (number + 1) * length for number, length in enumerate(lengths))
    tags = [
        b"v=1;",
        f"a={algorithm};".encode("ascii"),
        f"c={manner.header_form}/{manner.body_form};".encode("ascii"),
        f"d={domain};".encode("ascii"),
        f"s={selector};".encode("ascii"),
        *(b"%b=%b;" % pair for pair in zip((b"t", b"x"), times, strict=False)),
    ]
    if identity:
        tags.append(f"i={identity};".encode("ascii"))
    words = tags + _joined([b"h=" + names[0], *names[1:]], b":")
    value = _folded([*words, b"bh=%b;" % hash_, b"b="])
    formed = HEADER_FORMS[manner.header_form](HeaderField(FIELD, value))
    return _with_places(value, (*times, hash_)), _with_places(formed, (*times, hash_))


def _with_places(text: bytes, marks: Iterable[bytes]) -> bytes:
    """A template of a text: `%b` for each mark."""
    text = text.replace(b"%", b"%%")
    for each in marks:
        text = text.replace(each, b"%b")
    return text


def _joined(words: list[bytes], separator: bytes) -> list[bytes]:
    """Words with the separator after each but the last, which ends its tag."""
    return [each + separator for each in words[:-1]] + [words[-1] + b";"]


def _folded(words: Iterable[bytes]) -> bytes:
    """Words as a field value with a fold before each one that would not fit."""
    lines = [b""]
    column = len(FIELD) + 1
    for word in words:
        glue = b"" if _continues(lines[-1], word) else b" "
        if column + len(glue) + len(word) > COLUMNS:
            lines.append(b"\t" + word)
            column = 8 + len(word)
        else:
            lines[-1] += glue + word
            column += len(glue) + len(word)
    return b"\r\n".join(lines)


def _continues(line: bytes, word: bytes) -> bool:
    """Within the h= list names need no space between them."""
    return line.endswith(b":") and not word.startswith(b"h=")


def _folded_base64(value: bytes, octets: bytes) -> bytes:
    """The base64 of a signature, folded so that it fits behind `value`."""
    last = value.rpartition(b"\r\n")[2]
    room = COLUMNS - len(last.replace(b"\t", b" " * 8))
    lines = [octets[:room]] if room > 0 else [b""]
    width = COLUMNS - 8
    lines += [octets[at : at + width] for at in range(max(room, 0), len(octets), width)]
    return b"\r\n\t".join(lines)
