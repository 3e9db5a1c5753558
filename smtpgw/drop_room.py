"""The gateway's side of the drop directory: making it, claiming what is in it, throwing it away.

Whoever put a file there may be anybody, and may still hold it open.  So a file is moved where
nobody else can reach it, looked at only if it is a regular file with one name, and copied
before anything in it is believed.  Blocking: to be called in a thread.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

from milterd.core.mail import Envelope
from smtpgw.address.params import MAIL_KEYS, ParamError, parse_mail_params, parse_rcpt_params
from smtpgw.address.path import PathError, parse_path
from smtpgw.edge.content import Content
from smtpgw.edge.data import BdatReader
from smtpgw.edge.options import ContentOptions
from smtpgw.edge.road import Answer
from smtpgw.local.drop import (
    CORRUPT,
    MAX_TICKET,
    NAME,
    NEW,
    PUBLIC,
    TAKEN,
    UNFINISHED,
    DropReader,
    Public,
    Torn,
)
from smtpgw.local_mail import Handed

ABANDONED = 86_400.0
"""Seconds after which a file that was never finished is thrown away."""

_EXTENSIONS = frozenset(MAIL_KEYS.values())


class Unfit(Exception):  # noqa: N818 - the name says what happened
    """A file that no gateway would take, and why."""


class NotNow(Exception):  # noqa: N818 - the name says what happened
    """A file that could not be read for a reason of ours."""


class DropRoom:
    """The directory.  Raises OSError."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._new, self._taken = directory / NEW, directory / TAKEN
        self._corrupt = directory / CORRUPT

    def prepare(self, public: Public, queue: Path) -> None:
        """Make it and tell the command what it has to know.  `queue` is the queue's
        directory: what stands in there has to be passed through."""
        self.directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        for each, mode in ((self.directory, 0o755), (self._new, 0o1733)):
            each.mkdir(exist_ok=True)
            if stat.S_IMODE(each.stat().st_mode) != mode:
                each.chmod(mode)
        for each in (self._taken, self._corrupt):
            each.mkdir(mode=0o700, exist_ok=True)
        if self.directory.parent == queue:
            queue.chmod(stat.S_IMODE(queue.stat().st_mode) | 0o011)
        fresh = self.directory / f".{PUBLIC}"
        fresh.write_bytes(public.encode())
        fresh.chmod(0o644)
        fresh.replace(self.directory / PUBLIC)

    def take_over(self, former: Path) -> list[str]:
        """From a directory that the settings name no more: the command is not to find it again,
        and what was handed in there is ours.  The files that stay there."""
        stay: list[str] = []
        if not former.is_dir() or former.samefile(self.directory):
            return stay
        (former / PUBLIC).unlink(missing_ok=True)
        for each in (former / TAKEN, former / NEW):
            with contextlib.suppress(FileNotFoundError), os.scandir(each) as entries:
                mails = [one for one in entries if NAME.match(one.name)]
                for one in mails:
                    if not one.is_dir(follow_symlinks=False) and not self._moved_here(one):
                        stay.append(one.path)
        return stay

    def _moved_here(self, entry: os.DirEntry[str]) -> bool:
        try:
            Path(entry.path).rename(self._taken / entry.name)
        except OSError as error:
            return isinstance(error, FileNotFoundError)
        return True

    def left(self) -> list[str]:
        """Files that were claimed before."""
        return [each.name for each in self._taken.iterdir() if NAME.match(each.name)]

    def claim(self, limit: int, now: float) -> tuple[list[str], list[str]]:
        """Move at most `limit` new files to where only we are, the oldest of them first.

        Their names, and those of what cannot be drop files, which is set aside.
        """
        found: list[tuple[float, str]] = []
        strange: list[str] = []
        with os.scandir(self._new) as entries:
            for each in entries:
                if each.is_dir(follow_symlinks=False):
                    continue  # not to be moved by us, and in nobody's way
                if NAME.match(each.name) and len(found) < limit:
                    with contextlib.suppress(FileNotFoundError):  # withdrawn again
                        found.append((each.stat(follow_symlinks=False).st_mtime, each.name))
                elif not NAME.match(each.name) and not self._being_written(each, now):
                    strange.append(each.name)
        claimed = [name for _, name in sorted(found) if self._move(name, self._taken)]
        return claimed, [each for each in strange if self._move(each, self._corrupt)]

    def _being_written(self, entry: os.DirEntry[str], now: float) -> bool:
        """Whether this is left alone: a name of the command's own, and not too old."""
        name = entry.name.removeprefix(UNFINISHED)
        if name == entry.name or not NAME.match(name):
            return False
        with contextlib.suppress(OSError):
            if now - entry.stat(follow_symlinks=False).st_mtime > ABANDONED:
                (self._new / entry.name).unlink()
        return True

    def _move(self, name: str, to: Path) -> bool:
        try:
            (self._new / name).rename(to / name)
        except OSError:  # withdrawn, or a directory of somebody's: it harms nobody there
            return False
        return True

    def read(self, name: str, options: ContentOptions, public: Public, now: float) -> Handed:
        """A claimed file, checked and copied.  Raises Unfit, NotNow, OSError."""
        path = self._taken / name
        try:
            number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise Unfit(f"cannot be opened: {error.strerror}") from error
        with os.fdopen(number, "rb") as file:
            found = os.fstat(number)
            _require_plain(found, options)
            login = _login(found.st_uid)
            if not public.admits(login):
                raise Unfit(f"user {login}({found.st_uid}) may not hand in mail")
            try:
                reader = DropReader(file)
                envelope = _checked(reader.ticket.envelope)
                content = _copied(reader, options)
            except Torn as error:
                raise Unfit(str(error)) from error
        arrived = min(max(reader.ticket.arrived, 0.0), now)
        return Handed(name, found.st_uid, login, arrived, envelope, content)

    def set_aside(self, name: str) -> None:
        """Where the postmaster finds what nobody can use."""
        (self._taken / name).rename(self._corrupt / name)

    def remove(self, names: Iterable[str]) -> None:
        """Gone for good when this returns."""
        for each in names:
            (self._taken / each).unlink(missing_ok=True)
        number = os.open(self._taken, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def _require_plain(found: os.stat_result, options: ContentOptions) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise Unfit("not a regular file")
    if found.st_nlink != 1:
        raise Unfit("has another name")
    if found.st_size > options.message_size_limit + options.header_size_limit + MAX_TICKET:
        raise Unfit("larger than message_size_limit")


def _login(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""


def _checked(envelope: Envelope) -> Envelope:
    """The envelope, if a client could have sent it by SMTP.  Raises Unfit."""
    if not envelope.recipients:
        raise Unfit("no recipients")
    try:
        _path(envelope.sender, null=True)
        utf8 = parse_mail_params(_joined(envelope.sender_args), _EXTENSIONS).smtputf8
        for each in envelope.recipients:
            _path(each.address, null=False)
            parse_rcpt_params(_joined(each.args), _EXTENSIONS, utf8=utf8)
    except PathError as error:
        raise Unfit(f"bad address: {error.reason}") from error
    except ParamError as error:
        raise Unfit(f"bad parameter: {error.reason}") from error
    return envelope


def _path(address: bytes, *, null: bool) -> None:
    path, rest = parse_path(b"<%b>" % address, utf8=True, null=null)
    if rest or path.address != address:
        raise PathError("not an address alone")


def _joined(args: Sequence[bytes]) -> bytes:
    if any(not each or b" " in each or b"\t" in each for each in args):
        raise Unfit("bad parameter: white space in it")
    return b" ".join(args)


def _copied(reader: DropReader, options: ContentOptions) -> Content:
    """The message as the edge would have taken it.  Raises Torn, Unfit, NotNow."""
    data = BdatReader(options)
    try:
        for piece in reader.pieces():
            data.feed(piece)
    except BaseException:
        data.discard()
        raise
    content = data.finish()
    if isinstance(content, Answer):
        reason = f"{content.enhanced} {content.text}"
        raise Unfit(reason) if content.code >= 500 else NotNow(reason)
    return content
