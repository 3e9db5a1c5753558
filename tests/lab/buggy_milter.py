"""A small milter with one bug planted: buggy_milter.py SOCKET BUG.

It answers every event with Continue.  BUG is one of: none, empty-name, helo-twice,
third-rcpt, leak, long-length, second-offer, two-recipients,
stays.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
import threading

BUG = sys.argv[2]
CONTINUE = b"\0\0\0\1c"
HOARD: list[bytearray] = []
LISTENER = socket.socket(socket.AF_UNIX)


def octets(end: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count:
        piece = end.recv(count - len(found))
        if not piece:
            raise EOFError
        found += piece
    return found


def serve(end: socket.socket) -> None:
    helos = recipients = offers = 0
    while True:
        (length,) = struct.unpack(">I", octets(end, 4))
        if BUG == "long-length" and length > 0x10000:
            threading.Event().wait()
        if not 0 < length <= 0x10000:
            return
        packet = octets(end, length)
        code, payload = packet[:1], packet[1:]
        answer = b"" if code in b"ADQK" else CONTINUE
        if code == b"O":
            offers += 1
            answer = struct.pack(">IcIII", 13, b"O", min(6, *payload[3:4] or b"\6"), 0, 0)
            if BUG == "second-offer" and offers == 2:
                LISTENER.shutdown(socket.SHUT_RDWR)
        elif code == b"Q":
            if BUG == "stays":
                threading.Event().wait()
            return
        elif code == b"H":
            helos += 1
            if BUG == "helo-twice" and helos == 2:
                threading.Event().wait()
        elif code == b"M":
            recipients = 0
        elif code == b"R":
            recipients += 1
            if BUG == "third-rcpt" and recipients == 3:
                answer *= 2
        elif code == b"L" and BUG == "empty-name" and payload[:1] == b"\0":
            os._exit(1)
        elif code == b"T" and BUG == "two-recipients" and recipients > 1:
            return
        elif code == b"U" and BUG == "leak":
            HOARD.append(bytearray(os.urandom(1)) * (1 << 20))
        end.sendall(answer)


def guarded(end: socket.socket) -> None:
    with end:
        try:
            serve(end)
        except (EOFError, OSError):
            return


LISTENER.bind(sys.argv[1])
LISTENER.listen(50)
while True:
    try:
        accepted, _ = LISTENER.accept()
    except OSError:
        threading.Event().wait()
    threading.Thread(target=guarded, args=(accepted,), daemon=True).start()
