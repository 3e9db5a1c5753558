"""Whether an address is this machine's own.

The kernel knows: a socket can be bound to such an address and to no other one.  Asked
each time, since interfaces come and go (ip_nonlocal_bind has to be off, as it is).
"""

from __future__ import annotations

import errno
import socket
from ipaddress import IPv4Address

from smtpgw.dns.answers import IpAddress

_NOT_HERE = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EACCES, errno.EINVAL}


def is_local(address: IpAddress) -> bool:
    """Whether mail sent to `address` stays here.  Raises OSError if that cannot be found out."""
    family = socket.AF_INET if isinstance(address, IPv4Address) else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError as error:
        if error.errno in _NOT_HERE:
            return False
        raise
    return True
