"""Reading a mail's octets back, checked against what was stored."""

from __future__ import annotations

import zlib

from milterd.core.mail import BytesBody
from smtpgw.queue.batch import Batch
from smtpgw.queue.shard import Shard
from smtpgw.queue.store import Content, Damaged, NotFound


def read_content(batch: Batch, shard: Shard, queue_id: str) -> Content:
    """Head and body.  Raises NotFound, and Damaged where a checksum or length is wrong."""
    row = batch.db.execute(
        "SELECT head, body, content.size, content.sum, content.mail FROM mail"
        " LEFT JOIN content ON content.mail = mail.seq WHERE id=?",
        (queue_id,),
    ).fetchone()
    if row is None:
        raise NotFound(f"{queue_id}: no such mail")
    head, body, size, checksum, there = row
    if there is None or not isinstance(head, bytes) or not isinstance(size, int):
        raise Damaged("content row is missing or not what was stored")
    head_sum = zlib.crc32(head)
    if body is None:
        return Content(head, shard.open_body(queue_id, size, head_sum, checksum))
    if not isinstance(body, bytes) or zlib.crc32(body, head_sum) != checksum:
        raise Damaged("content is not what was stored")
    return Content(head, BytesBody(body))
