"""Python imports this when it starts with this directory in PYTHONPATH (see site): the gateway's
processes then count their calls from SIGUSR1 to SIGUSR2, each of them that hears these signals,
and write them to the file that GATEPOST_CALLS names, with their process id behind it."""

from __future__ import annotations

import cProfile
import os
import signal
import sys
from pathlib import Path
from types import FrameType


def _arm(where: str) -> None:
    profile = cProfile.Profile()

    def begin(_number: int, _frame: FrameType | None) -> None:
        profile.enable()

    def end(_number: int, _frame: FrameType | None) -> None:
        profile.disable()
        profile.dump_stats(f"{where}.part")
        Path(f"{where}.part").rename(f"{where}.{os.getpid()}")

    signal.signal(signal.SIGUSR1, begin)
    signal.signal(signal.SIGUSR2, end)


if "GATEPOST_CALLS" in os.environ and {"smtpgw", "smtpgw.worker"} & set(sys.orig_argv):
    _arm(os.environ["GATEPOST_CALLS"])
    # Workers are forked: each has a profile of its own.
    os.register_at_fork(after_in_child=lambda: _arm(os.environ["GATEPOST_CALLS"]))
