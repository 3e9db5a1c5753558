"""What a milter sends to an MTA, as frozen values; each encodes itself into a frame.

Edits are in wire form here: addresses in angle brackets, header values with LF
for their folds; :mod:`milterd.wire.convert` makes core edits of them and back.
`encode` raises LocalError for values that no frame can carry.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from milterd.core.values import value
from milterd.wire.codec import (
    pack_number,
    pack_strings,
    unpack_nothing,
    unpack_number,
    unpack_strings,
)
from milterd.wire.commands import Negotiate, decode_negotiate
from milterd.wire.constants import Command, Response
from milterd.wire.errors import PeerError
from milterd.wire.frames import frame


@dataclass(frozen=True, slots=True)
class Continue:
    """Go on."""

    def encode(self) -> bytes:
        """The frame."""
        return frame(Response.CONTINUE)


@dataclass(frozen=True, slots=True)
class Accept:
    """Take this message (at MAIL and later) or this whole session without asking again."""

    def encode(self) -> bytes:
        """The frame."""
        return frame(Response.ACCEPT)


@dataclass(frozen=True, slots=True)
class Reject:
    """Refuse for good, with the MTA's own text."""

    def encode(self) -> bytes:
        """The frame."""
        return frame(Response.REJECT)


@dataclass(frozen=True, slots=True)
class TempFail:
    """Refuse for now, with the MTA's own text."""

    def encode(self) -> bytes:
        """The frame."""
        return frame(Response.TEMPFAIL)


@dataclass(frozen=True, slots=True)
class Discard:
    """Say yes to the client and drop the message."""

    def encode(self) -> bytes:
        """The frame."""
        return frame(Response.DISCARD)


@dataclass(frozen=True, slots=True)
class Skip:
    """Send no more events of this kind for now (needs Protocol.SKIP)."""

    def encode(self) -> bytes:
        """The frame."""
        return frame(Response.SKIP)


@dataclass(frozen=True, slots=True)
class Progress:
    """Still at work: wait on.  The answer is still to come."""

    def encode(self) -> bytes:
        """The frame."""
        return frame(Response.PROGRESS)


@dataclass(frozen=True, slots=True)
class ConnFail:
    """Make as if the connection to this milter had failed."""

    def encode(self) -> bytes:
        """The frame."""
        return frame(Response.CONN_FAIL)


@dataclass(frozen=True, slots=True)
class Shutdown:
    """Answer 421 and hang up on the client."""

    def encode(self) -> bytes:
        """The frame."""
        return frame(Response.SHUTDOWN)


@dataclass(frozen=True, slots=True)
class ReplyCode:
    """Refuse with this SMTP reply; :mod:`milterd.wire.replytext` reads and makes the text."""

    text: bytes

    def encode(self) -> bytes:
        """The frame."""
        return frame(Response.REPLY_CODE, pack_strings(self.text))


@value
class AddHeaderReply:
    """Append a header field."""

    name: bytes
    value: bytes

    def encode(self) -> bytes:
        """The frame."""
        return frame(Response.ADD_HEADER, pack_strings(self.name, self.value))


@value
class InsertHeaderReply:
    """Insert a header field before the `index`-th of all, from 0."""

    index: int
    name: bytes
    value: bytes

    def encode(self) -> bytes:
        """The frame."""
        strings = pack_strings(self.name, self.value)
        return frame(Response.INSERT_HEADER, pack_number(self.index) + strings)


@value
class ChangeHeaderReply:
    """Change the `index`-th field of that name, from 1; an empty value deletes it."""

    index: int
    name: bytes
    value: bytes

    def encode(self) -> bytes:
        """The frame."""
        strings = pack_strings(self.name, self.value)
        return frame(Response.CHANGE_HEADER, pack_number(self.index) + strings)


@dataclass(frozen=True, slots=True)
class ReplaceBodyChunk:
    """A piece of the body that replaces the old one."""

    octets: bytes

    def encode(self) -> bytes:
        """The frame."""
        return frame(Response.REPLACE_BODY, self.octets)


@dataclass(frozen=True, slots=True)
class AddRcptReply:
    """Add an envelope recipient."""

    address: bytes

    def encode(self) -> bytes:
        """The frame."""
        return frame(Response.ADD_RCPT, pack_strings(self.address))


@dataclass(frozen=True, slots=True)
class AddRcptParReply:
    """Add an envelope recipient with ESMTP arguments, apart by spaces."""

    address: bytes
    args: bytes = b""

    def encode(self) -> bytes:
        """The frame."""
        return frame(Response.ADD_RCPT_PAR, _address_and_args(self.address, self.args))


@dataclass(frozen=True, slots=True)
class DelRcptReply:
    """Remove an envelope recipient."""

    address: bytes

    def encode(self) -> bytes:
        """The frame."""
        return frame(Response.DELETE_RCPT, pack_strings(self.address))


@dataclass(frozen=True, slots=True)
class ChangeFromReply:
    """Change the envelope sender, with ESMTP arguments, apart by spaces."""

    address: bytes
    args: bytes = b""

    def encode(self) -> bytes:
        """The frame."""
        return frame(Response.CHANGE_FROM, _address_and_args(self.address, self.args))


@dataclass(frozen=True, slots=True)
class QuarantineReply:
    """Put the message on hold; not an answer, one must follow."""

    reason: bytes

    def encode(self) -> bytes:
        """The frame."""
        return frame(Response.QUARANTINE, pack_strings(self.reason))


EditReply = (
    AddHeaderReply
    | InsertHeaderReply
    | ChangeHeaderReply
    | ReplaceBodyChunk
    | AddRcptReply
    | AddRcptParReply
    | DelRcptReply
    | ChangeFromReply
    | QuarantineReply
)
FinalReply = (
    Continue | Accept | Reject | TempFail | Discard | Skip | ConnFail | Shutdown | ReplyCode
)
Reply = FinalReply | EditReply | Progress


def _address_and_args(address: bytes, args: bytes) -> bytes:
    return pack_strings(address, args) if args else pack_strings(address)


_Empty = TypeVar("_Empty", bound=FinalReply | Progress)
_Text = TypeVar("_Text", bound=ReplyCode | AddRcptReply | DelRcptReply | QuarantineReply)
_Indexed = TypeVar("_Indexed", bound=InsertHeaderReply | ChangeHeaderReply)
_Address = TypeVar("_Address", bound=AddRcptParReply | ChangeFromReply)


def _empty(make: Callable[[], _Empty]) -> Callable[[bytes], _Empty]:
    one = make()

    def decode(payload: bytes) -> _Empty:
        if payload:
            unpack_nothing(payload)
        return one

    return decode


def _text(make: Callable[[bytes], _Text]) -> Callable[[bytes], _Text]:
    def decode(payload: bytes) -> _Text:
        return make(unpack_strings(payload, 1, 1)[0])

    return decode


def _indexed(make: Callable[[int, bytes, bytes], _Indexed]) -> Callable[[bytes], _Indexed]:
    def decode(payload: bytes) -> _Indexed:
        index = unpack_number(payload)
        name, value = _two(payload[4:])
        return make(index, name, value)

    return decode


def _address(make: Callable[[bytes, bytes], _Address]) -> Callable[[bytes], _Address]:
    def decode(payload: bytes) -> _Address:
        strings = unpack_strings(payload, 1, 2)
        return make(strings[0], strings[1] if len(strings) == 2 else b"")

    return decode


def _two(payload: bytes) -> list[bytes]:
    strings = payload.split(b"\0")
    # As unpack_strings has it, which says what is wrong with any other payload.
    return strings[:2] if len(strings) == 3 and not strings[2] else unpack_strings(payload, 2, 2)


def _add_header(payload: bytes) -> AddHeaderReply:
    name, value = _two(payload)
    return AddHeaderReply(name, value)


_DECODERS: dict[bytes, Callable[[bytes], Reply | Negotiate]] = {
    Response.ADD_RCPT: _text(AddRcptReply),
    Response.DELETE_RCPT: _text(DelRcptReply),
    Response.ADD_RCPT_PAR: _address(AddRcptParReply),
    Response.SHUTDOWN: _empty(Shutdown),
    Response.ACCEPT: _empty(Accept),
    Response.REPLACE_BODY: ReplaceBodyChunk,
    Response.CONTINUE: _empty(Continue),
    Response.DISCARD: _empty(Discard),
    Response.CHANGE_FROM: _address(ChangeFromReply),
    Response.CONN_FAIL: _empty(ConnFail),
    Response.ADD_HEADER: _add_header,
    Response.INSERT_HEADER: _indexed(InsertHeaderReply),
    Response.CHANGE_HEADER: _indexed(ChangeHeaderReply),
    Response.PROGRESS: _empty(Progress),
    Response.QUARANTINE: _text(QuarantineReply),
    Response.REJECT: _empty(Reject),
    Response.SKIP: _empty(Skip),
    Response.TEMPFAIL: _empty(TempFail),
    Response.REPLY_CODE: _text(ReplyCode),
    Command.NEGOTIATE: decode_negotiate,
}
_BY_CODE = {code[0]: decoder for code, decoder in _DECODERS.items()}

_BARE: dict[int, Reply] = {
    Response.CONTINUE[0]: Continue(),
    Response.ACCEPT[0]: Accept(),
    Response.REJECT[0]: Reject(),
    Response.TEMPFAIL[0]: TempFail(),
    Response.DISCARD[0]: Discard(),
    Response.PROGRESS[0]: Progress(),
}
"""The commonest replies that have no payload."""


def decode_reply(code: int, payload: bytes) -> Reply | Negotiate:
    """What a milter sent.  Raises PeerError for an unknown code or an ill-formed payload."""
    if not payload:
        bare = _BARE.get(code)
        if bare is not None:
            return bare
    decoder = _BY_CODE.get(code)
    if decoder is None:
        raise PeerError(f"unknown reply {bytes((code,))!r}")
    return decoder(payload)
