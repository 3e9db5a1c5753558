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
import queue
import sys
import threading
import time
from collections.abc import Iterable, Mapping, MutableMapping
from datetime import UTC, datetime
from typing import Any, Literal, TextIO, cast

import structlog
from structlog.typing import FilteringBoundLogger, WrappedLogger

from milterd.base.escaping import MAX_VALUE, escape

Format = Literal["auto", "text", "json"]

MAX_TRACE = 8192
"""Characters of a traceback."""

MAX_WAITING = 10_000
"""Lines waiting for a slow reader before lines are dropped."""


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
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            _add_bound(bound),
            structlog.processors.format_exc_info,
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
    return {escape(str(key)): _harmless(value, key) for key, value in event.items()}


def _harmless(value: object, key: str = "") -> object:
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
        now = datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="milliseconds")
        first = {"time": now.replace("+00:00", "Z")}
        for key in ("level", "room", "event"):
            first[key] = event.pop(key, "")
        return {**first, **bound, **event}

    return add


def _render_json(_logger: WrappedLogger, _method: str, event: MutableMapping[str, Any]) -> str:
    return json.dumps(event, default=str)


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
        self._lines: queue.Queue[str] = queue.Queue(MAX_WAITING)
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
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self.dropped += 1

    debug = info = warning = error = critical = exception = log = msg

    def _start_thread(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._write, name="log", daemon=True)
                self._thread.start()

    def _write(self) -> None:
        while True:
            line = self._lines.get()
            try:
                self._put(line + "\n")
            except (OSError, ValueError):  # a full disk, a reader gone, a closed stream
                self.dropped += 1
            finally:
                self._lines.task_done()

    def _put(self, text: str) -> None:
        """Straight to the descriptor: a text stream would keep what a full disk refused."""
        if self._descriptor is None:
            self._stream.write(text)
            return
        octets = text.encode("utf-8", "backslashreplace")
        if self._torn:  # a disk that filled up in mid-line: what follows is a line of its own
            octets = b"\n" + octets
        while octets:
            written = os.write(self._descriptor, octets)
            octets = octets[written:]
            self._torn = bool(octets)

    def flush(self, patience: float) -> None:
        end = time.monotonic() + patience
        with self._lines.all_tasks_done:
            while self._lines.unfinished_tasks and self._thread is not None:
                if not self._lines.all_tasks_done.wait(max(0.0, end - time.monotonic())):
                    return


_writer = _Writer()
