"""Where a worker's processor time goes, by the stages of the road, from what py-spy(1) has seen.

    py-spy record --gil -r 300 -f raw -o worker.raw -p PID
    python -m tests.bench.stages worker.raw

prints the table of docs/benchmarks.md.  A sample belongs to the stage of the innermost frame that
is of one: what dataclasses or asyncio do is done for somebody.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

STAGES = {
    "log": ("milterd/base/log", "milterd/base/escaping.py", "structlog/"),
    "metrics and decisions": (
        "prometheus_client/", "milterd/base/tally.py", "milterd/base/chance.py",
        "smtpgw/reasons.py", "smtpgw/recording.py", "smtpgw/decisions/",
    ),
    "protocol and session": ("smtpgw/edge/", "aiosmtpd/"),
    "policy": ("smtpgw/admission.py", "smtpgw/policy/", "smtpgw/limiting.py", "smtpgw/rates/"),
    "filters": (
        "milterd/filters/", "milterd/ports/", "milterd/signed/", "milterd/mime/", "milterd/host/",
    ),
    "chain": ("smtpgw/chain/", "milterd/wire/", "milterd/core/apply.py"),
    "intake": (
        "smtpgw/intake.py", "smtpgw/readdress.py", "smtpgw/rewriting.py", "smtpgw/cleanup.py",
        "smtpgw/routes.py", "smtpgw/address/",
    ),
    "queue": ("smtpgw/queue/",),
    "delivery": ("smtpgw/delivery/", "smtpgw/post.py"),
    "courier": ("smtpgw/courier.py", "smtpgw/ending.py", "smtpgw/settling.py", "smtpgw/shares.py"),
    "road": (
        "smtpgw/road.py", "smtpgw/presence.py", "smtpgw/message.py", "smtpgw/session_macros.py",
    ),
}  # fmt: skip
"""Files of a stage; the first stage that has a frame's file is its stage."""
REST = "event loop and what is left"


def stage_of(frame: str) -> str | None:
    """The stage of `function (path:line)`."""
    for stage, files in STAGES.items():
        if any(each in frame for each in files):
            return stage
    return None


def table(text: str) -> Counter[str]:
    """Samples by stage, from folded stacks."""
    found: Counter[str] = Counter()
    for line in text.splitlines():
        stack, _, count = line.rpartition(" ")
        frames = reversed(stack.split(";"))
        stage = next((each for each in map(stage_of, frames) if each), REST)
        found[stage] += int(count)
    return found


def main(path: str) -> None:
    """Print it."""
    found = table(Path(path).read_text())
    print("| stage | share |\n|---|---|")
    for stage, count in found.most_common():
        print(f"| {stage} | {count / found.total():.0%} |")


if __name__ == "__main__":
    main(sys.argv[1])
