"""The policy listeners of a worker: opened, changed and closed as the settings say."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from milterd.base import logs
from smtpgw.addresses import Addresses
from smtpgw.config import Smtpgw
from smtpgw.delegation.server import PolicyServer
from smtpgw.policy.ports import Ports
from smtpgw.policy_answers import Answers
from smtpgw.wiring import policy_service as wiring_policy_service


@dataclass(frozen=True, slots=True)
class _Door:
    """A listener at work, and the inode of its socket, by which it is known again."""

    server: PolicyServer
    inode: int


class PolicyDoors:
    """All of them."""

    def __init__(self) -> None:
        self._doors: dict[str, _Door] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._log = logs.get("policy")

    async def open(
        self,
        settings: Smtpgw,
        addresses: Addresses,
        ports: Ports,
        listening: Mapping[str, socket.socket],
    ) -> None:
        """Serve these, and no others."""
        before, self._doors = self._doors, {}
        for each in settings.policy_listener:
            options = wiring_policy_service.server(each)
            answers = Answers(each.name, addresses.asked[each.name], ports, self._log)
            opened = listening[each.name]
            inode = os.fstat(opened.fileno()).st_ino
            door = before.get(each.name)
            if door is not None and door.inode == inode:
                door.server.reconfigure(options, answers)
                opened.close()
                self._doors[each.name] = before.pop(each.name)
                continue
            server = PolicyServer(options, answers, log=self._log)
            await server.start(opened)
            self._doors[each.name] = _Door(server, inode)
        for door in before.values():
            leaving = asyncio.ensure_future(door.server.drain(settings.stop_timeout))
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)

    async def close(self, patience: float) -> None:
        """Take nobody new, and let answers leave within `patience` seconds."""
        await asyncio.gather(
            *(each.server.drain(patience) for each in self._doors.values()), *self._leaving
        )
