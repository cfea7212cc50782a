"""Bytes at a socket, added up by the name of what they belong to; and a relay that counts what passes it."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import NamedTuple

DEADLINE_SECONDS = 60  # of every wait; on an idle machine each takes milliseconds
CHUNK_BYTES = 65_536


class Bytes(NamedTuple):
    """What went towards the target, and what came from it."""

    up: int = 0
    down: int = 0


class Tally:
    """Sums by name; whoever waits for a sum is woken by each change."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._bytes: dict[str, Bytes] = defaultdict(Bytes)
        self._busy: Counter[str] = Counter()

    def add(self, name: str, up: int = 0, down: int = 0) -> None:
        with self._changed:
            so_far = self._bytes[name]
            self._bytes[name] = Bytes(so_far.up + up, so_far.down + down)
            self._changed.notify_all()

    def of(self, name: str) -> Bytes:
        with self._changed:
            return self._bytes[name]

    @contextlib.contextmanager
    def busy(self, name: str) -> Iterator[None]:
        """While something may still be added under this name."""
        with self._changed:
            self._busy[name] += 1
        try:
            yield
        finally:
            with self._changed:
                self._busy[name] -= 1
                self._changed.notify_all()

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, DEADLINE_SECONDS), f"waited in vain for {what}"

    def wait_until_idle(self, name: str) -> None:
        self.wait_for(lambda: not self._busy[name], f"the end of what is under way of {name}")


def listen(host: str, port: int = 0) -> socket.socket:
    """A listening socket; port 0 is one that nobody uses."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(128)
    except OSError:
        listener.close()
        raise
    return listener


def accept_in_background(listener: socket.socket, serve: Callable[[socket.socket], None]) -> None:
    """Serve each connection on a thread of its own, until the listener is shut down."""

    def accept() -> None:
        with listener:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


def stop_accepting(listener: socket.socket) -> None:
    with contextlib.suppress(OSError):
        listener.shutdown(socket.SHUT_RDWR)


def close_with_reset(connection: socket.socket) -> None:
    """Close so that the peer gets a RST, as when a machine dies."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


class Relay:
    """Stands between a client and a proxy, and counts under `name` what the proxy's socket reads and writes.

    When the client closes, the proxy's connection is closed; a reset is passed on. A proxy that closes may still read.
    """

    def __init__(self, tally: Tally, name: str, host: str, port: int) -> None:
        self._tally = tally
        self._name = name
        self._to = (host, port)
        self._listener = listen(host)
        listening_at = self._listener.getsockname()[1]
        self.address = f"[{host}]:{listening_at}" if ":" in host else f"{host}:{listening_at}"
        accept_in_background(self._listener, self._serve)

    def close(self) -> None:
        stop_accepting(self._listener)

    def _serve(self, client: socket.socket) -> None:
        with self._tally.busy(self._name), socket.create_connection(self._to) as proxy, client:
            other = {client: proxy, proxy: client}
            open_ends = [client, proxy]
            while client in open_ends:
                for ready in select.select(open_ends, [], [])[0]:
                    try:
                        if not self._pass(ready, other[ready], is_up=ready is client):
                            open_ends.remove(ready)
                    except OSError:
                        close_with_reset(other[ready])
                        return

    def _pass(self, ready: socket.socket, to: socket.socket, *, is_up: bool) -> bool:
        """Pass on what is there; False when that end was closed."""
        part = ready.recv(CHUNK_BYTES)
        if not part and not is_up:
            to.shutdown(socket.SHUT_WR)
        if not is_up:
            self._tally.add(self._name, down=len(part))
        view = memoryview(part)
        while view:
            sent = to.send(view)
            if is_up:
                self._tally.add(self._name, up=sent)
            view = view[sent:]
        return bool(part)
