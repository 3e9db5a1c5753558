"""The file of a postmaster's own filter: whether it may be run, and what it is once it has run.

A filter runs with milterd's rights, and so does whoever can write its file: it belongs to root or
to milterd's user, and nobody else may write it or its directory.  What was looked at is what runs:
the file is read once, from one descriptor.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import stat
import sys
import traceback
from pathlib import Path
from types import ModuleType

LIMIT = 1_048_576
"""Octets of a filter's file."""


class OwnFileError(Exception):
    """It cannot be used; the message says where, what was found, what was expected, and what to
    do."""


def load(name: str, module: str) -> ModuleType:
    """The module of the filter `name`: a path that ends with `.py`, or a dotted name of what is
    installed beside milterd.  Raises :class:`OwnFileError`."""
    if module.endswith(".py"):
        return _from_file(name, Path(module))
    return _installed(module)


def _from_file(name: str, path: Path) -> ModuleType:
    if not path.is_absolute():
        raise OwnFileError(
            f"module: found {str(path)!r}, expected a path from the root: write where it is, "
            f"such as /etc/gatepost/{path.name}"
        )
    source = _read(path)
    module = ModuleType(f"gatepost_filter_{name.replace('-', '_')}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses look there for the types of their fields
    try:
        exec(compile(source, str(path), "exec"), module.__dict__)  # noqa: S102  # checked above
    except SyntaxError as error:
        found = f"found {error.msg}, expected Python"
        raise OwnFileError(f"{error.filename}:{error.lineno}: {found}") from None
    except (Exception, SystemExit) as error:
        raise _failed(str(path), error) from error
    return module


def _installed(dotted: str) -> ModuleType:
    try:
        spec = importlib.util.find_spec(dotted)
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None:
        raise OwnFileError(
            f"module: found {dotted!r}, expected a file's path that ends with .py, or a module "
            f"that {sys.executable} can import: install it there, or write the path"
        )
    _read(Path(spec.origin))
    try:
        return importlib.import_module(dotted)
    except (Exception, SystemExit) as error:
        raise _failed(spec.origin, error) from error


def _failed(file: str, error: BaseException) -> OwnFileError:
    frames = [each for each in traceback.extract_tb(error.__traceback__) if each.filename == file]
    place = f"{file}:{frames[-1].lineno}" if frames else file
    return OwnFileError(
        f"{place}: found {type(error).__name__}: {error}, expected a module that loads: run "
        f"`{sys.executable} {file}` to see more"
    )


def _read(path: Path) -> bytes:
    """What stands in a file that is safe to run.  Raises OwnFileError."""
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            octets = file.read(LIMIT + 1)
        folder = path.resolve().parent
        around = folder.stat()
    except OSError as error:
        raise OwnFileError(
            f"{path}: found {error.strerror}, expected a file that milterd's user may read"
        ) from error
    if not stat.S_ISREG(status.st_mode) or len(octets) > LIMIT:
        raise OwnFileError(f"{path}: expected a plain file of at most {LIMIT} octets")
    _safe(path, status)
    _safe(folder, around)
    return octets


def _safe(path: Path, status: os.stat_result) -> None:
    """Raises OwnFileError where others than root and ourselves could change it."""
    if status.st_uid not in (0, os.geteuid()):
        raise OwnFileError(
            f"{path}: found the owner {status.st_uid}, expected root or milterd's user "
            f"{os.geteuid()}: chown root {path}"
        )
    others = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    kept = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
    if others and not kept:  # in a sticky directory nobody takes another's file away
        raise OwnFileError(
            f"{path}: found mode {stat.S_IMODE(status.st_mode):04o}, expected one by which only "
            f"its owner may write: chmod go-w {path}"
        )
