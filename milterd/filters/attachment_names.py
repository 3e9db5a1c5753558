"""What a file's name comes to on the machine that opens it, and what is odd about it.

A name from a mail may hold what a person does not see (a NUL, marks that turn the direction of
writing, spaces at its end), and what one system drops and another keeps.  Every form that some
system makes of it is given, so that a rule for `exe` finds them all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

ODD = ("double-extension", "right-to-left", "nul", "control", "trailing-dot-or-space")
"""What a rule may ask about by `odd`."""

_INVISIBLE = {0x200B, 0x200C, 0x200D, 0x2060, 0xFEFF, 0xAD}
_TURNING = {0x200E, 0x200F, 0x061C, *range(0x202A, 0x202F), *range(0x2066, 0x206A)}
_DROPPED = dict.fromkeys((*range(32), 127, *_INVISIBLE, *_TURNING))
_DOTS = str.maketrans("．。‧․", "....")  # noqa: RUF001  # what Windows or a person takes for a dot
_FIRST = re.compile(
    r"\.(?:pdf|docx?|xlsx?|pptx?|txt|rtf|csv|html?|jpe?g|png|gif|bmp|tiff?|mp[34]|avi|mov|wav)"
    r"[\s._-]*\.([a-z0-9]{1,5})$"
)
_HARMLESS = frozenset({
    "gz", "bz2", "xz", "zip", "7z", "rar", "asc", "sig", "p7s", "p7m", "gpg", "pgp", "txt", "pdf",
    "jpg", "jpeg", "png", "gif", "csv", "bak", "eml", "ics",
})  # fmt: skip


def forms(name: str) -> tuple[str, ...]:
    """The name in small letters as each system may have it, the file's own part only."""
    found: dict[str, None] = {}
    for each in (name, name.partition("\0")[0], name.partition(":")[0]):
        plain = each.translate(_DROPPED).translate(_DOTS)
        base = re.split(r"[/\\]", plain)[-1]
        found.update(dict.fromkeys((base.strip().lower(), base.rstrip(" .\t\xa0").strip().lower())))
    return tuple(each for each in found if each)


def extensions(name: str) -> frozenset[str]:
    """What stands behind the last dot, in each form of the name."""
    return frozenset(each.rpartition(".")[2].strip() for each in forms(name) if "." in each)


def oddities(name: str) -> frozenset[str]:
    """Those of :data:`ODD` that hold for a name."""
    found = set()
    codes = set(map(ord, name))
    if 0 in codes:
        found.add("nul")
    if codes & _TURNING:
        found.add("right-to-left")
    if any(each < 32 or each == 127 for each in codes - {0}):
        found.add("control")
    if name != name.rstrip(" .\t\xa0"):
        found.add("trailing-dot-or-space")
    matches = (_FIRST.search(each) for each in forms(name))
    if any(each is not None and each[1] not in _HARMLESS for each in matches):
        found.add("double-extension")
    return frozenset(found)


def inner_names(names: Iterable[str], path: tuple[str, ...]) -> tuple[str, ...]:
    """The names of a file in an archive; one that was only packed is called as its pack is."""
    last = path[-1] if path else ""
    if not last.startswith("(unpacked "):
        return (last,) if last else tuple(names)
    outer = inner_names(names, path[:-1])
    return tuple(each.rpartition(".")[0] or each for each in outer)
