"""The log of both daemons: one line an event, on standard error.

Text on a terminal, JSON elsewhere.  Every value is made one line of harmless
characters, since much of it comes from strangers, and is cut at a length.
Writing never makes mail wait: lines go through a bounded buffer to a thread of
their own, and what does not fit is counted and dropped.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any, Literal, TextIO, cast

from milterd.base.log_json import escape_values, logger_class, moment, render
from milterd.base.plain_structlog import FilteringBoundLogger, WrappedLogger, structlog

Format = Literal["auto", "text", "json"]

MAX_WAITING = 10_000
"""Lines waiting for a slow reader before lines are dropped."""

_TOGETHER = 200
"""Lines written at once."""

_GATHER = 0.1
"""Seconds that a line may wait for others, below the level of a warning: a process that is killed
loses so much.  To wake the thread more often costs a busy worker a twentieth of its time."""


def get(name: str) -> FilteringBoundLogger:
    """A logger whose lines carry `name` as "room"."""
    return cast(FilteringBoundLogger, _Room(name))


class _Room:
    """A logger that goes by the settings of the moment, as structlog's own before bind() does, but
    is not put together again for each line: what it was asked for stays an attribute of its own
    until there are other settings."""

    def __init__(self, name: str) -> None:
        self._name = name
        _rooms.add(weakref.ref(self, _rooms.discard))

    def __getattr__(self, name: str) -> Any:
        setups = _writer.setups
        found = getattr(structlog.get_logger(room=self._name).bind(), name)
        if setups:  # or else nobody would tell of the settings that are to come
            self.__dict__[name] = found
            if setups != _writer.setups:  # they came meanwhile
                self.forget()
        return found

    def forget(self) -> None:
        """There are other settings."""
        self.__dict__ = {"_name": self._name}  # in one step: other threads log too


_rooms: set[weakref.ref[_Room]] = set()


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
    quick = structlog.make_filtering_bound_logger(threshold)
    structlog.configure(
        processors=[*usual(bound), _render_text if text else render],
        wrapper_class=quick if text else logger_class(threshold, render, bound),
        logger_factory=lambda *_: _writer,
        cache_logger_on_first_use=False,
    )
    _writer.setups += 1  # after the rest: whoever sees it finds that
    for each in _rooms.copy():
        room = each()
        if room is not None:
            room.forget()
    logging.basicConfig(handlers=[_Forward()], level=max(threshold, logging.WARNING), force=True)


def dropped() -> int:
    """How many lines found no room since the start."""
    return _writer.dropped


def flush(patience: float = 1.0) -> None:
    """Wait at most `patience` seconds until what was logged is written."""
    _writer.flush(patience)


def _with_traceback(
    logger: WrappedLogger, method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    if "exc_info" not in event:
        return event
    return structlog.processors.format_exc_info(logger, method, event)


def _add_bound(bound: Mapping[str, object]) -> structlog.typing.Processor:
    def add(
        _logger: WrappedLogger, _method: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        first = {"time": moment(time.time())}
        for key in ("level", "room", "event"):
            first[key] = event.pop(key, "")
        return {**first, **bound, **event}

    return add


def usual(bound: Mapping[str, object]) -> Sequence[structlog.typing.Processor]:
    """What is done about every event before it is written."""
    return (
        structlog.processors.add_log_level,
        _add_bound(bound),
        _with_traceback,
        escape_values,
    )


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
        self.dropped = self.setups = 0
        self._torn = False
        self._reset()
        self.start(sys.stderr)
        os.register_at_fork(after_in_child=self._reset)
        atexit.register(self.flush, 1.0)

    def _reset(self) -> None:
        """Also after a fork, in which the thread is lost."""
        # Lines, and events to be set once what stands before them is written.
        self._lines: deque[str | threading.Event] = deque()
        self._some, self._now = threading.Event(), threading.Event()
        self._called = False
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
        waiting = len(self._lines)
        if waiting >= MAX_WAITING // 2:
            self._now.set()  # no time to wait for more
            if waiting >= MAX_WAITING:
                self.dropped += 1
                return
        self._lines.append(line)
        if not self._called:  # or else the thread has still to look
            self._called = True
            self._some.set()

    debug = info = log = msg

    def each(self, lines: Sequence[str]) -> None:
        """The same for several lines."""
        *most, last = lines
        if len(self._lines) + len(most) < MAX_WAITING // 2:
            self._lines.extend(most)
        else:
            for line in most:
                self.msg(line)
        self.msg(last)  # after the others: whoever is called finds them

    def pressing(self, line: str) -> None:
        """The same for a line that does not wait for others: it may be the last one."""
        self.msg(line)
        self._now.set()

    warning = error = critical = exception = pressing

    def _start_thread(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._write, name="log", daemon=True)
                self._thread.start()

    def _write(self) -> None:
        """All that has gathered at once: a busy daemon logs some lines for each mail, and to wake
        a thread for each costs more than to write it."""
        while True:
            self._some.wait()
            self._now.wait(_GATHER)
            self._some.clear()
            self._now.clear()
            self._called = False  # before the look: who comes after it calls again
            while self._lines:
                self._write_some()

    def _write_some(self) -> None:
        found = [self._lines.popleft() for _ in range(min(len(self._lines), _TOGETHER))]
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
        self._lines.append(written)
        self._some.set()
        self._now.set()
        written.wait(patience)


_writer = _Writer()
