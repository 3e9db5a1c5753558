"""The machine's own idea of a host's addresses: /etc/hosts and what nsswitch.conf(5) adds.

For `smtp_host_lookup = native` and where DNS is not to be asked.  getaddrinfo(3) waits in
a thread that cannot be stopped, so only its caller's patience is bounded.
"""

from __future__ import annotations

import asyncio
import socket
from ipaddress import ip_address

from smtpgw.dns.answers import AddressAnswer, Family, Found, NoName, TryAgain, host_name

_FAMILIES = {Family.IPV4: socket.AF_INET, Family.IPV6: socket.AF_INET6}
_NEVER = {socket.EAI_NONAME, socket.EAI_NODATA, socket.EAI_ADDRFAMILY}


async def native_address(name: str, family: Family, limit: float) -> AddressAnswer:
    """The addresses of a host, within `limit` seconds."""
    try:
        name = host_name(name)
    except ValueError as error:
        return NoName(str(error))
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(limit):
            found = await loop.getaddrinfo(
                name, None, family=_FAMILIES[family], type=socket.SOCK_STREAM
            )
    except TimeoutError:
        return TryAgain(f"no answer within {limit:.3g} s")
    except socket.gaierror as error:
        reason = error.strerror or str(error)
        return NoName(reason) if error.errno in _NEVER else TryAgain(reason)
    except OSError as error:
        return TryAgain(error.strerror or str(error))
    addresses = (ip_address(str(each[4][0]).partition("%")[0]) for each in found)
    return Found(tuple(dict.fromkeys(addresses)))
