"""How many open files a worker may need by its settings."""

from __future__ import annotations

from smtpgw.config import Smtpgw

_BESIDE = 512
"""Files for all but clients and deliveries: the queue, the log, tables, name servers."""


def wanted(settings: Smtpgw) -> int:
    """A client's are its connection, those to the milters, and the file of a long body; a
    delivery's its connection and the mail's file.  Listeners leave a quarter of all to others
    (:mod:`smtpgw.edge.listener`)."""
    clients = len(settings.listener) * settings.default_process_limit
    asking = sum(each.connections for each in settings.policy_listener)
    deliveries = settings.delivery.smtp_process_limit
    files = clients * (2 + len(settings.milter)) + asking + 2 * deliveries + _BESIDE
    return files + files // 3 + 1
