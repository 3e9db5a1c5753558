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
from smtpgw.chain.line import Line


def connect_now(address: SocketAddress, connection: MtaConnection) -> MilterClient | None:
    """Connected without waiting; None where that may take a while.  Raises MilterFault."""
    try:
        return _taken(address, connection) if address.kind == "unix" else None
    except OSError as error:
        raise _unreachable(error) from error


async def connect(
    address: SocketAddress, connection: MtaConnection, *, connecting: float, patience: float
) -> MilterClient:
    """Connected within `connecting` seconds and agreed within `patience` seconds.

    Raises MilterFault.
    """
    client = await connect_slowly(address, connection, connecting)
    try:
        await client.negotiate(patience)
    except BaseException:
        client.abort()
        raise
    return client


async def connect_slowly(
    address: SocketAddress, connection: MtaConnection, connecting: float
) -> MilterClient:
    """Connected within `connecting` seconds.  Raises MilterFault."""
    try:
        async with asyncio.timeout(connecting):
            return await _dial(address, connection)
    except TimeoutError:
        detail = f"connecting took longer than {connecting:g} s"
        raise MilterFault(FaultKind.TIMEOUT, detail) from None
    except OSError as error:
        raise _unreachable(error) from error


def _unreachable(error: OSError) -> MilterFault:
    return MilterFault(FaultKind.UNREACHABLE, error.strerror or str(error))


async def _dial(address: SocketAddress, connection: MtaConnection) -> MilterClient:
    if address.kind != "unix":
        _, far = await asyncio.get_running_loop().create_connection(
            lambda: MilterClient(connection), address.host, address.port
        )
        return far
    pause = 0.005
    while (client := _taken(address, connection)) is None:
        await asyncio.sleep(pause)
        pause = min(pause * 2, 0.2)
    return client


def _taken(address: SocketAddress, connection: MtaConnection) -> MilterClient | None:
    """None while the milter's backlog is full, which is EAGAIN (unix(7))."""
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    code = opened.connect_ex(address.path)
    if not code:
        client = MilterClient(connection)
        Line(client.loop, opened, client)
        return client
    opened.close()
    if code in {errno.EAGAIN, errno.EINTR}:
        return None
    raise OSError(code, os.strerror(code))
