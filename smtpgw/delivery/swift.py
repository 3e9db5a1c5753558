"""A small mail for one recipient, without a task of its own.

To a peer that takes commands together (RFC 2920) such a mail is two writes and two answers. Here
each answer calls the next step at once; only what does not go as it mostly does gets a task, in
which its :class:`~smtpgw.delivery.transaction.Transaction` goes on.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from smtpgw.delivery.dialogue import Dialogue
from smtpgw.delivery.message import Message
from smtpgw.delivery.outcome import Outcome
from smtpgw.delivery.transaction import Transaction
from smtpgw.delivery.wire import Lost, Wait

Done = Callable[[Sequence[Outcome] | BaseException], None]
"""Gets an outcome for each target; or Stale if nothing was tried at all, TimeoutError if there was
no more time, CancelledError, or a fault of ours.  After an exception the connection is dropped."""


class Swift:
    """One of them, over a connection that is in use for nothing else."""

    __slots__ = ("_done", "_due", "_outcomes", "_peer", "_task", "_transaction", "_until", "_work")

    def __init__(self, peer: Dialogue, message: Message, until: float, done: Done) -> None:
        self._peer, self._until, self._done = peer, until, done
        self._outcomes: dict[int, Outcome] = {}
        self._work = message.job
        self._transaction = Transaction(
            peer, message, [*message.job.targets], self._outcomes, first=True
        )
        self._due: Sequence[Wait] = ()
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Send the envelope."""
        octets, self._due = self._transaction.batch()
        wire = self._peer.wire
        try:
            wire.post(octets)
        except Lost:  # and whoever began this is to be told later
            asyncio.get_running_loop().call_soon(self._enveloped)
            return
        wire.expect(self._due, self._enveloped, self._until)

    def _enveloped(self) -> None:
        """The answers to the envelope are here: send the message, or see what is wrong."""
        transaction, wire = self._transaction, self._peer.wire
        try:
            data = transaction.answers(self._due)
            if data is None or data.kind != 3 or not transaction.accepted or wire.unread:
                self._with_a_task(transaction.go_on(data))
            elif transaction.post():
                wire.expect(transaction.last_due(), self._answered, self._until)
            else:
                self._with_a_task(transaction.posted())
        except Exception as error:  # noqa: BLE001 - whatever it is, who began this is to know
            self._end(error)

    def _answered(self) -> None:
        """The answer to the message is here."""
        try:
            self._transaction.final()
        except Exception as error:  # noqa: BLE001 - as above
            self._end(error)
        else:
            self._end(None)

    def _with_a_task(self, work: Coroutine[Any, Any, object]) -> None:
        self._task = asyncio.get_running_loop().create_task(self._at_leisure(work))

    async def _at_leisure(self, work: Coroutine[Any, Any, object]) -> None:
        try:
            async with asyncio.timeout_at(self._until if self._until < math.inf else None):
                await work
        except BaseException as error:  # noqa: BLE001 - as above, and a cancellation too
            self._end(error)
        else:
            self._end(None)

    def cancel(self) -> None:
        """Break it off."""
        if self._task is not None:
            self._task.cancel()
        else:
            self._peer.wire.expect_nothing()
            self._end(asyncio.CancelledError())

    def _end(self, error: BaseException | None) -> None:
        done, self._done = self._done, _told
        if isinstance(error, Lost) and not self._late():
            why = Lost(error.text, error.enhanced, next_host=not self._transaction.begun)
            self._peer.defer_rest(self._work, self._outcomes, why)
        elif error is not None:
            self._peer.drop()
            done(TimeoutError() if isinstance(error, Lost) else error)
            return
        done([self._outcomes[each.number] for each in self._work.targets])

    def _late(self) -> bool:
        return asyncio.get_running_loop().time() >= self._until


def _told(_: Sequence[Outcome] | BaseException) -> None:
    """Who began it knows."""
