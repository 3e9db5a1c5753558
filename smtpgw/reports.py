"""The DSNs that an attempt calls for, ready to be queued with its outcomes.

One for each kind of news (failed, delayed, delivered, relayed), telling of all recipients
it concerns.  Nothing is sent to the null sender.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from structlog.typing import FilteringBoundLogger

from smtpgw import dsn, settling
from smtpgw.delivery.outcome import Destination, Outcome
from smtpgw.dsn import DsnOptions, Report, Reported
from smtpgw.intake import Intake
from smtpgw.queue.clock import QueueClock
from smtpgw.queue.schedule import Schedule
from smtpgw.queue.store import Content, NewMail, QueuedMail


class Reporter:
    """Makes them.  `token` gives random letters for MIME boundaries."""

    def __init__(
        self,
        intake: Intake,
        *,
        clock: QueueClock,
        schedule: Schedule,
        token: Callable[[], str],
        log: FilteringBoundLogger,
        options: DsnOptions,
    ) -> None:
        self._intake, self._clock, self._schedule = intake, clock, schedule
        self._token, self._log, self._options = token, log, options

    def reports(
        self,
        mail: QueuedMail,
        content: Content,
        final: Mapping[int, tuple[Destination, Outcome]],
        warn: bool,
    ) -> tuple[NewMail, ...]:
        """The DSNs that these outcomes call for: one for each kind of news."""
        kinds: dict[str, list[Reported]] = {}
        for each in mail.recipients:
            if each.number in final:
                outcome = final[each.number][1]
                action = settling.action(outcome, warn)
                if action is not None:
                    kinds.setdefault(action, []).append(settling.reported(each, action, outcome))
        if not mail.sender and dsn.FAILED in kinds:
            self._log.warning(
                "dsn", queue_id=mail.queue_id, outcome="discarded", reason="null sender"
            )
        follow = []
        for those in kinds.values():
            new = self._report(mail, content, tuple(those))
            if new is not None:
                follow.append(new)
        return tuple(follow)

    def _report(
        self, mail: QueuedMail, content: Content, those: tuple[Reported, ...]
    ) -> NewMail | None:
        queue_id = self._intake.new_id()
        left = mail.born + self._schedule.lifetime(not mail.sender) - self._clock.now()
        report = Report(
            queue_id=mail.queue_id,
            sender=mail.sender,
            sender_args=mail.sender_args,
            content=content,
            arrived=mail.arrived,
            recipients=those,
            retry_until=self._clock.wall() + max(left, 0.0),
        )
        built = dsn.build(
            report, self._options, now=self._clock.wall(), queue_id=queue_id, token=self._token
        )
        if built is None:
            return None
        self._log.info(
            "dsn",
            queue_id=queue_id,
            about=mail.queue_id,
            outcome=those[0].action,
            recipient=mail.sender.decode("utf-8", "backslashreplace"),
        )
        return self._intake.prepare(built, queue_id=queue_id)
