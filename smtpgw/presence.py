"""Who is there in a session, and who is asked about it: its log, its policy, its milters.

They are made when somebody first needs them.  A client's name is being looked for while it is
counted; what is made when it is known is not made twice.
"""

from __future__ import annotations

from structlog.typing import FilteringBoundLogger

from milterd.base import logs, metrics
from milterd.base.once import once
from smtpgw import session_macros
from smtpgw.admission import Admission
from smtpgw.chain.chain import Chain, concerned
from smtpgw.edge.names import PeerName
from smtpgw.edge.road import Connection
from smtpgw.plan import Means, Plan
from smtpgw.policy.facts import Facts

NOBODY = Chain((), log=logs.get("chain"))
"""Without milters nothing of a session is in its chain: one is enough for all."""
_MADE = ("_log", "_admission", "_chain")
"""What is made anew for another connection."""


class Presence:
    """One session's.  Who inherits calls :meth:`_begin` with each connection that it stands for:
    the client's own, that with its name, another one by XCLIENT."""

    _means: Means
    _plan: Plan
    _connection: Connection

    def _begin(self, connection: Connection) -> None:
        """From now on it is about this one."""
        self._connection = connection
        made = self.__dict__
        for each in _MADE:
            if each in made:
                del made[each]

    @property
    def facts(self) -> Facts:
        """What is known of the session by now."""
        return self._admission.facts

    @property
    def peer(self) -> PeerName:
        """Who the client is, once it is connected."""
        return self._connection.peer or PeerName(name=self._connection.client.name)

    @once
    def _log(self) -> FilteringBoundLogger:
        connection = self._connection
        return self._means.log.bind(
            listener=connection.listener,
            client=connection.client.address or connection.client.name,
            client_name=connection.client.name,
            session=connection.session,
        )

    @once
    def _admission(self) -> Admission:
        means, plan, connection = self._means, self._plan, self._connection
        policy = plan.policies[connection.stressed]
        return Admission(policy, plan.ports or means.ports, connection, self._log)

    @once
    def _chain(self) -> Chain:
        means, plan, connection = self._means, self._plan, self._connection
        if not concerned(plan.milters, connection.listener):
            return NOBODY
        return Chain(
            plan.milters,
            log=self._log,
            listener=connection.listener,
            macros={**plan.macros, **session_macros.of_listener(connection)},
            limits=plan.limits,
            health=means.health,
            clock=means.clock,
            observe=_observe,
        )


def _observe(milter: str, stage: str, seconds: float, outcome: str) -> None:
    if outcome == "failed":
        metrics.FILTER_FAILURES.labels(milter, stage).inc()
    if stage == "message":
        metrics.filter_seconds(milter).observe(seconds)
