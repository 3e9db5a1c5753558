"""sendmail(1): hand in a mail, whether the gateway runs or not.

Exit codes are those of sysexits.h.  0 means that the mail is on the disk in the drop
directory; 75 that it is not and may be tried again, with nothing left behind.
"""

from __future__ import annotations

import os
import pwd
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import BinaryIO, NoReturn

from milterd.core.mail import CRLF, Envelope, join_header
from smtpgw.local import drop, message
from smtpgw.local.compose import Identity, Refused, complete, envelope
from smtpgw.local.options import Mode, Options, UsageError, parse
from smtpgw.local.writer import DropFile

EX_USAGE, EX_NOINPUT, EX_UNAVAILABLE, EX_SOFTWARE, EX_OSERR = 64, 66, 69, 70, 71
EX_TEMPFAIL, EX_NOPERM, EX_CONFIG = 75, 77, 78

SETTINGS = "/etc/gatepost/gatepost.toml"
"""Asked for the drop directory where it is not at its default place."""


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status."""
    words = sys.argv if argv is None else argv
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _ended)
    try:
        return run(parse(words[1:], os.path.basename(words[0])), os.environ)  # noqa: PTH119 - pathlib costs a quarter of the start
    except UsageError as error:
        return _complain(EX_USAGE, str(error))
    except Refused as error:
        return _complain(error.status, str(error))
    except message.TooLarge as error:
        return _complain(EX_UNAVAILABLE, str(error))
    except OSError as error:
        return _complain(EX_TEMPFAIL, f"{error}; nothing was queued, try again later")
    except Exception as error:  # noqa: BLE001 - whatever it is, the caller gets an exit code
        return _complain(EX_SOFTWARE, f"internal error: {error!r}")


def _ended(number: int, _frame: object) -> NoReturn:
    """What is under way is removed on the way out."""
    raise SystemExit(_complain(EX_TEMPFAIL, f"ended by signal {number}; nothing was queued"))


def _complain(status: int, text: str) -> int:
    if sys.stderr is not None:
        shown = text.encode("ascii", "backslashreplace").decode()
        sys.stderr.write(f"sendmail: {shown}\n")
    return status


def run(options: Options, environ: Mapping[str, str]) -> int:
    """Do what the options say.  Raises UsageError, Refused, TooLarge, OSError."""
    if options.mode is Mode.NOTHING:
        return 0  # there is no alias database to be made anew
    if options.mode in (Mode.LIST, Mode.FLUSH):
        return _queue(options)
    directory = place(options.settings or environ.get("GATEPOST_CONFIG"))
    public = _public(directory)
    sender = _Sender(directory, public, _identity(options, public, environ))
    stream = _stdin()
    if options.mode is Mode.SMTP:
        if options.recipients or options.from_header:
            raise UsageError("recipients go with RCPT in SMTP mode (-bs)")
        return _smtp(stream, public, sender)
    if not (options.recipients or options.from_header):
        envelope((), options, sender.who)  # says so before a terminal's user types a mail
    lines = message.lines(stream, dots=options.dots)
    whole = message.Message(
        _read(lines), header_limit=public.header_size_limit, limit=public.message_size_limit
    )
    sender.submit(envelope(whole.fields, options, sender.who), whole)
    return 0


class _Sender:
    """Writes mails of one user to the drop directory."""

    def __init__(self, directory: str, public: drop.Public, who: Identity) -> None:
        self._directory, self._public, self.who = directory, public, who

    def submit(self, to: Envelope, whole: message.Message) -> str:
        """Its name, once it is on the disk.  Raises TooLarge, OSError."""
        fields = complete(whole.fields, to.sender, self.who)
        ticket = drop.Ticket(to, time.time())
        with DropFile(self._directory, ticket) as file:
            file.write(join_header(fields) + CRLF)
            for piece in whole.body():
                file.write(piece)
            return file.commit()


def _smtp(stream: BinaryIO, public: drop.Public, sender: _Sender) -> int:
    from smtpgw.local.smtp import Dialogue

    Dialogue(stream, sys.stdout.buffer, public, sender.submit).run()
    return 0


def _read(lines: Iterator[bytes]) -> Iterator[bytes]:
    """The same lines; input that cannot be read is the caller's fault, not the disk's."""
    try:
        yield from lines
    except OSError as error:
        raise Refused(EX_NOINPUT, f"standard input: {error.strerror}") from error


def _stdin() -> BinaryIO:
    if sys.stdin is None:
        raise Refused(EX_NOINPUT, "standard input is closed")
    return sys.stdin.buffer


def place(settings: str | None) -> str:
    """The drop directory by a settings file; without one, by the default settings file where it
    may be read and speaks of directories, else where it is by default.  Raises Refused
    (EX_CONFIG)."""
    if settings is not None:
        return _place_in(settings)
    there = os.path.exists(os.path.join(drop.DEFAULT, drop.PUBLIC))  # noqa: PTH110, PTH118 - as above
    if there and not _names_directories(SETTINGS):
        return drop.DEFAULT
    if not os.access(SETTINGS, os.R_OK):
        return drop.DEFAULT
    try:
        return _place_in(SETTINGS)
    except Refused:
        if there:
            return drop.DEFAULT  # it is being edited: mail is taken meanwhile
        raise


def _names_directories(settings: str) -> bool:
    """Whether it is worth the time to read all of it: the directory that is there by default may
    be one that the gateway had before."""
    try:
        with open(settings, "rb") as file:  # noqa: PTH123 - as above
            return any(b"directory" in line and not line.lstrip().startswith(b"#") for line in file)
    except OSError:
        return False


def _place_in(settings: str) -> str:
    import tomllib  # only here: it would cost every other start

    try:
        with open(settings, "rb") as file:  # noqa: PTH123 - as above
            queue = tomllib.load(file).get("smtpgw", {}).get("queue", {})
        default = os.path.dirname(drop.DEFAULT)  # noqa: PTH120 - as above
        within = os.path.join(str(queue.get("directory", default)), "drop")  # noqa: PTH118 - as above
        return str(queue.get("drop_directory") or within)
    except (OSError, ValueError, AttributeError) as error:
        raise Refused(EX_CONFIG, f"{settings}: {error}") from error


def _public(directory: str) -> drop.Public:
    path = os.path.join(directory, drop.PUBLIC)  # noqa: PTH118 - as above
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - as above
            return drop.Public.decode(file.read(65536))
    except OSError as error:
        reason = f"{path}: {error.strerror} (the gateway makes it at its first start)"
        raise Refused(EX_TEMPFAIL, reason) from error
    except ValueError as error:
        raise Refused(EX_CONFIG, f"{path}: {error}") from error


def _identity(options: Options, public: drop.Public, environ: Mapping[str, str]) -> Identity:
    """Who runs this.  Raises Refused: EX_OSERR for nobody known, EX_NOPERM for who may not."""
    try:
        user = pwd.getpwuid(os.getuid())
        login, gecos = user.pw_name, user.pw_gecos
    except KeyError:
        login, gecos = "", ""
    if not public.admits(login):
        raise Refused(EX_NOPERM, f"user {login}({os.getuid()}) may not hand in mail")
    if not login and options.sender is None:
        raise Refused(EX_OSERR, f"nobody is known by the number {os.getuid()}: use -f")
    own = gecos.partition(",")[0].replace("&", login.capitalize())
    name = options.full_name
    return Identity(login, environ.get("NAME", own) if name is None else name, public.myorigin)


def _queue(options: Options) -> int:
    """mailq and flushing, which are the gateway's own command."""
    words = ["list"] if options.mode is Mode.LIST else ["flush", *(options.flush or ("ALL",))]
    if options.settings is not None:
        words += ["--config", options.settings]
    # Without -P, Python would load what stands in the user's working directory.
    command = [sys.executable, "-Pm", "smtpgw", "queue", *words]
    os.execv(sys.executable, command)  # noqa: S606 - a fixed program, no shell


if __name__ == "__main__":
    raise SystemExit(main())
