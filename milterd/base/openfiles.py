"""How many files a process may have open (RLIMIT_NOFILE); connections are among them.

The limit in force is 1,024 where nobody says otherwise, for programs that call select(2)
(systemd.exec(5)); ours do not.  It may be raised without any right up to the hard limit, which is
half a million where systemd starts a service.
"""

from __future__ import annotations

import resource

from milterd.base.plain_structlog import FilteringBoundLogger


def at_most(wanted: int) -> int:
    """How many of so many this process may have at all."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)


def raise_to(wanted: int, log: FilteringBoundLogger) -> None:
    """Have so many, or as many as may be had; a limit that is higher stays.  So does one that the
    system does not let us change, and the log says so."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = at_most(wanted)
    if soft == resource.RLIM_INFINITY or soft >= most:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    except (ValueError, OSError) as error:  # by a filter of system calls, or a lower fs.nr_open
        log.warning("open files not raised", limit=soft, wanted=most, reason=str(error))
