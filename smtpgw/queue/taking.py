"""New mail that is leased from its first moment, by the transaction that queues it.

A courier with room for a mail need not look for it: it is handed what was just committed, in
memory, with no second transaction for a lease and nothing read back.  Who takes mail so says for
which destinations there is no older mail that a turn is due to.  What is not taken waits, and so
does what nobody could work on at once: held, doomed, for a content filter, its body in a file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from milterd.core.mail import BytesBody
from smtpgw.queue import codec
from smtpgw.queue.codec import Prepared
from smtpgw.queue.states import MailState
from smtpgw.queue.store import Content, Lease, NewMail, QueuedMail, QueuedRecipient

Made = Callable[[], tuple[Lease, Content]]
"""Makes what an attempt begins with; a client need not wait for that."""


class Taker(Protocol):
    """Who may have new mail at once.  What was promised is given, or missed."""

    def take(self, site: str, size: int) -> float | None:
        """The end (queue time) of the lease of a mail for `site` with a body of `size` octets; None
        if it is to wait for its turn."""
        ...

    def give(self, made: Made) -> None:
        """It is committed: the attempt may begin with what `made` returns, which is to be asked
        for once, and not before the clients have their answers."""
        ...

    def miss(self, site: str, size: int) -> None:
        """It could not be queued after all."""
        ...


class Promise:
    """What is promised of some mails that are being queued, all or none, their bodies in memory."""

    def __init__(self, taker: Taker | None, mails: Sequence[NewMail]) -> None:
        self._taker, self._mails = taker, mails
        self._prepared: list[Prepared] = []
        self._until: dict[str, float] = {}
        self.some_wait = False
        """Whether one is to wait for its turn."""
        for new in mails:
            until = None
            kept = new.hold is not None or new.caught is not None
            if taker is not None and not (kept or new.doomed or new.filtered):
                until = taker.take(new.site, new.mail.body.size)
            if until is None:
                self.some_wait = True
            else:
                self._until[new.queue_id] = until

    def prepare(self) -> list[Prepared]:
        """Their rows.  Raises what codec.prepare() raises, and takes all back."""
        try:
            for each in self._mails:
                rows = codec.prepare(each, None, self._until.get(each.queue_id))
                self._prepared.append(rows)
        except BaseException:
            self._take_back()
            raise
        return self._prepared

    def end(self, error: Exception | None) -> None:
        """They are committed, or not, because of an error: give what was promised, or take it
        back."""
        if self._taker is None or not self._until:
            return
        if error is not None:
            self._take_back()
            return
        for new, rows in zip(self._mails, self._prepared, strict=True):
            until = self._until.get(new.queue_id)
            if until is not None:
                self._taker.give(partial(_leased, new, rows, until))

    def _take_back(self) -> None:
        for each in self._mails:
            if self._taker is not None and each.queue_id in self._until:
                self._taker.miss(each.site, each.mail.body.size)


def _leased(new: NewMail, rows: Prepared, until: float) -> tuple[Lease, Content]:
    head, octets, *_ = rows.content
    body = new.mail.body
    content = Content(head, body if isinstance(body, BytesBody) else BytesBody(octets or b""))
    return Lease(_queued(new, content.size), 1, until), content


def _queued(new: NewMail, size: int) -> QueuedMail:
    """The mail as a lease from the database would have it."""
    envelope = new.mail.envelope
    return QueuedMail(
        queue_id=new.queue_id,
        state=MailState.INCOMING,
        sender=envelope.sender,
        sender_args=envelope.sender_args,
        session=new.mail.session,
        size=size,
        arrived=new.arrived,
        born=new.born,
        due=new.born,
        attempts=0,
        warned=False,
        note="",
        reasons=new.reasons,
        recipients=tuple(
            [
                QueuedRecipient(number, each.address, each.args)
                for number, each in enumerate(envelope.recipients)
            ]
        ),
        site=new.site,
    )
