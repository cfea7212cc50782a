"""A name server on loopback: `….test` is 127.0.0.1, `…ipv6.….test` only ::1, and `…nowhere.….test` nobody.

Squid asks a name server on port 53 and no other, so it listens there, on an address of 127/8 that nobody else uses.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading

A, AAAA = 1, 28
NO_SUCH_NAME = 3
ADDRESSES = {A: socket.inet_pton(socket.AF_INET, "127.0.0.1"), AAAA: socket.inet_pton(socket.AF_INET6, "::1")}
PORT = 53


def answer(query: bytes) -> bytes:
    """The answer to a question of one name (RFC 1035, section 4)."""
    at, labels = 12, []
    while length := query[at]:
        labels.append(query[at + 1 : at + 1 + length].decode().lower())
        at += 1 + length
    question = query[12 : at + 5]
    (kind,) = struct.unpack_from("!H", query, at + 1)
    name = labels[0] if labels else ""
    is_there = labels[-1:] == ["test"] and not name.endswith("nowhere")
    has_kind = kind == (AAAA if name.endswith("ipv6") else A)
    records = [ADDRESSES[kind]] if is_there and has_kind else []
    flags = 0x8580 | (0 if is_there else NO_SUCH_NAME)
    body = b"".join(struct.pack("!HHHIH", 0xC00C, kind, 1, 60, len(data)) + data for data in records)
    return query[:2] + struct.pack("!HHHHH", flags, 1, len(records), 0, 0) + question + body


class NameServer:
    """Runs until it is closed; PermissionError where port 53 is not allowed."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.address = next(filter(self._is_mine, (f"127.53.{os.getpid() % 256}.{n}" for n in range(1, 255))))
        threading.Thread(target=self._serve, daemon=True).start()

    def _is_mine(self, address: str) -> bool:
        try:
            self._socket.bind((address, PORT))
        except PermissionError:
            raise
        except OSError:  # another test's
            return False
        return True

    def _serve(self) -> None:
        while True:
            try:
                query, sender = self._socket.recvfrom(512)
            except OSError:
                return
            if not query:
                return
            self._socket.sendto(answer(query), sender)

    def close(self) -> None:
        with contextlib.suppress(OSError):  # not connected, and yet whoever waits is woken
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
