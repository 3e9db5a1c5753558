"""The notifications that an attempt calls for, ready to be queued with its outcomes.

One for each kind of news (failure, delay, success, end of a delay), telling of all
recipients it concerns whose NOTIFY wants it.  The null sender gets none: what becomes of
its mail is for the postmaster, by `notify_classes`.  A notice to the postmaster comes from
`double_bounce_sender`, and of mail from there nobody hears any more, so no failure can
cause failures without end (RFC 5321 sections 4.5.5 and 6.1, Postfix's bounce(8)).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

from structlog.typing import FilteringBoundLogger

from milterd.core.mail import Recipient
from smtpgw import settling
from smtpgw.delivery.encode import convertible
from smtpgw.delivery.outcome import Destination, Outcome
from smtpgw.dsn.build import build
from smtpgw.dsn.report import Action, DsnOptions, Letter, News, Report, Reported, wanted
from smtpgw.intake import Intake
from smtpgw.queue.clock import QueueClock
from smtpgw.queue.schedule import Schedule
from smtpgw.queue.states import MailState
from smtpgw.queue.store import Content, NewMail, QueuedMail, QueuedRecipient, QueueError

PAUSE = 3600.0
"""Seconds between two notices of one kind of trouble: a full disk concerns every mail."""

Kinds = dict[News, list[Reported]]
Final = Mapping[int, tuple[Destination, Outcome]]


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
        self._notices = options.notices
        self.double_bounce = options.qualified(self._notices.double_bounce_sender)
        self._told: dict[News, float] = {}

    def reports(
        self, mail: QueuedMail, content: Content, final: Final, warn: bool
    ) -> tuple[NewMail, ...]:
        """What these outcomes call for.  Raises QueueError if a DSN cannot be queued; a
        notice that cannot is only logged."""
        kinds = self._kinds(mail, final, warn)
        if mail.sender.lower() == self.double_bounce.lower():
            if News.FAILURE in kinds:
                self._discarded(mail, "undeliverable notice to the postmaster")
            return ()
        found = list(self._to_sender(mail, content, kinds))
        for letter, those in self._for_postmaster(mail, kinds, final):
            try:
                found.append(self._prepare(mail, content, letter, those))
            except QueueError as error:
                self._log.error("dsn", about=mail.queue_id, outcome="error", reason=str(error))
        return tuple(found)

    def readdressed(self, new: NewMail, those: Sequence[Recipient]) -> tuple[NewMail, ...]:
        """The same for recipients of a mail that is being queued.  Raises QueueError."""
        mail = QueuedMail(
            queue_id=new.queue_id,
            state=MailState.INCOMING,
            sender=new.mail.envelope.sender,
            sender_args=new.mail.envelope.sender_args,
            session=new.mail.session,
            size=new.mail.size,
            arrived=new.arrived,
            born=new.born,
            due=None,
            attempts=0,
            warned=False,
            note="",
            reasons=(),
            recipients=tuple(
                QueuedRecipient(number, each.address, each.args)
                for number, each in enumerate(those)
            ),
        )
        content = Content(new.mail.head(), new.mail.body)
        return self.expanded(mail, content, range(len(those)))

    def expanded(
        self, mail: QueuedMail, content: Content, numbers: Collection[int]
    ) -> tuple[NewMail, ...]:
        """What is to be said of recipients that were expanded into several (RFC 3461 section
        5.2.7.3): the sender hears that, and nothing of what becomes of the several."""
        those = [
            Reported(each.address, each.args, Action.EXPANDED, "2.1.5", "")
            for each in mail.recipients
            if each.number in numbers
        ]
        return tuple(self._to_sender(mail, content, {News.SUCCESS: those}))

    def _kinds(self, mail: QueuedMail, final: Final, warn: bool) -> Kinds:
        kinds: Kinds = {}
        for each in mail.recipients:
            if each.number not in final:
                continue
            destination, outcome = final[each.number]
            fate = settling.fate(
                each, destination, outcome, warn=warn, told=mail.warned, options=self._options
            )
            if fate is not None:
                news, action = fate
                kinds.setdefault(news, []).append(settling.reported(each, action, outcome))
        return kinds

    def _to_sender(self, mail: QueuedMail, content: Content, kinds: Kinds) -> Iterator[NewMail]:
        for news, those in kinds.items():
            chosen = [each for each in those if wanted(mail.sender, each.args, news)]
            if chosen:
                yield self._prepare(mail, content, Letter(news, mail.sender), chosen)

    def _for_postmaster(
        self, mail: QueuedMail, kinds: Kinds, final: Final
    ) -> Iterator[tuple[Letter, list[Reported]]]:
        """NOTIFY is the sender's wish and does not count here, as with Postfix."""
        notices, classes = self._notices, self._notices.notify_classes
        failed, late = kinds.get(News.FAILURE), kinds.get(News.DELAY)
        if failed and not mail.sender:
            if "2bounce" in classes:
                to = notices.twobounce_notice_recipient
                yield self._notice(News.FAILURE, to, full=True), failed
            else:
                self._discarded(mail, "null sender")
        elif failed and "bounce" in classes:
            yield self._notice(News.FAILURE, notices.bounce_notice_recipient), failed
        if late and "delay" in classes:
            yield self._notice(News.DELAY, notices.delay_notice_recipient), late
        for news, those in self._troubles(mail, final).items():
            if news.value in classes and self._fresh(news):
                yield self._notice(news, notices.error_notice_recipient), those

    def _notice(self, news: News, to: str, *, full: bool = False) -> Letter:
        own = news in (News.RESOURCE, News.SOFTWARE)
        return Letter(news, self._options.qualified(to), self.double_bounce, not own, full)

    def _troubles(self, mail: QueuedMail, final: Final) -> Kinds:
        kinds: Kinds = {}
        for each in mail.recipients:
            if each.number in final:
                destination, outcome = final[each.number]
                news = settling.trouble(destination, outcome)
                if news is not None:
                    told = settling.reported(each, Action.DELAYED, outcome)
                    kinds.setdefault(news, []).append(told)
        return kinds

    def _fresh(self, news: News) -> bool:
        now = self._clock.now()
        fresh = now - self._told.get(news, float("-inf")) >= PAUSE
        if fresh:
            self._told[news] = now
        return fresh

    def _discarded(self, mail: QueuedMail, reason: str) -> None:
        self._log.warning("dsn", queue_id=mail.queue_id, outcome="discarded", reason=reason)

    def _prepare(
        self, mail: QueuedMail, content: Content, letter: Letter, those: Iterable[Reported]
    ) -> NewMail:
        queue_id, wall = self._intake.new_id(), self._clock.wall()
        left = mail.born + self._schedule.lifetime(not mail.sender) - self._clock.now()
        report = Report(
            queue_id=mail.queue_id,
            sender=mail.sender,
            sender_args=mail.sender_args,
            content=content,
            arrived=mail.arrived,
            recipients=tuple(those),
            helo=mail.session.helo,
            attempted=None if mail.doomed else wall,
            retry_until=wall + max(left, 0.0),
        )
        built = build(
            report,
            letter,
            self._options,
            now=wall,
            queue_id=queue_id,
            token=self._token,
            movable=convertible,
        )
        self._log.info(
            "dsn",
            queue_id=queue_id,
            about=mail.queue_id,
            outcome=letter.news.value,
            recipient=letter.to.decode("utf-8", "backslashreplace"),
        )
        return self._intake.prepare(built, queue_id=queue_id)
