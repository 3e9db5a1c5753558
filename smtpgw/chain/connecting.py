"""Connect to a milter, and agree with it on the protocol.

Each SMTP session has a connection of its own, as with Postfix.  QUIT_NC, with which one client
could follow the other on it, is not for milters on libmilter: Debian's clamav-milter and OpenDKIM
do not answer the CONNECT that comes after a message and QUIT_NC.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket

from milterd.base.sockets import SocketAddress
from milterd.wire.mta import MtaConnection
from smtpgw.chain.client import MilterClient
from smtpgw.chain.faults import FaultKind, MilterFault


async def connect(
    address: SocketAddress, connection: MtaConnection, *, connecting: float, patience: float
) -> MilterClient:
    """Connect within `connecting` seconds and negotiate within `patience` seconds.

    Raises MilterFault.
    """
    try:
        opened = _connected(address.path) if address.kind == "unix" else None
        if opened is not None:  # there is nothing to wait for
            client = await _taken(opened, connection)
        else:
            async with asyncio.timeout(connecting):
                client = await _dial(address, connection)
    except TimeoutError:
        detail = f"connecting took longer than {connecting:g} s"
        raise MilterFault(FaultKind.TIMEOUT, detail) from None
    except OSError as error:
        detail = error.strerror or str(error)
        raise MilterFault(FaultKind.UNREACHABLE, detail) from error
    try:
        await client.negotiate(patience)
    except BaseException:
        client.abort()
        raise
    return client


async def _dial(address: SocketAddress, connection: MtaConnection) -> MilterClient:
    loop = asyncio.get_running_loop()
    if address.kind != "unix":
        _, client = await loop.create_connection(
            lambda: MilterClient(connection), address.host, address.port
        )
        return client
    pause = 0.005
    while (opened := _connected(address.path)) is None:
        await asyncio.sleep(pause)
        pause = min(pause * 2, 0.2)
    return await _taken(opened, connection)


async def _taken(opened: socket.socket, connection: MtaConnection) -> MilterClient:
    loop = asyncio.get_running_loop()
    try:
        _, client = await loop.create_unix_connection(lambda: MilterClient(connection), sock=opened)
    except BaseException:
        opened.close()
        raise
    return client


def _connected(path: str) -> socket.socket | None:
    """A connected socket; None while the milter's backlog is full, which is EAGAIN (unix(7))."""
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    code = opened.connect_ex(path)
    if not code:
        return opened
    opened.close()
    if code in {errno.EAGAIN, errno.EINTR}:
        return None
    raise OSError(code, os.strerror(code))
