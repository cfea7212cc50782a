"""The origin: HTTP/1.1 in the clear and in TLS, on IPv4 and IPv6, that counts the bytes of its sockets.

The first part of a path names what the request belongs to; the rest says what to answer:

| path | answer |
|---|---|
| `/NAME/bytes/N` | N bytes, with their length |
| `/NAME/cached/N` | the same, and may be kept by a cache |
| `/NAME/chunked/N` | N bytes, in chunks |
| `/NAME/status/204` | that status, with a word as its body where it may have one |
| `/NAME/silence/` | nothing: the connection is closed |
| `/NAME/stall/N` | N bytes of an answer that says it is ten times as long, and then nothing; `reset` ends it |
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from email.utils import formatdate
from pathlib import Path

import trustme

from proxies.wire import CHUNK_BYTES, Tally, accept_in_background, close_with_reset, listen, stop_accepting

PIECE = b"b" * CHUNK_BYTES
HEADER_BYTES_MAX = 65_536
HAS_NO_BODY = ("204", "304")


class Plain:
    """A connection in the clear. `received` and `sent` count bytes of the socket that no name has taken yet."""

    ends_with_its_client = False  # a proxy keeps such a connection for others

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.received = self.sent = 0
        self.is_reset = False

    def _recv(self) -> bytes:
        part = self.connection.recv(CHUNK_BYTES)
        self.received += len(part)
        return part

    def _send(self, content: bytes) -> None:
        view = memoryview(content)
        while view:
            sent = self.connection.send(view)
            self.sent += sent
            view = view[sent:]

    recv, send = _recv, _send

    def close(self) -> None:
        if self.is_reset:
            close_with_reset(self.connection)
        else:
            self.connection.close()


class Tls(Plain):
    """A connection in TLS: what is counted is what is on the wire, handshake and records and all.

    It is always the client that closes first, so no farewell is sent to somebody who is gone.
    """

    ends_with_its_client = True

    def __init__(self, connection: socket.socket, context: ssl.SSLContext) -> None:
        super().__init__(connection)
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=True)

    def recv(self) -> bytes:
        while True:
            try:
                part = self._tls.read(CHUNK_BYTES)
            except ssl.SSLWantReadError:
                self._flush()
                raw = self._recv()
                if raw:
                    self._in.write(raw)
                else:
                    self._in.write_eof()
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return b""
            else:
                self._flush()
                return part

    def send(self, content: bytes) -> None:
        self._tls.write(content)
        self._flush()

    def _flush(self) -> None:
        self._send(self._out.read())


class GoneError(Exception):
    """The peer closed in the middle of a request."""


class Exchange:
    """The requests of one connection, one after the other."""

    def __init__(self, origin: Origin, wire: Plain) -> None:
        self._origin = origin
        self._wire = wire
        self._buffer = b""
        self._name = ""

    def serve(self) -> None:
        with contextlib.ExitStack() as busy:
            with contextlib.suppress(OSError, GoneError, ssl.SSLError):
                while self._take_request():
                    if self._wire.ends_with_its_client:
                        busy.enter_context(self._origin.tally.busy(self._name))
            self._wire.close()
            self._account()

    def _account(self) -> None:
        """Give the bytes since the last time to the request's name."""
        up, down, self._wire.received, self._wire.sent = self._wire.received, self._wire.sent, 0, 0
        self._origin.tally.add(self._name, up, down)

    def _take_request(self) -> bool:
        """Read a request and answer it; False at the end of the connection."""
        if not self._buffer:
            self._buffer = self._wire.recv()
            if not self._buffer:
                return False
        self._name = ""
        method, path, headers = self._read_header()
        _, self._name, action, argument = path.split("/", 3)
        with self._origin.tally.busy(self._name):
            try:
                return self._answer(method, action, argument, headers)
            finally:
                self._account()

    def _answer(self, method: str, action: str, argument: str, headers: dict[str, str]) -> bool:
        if headers.get("expect", "").lower() == "100-continue":
            self._wire.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._read_body(headers)
        if action == "silence":
            return False
        if action == "stall":
            return self._stall(int(argument))
        self._send_answer(action, argument, has_body=method != "HEAD")
        return headers.get("connection", "").lower() != "close"

    def _send_answer(self, action: str, argument: str, *, has_body: bool) -> None:
        status, size = ("200", int(argument)) if action != "status" else (argument, 5)
        lines = [f"HTTP/1.1 {status} Fine", f"Date: {formatdate(usegmt=True)}", "Content-Type: text/plain"]
        lines.append(f"Cache-Control: {'max-age=3600' if action == 'cached' else 'no-store'}")
        if action == "chunked":
            lines.append("Transfer-Encoding: chunked")
        elif status not in HAS_NO_BODY:
            lines.append(f"Content-Length: {size}")
        header = "\r\n".join([*lines, "", ""]).encode()
        if not has_body or status in HAS_NO_BODY:
            self._wire.send(header)
        elif action == "chunked":
            self._wire.send(header)
            for piece in pieces(size):
                self._wire.send(b"%x\r\n%s\r\n" % (len(piece), piece))
            self._wire.send(b"0\r\n\r\n")
        else:
            first, *others = pieces(size)
            self._wire.send(header + first)
            for piece in others:
                self._wire.send(piece)

    def _stall(self, size: int) -> bool:
        header = b"HTTP/1.1 200 Fine\r\nCache-Control: no-store\r\nContent-Length: %d\r\n\r\n" % (10 * size)
        with self._origin.stalled(self._name, self._wire):
            self._wire.send(header)
            for piece in pieces(size):
                self._wire.send(piece)
            while self._wire.recv():
                pass
        return False

    def _read_header(self) -> tuple[str, str, dict[str, str]]:
        while b"\r\n\r\n" not in self._buffer:
            self._read_more()
            assert len(self._buffer) < HEADER_BYTES_MAX
        header, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        first, *lines = header.decode().split("\r\n")
        method, path, _ = first.split(" ")
        return method, path, {name.lower(): value.strip() for name, _, value in (x.partition(":") for x in lines)}

    def _read_body(self, headers: dict[str, str]) -> None:
        if headers.get("transfer-encoding", "").lower() == "chunked":
            while size := int(self._read_line(), 16):
                self._skip(size + 2)
            while self._read_line():
                pass
        else:
            self._skip(int(headers.get("content-length", 0)))

    def _read_line(self) -> bytes:
        while b"\r\n" not in self._buffer:
            self._read_more()
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line

    def _skip(self, size: int) -> None:
        while size > len(self._buffer):
            size -= len(self._buffer)
            self._buffer = b""
            self._read_more()
        self._buffer = self._buffer[size:]

    def _read_more(self) -> None:
        part = self._wire.recv()
        if not part:
            raise GoneError
        if self._name:  # so that whoever waits for an upload sees how far it is
            self._account()
        self._buffer += part


def pieces(size: int) -> list[bytes]:
    return [PIECE[: min(CHUNK_BYTES, size - start)] for start in range(0, size, CHUNK_BYTES)] or [b""]


class Origin:
    """Runs until it is closed; `tally` has the bytes of its sockets. Its certificate is also one for edges."""

    def __init__(self, folder: Path, domain: str) -> None:
        self.tally = Tally()
        self._stalled: dict[str, Plain] = {}
        authority = trustme.CA()
        certificate = authority.issue_cert(f"*.{domain}")
        self.authority_file, self.certificate_file = folder / "authority.pem", folder / "edge.pem"
        authority.cert_pem.write_to_path(self.authority_file)
        certificate.private_key_and_cert_chain_pem.write_to_path(self.certificate_file)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(context)
        self._listeners = []
        self.port = self._listen(Plain)
        self.tls_port = self._listen(lambda connection: Tls(connection, context))

    def _listen(self, wrap) -> int:
        """Serve on one port of both loopback addresses."""
        while True:
            four = listen("127.0.0.1")
            port = four.getsockname()[1]
            try:
                six = listen("::1", port)
            except OSError:  # taken there
                four.close()
                continue
            for listener in (four, six):
                accept_in_background(listener, lambda connection: Exchange(self, wrap(connection)).serve())
            self._listeners += [four, six]
            return port

    def close(self) -> None:
        for listener in self._listeners:
            stop_accepting(listener)

    @contextlib.contextmanager
    def stalled(self, name: str, wire: Plain):
        self._stalled[name] = wire
        try:
            yield
        finally:
            self._stalled.pop(name)

    def reset(self, name: str) -> None:
        """Break off the answer that stalls under this name, with a RST."""
        self._stalled[name].is_reset = True
        self.give_up(name)

    def give_up(self, name: str) -> None:
        """Close the connection whose answer stalls under this name, if it is still there."""
        wire = self._stalled.get(name)
        if wire:
            with contextlib.suppress(OSError):
                wire.connection.shutdown(socket.SHUT_RD)
