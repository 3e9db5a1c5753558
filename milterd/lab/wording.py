"""Packets in words: a name and the fields, for a reader's line or a program's JSON.

Octets are escaped; bodies are told by their size.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping

from milterd.base.escaping import escape
from milterd.lab.link import STAGES, Side
from milterd.wire import messages as m
from milterd.wire.constants import Command
from milterd.wire.errors import PeerError

_WIDTH = 2000
Value = str | int | list[str] | dict[str, list[str]]
Fields = dict[str, Value]

REPLIES: Mapping[type[m.Reply], str] = {
    m.Continue: "continue",
    m.Accept: "accept",
    m.Reject: "reject",
    m.TempFail: "tempfail",
    m.Discard: "discard",
    m.Skip: "skip",
    m.Progress: "progress",
    m.ConnFail: "connection failed",
    m.Shutdown: "shutdown",
    m.ReplyCode: "reply",
    m.AddHeaderReply: "add header",
    m.InsertHeaderReply: "insert header",
    m.ChangeHeaderReply: "change header",
    m.ReplaceBodyChunk: "replace body",
    m.AddRcptReply: "add recipient",
    m.AddRcptParReply: "add recipient",
    m.DelRcptReply: "delete recipient",
    m.ChangeFromReply: "change sender",
    m.QuarantineReply: "quarantine",
}
"""What a milter says, where a person reads it."""

_OF_COMMAND = {
    Command.CONNECT: "connect", Command.HELO: "helo", Command.MAIL: "mail",
    Command.RCPT: "rcpt", Command.DATA: "data", Command.HEADER: "header",
    Command.END_OF_HEADERS: "end of headers", Command.BODY: "body",
    Command.END_OF_MESSAGE: "end of message", Command.UNKNOWN: "unknown",
    Command.ABORT: "abort", Command.QUIT: "quit", Command.MACRO: "macros",
    Command.NEGOTIATE: "negotiate", Command.QUIT_NEW_CONNECTION: "quit, new connection",
}  # fmt: skip


def readable(octets: bytes) -> str:
    """Octets as one line of text without control characters."""
    return escape(octets.decode("utf-8", "backslashreplace"), _WIDTH)


def decoded(side: Side, packet: bytes) -> m.CommandMessage | m.Reply:
    """What a whole packet, its length included, means.  PeerError if nothing."""
    decode = m.decode_command if side == "mta" else m.decode_reply
    return decode(packet[4], packet[5:])


def told(side: Side, packet: bytes) -> tuple[str, Fields]:
    """A whole packet as a name and fields; `unreadable` where it means nothing."""
    try:
        message = decoded(side, packet)
    except PeerError as error:
        return "unreadable", {
            "code": readable(packet[4:5]),
            "octets": len(packet),
            "why": error.reason,
        }
    return name_of(message), fields_of(message)


def name_of(message: m.CommandMessage | m.Reply) -> str:
    """The packet's name: `mail`, `add header`."""
    if isinstance(message, m.Macros):
        return "macros"
    if isinstance(message, m.ChangeHeaderReply) and not message.value:
        return "delete header"
    return STAGES.get(type(message)) or REPLIES[type(message)]  # type: ignore[arg-type, index]


def fields_of(message: m.CommandMessage | m.Reply) -> Fields:
    """What a packet carries."""
    match message:
        case m.Negotiate():
            return _negotiation(message)
        case m.Connect():
            return _connect(message)
        case m.Macros():
            pairs = {readable(name): readable(value) for name, value in message.values}
            return {"for": _OF_COMMAND[message.command], **pairs}
        case m.MailFrom() | m.RcptTo():
            return _address(message.address, [readable(each) for each in message.args])
        case m.AddRcptParReply() | m.ChangeFromReply():
            return _address(message.address, [readable(message.args)] if message.args else [])
        case m.AddRcptReply() | m.DelRcptReply():
            return _address(message.address, [])
        case m.Header() | m.AddHeaderReply():
            return {"name": readable(message.name), "value": readable(message.value)}
        case m.InsertHeaderReply() | m.ChangeHeaderReply():
            found: Fields = {"index": message.index, "name": readable(message.name)}
            return found | ({"value": readable(message.value)} if message.value else {})
        case m.Helo():
            return {"name": readable(message.name)}
        case m.Unknown():
            return {"line": readable(message.line)}
        case m.ReplyCode():
            return {"text": readable(message.text)}
        case m.QuarantineReply():
            return {"reason": readable(message.reason)}
        case m.BodyChunk() | m.ReplaceBodyChunk():
            return {"octets": len(message.octets)}
        case m.EndOfMessage() if message.octets:
            return {"octets": len(message.octets)}
    return {}


def line(fields: Fields) -> str:
    """Fields as words: `name=value`, several values apart by commas."""
    return " ".join(f"{name}={_word(value)}" for name, value in fields.items())


def _word(value: Value) -> str:
    if isinstance(value, dict):
        return ",".join(f"{name}({' '.join(each)})" for name, each in value.items()) or "-"
    return (",".join(value) or "-") if isinstance(value, list) else str(value)


def _negotiation(message: m.Negotiate) -> Fields:
    found: Fields = {
        "version": message.version,
        "actions": flags(message.actions),
        "protocol": flags(message.protocol),
    }
    if message.macros:
        found["macros"] = {
            stage.name.lower().replace("_", " "): list(names)
            for stage, names in message.macros.items()
        }
    return found


def flags(value: enum.IntFlag) -> list[str]:
    """The names of the bits that are set; a bit without one as a number."""
    known = [each for each in type(value) if each & value]
    rest = int(value)
    for each in known:
        rest &= ~int(each)
    return [str(each.name) for each in known] + ([f"{rest:#x}"] if rest else [])


def _connect(message: m.Connect) -> Fields:
    found: Fields = {"host": readable(message.host), "family": message.family.name.lower()}
    if message.address:
        found |= {"address": readable(message.address), "port": message.port}
    return found


def _address(address: bytes, args: list[str]) -> Fields:
    found: Fields = {"address": readable(address)}
    return found | ({"args": args} if args else {})
