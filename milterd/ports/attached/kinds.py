"""What a file is by its content, as the extensions that such files have (puremagic).

A few kinds that matter here, and that puremagic does not name, have names of our own: `elf`,
`script` (it begins with `#!`), `ole` (Office before 2007, and .msi, .msg), `tnef` (winmail.dat).
"""

from __future__ import annotations

HEAD = 4096
"""Octets that are looked at; tar has its mark at 257, ISO images at 32769."""
UNLISTED = {"7z", "rar", "cab", "arj", "ace", "lzh", "lha", "zst", "tnef", "zpaq", "alz", "egg"}
"""Archives that no library of ours lists."""
_LEAST = 0.3
"""puremagic's confidence from which it is believed: two octets alone are found in any text."""
_OWN = (
    (b"\x7fELF", "elf"),
    (b"#!", "script"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "ole"),
    (b"\x78\x9f\x3e\x22", "tnef"),
    (b"PK\x03\x04", "zip"),
    (b"\x1f\x8b", "gz"),
    (b"BZh", "bz2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"7z\xbc\xaf\x27\x1c", "7z"),
    (b"Rar!\x1a\x07", "rar"),
    (b"MSCF\x00\x00\x00\x00", "cab"),
    (b"\x28\xb5\x2f\xfd", "zst"),
    (b"%PDF-", "pdf"),
    (b"{\\rt", "rtf"),
)


_MANY = {"zip", "ole"}


def kinds(octets: bytes) -> tuple[str, ...]:
    """The extensions of what this may be, in order; none for text and for what nobody knows."""
    import puremagic  # 70 ms, for whoever only lists the filters

    found = {name for mark, name in _OWN if octets.startswith(mark)}
    if octets.startswith(b"MZ") and b"\0" in octets[:128]:
        found.add("exe")
    if b"%PDF-" in octets[:1024]:
        found.add("pdf")  # readers look for the mark there (ISO 32000, annex H)
    if octets[257:262] == b"ustar":
        found.add("tar")
    if found & _MANY:  # puremagic would name every kind of file that is one of these
        return tuple(sorted(found))
    try:
        matches = puremagic.magic_string(octets[:HEAD])
    except (puremagic.PureError, ValueError):
        matches = []
    found |= {each.extension.lstrip(".").lower() for each in matches if each.confidence >= _LEAST}
    return tuple(sorted(found - {""}))
