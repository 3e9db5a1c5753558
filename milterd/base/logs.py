"""The log of both daemons: one line an event, on standard error.

Text on a terminal, JSON elsewhere.  Every value is made one line of harmless
characters, since much of it comes from strangers, and is cut at a length.
Writing never makes mail wait: lines go through a bounded buffer to a thread of
their own, and what does not fit is counted and dropped.
"""

from __future__ import annotations

import atexit
import functools
import json
import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any, Literal, TextIO, cast

import structlog
from structlog.typing import FilteringBoundLogger, WrappedLogger

from milterd.base.escaping import MAX_VALUE, escape

Format = Literal["auto", "text", "json"]

MAX_TRACE = 8192
"""Characters of a traceback."""

MAX_WAITING = 10_000
"""Lines waiting for a slow reader before lines are dropped."""

MOST_KEYS = 1000
"""Names of values that are known to be harmless."""

_TOGETHER = 200
"""Lines written at once."""


def get(name: str) -> FilteringBoundLogger:
    """A logger whose lines carry `name` as "room"."""
    return cast(FilteringBoundLogger, structlog.get_logger(room=name))


def setup(
    format: Format = "auto", level: str = "info", stream: TextIO | None = None, **bound: object
) -> None:
    """Send every log line of this process, those of libraries included, to `stream`
    (standard error) as `format`; `bound` goes into every line.
    """
    stream = stream or sys.stderr
    text = format == "text" or (format == "auto" and stream.isatty())
    _writer.start(stream)
    threshold = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            _add_bound(bound),
            _with_traceback,
            escape_values,
            _render_text if text else _render_json,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=lambda *_: _writer,
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(handlers=[_Forward()], level=max(threshold, logging.WARNING), force=True)


def dropped() -> int:
    """How many lines found no room since the start."""
    return _writer.dropped


def flush(patience: float = 1.0) -> None:
    """Wait at most `patience` seconds until what was logged is written."""
    _writer.flush(patience)


def escape_values(
    _logger: WrappedLogger, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """The structlog processor that makes every key and value harmless."""
    # Most values are text of our own that is harmless already, under keys that are ours.
    return {
        key if key in _KEYS else _key(key): _harmless(value, key) for key, value in event.items()
    }


_KEYS: set[str] = set()
"""Keys that were looked at and are harmless, MOST_KEYS of them at most."""


def _key(key: object) -> str:
    harmless = escape(str(key))
    if harmless == key and len(_KEYS) < MOST_KEYS:
        _KEYS.add(harmless)
    return harmless


def _with_traceback(
    logger: WrappedLogger, method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    if "exc_info" not in event:
        return event
    return structlog.processors.format_exc_info(logger, method, event)


def _harmless(value: object, key: str = "") -> object:
    if type(value) is str:
        return escape(value, MAX_TRACE if key == "exception" else MAX_VALUE)
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, bytes):
        return escape(value[: MAX_VALUE * 4].decode("utf-8", "backslashreplace"))
    if isinstance(value, Mapping):
        return {escape(str(name)): _harmless(each) for name, each in list(value.items())[:32]}
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [_harmless(each) for each in list(value)[:32]]
    return escape(str(value), MAX_TRACE if key == "exception" else MAX_VALUE)


def _add_bound(bound: Mapping[str, object]) -> structlog.typing.Processor:
    def add(
        _logger: WrappedLogger, _method: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        first = {"time": _moment(time.time())}
        for key in ("level", "room", "event"):
            first[key] = event.pop(key, "")
        return {**first, **bound, **event}

    return add


@functools.lru_cache(1)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def _moment(now: float) -> str:
    """RFC 3339, in UTC, to the millisecond."""
    seconds = int(now)
    return f"{_second(seconds)}.{int((now - seconds) * 1000):03}Z"


_TO_JSON = json.JSONEncoder(default=str)


def _render_json(_logger: WrappedLogger, _method: str, event: MutableMapping[str, Any]) -> str:
    return _TO_JSON.encode(event)


def _render_text(_logger: WrappedLogger, _method: str, event: MutableMapping[str, Any]) -> str:
    moment, level = str(event.pop("time", ""))[11:23], event.pop("level", "")
    room, what = event.pop("room", ""), event.pop("event", "")
    pairs = " ".join(f"{key}={_quoted(value)}" for key, value in event.items())
    return f"{moment} {level:<7} {room}: {what} {pairs}".rstrip()


def _quoted(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    return f'"{text}"' if isinstance(value, str) and (not text or " " in text) else text


class _Forward(logging.Handler):
    """Lines of libraries that use the standard logging module."""

    def emit(self, record: logging.LogRecord) -> None:
        get(record.name).log(record.levelno, record.getMessage(), exc_info=record.exc_info)


class _Writer:
    """What structlog calls a logger: it takes finished lines from any thread."""

    def __init__(self) -> None:
        self.dropped = 0
        self._torn = False
        self._reset()
        self.start(sys.stderr)
        os.register_at_fork(after_in_child=self._reset)
        atexit.register(self.flush, 1.0)

    def _reset(self) -> None:
        """Also after a fork, in which the thread is lost."""
        # Lines, and events to be set once what stands before them is written.
        self._lines: queue.SimpleQueue[str | threading.Event] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def start(self, stream: TextIO) -> None:
        self.flush(1.0)
        self._stream = stream
        try:
            self._descriptor: int | None = stream.fileno()
        except (OSError, AttributeError):
            self._descriptor = None

    def msg(self, line: str) -> None:
        """Take a line; never blocks, never raises."""
        if self._thread is None:
            self._start_thread()
        if self._lines.qsize() >= MAX_WAITING:
            self.dropped += 1
        else:
            self._lines.put(line)

    debug = info = warning = error = critical = exception = log = msg

    def _start_thread(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._write, name="log", daemon=True)
                self._thread.start()

    def _write(self) -> None:
        """All that waits at once: a busy daemon logs some lines for each mail."""
        while True:
            found = [self._lines.get()]
            while len(found) < _TOGETHER:
                try:
                    found.append(self._lines.get_nowait())
                except queue.Empty:
                    break
            lines = [each for each in found if isinstance(each, str)]
            if lines:
                self._put(lines)
            for each in found:
                if isinstance(each, threading.Event):
                    each.set()

    def _put(self, lines: list[str]) -> None:
        """Straight to the descriptor: a text stream would keep what a full disk refused."""
        text = "\n".join(lines) + "\n"
        if self._descriptor is None:
            try:
                self._stream.write(text)
            except (OSError, ValueError):  # a closed stream
                self.dropped += len(lines)
            return
        octets = text.encode("utf-8", "backslashreplace")
        if self._torn:  # a disk that filled up in mid-line: what follows is a line of its own
            octets = b"\n" + octets
        try:
            while octets:
                octets = octets[os.write(self._descriptor, octets) :]
                self._torn = bool(octets)
        except (OSError, ValueError):  # a full disk, a reader gone
            self.dropped += octets.lstrip(b"\n").count(b"\n")

    def flush(self, patience: float) -> None:
        if self._thread is None:
            return
        written = threading.Event()
        self._lines.put(written)
        written.wait(patience)


_writer = _Writer()
