"""The quarantine's own rows: who comes in, as long as there is room, and when it expires."""

from __future__ import annotations

from collections.abc import Sequence

from smtpgw.queue.batch import Batch
from smtpgw.queue.codec import Prepared
from smtpgw.queue.store import QueueError


class QuarantineFull(QueueError):  # noqa: N818 - the name says what happened
    """The quarantine has as many mails, or octets, as it may have."""

    code = 452
    enhanced = "4.3.1"
    answer = "Insufficient system storage"


def level(batch: Batch) -> tuple[int, int]:
    """How many mails the quarantine holds, and octets in them."""
    count, octets = batch.db.execute("SELECT count(*), total(size) FROM caught").fetchone()
    return int(count), int(octets)


def require_room(batch: Batch, mails: Sequence[Prepared]) -> None:
    """Raises QuarantineFull if one of them would be too much."""
    coming = [each for each in mails if each.caught is not None and each.caught.room is not None]
    if not coming:
        return
    count, octets = level(batch)
    for each in coming:
        assert each.caught is not None and each.caught.room is not None  # noqa: S101, PT018 - above
        room, size = each.caught.room, _size(each)
        if count + 1 > room.mails or octets + size > room.octets:
            raise QuarantineFull(
                f"the quarantine is full: {count} mails of {octets} octets;"
                f" it may hold {room.mails} of {room.octets}"
            )
        count, octets = count + 1, octets + size


def enter(batch: Batch, seq: int, new: Prepared) -> None:
    """The row of a mail that comes in."""
    assert new.caught is not None  # noqa: S101 - the caller has looked
    born = new.mail[2]
    batch.db.execute(
        "INSERT INTO caught VALUES (?,?,?)", (seq, born + new.caught.lifetime, _size(new))
    )


def leave(batch: Batch, seq: int) -> None:
    """No row of it any more."""
    batch.db.execute("DELETE FROM caught WHERE mail=?", (seq,))


def _size(new: Prepared) -> int:
    """Octets of the message."""
    return len(new.content[0]) + new.content[2]
