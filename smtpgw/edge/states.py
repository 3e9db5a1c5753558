"""The order of commands (RFC 5321 section 4.1.4), as one table.

`REFUSALS[state][verb]` is the answer to a verb out of its turn; a verb that is
not in a state's row may be used there.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping

from smtpgw.edge.road import Answer


class State(enum.Enum):
    """Where a dialogue stands."""

    __hash__ = object.__hash__  # there is one of each, and Enum's own way takes two calls

    START = "no EHLO or HELO yet"
    GREETED = "greeted, no transaction"
    MAIL = "a sender, no recipient"
    REFUSED = "a sender, and every recipient refused"
    RCPT = "a sender and recipients"
    CHUNKS = "some BDAT chunks"

    @property
    def in_transaction(self) -> bool:
        """Whether a MAIL was accepted that is not settled yet."""
        return self not in (State.START, State.GREETED)


HELLO_FIRST = Answer(503, "5.5.1", "Send EHLO or HELO first")
MAIL_FIRST = Answer(503, "5.5.1", "Need MAIL command")
RCPT_FIRST = Answer(503, "5.5.1", "Need RCPT command")
NESTED_MAIL = Answer(503, "5.5.1", "Nested MAIL command")
NO_RECIPIENTS = Answer(554, "5.5.1", "No valid recipients")
AFTER_BDAT = Answer(503, "5.5.1", "Not permitted after BDAT")
IN_TRANSACTION = Answer(503, "5.5.1", "Not permitted during a mail transaction")

_NOT_DURING = dict.fromkeys(("STARTTLS", "ETRN", "AUTH"), IN_TRANSACTION)
_WITH_SENDER = {"MAIL": NESTED_MAIL, **_NOT_DURING}

REFUSALS: Mapping[State, Mapping[str, Answer]] = {
    State.START: dict.fromkeys(
        ("MAIL", "RCPT", "DATA", "BDAT", "STARTTLS", "ETRN", "AUTH"), HELLO_FIRST
    ),
    State.GREETED: dict.fromkeys(("RCPT", "DATA", "BDAT"), MAIL_FIRST),
    State.MAIL: {**_WITH_SENDER, "DATA": RCPT_FIRST, "BDAT": RCPT_FIRST},
    State.REFUSED: {**_WITH_SENDER, "DATA": NO_RECIPIENTS, "BDAT": NO_RECIPIENTS},
    State.RCPT: _WITH_SENDER,
    State.CHUNKS: {
        **dict.fromkeys(("MAIL", "RCPT", "DATA"), AFTER_BDAT),
        **_NOT_DURING,
    },
}
