"""A load generator in one thread: keep-alive connections that each send a request when the last one was answered.

It costs about 20 µs a request, far less than what it measures; give it a processor of its own where there is one.
"""

from __future__ import annotations

import selectors
import socket
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

CONNECTIONS = 16
_LENGTH = b"content-length: "


class Connection:
    """One keep-alive connection. Answers must carry Content-Length."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""
        self.sent_at = 0.0

    def send(self, request: bytes) -> None:
        """Send one whole request."""
        self.sent_at = time.perf_counter()
        self.socket.sendall(request)

    def is_answered(self) -> bool:
        """Read what is there; whether the answer is complete. Anything but a 200 ends the benchmark."""
        self._buffer += self.socket.recv(1 << 18)
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return False
        head = self._buffer[:end].lower()
        if not head.startswith(b"http/1.1 200"):
            raise SystemExit(f"not a 200: {self._buffer[:400]!r}")
        start = head.index(_LENGTH) + len(_LENGTH)
        length = int(head[start:].partition(b"\r\n")[0])
        if len(self._buffer) < end + 4 + length:
            return False
        self._buffer = self._buffer[end + 4 + length :]
        return True


def requests_per_s(port: int, requests: Sequence[bytes], seconds: float, connections: int = CONNECTIONS) -> float:
    """As many as the server answers, with every connection always waiting for one."""
    selector = selectors.DefaultSelector()
    for _ in range(connections):
        selector.register((c := Connection(port)).socket, selectors.EVENT_READ, c)
    turn = answered = 0
    for key in list(selector.get_map().values()):
        key.data.send(requests[turn % len(requests)])
        turn += 1
    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
        for key, _ in selector.select(1):
            if key.data.is_answered():
                answered += 1
                key.data.send(requests[turn % len(requests)])
                turn += 1
    elapsed = time.perf_counter() - start
    for key in list(selector.get_map().values()):
        key.data.socket.close()
    return answered / elapsed


def latencies_s(port: int, requests: Sequence[bytes], rate: float, seconds: float) -> list[float]:
    """Seconds from when each request was due, at a steady rate, to its answer: waiting in line counts."""
    free = [Connection(port) for _ in range(CONNECTIONS)]
    selector = selectors.DefaultSelector()
    for connection in free:
        selector.register(connection.socket, selectors.EVENT_READ, connection)
    taken: list[float] = []
    due_at: dict[Connection, float] = {}
    start, sent, total = time.perf_counter(), 0, int(rate * seconds)
    while len(taken) < total:
        now = time.perf_counter()
        while sent < total and start + sent / rate <= now and free:
            connection = free.pop()
            due_at[connection] = start + sent / rate
            connection.send(requests[sent % len(requests)])
            sent += 1
        for key, _ in selector.select(0):
            if key.data.is_answered():
                taken.append(time.perf_counter() - due_at.pop(key.data))
                free.append(key.data)
    for connection in free:
        connection.socket.close()
    return taken
