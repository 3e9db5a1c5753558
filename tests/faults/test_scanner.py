"""clamd loads its signatures anew while mail is scanned (F13)."""

from __future__ import annotations

import functools
import os
import socket
import threading

from milterd.core.mail import parse_message
from milterd.ports.clamd import Clamd, ClamdAddress
from milterd.ports.scanner import Clean, Infected
from tests.filters.clamd_peer import eicar
from tests.peers.clamd import Clamd as ClamdPeer
from tests.peers.clamd import clamd
from tests.peers.process import directory, wait_for

HEAD = b"From: a@b.example\r\n\r\n"


def _loaded(peer: ClamdPeer, times: int) -> bool:
    return peer.peer.said().count("Database correctly reloaded") >= times


def test_every_answer_is_right_while_signatures_are_loaded() -> None:
    """clamd scans on with the old ones (ConcurrentDatabaseReload, its default).  Where it does
    not, it is one that hangs: tests/filters/test_clamd.py."""
    with directory("reload") as home, clamd(home) as peer:
        scanner = Clamd(ClamdAddress.parse(f"unix:{peer.socket}"), timeout=20)
        found: list[object] = []
        stop = threading.Event()

        def scan() -> None:
            while not stop.is_set():
                found.append(scanner.scan(parse_message(HEAD + os.urandom(4000).hex().encode())))
                found.append(scanner.scan(parse_message(HEAD + eicar())))

        threads = [threading.Thread(target=scan) for _ in range(4)]
        for each in threads:
            each.start()
        try:
            for times in (1, 2):
                with socket.socket(socket.AF_UNIX) as order:
                    order.connect(str(peer.socket))
                    order.sendall(b"zRELOAD\0")
                    assert order.recv(100).startswith(b"RELOADING")
                wait_for(functools.partial(_loaded, peer, times), "the new signatures")
            enough = len(found) + 20
            wait_for(lambda: len(found) >= enough, "scans with the new signatures")
        finally:
            stop.set()
            for each in threads:
                each.join()
        kinds = {type(each) for each in found}
        assert kinds == {Clean, Infected}, [each for each in found if type(each) not in kinds]
        assert found.count(Clean()) == len(found) / 2
