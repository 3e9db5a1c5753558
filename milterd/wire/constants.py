"""Codes and flags of the milter protocol.

Sources: libmilter's mfdef.h and mfapi.h (8.17), Postfix's milter8.c.
"""

from __future__ import annotations

import enum

OLDEST_VERSION = 2
NEWEST_VERSION = 6
CHUNK = 65535
"""The most octets libmilter takes in one payload."""


class Command(bytes, enum.Enum):
    """What an MTA sends."""

    __hash__ = bytes.__hash__  # it equals its octets; Enum's own way takes two calls

    ABORT = b"A"
    BODY = b"B"
    CONNECT = b"C"
    MACRO = b"D"
    END_OF_MESSAGE = b"E"
    HELO = b"H"
    QUIT_NEW_CONNECTION = b"K"
    HEADER = b"L"
    MAIL = b"M"
    END_OF_HEADERS = b"N"
    NEGOTIATE = b"O"
    QUIT = b"Q"
    RCPT = b"R"
    DATA = b"T"
    UNKNOWN = b"U"


class Response(bytes, enum.Enum):
    """What a milter sends; a negotiation is answered with `Command.NEGOTIATE`."""

    ADD_RCPT = b"+"
    DELETE_RCPT = b"-"
    ADD_RCPT_PAR = b"2"
    SHUTDOWN = b"4"
    ACCEPT = b"a"
    REPLACE_BODY = b"b"
    CONTINUE = b"c"
    DISCARD = b"d"
    CHANGE_FROM = b"e"
    CONN_FAIL = b"f"
    ADD_HEADER = b"h"
    INSERT_HEADER = b"i"
    CHANGE_HEADER = b"m"
    PROGRESS = b"p"
    QUARANTINE = b"q"
    REJECT = b"r"
    SKIP = b"s"
    TEMPFAIL = b"t"
    REPLY_CODE = b"y"


class Actions(enum.IntFlag, boundary=enum.KEEP):
    """Edits a milter may ask for (SMFIF_*)."""

    NONE = 0
    ADDHDRS = 0x1
    CHGBODY = 0x2
    ADDRCPT = 0x4
    DELRCPT = 0x8
    CHGHDRS = 0x10
    QUARANTINE = 0x20
    CHGFROM = 0x40
    ADDRCPT_PAR = 0x80
    SETSYMLIST = 0x100
    ALL = 0x1FF


class Protocol(enum.IntFlag, boundary=enum.KEEP):
    """Events not to be sent, events not to be answered, and extensions (SMFIP_*)."""

    NONE = 0
    NOCONNECT = 0x1
    NOHELO = 0x2
    NOMAIL = 0x4
    NORCPT = 0x8
    NOBODY = 0x10
    NOHDRS = 0x20
    NOEOH = 0x40
    NR_HDR = 0x80
    NOUNKNOWN = 0x100
    NODATA = 0x200
    SKIP = 0x400
    RCPT_REJ = 0x800
    NR_CONN = 0x1000
    NR_HELO = 0x2000
    NR_MAIL = 0x4000
    NR_RCPT = 0x8000
    NR_DATA = 0x10000
    NR_UNKN = 0x20000
    NR_EOH = 0x40000
    NR_BODY = 0x80000
    HDR_LEADSPC = 0x100000
    ALL = 0x1FFFFF


class Stage(enum.IntEnum):
    """When macros are sent, as a milter names it in its lists (SMFIM_*)."""

    CONNECT = 0
    HELO = 1
    MAIL = 2
    RCPT = 3
    DATA = 4
    END_OF_MESSAGE = 5
    END_OF_HEADERS = 6


_V2_PROTOCOL = Protocol(0x7F)
_V2_ACTIONS = Actions(0x3F)

PROTOCOL_OF_VERSION = {
    2: _V2_PROTOCOL,
    3: _V2_PROTOCOL | Protocol.NOUNKNOWN,
    4: _V2_PROTOCOL | Protocol.NOUNKNOWN | Protocol.NODATA,
    5: _V2_PROTOCOL | Protocol.NOUNKNOWN | Protocol.NODATA,
    6: Protocol.ALL,
}
"""What Postfix offers in each version."""

ACTIONS_OF_VERSION = {
    2: _V2_ACTIONS,
    3: _V2_ACTIONS,
    4: _V2_ACTIONS,
    5: _V2_ACTIONS,
    6: Actions.ALL,
}
"""The edits that existed in each version."""

STAGE_OF_COMMAND = {
    Command.CONNECT: Stage.CONNECT,
    Command.HELO: Stage.HELO,
    Command.MAIL: Stage.MAIL,
    Command.RCPT: Stage.RCPT,
    Command.DATA: Stage.DATA,
    Command.END_OF_HEADERS: Stage.END_OF_HEADERS,
    Command.END_OF_MESSAGE: Stage.END_OF_MESSAGE,
}
"""Which of a milter's macro lists goes with a command; the others have none."""
