"""Bodies sent to a running server by callers who lie about them, stop, or never end."""

from __future__ import annotations

import contextlib
import re
import socket
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from bandmeter.catalog import Catalog
from bandmeter.domain.tenancy import Account, Scope

ASKED = b'{"dimension": "zones", "from": "2026-01-01", "to": "2026-01-02"}'
LENGTH = b"Content-Length: %d"
CHUNKED = b"Transfer-Encoding: chunked"
SOCKET_SECONDS = 30
PUMPED_BYTES = 512 * 2**20
GROWTH_BYTES_MAX = 32 * 2**20  # of a worker's peak, while half a gibibyte is thrown at it
ENDED = "The body ended too early."
TOO_LARGE = "The body is larger than 65536 bytes."


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@pytest.fixture(scope="module")
def served(tmp_path_factory, serve_folder):
    """A server over a folder with one account, and a key of it."""
    folder = tmp_path_factory.mktemp("bodies")
    (folder / "data").mkdir(mode=0o700)
    (folder / "data" / "usage.db").touch()
    catalog = Catalog.open(f"sqlite:///{folder}/data/catalog.db")
    catalog.add_account(Account("acme"))
    key = catalog.add_key("acme", Scope.READ, None, 0)
    catalog.close()
    with serve_folder(folder / "data", folder / "log", 1) as running:
        yield running, key.encode()


def connect(running) -> socket.socket:
    address = urlsplit(running.url)
    return socket.create_connection((address.hostname, address.port), timeout=SOCKET_SECONDS)


def head(key: bytes, *lines: bytes, path: bytes = b"/costs/export/json") -> bytes:
    credential = [b"Authorization: Bearer " + key] if key else []
    return b"\r\n".join([b"POST %b HTTP/1.1" % path, b"Host: x", *credential, *lines, b"", b""])


def answer(connection: socket.socket) -> tuple[int, str]:
    """The status and the text of the next answer; an interim one is passed over."""
    received = b""
    while True:
        found = re.match(
            rb"HTTP/1.1 (\d+) .*?content-length: (\d+).*?\r\n\r\n(.*)", received, re.DOTALL | re.IGNORECASE
        )
        if found and len(found[3]) >= int(found[2]) and not received.startswith(b"HTTP/1.1 100 "):
            return int(found[1]), found[3][: int(found[2])].decode()
        if received.startswith(b"HTTP/1.1 100 ") and b"\r\n\r\n" in received:
            received = received.partition(b"\r\n\r\n")[2]
            continue
        piece = connection.recv(65_536)
        assert piece, f"closed after {received!r}"
        received += piece


HONEST = {
    "by length": (LENGTH % len(ASKED), ASKED),
    "in chunks": (CHUNKED, chunk(ASKED[:9]) + chunk(ASKED[9:]) + chunk(b"")),
    "with an extension and a trailer": (CHUNKED, b"%x;a=b\r\n%b\r\n0\r\nX: y\r\n\r\n" % (len(ASKED), ASKED)),
}


@pytest.mark.parametrize("case", HONEST)
def test_a_whole_body_is_answered(served, case):
    """And so is the next one on the same connection."""
    running, key = served
    line, sent = HONEST[case]
    with connect(running) as connection:
        for _ in range(2):
            connection.sendall(head(key, line) + sent)
            assert answer(connection) == (200, "{}")


def test_a_body_may_wait_until_it_is_wanted(served):
    running, key = served
    with connect(running) as connection:
        connection.sendall(head(key, LENGTH % len(ASKED), b"Expect: 100-continue"))
        assert connection.recv(65_536).startswith(b"HTTP/1.1 100 ")
        connection.sendall(ASKED)
        assert answer(connection) == (200, "{}")


LIES = {
    "less than its length": (LENGTH % (len(ASKED) + 1), ASKED, (400, ENDED)),
    "no last chunk": (CHUNKED, chunk(ASKED), (400, ENDED)),
    "a chunk longer than it says": (CHUNKED, b"3\r\n%b\r\n0\r\n\r\n" % ASKED, (400, ENDED)),
    "a chunk of no size": (CHUNKED, b"zz\r\n%b\r\n0\r\n\r\n" % ASKED, (400, ENDED)),
    "a large length": (LENGTH % 65_537, b"", (413, TOO_LARGE)),
    "a large length, large": (LENGTH % 65_537, b"x" * 65_537, (413, TOO_LARGE)),
    "large chunks": (CHUNKED, chunk(b"x" * 65_537), (413, TOO_LARGE)),
    "a large chunk that does not come": (CHUNKED, b"7fffffff\r\n" + b"x" * 70_000, (413, TOO_LARGE)),
}


@pytest.mark.parametrize("case", LIES)
def test_a_body_that_is_not_what_it_says_is_refused(served, case):
    """In the dialect's form; a part is never taken for the whole, and nothing after it for a request."""
    running, key = served
    line, sent, expected = LIES[case]
    with connect(running) as connection:
        connection.sendall(head(key, line) + sent)
        with contextlib.suppress(OSError):  # it may have answered and hung up already
            connection.shutdown(socket.SHUT_WR)
        assert answer(connection) == expected
        with contextlib.suppress(ConnectionResetError):  # it need not have read to the end
            assert connection.recv(65_536) == b""


def test_two_ideas_of_a_bodys_length_leave_no_second_request(served):
    """What one reader takes for the body and another for a request is answered once, and the connection closed."""
    running, key = served
    hidden = head(key, LENGTH % len(ASKED)) + ASKED
    for lines in ((LENGTH % len(ASKED + hidden), CHUNKED), (CHUNKED, LENGTH % 0)):
        with connect(running) as connection:
            connection.sendall(head(key, *lines) + chunk(ASKED) + chunk(b"") + hidden)
            assert answer(connection) in [(200, "{}"), (400, "")]
            assert connection.recv(65_536) == b""


def peak_bytes(process: int) -> int:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    return int(found[1]) * 1024


@pytest.mark.parametrize("is_known", [True, False])
def test_a_body_without_end_fills_no_memory(served, is_known):
    """Refused while it still comes, with a key and without, and the server goes on."""
    running, key = served
    (worker,) = running.workers()
    before, piece, sent = peak_bytes(worker), chunk(b"x" * 2**20), 0
    with connect(running) as connection:
        connection.sendall(head(key if is_known else b"", CHUNKED))
        try:
            while sent < PUMPED_BYTES:
                connection.sendall(piece)
                sent += len(piece)
        except (BrokenPipeError, ConnectionResetError):
            pass
    assert sent < PUMPED_BYTES, "it was all taken"
    assert peak_bytes(worker) - before < GROWTH_BYTES_MAX
    with connect(running) as connection:
        connection.sendall(head(key, LENGTH % len(ASKED)) + ASKED)
        assert answer(connection) == (200, "{}")
