"""A load generator in one thread: keep-alive connections that each send a request when the last one was answered.

It costs about 10 µs a request (`measure.report` of the benchmarks tells), less than what it measures; give it a
processor of its own where there is one. Connections are read into one buffer, and looked at no more than needed.
"""

from __future__ import annotations

import select
import socket
import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

CONNECTIONS = 16
BUFFER_BYTES = 1 << 20
_BUFFER = memoryview(bytearray(BUFFER_BYTES))
_LENGTH = b"content-length: "


class Rate(NamedTuple):
    """Answers in so many seconds of the clock, and what they took of the generator's own processor time."""

    answered: int
    seconds: float
    generator_s: float

    @property
    def per_s(self) -> float:
        """Answers a second."""
        return self.answered / self.seconds


class Connection:
    """One keep-alive connection. Answers must carry Content-Length."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._missing = 0  # bytes of an answer that has begun

    def send(self, request: bytes) -> None:
        """Send one whole request."""
        self.socket.sendall(request)

    def is_answered(self) -> bool:
        """Read what is there; whether the answer is complete. Anything but a 200 ends the benchmark."""
        count = self.socket.recv_into(_BUFFER)
        if not self._missing:
            self._missing = _size(bytes(_BUFFER[: min(count, 1_024)]))
        self._missing -= count
        return self._missing == 0

    def close(self) -> None:
        """Close the connection."""
        self.socket.close()


def _size(start: bytes) -> int:
    """Bytes of the whole answer, from its first ones, which hold the whole head on a loopback."""
    head, _, _ = start.partition(b"\r\n\r\n")
    if not start.startswith(b"HTTP/1.1 200") or len(head) == len(start):
        raise SystemExit(f"not a 200: {start[:400]!r}")
    lower = head.lower()
    at = lower.index(_LENGTH) + len(_LENGTH)
    return len(head) + 4 + int(lower[at : at + 12].partition(b"\r")[0])


def _connect(port: int, connections: int) -> tuple[select.epoll, dict[int, Connection]]:
    made = [Connection(port) for _ in range(connections)]
    poller = select.epoll()
    for connection in made:
        poller.register(connection.socket, select.EPOLLIN)
    return poller, {connection.socket.fileno(): connection for connection in made}


def answers(port: int, requests: Sequence[bytes], seconds: float, connections: int = CONNECTIONS) -> Rate:
    """As many as the server answers, with every connection always waiting for one; over and over if they run out."""
    poller, by_number = _connect(port, connections)
    turn = answered = 0
    spent = time.process_time()
    start = now = time.perf_counter()
    for connection in by_number.values():
        connection.send(requests[turn % len(requests)])
        turn += 1
    while now < start + seconds:
        for number, _ in poller.poll(1):
            connection = by_number[number]
            if connection.is_answered():
                answered += 1
                connection.send(requests[turn % len(requests)])
                turn += 1
        now = time.perf_counter()
    rate = Rate(answered, now - start, time.process_time() - spent)
    for connection in by_number.values():
        connection.close()
    return rate


def each(port: int, requests: Sequence[bytes], connections: int = CONNECTIONS) -> None:
    """Each request once: the server has then seen them all."""
    poller, by_number = _connect(port, min(connections, len(requests)))
    waiting = iter(requests)
    for connection in by_number.values():
        connection.send(next(waiting))
    missing = len(requests)
    while missing:
        for number, _ in poller.poll(1):
            connection = by_number[number]
            if connection.is_answered():
                missing -= 1
                request = next(waiting, None)
                if request is not None:
                    connection.send(request)
    for connection in by_number.values():
        connection.close()


def latencies_s(port: int, requests: Sequence[bytes], rate: float, seconds: float) -> list[float]:
    """Seconds from when each request was due, at a steady rate, to its answer: waiting in line counts."""
    poller, by_number = _connect(port, CONNECTIONS)
    free = list(by_number.values())
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
        for number, _ in poller.poll(0):
            connection = by_number[number]
            if connection.is_answered():
                taken.append(time.perf_counter() - due_at.pop(connection))
                free.append(connection)
    for connection in by_number.values():
        connection.close()
    return taken
