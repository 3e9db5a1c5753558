"""Writing a scenario: the inverse of `parse`."""

from __future__ import annotations

from collections.abc import Iterable

from milterd.core.mail import Family
from milterd.lab.scenario import steps as s
from milterd.lab.scenario.words import as_pattern, as_rest, as_word, escaped
from milterd.wire import messages as m

_WORD_OF = {command: word.encode() for word, command in s.EVENTS.items()}
_STAGE_WORD = {stage: word.encode() for word, stage in s.STAGES.items()}
_BARE_WORD = {type(event): word.encode() for word, event in s.BARE.items()}


def format_scenario(actions: Iterable[s.Action]) -> bytes:
    """One line an action; what `parse` makes these actions of."""
    return b"".join(format_action(each) + b"\n" for each in actions)


def format_action(action: s.Action) -> bytes:
    """The line of one action."""
    match action:
        case s.Socket():
            return b"socket " + as_word(action.address)
        case s.Start():
            return _line(b"start", *action.words)
        case s.Offer():
            return _offer(action)
        case s.Say():
            return format_event(action.event)
        case s.Body():
            return b"body " + _content(action.content)
        case s.Message():
            return b"message " + _content(action.content)
        case s.SetMacros():
            return _macros(action)
        case s.Raw():
            return b'raw "' + escaped(action.octets) + b'"'
        case s.Packet():
            return b'packet %b "%b"' % (as_word(action.code), escaped(action.payload))
        case s.Sleep() | s.Within() | s.Stall():
            return b"%b %b" % (type(action).__name__.lower().encode(), _seconds(action.seconds))
        case s.Fragment():
            return b"fragment %d" % action.octets
        case s.Drop():
            return b"drop"
        case s.HalfClose():
            return b"half-close"
        case s.Expect():
            return b"expect " + format_wish(action.wish)


def format_event(event: m.CommandMessage) -> bytes:
    """The line of one event."""
    match event:
        case m.Connect():
            return _connect(event)
        case m.Helo():
            return _line(b"helo", event.name)
        case m.MailFrom():
            return _line(b"mail", event.address, *event.args)
        case m.RcptTo():
            return _line(b"rcpt", event.address, *event.args)
        case m.Header():
            return b"header %b:%b" % (escaped(event.name, b" :"), as_rest(event.value, True))
        case m.BodyChunk():
            return b"body " + _content(s.Octets(event.octets))
        case m.EndOfMessage():
            return b'end "%b"' % escaped(event.octets) if event.octets else b"end"
        case m.Unknown():
            return b"unknown " + as_rest(event.line)
        case _:
            return _BARE_WORD[type(event)]


def format_wish(wish: s.Wish) -> bytes:
    """What comes after `expect`."""
    match wish:
        case s.AnswerIs():
            return "|".join(wish.names).encode()
        case s.ReplyIs():
            return _reply(wish)
        case s.EditIs():
            return (b"no edit " if wish.absent else b"edit ") + format_edit(wish)
        case s.NoEdit():
            return b"no other edit" if wish.other else b"no edit"
        case s.Silence():
            return b"silence " + _seconds(wish.seconds)
        case s.Broken():
            return _with_pattern(b"broken", wish.text)
        case s.Violation():
            return _with_pattern(b"no violation" if wish.absent else b"violation", wish.text)
        case s.PacketIs():
            return _packet(wish)
        case s.VersionIs():
            return b"version %d" % wish.version
        case s.FlagsAre():
            return _flags(wish)
        case s.MacrosAre():
            names = (b"default",) if wish.names is None else map(_no_keyword, wish.names)
            return b" ".join((b"macros " + _STAGE_WORD[wish.stage], *names))
        case s.Nothing():
            return b"nothing"
        case s.NoAnswer():
            return b"no answer"
        case s.ProgressCame():
            return b"progress"
        case s.Closed():
            return b"close"


def format_edit(wish: s.EditIs) -> bytes:
    """An edit as it stands after `expect edit`."""
    parts = [wish.kind.encode()]
    if wish.index is not None:
        parts.append(b"%d" % wish.index)
    if wish.kind in s.ADDRESS_EDITS:
        if wish.name is not None:
            parts += (as_word(b"<%b>" % wish.name), *map(as_word, wish.args or ()))
        return b" ".join(parts)
    if wish.kind == "replace-body" and isinstance(wish.value, bytes):
        return b'replace-body "%b"' % escaped(wish.value)
    if wish.name is None:
        return b" ".join([*parts, *([] if wish.value is None else [_text(wish.value)])])
    name = escaped(wish.name, b" :")
    if name.isdigit() or name.startswith(b"/"):  # neither an index nor an expression
        name = b"\\x%02x" % name[0] + name[1:]
    if wish.value is None:
        return b" ".join([*parts, name])
    value = _text(wish.value, blanks=True)
    return b" ".join([*parts, name + b":" + value])


def _line(word: bytes, *values: bytes) -> bytes:
    return b" ".join((word, *map(as_word, values)))


def _no_keyword(name: bytes) -> bytes:
    return b'"default"' if name == b"default" else as_word(name)


def _offer(offer: s.Offer) -> bytes:
    line = b"offer version %d" % offer.version
    if offer.actions is not None:
        line += b" actions 0x%x" % offer.actions
    return line if offer.protocol is None else line + b" protocol 0x%x" % offer.protocol


def _connect(event: m.Connect) -> bytes:
    if event.family is Family.UNKNOWN:
        return _line(b"connect", event.host)
    if event.family is Family.UNIX:
        return _line(b"connect", event.host, b"unix:" + event.address)
    return _line(b"connect", event.host, event.address, b"%d" % event.port)


def _content(content: s.Content) -> bytes:
    if isinstance(content, s.FromFile):
        return b"@" + b"".join(b"\\x20" if e == b" " else e for e in _single(content.path))
    times = b"" if content.times == 1 else b" * %d" % content.times
    return b'"%b"%b' % (escaped(content.octets), times)


def _single(octets: bytes) -> list[bytes]:
    escape = escaped(octets)
    return [escape[at : at + 1] for at in range(len(escape))]


def _macros(action: s.SetMacros) -> bytes:
    word = b"macro " + _WORD_OF[action.command]
    if action.values is None:
        return word + b" off"
    return b" ".join((word, *(as_word(b"%b=%b" % pair) for pair in action.values)))


def _seconds(value: float) -> bytes:
    return repr(value).encode()


def _text(text: s.Text, blanks: bool = False) -> bytes:
    if isinstance(text, s.Pattern):
        return (b" " if blanks else b"") + as_pattern(text)
    return as_rest(text, blanks)


def _reply(wish: s.ReplyIs) -> bytes:
    line = f"reply {wish.code} {wish.enhanced}".strip().encode()
    if wish.text is None:
        return line
    text = _text(wish.text)
    if not wish.enhanced and text[:1].isdigit():  # not to be read as an enhanced code
        text = b"\\x%02x" % text[0] + text[1:]
    return line + b" " + text


def _with_pattern(word: bytes, pattern: s.Pattern | None) -> bytes:
    return word if pattern is None else word + b" " + as_pattern(pattern)


def _packet(wish: s.PacketIs) -> bytes:
    line = b"packet " + as_word(wish.code)
    if wish.payload is None:
        return line
    if isinstance(wish.payload, s.Pattern):
        return line + b" " + as_pattern(wish.payload)
    return line + b' "%b"' % escaped(wish.payload)


def _flags(wish: s.FlagsAre) -> bytes:
    if wish.exact is not None:
        return b"%b 0x%x" % (wish.field.encode(), wish.exact)
    signed = (b" +0x%x" % wish.having if wish.having else b"") + (
        b" -0x%x" % wish.lacking if wish.lacking else b""
    )
    return wish.field.encode() + signed
