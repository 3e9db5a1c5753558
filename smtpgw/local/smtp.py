"""`sendmail -bs`: SMTP on standard input and output, for one user of this machine.

The mail goes where that of the command goes.  Lines may end in LF, as nobody else's mail
can be in this stream; a message is never answered 250 before it is on the disk.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import BinaryIO

from milterd.core.mail import Envelope, Recipient
from smtpgw.address.params import ParamError, parse_mail_params, parse_rcpt_params
from smtpgw.address.path import PathError, parse_path
from smtpgw.local import message
from smtpgw.local.drop import Public

Submit = Callable[[Envelope, message.Message], str]
"""Hands in a mail; its name.  Raises TooLarge, OSError."""

_ANNOUNCED = ("SIZE", "8BITMIME", "SMTPUTF8", "DSN")
_LINE = 4096
_ERRORS = 20
_RECIPIENTS = 1000
_BARE = re.compile(rb"\s*<([^@<>\s\"]+)>", re.ASCII)


class _Bad(Exception):  # noqa: N818 - a reply that is raised
    """A command that is refused with this reply."""


@dataclass(slots=True)
class _Mail:
    sender: bytes
    args: tuple[bytes, ...]
    utf8: bool
    recipients: list[Recipient] = field(default_factory=list)


class Dialogue:
    """One conversation.  Call :meth:`run`."""

    def __init__(self, stream: BinaryIO, out: BinaryIO, public: Public, submit: Submit) -> None:
        self._in, self._out, self._public, self._submit = stream, out, public, submit
        self._mail: _Mail | None = None
        self._errors = 0

    def run(self) -> None:
        """Until QUIT or the end of input.  Raises OSError where the user is gone."""
        self._say(f"220 {self._public.myorigin} ESMTP Gatepost")
        while line := self._in.readline(_LINE):
            try:
                if self._command(line):
                    return
            except _Bad as error:
                self._errors += 1
                self._say(str(error))
            except EOFError:
                return  # in mid-message: it was not answered, so it was not taken
            if self._errors > _ERRORS:
                self._say("421 4.7.0 Error: too many errors")
                return

    def _say(self, text: str) -> None:
        self._out.write(text.encode("utf-8", "replace") + b"\r\n")
        self._out.flush()

    def _command(self, line: bytes) -> bool:
        if not line.endswith(b"\n"):
            self._skip_line()
            raise _Bad("500 5.5.2 Error: line too long")
        verb, _, rest = line.strip().partition(b" ")
        match verb.upper():
            case b"QUIT":
                self._say("221 2.0.0 Bye")
                return True
            case b"HELO" | b"EHLO" | b"RSET" | b"NOOP" | b"VRFY":
                self._simple(verb.upper())
            case b"MAIL":
                self._mail_from(rest)
            case b"RCPT":
                self._rcpt_to(rest)
            case b"DATA":
                self._data()
            case _:
                raise _Bad("500 5.5.2 Error: command not recognized")
        return False

    def _skip_line(self) -> None:
        while (piece := self._in.readline(_LINE)) and not piece.endswith(b"\n"):
            pass

    def _simple(self, verb: bytes) -> None:
        if verb == b"VRFY":
            self._say("252 2.0.0 Send it, and see")
            return
        if verb != b"NOOP":
            self._mail = None
        if verb != b"EHLO":
            self._say("250 2.0.0 Ok")
            return
        for each in ("PIPELINING", f"SIZE {self._public.message_size_limit}", *_ANNOUNCED[1:]):
            self._say(f"250-{each}")
        self._say("250 ENHANCEDSTATUSCODES")

    def _mail_from(self, rest: bytes) -> None:
        if self._mail is not None:
            raise _Bad("503 5.5.1 Error: nested MAIL command")
        octets = self._argument(rest, b"FROM:")
        try:
            path, after = parse_path(octets, utf8=True)
            params = parse_mail_params(after, _ANNOUNCED)
        except PathError as error:
            raise _Bad(f"501 5.1.7 {error.reason}") from None
        except ParamError as error:
            raise _Bad(f"{error.code} {error.enhanced} {error.reason}") from None
        if (params.size or 0) > self._public.message_size_limit:
            raise _Bad("552 5.3.4 Message size exceeds fixed limit")
        self._mail = _Mail(path.address, params.args, params.smtputf8)
        self._say("250 2.1.0 Ok")

    def _rcpt_to(self, rest: bytes) -> None:
        if self._mail is None:
            raise _Bad("503 5.5.1 Error: need MAIL command")
        if len(self._mail.recipients) >= _RECIPIENTS:
            raise _Bad("452 4.5.3 Error: too many recipients")
        octets = self._argument(rest, b"TO:")
        try:
            path, after = parse_path(octets, utf8=True, null=False)
            params = parse_rcpt_params(after, _ANNOUNCED, utf8=self._mail.utf8)
        except PathError as error:
            raise _Bad(f"501 5.1.3 {error.reason}") from None
        except ParamError as error:
            raise _Bad(f"{error.code} {error.enhanced} {error.reason}") from None
        self._mail.recipients.append(Recipient(path.address, params.args))
        self._say("250 2.1.5 Ok")

    def _argument(self, rest: bytes, keyword: bytes) -> bytes:
        """What follows the keyword; a bare name gets our domain."""
        if rest[: len(keyword)].upper() != keyword:
            raise _Bad(f"501 5.5.4 Syntax: expected {keyword.decode()}<address>")
        octets = rest[len(keyword) :]
        domain = self._public.myorigin.encode()
        return _BARE.sub(lambda match: b"<%b@%b>" % (match[1], domain), octets, count=1)

    def _data(self) -> None:
        if self._mail is None or not self._mail.recipients:
            raise _Bad("503 5.5.1 Error: need RCPT command")
        mail, self._mail = self._mail, None
        self._say("354 End data with <CR><LF>.<CR><LF>")
        lines = message.lines(self._in, dots=True, stuffed=True)
        envelope = Envelope(mail.sender, mail.args, tuple(mail.recipients))
        try:
            whole = message.Message(
                lines,
                header_limit=self._public.header_size_limit,
                limit=self._public.message_size_limit,
            )
            name = self._submit(envelope, whole)
        except message.TooLarge as error:
            reply = f"552 5.3.4 {error}"
        except OSError as error:
            reply = f"451 4.3.0 Error: queue file write error: {error.strerror}"
        else:
            self._say(f"250 2.0.0 Ok: handed in as {name}")
            return
        for _ in lines:  # to the end of the message: commands follow it
            pass
        raise _Bad(reply)
