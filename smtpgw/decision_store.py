"""A worker's store of decisions, by the settings."""

from __future__ import annotations

import time

from milterd.base import logs, metrics
from smtpgw.config import Smtpgw
from smtpgw.decisions.finding import file_of
from smtpgw.decisions.store import DecisionStore, StoreOptions
from smtpgw.recording import Recorder


def recorder(shard: int, settings: Smtpgw) -> Recorder:
    """What keeps them.  Its thread writes from now on; no file is opened before there is something
    to write."""
    told = settings.decisions
    options = StoreOptions(file_of(settings.queue.directory, shard), told.kept, told.waiting)
    store = DecisionStore(options, log=logs.get("decisions"), lost=metrics.DECISIONS_LOST.inc)
    return Recorder(store, time.time, in_replies=told.in_replies)
