"""Log lines as JSON: what strangers wrote made harmless, and a short way for what is harmless.

Nearly all values of a busy daemon's lines are text that nothing has to be done about.  Such a line
is put together by one pass over the types of its values, one call that encodes them all and one
look at what came of it; where any of these finds something else, the long way is gone.  Both write
the same.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from typing import Any

from milterd.base.escaping import MAX_VALUE, escape
from milterd.base.json_text import encoder
from milterd.base.plain_structlog import FilteringBoundLogger, WrappedLogger, structlog

Event = MutableMapping[str, Any]
Processor = structlog.typing.Processor

MAX_TRACE = 8192
"""Characters of a traceback."""
MOST_KEYS = 1000
"""Names of values, and of events, that are known to be harmless."""
MOST_PARTS = 32
"""Parts of a list or a table that are shown."""

_NUMBERS = frozenset({int, bool, float, type(None)})
"""Types whose values are harmless."""
_SIMPLE = _NUMBERS | {str, bytes}
_TEXT = frozenset({str})
_GROUPS = frozenset({list, tuple, dict})

_OURS = frozenset({"time", "level", "room", "event", "exc_info", "exception"})
"""Names that a line has by itself."""

_keys: set[str] = set()
"""Keys that were looked at and are harmless, MOST_KEYS of them at most."""
_events: set[str] = set()
"""The same of events."""


def escape_values(_logger: WrappedLogger, _method: str, event: Event) -> Event:
    """The structlog processor that makes every key and value harmless."""
    return {
        key if key in _keys else _key(key): _harmless(value, key) for key, value in event.items()
    }


def _key(key: object) -> str:
    harmless = escape(str(key))
    if harmless == key and '"' not in harmless and len(_keys) < MOST_KEYS:
        _keys.add(harmless)
    return harmless


def _harmless(value: object, key: str = "") -> object:
    if type(value) is str:
        return escape(value, MAX_TRACE if key == "exception" else MAX_VALUE)
    if type(value) in _NUMBERS or isinstance(value, int | float):
        return value
    if isinstance(value, bytes):
        return escape(_text(value[: MAX_VALUE * 4]))
    if type(value) is list or type(value) is tuple:
        return [_harmless(each) for each in value[:MOST_PARTS]]
    if isinstance(value, dict | Mapping):
        parts = list(value.items())[:MOST_PARTS]
        return {escape(str(name)): _harmless(each) for name, each in parts}
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [_harmless(each) for each in list(value)[:MOST_PARTS]]
    return escape(str(value), MAX_TRACE if key == "exception" else MAX_VALUE)


def _text(octets: bytes) -> str:
    return octets.decode("utf-8", "backslashreplace")


@functools.lru_cache(1)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def moment(now: float) -> str:
    """RFC 3339, in UTC, to the millisecond."""
    seconds = int(now)
    return f"{_second(seconds)}.{int((now - seconds) * 1000):03}Z"


# -- the long way ------------------------------------------------------------------------

_to_json = encoder(str)


def render(_logger: WrappedLogger, _method: str, event: Event) -> str:
    """The structlog processor that ends a line's way: values are harmless by now."""
    return _to_json(event)


# -- the short way -----------------------------------------------------------------------


_encode = encoder(_text)
"""Of what :func:`_simple` says yes to, only octets are not JSON's."""


def plain(values: dict[str, object]) -> str | None:
    """The values as a JSON object, or None where something has to be done about one of them."""
    if not _keys.issuperset(values):
        return None
    for value in values.values():
        kind = type(value)
        if kind not in _SIMPLE and not (kind in _GROUPS and (not value or _simple(value))):
            return None
    text = _encode(values)
    # Whatever is not printable ASCII has a backslash in such JSON.
    if "\\" in text or (len(text) > MAX_VALUE and _some_long(values)):
        return None
    return text


def _simple(group: Any) -> bool:
    """Whether a list, tuple or table has few parts, and none of them has parts."""
    if len(group) > MOST_PARTS:
        return False
    if type(group) is dict:
        return _TEXT.issuperset(map(type, group)) and _SIMPLE.issuperset(map(type, group.values()))
    return _SIMPLE.issuperset(map(type, group))


def _some_long(values: Mapping[str, object]) -> bool:
    """Whether some text of simple values, or of their parts, is to be cut."""
    for value in values.values():
        if isinstance(value, str | bytes):
            if len(value) > MAX_VALUE:
                return True
        elif isinstance(value, list | tuple | dict):
            parts = (*value, *value.values()) if isinstance(value, dict) else value
            if any(isinstance(each, str | bytes) and len(each) > MAX_VALUE for each in parts):
                return True
    return False


def logger_class(threshold: int, last: Processor, bound: Mapping[str, object]) -> type[Any]:
    """The loggers of a process: structlog's, which know the short way at the levels of most lines.
    `last` is the processor that ends the long way, `bound` goes into every line."""
    usual = structlog.make_filtering_bound_logger(threshold)
    names = logging.getLevelNamesMapping()
    those = [each for each in ("info", "warning") if names[each.upper()] >= threshold]
    methods: dict[str, Callable[..., Any]] = {
        each: _short(each, getattr(usual, each), last, bound) for each in those
    }
    if "info" in methods:
        methods["_at_once"] = _short_for_each(last, bound)
    return type("Logger", (usual,), {**methods, "_front": None})


def _short(
    level: str, long: Callable[..., Any], last: Processor, bound: Mapping[str, object]
) -> Callable[..., Any]:
    """The method of such loggers for a level, in front of structlog's own."""
    pressing = level == "warning"

    def tell(self: Any, event: str, *args: Any, **values: Any) -> Any:
        front = self._front
        if front is None:
            front = self._front = _front(self._context, bound)
        before, after, names = front
        text = plain(values) if values and names.isdisjoint(values) else None
        # Whoever wants the events instead (structlog.testing) puts other processors there.
        if not (text and after and event in _events and self._processors[-1] is last) or args:
            _know(event)
            return long(self, event, *args, **values)
        start = f'{{"time": "{moment(time.time())}", "level": "{level}", {before}'
        write = self._logger.warning if pressing else self._logger.info
        return write(f"{start}{event}{after}, {text[1:]}")

    return tell


class Again:
    """Values that come again in many lines: what stands in a line of them is found out once.
    Nobody changes them."""

    __slots__ = ("_text", "values")

    def __init__(self, values: dict[str, object]) -> None:
        self.values = values
        self._text: str | None = None

    def text(self) -> str | None:
        """As :func:`plain` has them."""
        if self._text is None:
            self._text = plain(self.values)
        return self._text


def tell_each(
    log: FilteringBoundLogger, event: str, those: Sequence[Again], **values: object
) -> None:
    """A line at the level of info for each of `those`, which have the same names; before theirs it
    has `values`, of which there is one at least."""
    quick = getattr(log, "_at_once", None)
    if quick is None or not quick(event, those, values):
        for each in those:
            log.info(event, **values, **each.values)


def _short_for_each(last: Processor, bound: Mapping[str, object]) -> Callable[..., bool]:
    """What :func:`tell_each` tries first, and whether it would do: one beginning for all lines."""

    def tell(self: Any, event: str, those: Sequence[Again], values: dict[str, object]) -> bool:
        front = self._front
        if front is None:
            front = self._front = _front(self._context, bound)
        before, after, names = front
        text = plain(values) if event in _events and self._processors[-1] is last else None
        if not (text and after and names.isdisjoint(values) and names.isdisjoint(those[0].values)):
            return False
        parts = [each.text() for each in those]
        if None in parts:
            return False
        now = moment(time.time())
        start = f'{{"time": "{now}", "level": "info", {before}{event}{after}, {text[1:-1]}, '
        self._logger.each([start + part[1:] for part in parts if part])
        return True

    return tell


def _know(event: object) -> None:
    """Remember an event that stands in JSON as it is."""
    if (
        type(event) is str
        and len(_events) < MOST_KEYS
        and _to_json(escape(event)) == (f'"{event}"')
    ):
        _events.add(event)


def _front(
    context: Mapping[str, object], bound: Mapping[str, object]
) -> tuple[str, str, frozenset[str]]:
    """What each line of a logger has before its event and after it, and the names that a line may
    not have of its own.  No text where only the long way will do."""
    own = dict(context)
    room = own.pop("room", "")
    shared = {**bound, **own}
    names = _OURS.union(shared)
    if type(room) is not str or not _OURS.isdisjoint(shared):
        return "", "", names
    # A client's part of a line is made once a session: nearly always it is harmless as it is.
    text = plain(shared) or _to_json(escape_values(None, "", shared))
    where = _room(room) if type(room) is str else _room.__wrapped__(room)
    return f'{where}, "event": "', f'", {text[1:-1]}' if shared else '"', names


@functools.lru_cache(100)
def _room(room: object) -> str:
    return _to_json(escape_values(None, "", {"room": room}))[1:-1]
