"""Looking into an attachment: what it is, what it holds, to a depth, within limits.

Archives are listed, not unpacked: of a file in one, the first octets are read, and the whole of it
only where it is an archive or a document itself.  Sizes that an archive declares count as if they
were true.  Runs in a process of its own (:mod:`milterd.ports.attached.worker`).
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from typing import IO

from milterd.ports.attached.found import Limits, Look, Mark, Obstacle, Thing, Trouble
from milterd.ports.attached.kinds import HEAD, UNLISTED, kinds

_OPEN: dict[str, Callable[[io.BytesIO], io.BufferedIOBase]] = {
    "gz": lambda file: gzip.GzipFile(fileobj=file),
    "bz2": bz2.BZ2File,
    "xz": lzma.LZMAFile,
}
_WHOLE = {"zip", "tar", "ole", "pdf", *_OPEN, *UNLISTED}
_LOCAL = re.compile(rb"PK\x03\x04.{22}(..)(..)", re.DOTALL)
_SIGNS = {"[Content_Types].xml": "ooxml", "META-INF/MANIFEST.MF": "jar"}
_PIECE = 1_048_576
_NAME = 255
_DAMAGE = (
    zipfile.BadZipFile, tarfile.TarError, NotImplementedError, RuntimeError, ValueError, EOFError,
    OSError, zlib.error, lzma.LZMAError, KeyError, IndexError, OverflowError,
)  # fmt: skip
"""What the standard library's readers raise for archives that are damaged or that they do not know:
all of it makes the archive unscannable."""


class _Stop(Exception):  # noqa: N818 - what it is
    """A limit was reached."""

    def __init__(self, trouble: Trouble, why: str) -> None:
        super().__init__(why)
        self.obstacle = Obstacle(trouble, why)


class Inspection:
    """One attachment.  `look` never raises for what a file may be."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._octets, self._members = limits.octets, limits.members
        self._declared = 0
        self._things: list[Thing] = []
        self._obstacles: dict[Obstacle, None] = {}

    def look(self, octets: bytes) -> Look:
        """What it is and holds."""
        try:
            self._file((), octets)
        except _Stop as stop:
            self._obstacles[stop.obstacle] = None
        except MemoryError:
            self._hinder("too_large", "more memory than there is for it")
        return Look(tuple(self._things), tuple(self._obstacles))

    def _file(self, path: tuple[str, ...], octets: bytes) -> None:
        found = set(kinds(octets))
        if zipfile.is_zipfile(io.BytesIO(octets)):
            found.add("zip")  # also behind something else: a program, a picture, a PDF
        marks: set[Mark] = set()
        at = len(self._things)
        self._things.append(Thing(path, tuple(sorted(found))))
        try:
            self._inside(path, octets, found, marks)
        except _DAMAGE as error:
            self._hinder("unscannable", f"damaged: {type(error).__name__}")
        finally:
            self._things[at] = Thing(path, tuple(sorted(found)), tuple(sorted(marks)))
        if "encrypted" in marks:
            self._hinder("encrypted", _shown(path) or "the attachment")

    def _inside(
        self, path: tuple[str, ...], octets: bytes, found: set[str], marks: set[Mark]
    ) -> None:
        if found & UNLISTED:
            kind = ", ".join(sorted(found & UNLISTED))
            self._hinder("unscannable", f"an archive of a kind that cannot be listed: {kind}")
        if "pdf" in found and b"/Encrypt" in octets:
            marks.add("encrypted")
        if "ole" in found:
            from milterd.ports.attached import office

            marks |= office.marks(octets)
        containers = found & {"zip", "tar", *_OPEN}
        if containers and len(path) >= self._limits.depth:
            raise _Stop("unscannable", f"archives more than {self._limits.depth} deep")
        if "zip" in containers:
            self._zip(path, octets, found, marks)
        elif "tar" in containers:
            self._tar(path, octets)
        for each in containers & set(_OPEN):
            self._file((*path, f"(unpacked {each})"), self._unpacked(each, octets))

    def _zip(self, path: tuple[str, ...], octets: bytes, found: set[str], marks: set[Mark]) -> None:
        if octets.count(b"PK\x01\x02") > self._members:  # before a list of them is made
            raise _Stop("unscannable", f"more than {self._limits.members} files in archives")
        with zipfile.ZipFile(io.BytesIO(octets)) as archive:
            entries = archive.infolist()
            named = {each.filename for each in entries}
            if any("macrosheets/" in each.lower() for each in named):
                marks.add("macros")  # Excel 4 macros, which olevba finds in old workbooks only
            found |= {kind for sign, kind in _SIGNS.items() if sign in named}
            for each in entries:
                self._count(each.file_size)
                inner = (*path, each.filename[:_NAME])
                if each.flag_bits & 1:
                    marks.add("encrypted")
                    self._things.append(Thing(inner))
                elif not each.is_dir():
                    with archive.open(each) as file:
                        self._member(inner, file)
        self._unlisted_names(path, octets, named)
        if "ooxml" in found and any(map(_active, named)):
            from milterd.ports.attached import office

            marks |= office.marks(octets)

    def _unlisted_names(self, path: tuple[str, ...], octets: bytes, known: set[str]) -> None:
        """Files that the archive's directory leaves out, and that some programs unpack."""
        for number, found in enumerate(_LOCAL.finditer(octets)):
            if number > 2 * self._limits.members:
                raise _Stop("unscannable", f"more than {number} headers in an archive")
            size = min(int.from_bytes(found[1], "little"), 4 * _NAME)
            name = octets[found.end() : found.end() + size].decode("utf-8", "replace")
            if name and name not in known:
                known.add(name)
                self._count(0)
                self._things.append(Thing((*path, name[:_NAME])))

    def _tar(self, path: tuple[str, ...], octets: bytes) -> None:
        with tarfile.open(fileobj=io.BytesIO(octets), mode="r:") as archive:
            for each in archive:
                self._count(each.size if each.isreg() else 0)
                file = archive.extractfile(each) if each.isreg() else None
                if file is not None:
                    self._member((*path, each.name[:_NAME]), file)

    def _member(self, path: tuple[str, ...], file: IO[bytes]) -> None:
        head = file.read(HEAD)
        if not set(kinds(head)) & _WHOLE:
            self._things.append(Thing(path, kinds(head)))
            return
        rest = file.read(max(self._octets, 0) + 1)
        self._spend(len(rest))
        self._file(path, head + rest)

    def _unpacked(self, kind: str, octets: bytes) -> bytes:
        pieces = []
        with _OPEN[kind](io.BytesIO(octets)) as file:
            while piece := file.read(_PIECE):
                self._spend(len(piece))
                pieces.append(piece)
        return b"".join(pieces)

    def _count(self, size: int) -> None:
        """One more file in an archive, that says it is of that size."""
        self._members -= 1
        if self._members < 0:
            raise _Stop("unscannable", f"more than {self._limits.members} files in archives")
        self._declared += size
        if self._declared > self._limits.octets:
            raise _Stop("too_large", f"more than {self._limits.octets} octets when unpacked")

    def _spend(self, size: int) -> None:
        self._octets -= size
        if self._octets < 0:
            raise _Stop("too_large", f"more than {self._limits.octets} octets when unpacked")

    def _hinder(self, trouble: Trouble, why: str) -> None:
        self._obstacles[Obstacle(trouble, why)] = None


def _active(name: str) -> bool:
    plain = name.lower()
    return plain.endswith(".bin") or "vba" in plain or "macrosheets" in plain


def _shown(path: tuple[str, ...]) -> str:
    return " / ".join(path)[:_NAME]
