"""The Prometheus metrics of both daemons, and the endpoint that serves them.

Names begin with gatepost_.  No label ever holds an address, a host or a text
from a mail: their values are settings' names and fixed words.

Several processes share one set of numbers through files in a directory
(prometheus_client's multiprocess mode), where a number of a mail arrives a
fraction of a second after the event (:mod:`milterd.base.tally`).  The
supervisor makes the directory with :func:`prepare`, passes it on in the
environment, and serves the sum.
"""

from __future__ import annotations

import functools
import os
import shutil
import socket
import socketserver
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    make_wsgi_app,
    multiprocess,
    values,
)
from prometheus_client.metrics import MetricWrapperBase

from milterd.base import sockets
from milterd.base.tally import Count, Flusher, Times
from milterd.base.tally import flush as flush

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"
"""The environment variable that prometheus_client reads when it is imported."""

_TIMES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)

# First of all: what has gathered is there before the others are read.
REGISTRY.register(Flusher())

MAILS = Counter("gatepost_mails", "Mails by what became of them", ["daemon", "listener", "outcome"])
REFUSALS = Counter("gatepost_refusals", "Refused SMTP commands", ["listener", "command", "outcome"])
SCREENED = Counter("gatepost_screened", "What screening found of clients", ["listener", "outcome"])
LOGINS = Counter(
    "gatepost_logins", "Logins by what became of them", ["listener", "method", "outcome"]
)
STAGE_SECONDS = Histogram(
    "gatepost_stage_seconds", "Time a mail spent at a stage", ["stage"], buckets=_TIMES
)
SESSIONS = Counter("gatepost_sessions", "SMTP sessions by what became of them", ["listener", "end"])
QUEUE = Gauge(
    "gatepost_queue_mails",
    "Mails in the queue by state",
    ["state"],
    multiprocess_mode="livesum",
)
QUARANTINE = Counter("gatepost_quarantine", "Quarantined mails by what became of them", ["outcome"])
TAKEOVERS = Counter("gatepost_shard_takeovers", "Parts of the queue taken over from another worker")
DELIVERIES = Counter(
    "gatepost_deliveries", "Delivery attempts by outcome", ["transport", "outcome"]
)
DNS_QUESTIONS = Counter(
    "gatepost_dns_questions", "Questions to name servers by what came of them", ["type", "outcome"]
)
COUNTER_FAILURES = Counter(
    "gatepost_counter_failures", "Times that clients could not be counted together"
)
CLIENT_EXCESSES = Counter(
    "gatepost_client_excesses", "Times that a client was over a limit", ["listener", "limit"]
)
CLIENT_PEAKS = Gauge(
    "gatepost_client_peak",
    "The highest count or rate of one client since the last report",
    ["limit"],
    multiprocess_mode="livemax",
)
STRESS = Gauge(
    "gatepost_stress",
    "Workers whose listener is under stress",
    ["listener"],
    multiprocess_mode="livesum",
)
FILTER_SECONDS = Histogram(
    "gatepost_filter_seconds", "Time a filter took for a mail", ["filter"], buckets=_TIMES
)
FILTER_FAILURES = Counter(
    "gatepost_filter_failures", "Failures of a filter or milter by kind", ["filter", "kind"]
)
CLAMD_UP = Gauge(
    "gatepost_clamd_up",
    "Whether a clamd answers: 1 or 0",
    ["clamd"],
    multiprocess_mode="livemostrecent",
)
CLAMD_SIGNATURES = Gauge(
    "gatepost_clamd_signature_age_seconds",
    "Age of the signatures of a clamd",
    ["clamd"],
    multiprocess_mode="livemostrecent",
)
DECISIONS_LOST = Counter(
    "gatepost_decisions_lost", "Decisions that could not be kept for smtpgw why"
)
LOG_DROPPED = Gauge(
    "gatepost_log_lines_dropped",
    "Log lines that found no room",
    multiprocess_mode="livesum",
)

_supervisor = CollectorRegistry()

RESTARTS = Counter(
    "gatepost_child_restarts", "Children that ended unasked", ["child"], registry=_supervisor
)


# What counts for each mail is gathered first (milterd.base.tally).  There is one for each set of
# labels, as there is a child in the metric: their values are settings' names and fixed words.


@functools.cache
def stage(name: str) -> Times:
    """The times of one stage."""
    return Times(STAGE_SECONDS.labels(name))


@functools.cache
def filter_seconds(name: str) -> Times:
    """The times of one filter or milter."""
    return Times(FILTER_SECONDS.labels(name))


@functools.cache
def mails(daemon: str, listener: str, outcome: str) -> Count:
    """The count of mails with these labels."""
    return Count(MAILS.labels(daemon, listener, outcome))


@functools.cache
def sessions(listener: str, end: str) -> Count:
    """The count of sessions with these labels: `goodbye` where the last word was ours, `lost`,
    or `failed` by a fault of ours."""
    return Count(SESSIONS.labels(listener, end))


@functools.cache
def refusals(listener: str, command: str, outcome: str) -> Count:
    """The count of refused commands with these labels."""
    return Count(REFUSALS.labels(listener, command, outcome))


@functools.cache
def deliveries(transport: str, outcome: str) -> Count:
    """The count of delivery attempts with these labels."""
    return Count(DELIVERIES.labels(transport, outcome))


@functools.cache
def dns_questions(kind: str, outcome: str) -> Count:
    """The count of questions to name servers with these labels."""
    return Count(DNS_QUESTIONS.labels(kind, outcome))


def prepare(directory: str | os.PathLike[str]) -> dict[str, str]:
    """Make the directory of shared numbers anew; the result is for the children's environment."""
    path = Path(directory)
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(mode=0o700, parents=True)
    return {DIRECTORY: str(path)}


def share() -> None:
    """Count in the directory that the environment names from now on: for a process that was
    forked when everything was imported already, with metrics of its own."""
    values.ValueClass = values.MultiProcessValue()  # type: ignore[no-untyped-call]
    for each in globals().values():
        if isinstance(each, MetricWrapperBase) and each is not RESTARTS:
            # With labels, a metric is one for each set of their values.
            for one in each._metrics.values() if each._labelnames else (each,):
                one._metric_init()  # type: ignore[no-untyped-call]


def forget(pid: int, directory: str | os.PathLike[str]) -> None:
    """Drop the gauges of a child that has ended; its counters stay."""
    multiprocess.mark_process_dead(pid, str(directory))  # type: ignore[no-untyped-call]


def registry(directory: str | os.PathLike[str] = "") -> CollectorRegistry:
    """What to serve: the sum over all processes, or without a directory this one."""
    if not directory:
        return REGISTRY
    multiprocess.MultiProcessCollector(_supervisor, str(directory))  # type: ignore[no-untyped-call]
    return _supervisor


class Endpoint:
    """A running HTTP server for GET /metrics, in a thread of its own."""

    def __init__(self, listening: socket.socket, source: CollectorRegistry) -> None:
        self._server = _Server(listening, source)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="metrics", daemon=True
        )
        self._path = listening.getsockname() if listening.family == socket.AF_UNIX else ""
        self.address = listening.getsockname()
        self._thread.start()

    def close(self) -> None:
        """Stop serving and remove a UNIX socket."""
        self._server.shutdown()
        self._server.server_close()
        if self._path:
            sockets.remove(self._path)


def serve(
    address: str, source: CollectorRegistry | None = None, *, allow_remote: bool = False
) -> Endpoint:
    """Serve at `address` (see :func:`milterd.base.sockets.parse`).

    Raises ValueError for an address that is not loopback, unless `allow_remote`,
    and SocketError where the socket cannot be had.
    """
    where = sockets.parse(address)
    check_address(where, allow_remote)
    listening = sockets.listen(where, 0o660, backlog=16)
    return Endpoint(listening, REGISTRY if source is None else source)


def check_address(where: sockets.SocketAddress, allow_remote: bool) -> None:
    """Raises ValueError for an address that other machines reach without permission."""
    if not (where.loopback or allow_remote):
        raise ValueError(
            f"expected a loopback address or a UNIX socket, not {where}, "
            "unless metrics.allow_remote is true"
        )


class _Handler(WSGIRequestHandler):
    timeout = 5  # seconds for a client to ask

    def address_string(self) -> str:
        return "client"

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: a scrape every few seconds is no news."""


class _Server(WSGIServer):
    """wsgiref's server on a socket that listens already, of any family."""

    def __init__(self, listening: socket.socket, source: CollectorRegistry) -> None:
        socketserver.BaseServer.__init__(self, ("", 0), _Handler)
        self.socket = listening
        self.address_family = listening.family
        self.server_name, self.server_port = "localhost", 0
        self.setup_environ()
        self.set_app(_only_metrics(source))

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        connection, _ = self.socket.accept()
        return connection, ("client", 0)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away in mid-answer is its own affair."""


def _only_metrics(source: CollectorRegistry) -> WSGIApplication:
    metrics: WSGIApplication = make_wsgi_app(source)

    def app(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] != "GET" or environ["PATH_INFO"] != "/metrics":
            start("404 Not Found", [("Content-Type", "text/plain")])
            return [b"GET /metrics\n"]
        return metrics(environ, start)

    return app
