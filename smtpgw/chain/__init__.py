"""The milters a mail passes: any number, ours or anybody's, asked as Postfix asks them.

`Chain` is one session's milters; the rest of the gateway needs nothing else of this
room than it, its options and its results.
"""

from smtpgw.chain.chain import Chain
from smtpgw.chain.health import Health, HealthOptions
from smtpgw.chain.options import (
    DefaultAction,
    EditLimits,
    MilterOptions,
    plain_address,
    plain_sender,
)
from smtpgw.chain.results import ChainResult, StageResult

__all__ = [
    "Chain",
    "ChainResult",
    "DefaultAction",
    "EditLimits",
    "Health",
    "HealthOptions",
    "MilterOptions",
    "StageResult",
    "plain_address",
    "plain_sender",
]
