"""A dialogue that takes no mail: it learns who wants to send what, and refuses every recipient.

Sans-IO: octets in, octets out.  What it answers is postscreen's word, with its syntax, which is
looser than ours, its limits, and its sudden ends.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from smtpgw.edge.road import Answer
from smtpgw.screen.deep import Deep, Offence
from smtpgw.screen.options import ScreenOptions, softened

BYE = Answer(221, "2.0.0", "Bye", hangup=True)
NOT_RECOGNIZED = Answer(502, "5.5.2", "Error: command not recognized")
NOT_IMPLEMENTED = Answer(502, "5.5.1", "Error: command not implemented")
HELO_FIRST = Answer(503, "5.5.1", "Error: send HELO/EHLO first")
NESTED = Answer(503, "5.5.1", "Error: nested MAIL command")
MAIL_FIRST = Answer(503, "5.5.1", "Error: need MAIL command")
RCPT_FIRST = Answer(503, "5.5.1", "Error: need RCPT command", hangup=True)
NOBODY = Answer(554, "5.5.1", "Error: no valid recipients", hangup=True)
CHUNK_BEFORE_MAIL = Answer(554, "5.5.1", "Error: need MAIL command", hangup=True)
OK = Answer(250, "2.0.0", "Ok")
TLS_ALREADY = Answer(554, "5.5.1", "Error: TLS already active")
TLS_FIRST = Answer(530, "5.7.0", "Must issue a STARTTLS command first")
_BEFORE_TLS = frozenset({b"HELO", b"EHLO", b"STARTTLS", b"NOOP", b"QUIT"})

LONGEST_NAME = 512
"""Octets of a helo name, a sender or a recipient that are kept."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A recipient that is refused: what the log tells."""

    answer: Answer
    helo: bytes
    sender: bytes
    recipient: bytes
    esmtp: bool


Told = Callable[[Wanted], Answer]
"""Hears of each recipient, and gives the answer as the client is to hear it."""


def _as_it_is(wanted: Wanted) -> Answer:
    return wanted.answer


@dataclass(slots=True)
class Output:
    """What came of some octets: `reply` to send; whether the connection ends, or TLS begins;
    the tests failed; `clipped`, the limit that ended it."""

    reply: bytes = b""
    ends: bool = False
    tls: bool = False
    offences: list[Offence] = field(default_factory=list)
    clipped: str = ""


class Dummy:
    """One client's.  `refuse` is the answer to its recipients, `wall` gives seconds since 1970."""

    def __init__(
        self,
        options: ScreenOptions,
        refuse: Answer,
        deep: Deep,
        wall: Callable[[], float],
        told: Told = _as_it_is,
    ) -> None:
        self._options, self._deep, self._wall, self._told = options, deep, wall, told
        self.refuse = refuse
        self.helo: bytes | None = None
        self.sender: bytes | None = None
        self.esmtp = self.secure = False
        self._buffer = bytearray()
        self._searched = 0
        self._commands = 0
        self._verbs: dict[bytes, Callable[[bytes], Answer]] = {
            b"HELO": self._helo, b"EHLO": self._ehlo, b"MAIL": self._mail,
            b"DATA": self._data, b"BDAT": self._bdat, b"RSET": self._rset,
            b"NOOP": lambda _: OK, b"VRFY": self._vrfy, b"ETRN": self._etrn,
            b"QUIT": lambda _: BYE,
        }  # fmt: skip

    def feed(self, data: bytes) -> Output:
        """Octets came; all whole commands among them are answered."""
        self._buffer += data
        output = Output()
        while not (output.ends or output.tls):
            end = self._buffer.find(b"\n", self._searched)
            self._searched = len(self._buffer)
            if (end if end >= 0 else len(self._buffer)) > self._options.line_limit:
                self._end(output, self._unavailable(), "command length")
            elif end < 0:
                break
            else:
                line = bytes(self._buffer[: end + 1])
                del self._buffer[: end + 1]
                self._searched = 0
                self._one(line, output)
        return output

    def secured(self) -> None:
        """TLS is on: what was said before is forgotten (RFC 3207 section 4.2)."""
        self.secure = True
        self.helo = self.sender = None
        self._buffer.clear()
        self._searched = 0

    def _one(self, line: bytes, output: Output) -> None:
        now = self._wall()
        if not line.endswith(b"\r\n") and self._offended(
            self._deep.bare_newline(line, now), output
        ):
            return
        text = line[: -2 if line.endswith(b"\r\n") else -1]
        word, _, argument = text.lstrip(b" ").partition(b" ")
        verb = word.upper()
        rest = bytes(self._buffer[:200])
        if self._offended(self._deep.command(word, line, now), output):
            return
        if self._offended(self._deep.more_waits(word, rest, now), output):
            return
        if verb == b"RCPT":
            self._deep.recipient(now)
        self._commands += 1
        if self._commands > self._options.command_count_limit and verb != b"QUIT":
            self._end(output, self._unavailable(), "command count")
            return
        self._answer(verb, argument.strip(b" "), output)

    def _answer(self, verb: bytes, argument: bytes, output: Output) -> None:
        options = self._options
        if options.tls_required and not self.secure and verb not in _BEFORE_TLS:
            known = verb in self._verbs or verb == b"RCPT"
            answer = TLS_FIRST if known else NOT_RECOGNIZED
        elif verb == b"RCPT":
            answer = self._rcpt(argument)
        elif verb == b"STARTTLS":
            answer = self._starttls(argument, output)
            if output.tls:
                return
        else:
            handle = self._verbs.get(verb)
            answer = NOT_RECOGNIZED if handle is None else handle(argument)
        output.reply += softened(answer, options.soft_bounce).encode()
        output.ends = answer.hangup

    def _offended(self, offence: Offence | None, output: Output) -> bool:
        """Note an offence; whether the dialogue is over by it."""
        if offence is None:
            return False
        output.offences.append(offence)
        if offence.refuse is not None:
            self.refuse = offence.refuse
        if offence.part is not None:
            self._end(output, offence.part)
        return offence.part is not None

    def _end(self, output: Output, answer: Answer, limit: str = "") -> None:
        output.reply += softened(answer, self._options.soft_bounce).encode()
        output.ends, output.clipped = True, limit

    def _unavailable(self) -> Answer:
        host = self._options.myhostname
        return Answer(421, "", f"{host} Service unavailable - try again later", hangup=True)

    def _helo(self, argument: bytes) -> Answer:
        if not argument:
            return Answer(501, "", "Syntax: HELO hostname")
        self.helo, self.sender = _first(argument), None
        return Answer(250, "", self._options.myhostname)

    def _ehlo(self, argument: bytes) -> Answer:
        if not argument:
            return Answer(501, "", "Syntax: EHLO hostname")
        self.helo, self.sender, self.esmtp = _first(argument), None, True
        options = self._options
        offer = [options.myhostname, f"SIZE {options.message_size_limit}"]
        offer += [] if options.disable_vrfy else ["VRFY"]
        offer += ["ETRN"] if options.etrn else []
        offer += ["STARTTLS"] if options.starttls and not self.secure else []
        offer += ["ENHANCEDSTATUSCODES", "8BITMIME", "DSN", "SMTPUTF8", "CHUNKING"]
        return Answer(250, "", "\n".join(offer))

    def _mail(self, argument: bytes) -> Answer:
        if self._options.helo_required and self.helo is None:
            return HELO_FIRST
        if self.sender is not None:
            return NESTED
        if b":" not in argument:
            return Answer(501, "5.5.4", "Syntax: MAIL FROM:<address>")
        self.sender = _address(argument)
        return Answer(250, "2.1.0", "Ok")

    def _rcpt(self, argument: bytes) -> Answer:
        if self.sender is None:
            return MAIL_FIRST
        if b":" not in argument:
            return Answer(501, "5.5.4", "Syntax: RCPT TO:<address>")
        answer = softened(self.refuse, self._options.soft_bounce)
        recipient = _address(argument)
        return self._told(Wanted(answer, self.helo or b"", self.sender, recipient, self.esmtp))

    def _data(self, argument: bytes) -> Answer:
        if argument:
            return Answer(501, "5.5.4", "Syntax: DATA", hangup=True)
        return RCPT_FIRST if self.sender is None else NOBODY

    def _bdat(self, argument: bytes) -> Answer:
        if not argument:
            return Answer(501, "5.5.4", "Syntax: BDAT count [LAST]", hangup=True)
        return CHUNK_BEFORE_MAIL if self.sender is None else NOBODY

    def _rset(self, _argument: bytes) -> Answer:
        self.sender = None
        return OK

    def _vrfy(self, argument: bytes) -> Answer:
        if not argument:
            return Answer(501, "5.5.4", "Syntax: VRFY address")
        if self._options.disable_vrfy:
            return Answer(502, "5.5.1", "VRFY command is disabled")
        return self.refuse

    def _etrn(self, argument: bytes) -> Answer:
        if self._options.helo_required and self.helo is None:
            return HELO_FIRST
        if not argument:
            return Answer(500, "", "Syntax: ETRN domain")
        return Answer(458, "", "Unable to queue messages")

    def _starttls(self, argument: bytes, output: Output) -> Answer:
        if argument:
            return Answer(501, "5.5.4", "Syntax: STARTTLS")
        if self.secure:
            return TLS_ALREADY
        if not self._options.starttls:
            return NOT_IMPLEMENTED
        output.tls = True
        return OK


def _first(argument: bytes) -> bytes:
    return argument.partition(b" ")[0][:LONGEST_NAME]


def _address(argument: bytes) -> bytes:
    """What stands behind the colon, without brackets, quotes and a route: for the log only."""
    text = argument.partition(b":")[2].lstrip(b" ")
    until = b" "
    if text.startswith(b"<"):
        text, until = text[1:], b">"
    found = bytearray()
    quoted = escaped = False
    for each in text[: 4 * LONGEST_NAME]:
        octet = bytes((each,))
        if escaped:
            escaped = False
        elif octet == b"\\":
            escaped = True
            continue
        elif octet == b'"':
            quoted = not quoted
            continue
        elif octet == until and not quoted:
            break
        found += octet
    address = bytes(found)
    if address.startswith(b"@") and b":" in address:
        address = address.partition(b":")[2]
    return address[:LONGEST_NAME]
