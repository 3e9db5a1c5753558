"""`smtpgw passwd USER`: who may log in by the password file (smtpd_sasl_type = "file").

Exit codes: 0 done; 1 not done, and why; 2 wrong usage; 78 the settings cannot be used
(sysexits.h, EX_CONFIG).
"""

from __future__ import annotations

import secrets
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from smtpgw.queue_cli.common import DEFAULT_FILE, ConfigOption

CONFIG_ERROR = 78
_LONGEST_PASSWORD = 4096


def passwd(
    user: Annotated[
        str, typer.Argument(metavar="USER", help="The login name, in most places an address.")
    ],
    delete: Annotated[bool, typer.Option("--delete", help="Take the user out.")] = False,
    scram: Annotated[
        bool,
        typer.Option(
            "--scram",
            help="Keep keys for SCRAM-SHA-256 too.  They are cheaper to guess at than argon2, "
            "should anybody get at the file.",
        ),
    ] = False,
    file: Annotated[
        Path | None,
        typer.Option("--file", metavar="FILE", help="The password file; else the settings say."),
    ] = None,
    config: ConfigOption = DEFAULT_FILE,
) -> None:
    """Set the password of a user who logs in by the password file, or take the user out.

    The password is asked for twice on a terminal, and is the first line of standard input
    elsewhere.  The gateway sees the change at the next login.  Exits with 0 when the file is
    changed, 1 when it is not, 78 for settings that cannot be used.
    """
    from smtpgw.sasl.file import entries, hashing, store
    from smtpgw.sasl.file.entries import Entry
    from smtpgw.sasl.file.scram import make_keys

    path, owner = (file, None) if file is not None else _from_settings(config)
    try:
        name = entries.name(user.encode("utf-8", "surrogateescape"))
    except ValueError as error:
        _fail(f"{user!r}: {error}", 2)
    entry = None
    if not delete:
        password = _ask()
        keys = make_keys(password, secrets.token_bytes(16)) if scram else None
        entry = Entry(name, hashing.make(password), keys)
    try:
        before = store.change(path, name, entry, owner=owner)
    except store.FileError as error:
        _fail(str(error))
    if delete and not before:
        _fail(f"{path}: no user {user}")
    done = "deleted" if delete else "changed" if before else "added"
    sys.stdout.write(f"{path}: {user} {done}\n")


def _from_settings(config: Path) -> tuple[Path, Path]:
    """The password file that the settings name, and the queue, whose owner is to own it."""
    from milterd.base.toml_file import ConfigError
    from smtpgw.config import load
    from smtpgw.wiring import sasl as wiring_sasl

    try:
        settings = load(config).smtpgw
        found = wiring_sasl.password_files(settings)
    except ConfigError as error:
        _fail(str(error), CONFIG_ERROR)
    if len(found) > 1:
        names = ", ".join(map(str, found))
        _fail(f"the listeners have several password files: say which with --file: {names}", 2)
    return (found[0] if found else wiring_sasl.PASSWORD_FILE), settings.queue.directory


def _ask() -> bytes:
    if sys.stdin is None:
        _fail("standard input is closed")
    if not sys.stdin.isatty():
        line = sys.stdin.buffer.readline(_LONGEST_PASSWORD + 2)
        return _checked(line.rstrip(b"\r\n"))
    import getpass

    first = _checked(getpass.getpass("Password: ").encode("utf-8", "surrogateescape"))
    if getpass.getpass("Again: ").encode("utf-8", "surrogateescape") != first:
        _fail("the two are not the same")
    return first


def _checked(password: bytes) -> bytes:
    if not password or len(password) > _LONGEST_PASSWORD or b"\0" in password:
        _fail(f"expected a password of 1 to {_LONGEST_PASSWORD} octets, without NUL")
    return password


def _fail(text: str, status: int = 1) -> NoReturn:
    sys.stderr.write(f"{text}\n")
    raise typer.Exit(status)
