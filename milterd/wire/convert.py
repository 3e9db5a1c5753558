"""Core edits and header fields, to and from their form on the wire.

On the wire a header value has LF for its folds and, unless HDR_LEADSPC was
agreed, lacks the one space after the colon; an address stands in angle brackets;
a body comes in pieces.  Both ways refuse what would become somebody else's
syntax: LocalError for our own edits, PeerError for a milter's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from milterd.core.actions import (
    AddHeader,
    AddRecipient,
    ChangeHeader,
    ChangeSender,
    DeleteRecipient,
    Edit,
    InsertHeader,
    Quarantine,
    ReplaceBody,
)
from milterd.core.mail import BytesBody, HeaderField
from milterd.wire.constants import CHUNK
from milterd.wire.errors import LocalError, PeerError
from milterd.wire.limits import Limits
from milterd.wire.messages import (
    AddHeaderReply,
    AddRcptParReply,
    AddRcptReply,
    ChangeFromReply,
    ChangeHeaderReply,
    DelRcptReply,
    EditReply,
    Header,
    InsertHeaderReply,
    QuarantineReply,
    ReplaceBodyChunk,
)

_NAME = re.compile(rb"[!-9;-~]+\Z")
_BAD_ADDRESS = re.compile(rb"[\x00-\x1f\x7f<>]")
_BAD_ARGS = re.compile(rb"[\x00-\x1f\x7f]")
_LINE_END = re.compile(rb"\r\n|\r|\n")


def value_to_wire(value: bytes, leading_space: bool) -> bytes:
    """A header value as it goes into a frame.  Nothing is checked."""
    if b"\r" in value:
        value = value.replace(b"\r\n", b"\n")
    return value if leading_space or value[:1] != b" " else value[1:]


def value_from_wire(value: bytes, leading_space: bool) -> bytes:
    """A header value as it stands after its colon.  Nothing is checked."""
    if b"\n" in value:
        value = value.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    return value if leading_space else b" " + value


def header_to_wire(header: HeaderField, leading_space: bool) -> Header:
    """The event that shows a milter this field; LocalError for a NUL comes with `encode`."""
    return Header(header.name, value_to_wire(header.value, leading_space))


def header_from_wire(header: Header, leading_space: bool) -> HeaderField:
    """The field an MTA has shown us.

    Without HDR_LEADSPC the space after the colon is a guess: nobody can know it.
    """
    return HeaderField(header.name, value_from_wire(header.value, leading_space))


def edit_to_replies(edit: Edit, leading_space: bool) -> Iterator[EditReply]:
    """The replies that ask for `edit`: one, or several for a long body.

    Raises LocalError for a header name that is none, a value whose line does
    not go on with white space, a NUL, a bare CR, or an address or argument with
    control characters.
    """
    match edit:
        case AddHeader():
            yield AddHeaderReply(_name(edit.name), _value(edit.value, leading_space))
        case InsertHeader():
            value = _value(edit.value, leading_space)
            yield InsertHeaderReply(edit.index, _name(edit.name), value)
        case ChangeHeader():
            value = _value(edit.value, leading_space)
            # An empty value would delete the field, a blank one shall not.
            value = value or edit.value
            yield ChangeHeaderReply(edit.index, _name(edit.name), value)
        case ReplaceBody():
            yield from _body(edit)
        case AddRecipient():
            args, address = _args_to_wire(edit.args), _to_brackets(edit.address, False)
            yield AddRcptParReply(address, args) if args else AddRcptReply(address)
        case DeleteRecipient():
            yield DelRcptReply(_to_brackets(edit.address, False))
        case ChangeSender():
            yield ChangeFromReply(_to_brackets(edit.address, True), _args_to_wire(edit.args))
        case Quarantine():
            yield QuarantineReply(edit.reason)


def _body(edit: ReplaceBody) -> Iterator[ReplaceBodyChunk]:
    if not edit.body.size:
        # No piece at all would mean that the old body stays.
        yield ReplaceBodyChunk(b"")
    for piece in edit.body.pieces(CHUNK):
        yield ReplaceBodyChunk(piece)


def _name(name: bytes) -> bytes:
    if not _NAME.match(name):
        raise LocalError("header name that is empty or holds other than printable ASCII")
    return name


def _is_broken(wire: bytes) -> bool:
    """Whether a value would end its field, or its line: a pattern would look at each octet."""
    if b"\0" in wire or b"\r" in wire:
        return True
    lines = wire.count(b"\n")
    return lines > 0 and lines != wire.count(b"\n ") + wire.count(b"\n\t")


def _value(value: bytes, leading_space: bool) -> bytes:
    wire = value_to_wire(value, leading_space)
    if _is_broken(wire):
        raise LocalError("header value with a NUL, a bare CR, or a line that is no continuation")
    return wire


def _to_brackets(address: bytes, null_too: bool) -> bytes:
    if _BAD_ADDRESS.search(address) or not (address or null_too):
        raise LocalError("address that is empty or holds brackets or control characters")
    return b"<%b>" % address


def _args_to_wire(args: tuple[bytes, ...]) -> bytes:
    joined = b" ".join(args)
    if _BAD_ARGS.search(joined) or joined.split() != list(args):
        raise LocalError("ESMTP argument with white space or control characters, or an empty one")
    return joined


class EditCollector:
    """Makes core edits of a milter's replies, all of one message.

    What a milter must not ask for is refused with PeerError: a header name that
    is none, a value with a NUL, a bare CR or a line that is no continuation,
    an address with control characters, body pieces with another edit between
    them, and more than `limits` allow.  The new body gets CRLF line ends
    throughout and at its end, as Postfix gives it.
    """

    __slots__ = ("_body", "_body_at", "_body_size", "_edits", "_leading_space", "_limits")

    def __init__(self, leading_space: bool, limits: Limits | None = None) -> None:
        self._leading_space = leading_space
        self._limits = limits or Limits()
        self._edits: list[Edit] = []
        self._body: list[bytes] = []
        self._body_at: int | None = None
        self._body_size = 0

    def take(self, reply: EditReply) -> None:
        """Add one reply; PeerError when it must be refused."""
        if isinstance(reply, ReplaceBodyChunk):
            self._take_body(reply.octets)
            return
        if len(self._edits) >= self._limits.edits:
            raise PeerError(f"more than {self._limits.edits} edits")
        self._edits.append(self._convert(reply))

    def edits(self) -> tuple[Edit, ...]:
        """All edits so far, in their order; a new body stands where it began."""
        if self._body_at is None:
            return tuple(self._edits)
        body = ReplaceBody(BytesBody(_whole_lines(b"".join(self._body))))
        return (*self._edits[: self._body_at], body, *self._edits[self._body_at :])

    def _take_body(self, octets: bytes) -> None:
        if self._body_at is None:
            self._body_at = len(self._edits)
        elif self._body_at != len(self._edits):
            raise PeerError("another edit between two pieces of the new body")
        self._body_size += len(octets)
        if self._body_size > self._limits.replaced_body:
            raise PeerError(f"new body over {self._limits.replaced_body} octets")
        if octets:
            self._body.append(octets)

    def _convert(self, reply: EditReply) -> Edit:
        match reply:
            case AddHeaderReply():
                return AddHeader(_peer_name(reply.name), self._peer_value(reply.value))
            case InsertHeaderReply():
                value = self._peer_value(reply.value)
                return InsertHeader(reply.index, _peer_name(reply.name), value)
            case ChangeHeaderReply():
                value = self._peer_value(reply.value) if reply.value else b""
                return ChangeHeader(_peer_name(reply.name), reply.index, value)
            case AddRcptReply():
                return AddRecipient(_from_brackets(reply.address, False))
            case AddRcptParReply():
                return AddRecipient(_from_brackets(reply.address, False), _peer_args(reply.args))
            case DelRcptReply():
                return DeleteRecipient(_from_brackets(reply.address, False))
            case ChangeFromReply():
                return ChangeSender(_from_brackets(reply.address, True), _peer_args(reply.args))
            case QuarantineReply():
                return Quarantine(reply.reason)
            case ReplaceBodyChunk():
                raise LocalError("a body piece is not an edit of its own")

    def _peer_value(self, value: bytes) -> bytes:
        if b"\n" in value or b"\r" in value or b"\0" in value:
            if _is_broken(value.replace(b"\r\n", b"\n")):
                raise PeerError("header value with a bare CR or a line that is no continuation")
            return value_from_wire(value, self._leading_space)
        return value if self._leading_space else b" " + value


def _peer_name(name: bytes) -> bytes:
    if not _NAME.match(name):
        raise PeerError("header name that is empty or holds other than printable ASCII")
    return name


def _from_brackets(address: bytes, null_too: bool) -> bytes:
    if address[:1] == b"<" and address[-1:] == b">":
        address = address[1:-1]
    if _BAD_ADDRESS.search(address) or not (address or null_too):
        raise PeerError("address that is empty or holds brackets or control characters")
    return address


def _peer_args(args: bytes) -> tuple[bytes, ...]:
    if _BAD_ARGS.search(args):
        raise PeerError("ESMTP arguments with control characters")
    return tuple(args.split())


def _whole_lines(octets: bytes) -> bytes:
    """The same text with CRLF at the end of every line, the last one included."""
    ends = octets.count(b"\r\n")
    if octets.count(b"\n") != ends or octets.count(b"\r") != ends:
        octets = _LINE_END.sub(b"\r\n", octets)
    return octets if not octets or octets.endswith(b"\r\n") else octets + b"\r\n"
