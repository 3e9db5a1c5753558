"""The exit statuses of `milterlab`, each with one meaning; of several the highest counts."""

from __future__ import annotations

GOOD = 0
"""All as wished: the mail passed (a discarded one too: its client is told so), no check failed."""
BAD = 1
"""A judgement: the mail was refused, a check failed, a replay differed."""
USAGE = 2
"""The command, a file or a value in it is wrong; nothing, or not all, was tried."""
BROKEN = 3
"""The milter broke the protocol: garbage, too much, out of place, a lie in negotiation."""
SILENT = 4
"""The milter did not answer in time."""
GONE = 5
"""The milter is not there, or left in the middle."""
