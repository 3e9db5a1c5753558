"""What the embedded store is told."""

from __future__ import annotations

from dataclasses import dataclass, field

from smtpgw.queue.committer import CommitterOptions


@dataclass(frozen=True, slots=True)
class SqliteOptions:
    """`inline_limit`: octets of a body kept in the database.  `queue_minfree`: octets that
    stay free on the device; Postfix wants 1.5 times message_size_limit.  `reserve`: octets
    kept back for outcomes on a full disk, at least twice the committer's checkpoint.  `shard`: this
    shard's number, part of its ids.  `fresh`: octets of new mails kept at hand for their first
    attempt.  `busy_timeout`: seconds to wait for a tool's lock.  `log`: octets that the write-ahead
    log's file has from the start, which pays where it gets full; the committer's checkpoint is as
    much as it keeps."""

    inline_limit: int = 256 * 1024
    queue_minfree: int = 40 * 1024 * 1024
    reserve: int = 16 * 1024 * 1024
    shard: int = 0
    fresh: int = 8 * 1024 * 1024
    busy_timeout: float = 10.0
    log: int = 0
    committer: CommitterOptions = field(default_factory=CommitterOptions)
