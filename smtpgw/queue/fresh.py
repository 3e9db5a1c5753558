"""The octets of mails that were just committed, at hand for their first attempt.

Most mail is delivered as soon as it is here: what is in memory still need not be read back from
the database, checked, and handed from thread to thread.  Bounded; what is not taken soon gives way
to what comes after it.
"""

from __future__ import annotations

from milterd.core.mail import BytesBody
from smtpgw.queue.codec import Prepared
from smtpgw.queue.states import MailState
from smtpgw.queue.store import Content

_INCOMING = MailState.INCOMING.value


class Fresh:
    """At most `limit` octets of them, 0 for none."""

    def __init__(self, limit: int) -> None:
        self._limit, self._size = limit, 0
        self._kept: dict[str, Content] = {}

    def keep(self, new: Prepared) -> None:
        """A mail that is committed; one that is held or whose body stands in a file is read when
        it is wanted."""
        head, body, size, _ = new.content
        if body is None or new.mail[0] != _INCOMING:
            return
        if len(head) + size > self._limit:
            return
        self._kept[new.queue_id] = Content(head, BytesBody(body))
        self._size += len(head) + size
        while self._size > self._limit:
            self.take(next(iter(self._kept)))

    def take(self, queue_id: str) -> Content | None:
        """The octets, once."""
        found = self._kept.pop(queue_id, None)
        if found is not None:
            self._size -= found.size
        return found
