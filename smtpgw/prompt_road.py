"""The steps of a session that are answered from memory (:class:`~smtpgw.edge.prompt.PromptRoad`).

Milters hear of them later, with the message.  Where one wants to answer, or where there is a limit
on mails or recipients, the command goes the whole way.
"""

from __future__ import annotations

from milterd.core.mail import Direction
from smtpgw.address.params import MailParams, RcptParams
from smtpgw.address.path import Path
from smtpgw.client_name import Naming
from smtpgw.edge.road import Hello
from smtpgw.message import Transaction
from smtpgw.presence import Presence
from smtpgw.rates.limits import ClientLimiter

TO_QUEUE = {"rcpt_mailer": b"smtp"}
"""Macros of every recipient."""


class PromptSteps(Presence):
    """MAIL, RCPT, DATA and the end of a :class:`~smtpgw.road.GatewaySession`."""

    _naming: Naming | None
    _limiter: ClientLimiter
    _hello: Hello
    _transaction: Transaction | None

    def mail_now(self, sender: Path, params: MailParams) -> bool:
        """Raises QueueError where there is no room."""
        admission, intake = self._admission, self._means.intake
        if self._limiter.limits.message_rate_limit or not admission.passes_mail(sender):
            return False
        intake.check(params.size or 0)
        begun = self._begun(intake.new_id(), sender, params)
        if not self._chain.mail_now(sender.address, params.args, begun.macros, begun.direction):
            return False
        admission.begun(sender, params, begun.queue_id)
        self._transaction = begun
        intake.expect(self)
        return True

    def rcpt_now(self, recipient: Path, params: RcptParams) -> bool:
        """The recipient is one of those whom the policy has let pass in this session."""
        if self._limiter.limits.recipient_rate_limit:
            return False
        passed = self._admission.passed(recipient)
        if passed is None or not self._chain.rcpt_now(recipient.address, params.args, TO_QUEUE):
            return False
        self._admission.pass_again(recipient, passed)
        return True

    def data_now(self) -> bool:
        """Where no list is asked."""
        return self._admission.data_now() and self._chain.data_now()

    def close_now(self) -> bool:
        """Where the client's name is not being looked for any more, it is not counted, and there
        are no milters to say so to."""
        if self._naming is not None or not self._chain.close_now():
            return False
        if not self._limiter.close_now():
            return False
        self._means.intake.expect_no_more(self)
        return True

    def _begun(self, queue_id: str, sender: Path, params: MailParams) -> Transaction:
        """What MAIL begins."""
        macros, login = {"i": queue_id.encode()}, self._hello.login
        if login is not None:
            macros |= {"auth_authen": login.name, "auth_type": login.method.encode()}
            if params.auth:
                macros["auth_author"] = params.auth
        return Transaction(queue_id, sender, params, self._direction(), macros=macros)

    def _direction(self) -> Direction:
        raise NotImplementedError
