"""A released mail goes past its milters again: those of the listener that it came by, as the
settings name them now.

What caught it does not count: our own filters are told so (:mod:`milterd.core.finding`) and look
for what else there is; of any other milter, the same words are passed over.  What restrictions said
of the client is not asked again, for that client is gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from structlog.typing import FilteringBoundLogger

from milterd.core.decision import Reason
from milterd.core.finding import Found
from milterd.core.mail import Mail
from smtpgw.chain import telling
from smtpgw.chain.chain import Chain
from smtpgw.chain.health import Health
from smtpgw.chain.options import EditLimits, MilterOptions
from smtpgw.chain.results import ChainResult


@dataclass(frozen=True, slots=True)
class Way:
    """The milters of a listener, and what they are told of it."""

    milters: tuple[MilterOptions, ...] = ()
    macros: Mapping[str, bytes] = field(default_factory=dict)
    limits: EditLimits = field(default_factory=EditLimits)


@dataclass(frozen=True, slots=True)
class Again:
    """`ways` by listener; mail of one that is no more has those of `other`.  `clock` measures."""

    ways: Mapping[str, Way]
    other: Way
    health: Health
    log: FilteringBoundLogger
    clock: Callable[[], float]

    async def ask(
        self,
        mail: Mail,
        queue_id: str,
        *,
        listener: str,
        macros: Mapping[str, bytes],
        passing: Iterable[Found],
    ) -> ChainResult:
        """What the milters make of it."""
        way = self.ways.get(listener, self.other)
        chain = Chain(
            way.milters,
            log=self.log.bind(listener=listener, queue_id=queue_id),
            listener=listener,
            macros={**way.macros, **macros},
            limits=way.limits,
            health=self.health,
            clock=self.clock,
            passing=passing,
        )
        reasons: list[Reason] = []
        said = {**macros, "i": queue_id.encode()}
        try:
            async for stage in telling.stages(chain, mail.session, mail.envelope, said):
                reasons += stage.reasons
                if stage.refused:
                    return ChainResult(
                        mail, stage.verdict, stage.reply, reasons=tuple(reasons), found=stage.found
                    )
            result = await chain.message(mail, queue_id)
        finally:
            await chain.close()
        return replace(result, reasons=(*reasons, *result.reasons))
