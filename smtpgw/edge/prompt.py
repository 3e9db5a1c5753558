"""A session whose usual commands are answered without a coroutine.

MAIL, RCPT and DATA that the road lets pass from memory come to their answer in one call.  Whatever
else they come to (a refusal, a table to wait for, a fault of ours), nothing has happened then, and
the same command goes the whole way of :class:`~smtpgw.edge.session.Session`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, cast

from milterd.base.atonce import started
from milterd.base.deadlines import Deadlines
from milterd.core.mail import Envelope
from smtpgw.address.params import MailParams, RcptParams
from smtpgw.address.path import Path
from smtpgw.edge.arguments import usual_mail, usual_rcpt
from smtpgw.edge.content import Content
from smtpgw.edge.road import Answer
from smtpgw.edge.session import GO_AHEAD, RECIPIENT_OK, SENDER_OK, Session, Transaction
from smtpgw.edge.states import State


class PromptRoad(Protocol):
    """Steps of a :class:`~smtpgw.edge.road.SessionRoad` that wait for nothing.

    They are asked where the client has sent nothing behind the command.  True: the step is done,
    and the client hears the usual reply.  False: nothing has happened, and the step of the same
    name is to be asked.  What they raise, that step will raise again.
    """

    def mail_now(self, sender: Path, params: MailParams) -> bool:
        """MAIL."""
        ...

    def rcpt_now(self, recipient: Path, params: RcptParams) -> bool:
        """RCPT."""
        ...

    def data_now(self) -> bool:
        """DATA."""
        ...

    def close_now(self) -> bool:
        """The session is over, and no transaction is under way."""
        ...


class PromptSession(Session):
    """The same dialogue; a road with the methods of :class:`PromptRoad` is asked by them first.

    `processing` are the seconds that the road has for a message, which sessions may share.
    """

    def __init__(self, *given: Any, processing: Deadlines, **named: Any) -> None:
        super().__init__(*given, **named)
        able = hasattr(self._road, "mail_now")
        self._prompt = cast(PromptRoad, self._road) if able else None
        self._limit = self._options.limits.recipient_limit
        self._strict = self._options.strict_rfc821_envelopes
        self._processing = processing

    def mail_now(self, line: bytes) -> Answer | None:
        """MAIL, in a short line; None where nothing has happened."""
        road = self._prompt
        if self.state is not State.GREETED or road is None:
            return None
        if self._options.tls_required and self._tls is None:
            return None
        known = self.announced if self._login is None else self._known
        usual = usual_mail(line, self._strict, known)
        if usual is None:
            return None
        sender, params = usual
        if (params.size or 0) > self._options.content.message_size_limit:
            return None
        if not road.mail_now(sender, params):
            return None
        self._transaction = Transaction(sender, params)
        self.state = State.MAIL
        return SENDER_OK

    def rcpt_now(self, line: bytes) -> Answer | None:
        """RCPT, in a short line; None where nothing has happened."""
        transaction, road = self._transaction, self._prompt
        if transaction is None or road is None or self.state is State.CHUNKS:
            return None
        usual = usual_rcpt(line, self._strict, transaction.params.smtputf8, self.announced)
        if usual is None or len(transaction.recipients) >= self._limit:
            return None
        if not road.rcpt_now(*usual):
            return None
        transaction.recipients.append(usual)
        self.state = State.RCPT
        return RECIPIENT_OK

    def data_now(self) -> Answer | None:
        """DATA; None where nothing has happened."""
        if self.state is not State.RCPT or self._prompt is None or not self._prompt.data_now():
            return None
        return GO_AHEAD

    def close_now(self) -> bool:
        """As :meth:`close`, where nothing of it waits; False where nothing has happened."""
        if self._handover is not None or self.state.in_transaction or self._claims.facts:
            return False
        try:
            return self._prompt is not None and self._prompt.close_now()
        except Exception:  # noqa: BLE001 - the whole way meets it again, and tells of it
            return False

    def hand_over(self, content: Content, told: Callable[[Answer | None], None]) -> None:
        """As :meth:`message`, for a caller that does not wait: `told` hears the answer, None where
        our own end came before it."""
        envelope = self._current().envelope()
        self._over()
        self._handover = started(self._spawn, self._handed_over(envelope, content, told))

    async def _handed_over(
        self, envelope: Envelope, content: Content, told: Callable[[Answer | None], None]
    ) -> None:
        answer = None
        try:
            with self._processing.step():
                answer = await self._road.message(envelope, content)
        except Exception as error:  # noqa: BLE001 - any fault of ours is the client's 451
            answer = self.broken(error)
        finally:
            content.close()
            self._handover = None
            told(answer)
