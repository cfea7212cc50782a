"""`bandmeter serve` as an operator starts it, in a process group of its own, and its processes, to be killed."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

DEADLINE_SECONDS = 30.0  # whatever takes longer hangs; on a busy machine a start takes ten
POLL_SECONDS = 0.02
PAUSE = threading.Event()  # never set: `PAUSE.wait(seconds)` lets time pass between two looks


def until(condition: Callable[[], Any], what: str, seconds: float = DEADLINE_SECONDS) -> Any:
    """Wait for a condition; what it gave. Fails when it takes longer."""
    end = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < end, f"waited in vain: {what}"
        PAUSE.wait(POLL_SECONDS)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def children(pid: int) -> list[int]:
    """The processes that a process has started, oldest first."""
    found = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                found += [int(child) for child in (task / "children").read_text().split()]
    return sorted(found)


def is_alive(pid: int) -> bool:
    """Whether it runs: what has ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def rss_bytes(pid: int) -> int:
    """What a process holds in memory now; 0 when it has gone."""
    with contextlib.suppress(OSError, IndexError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


class Service:
    """A data folder that is served, over and over, on one port. `log`: what all of them write to standard error."""

    def __init__(self, data: Path, log: Path, workers: int = 2) -> None:
        self.data, self.log, self.workers_number = data, log, workers
        self.port = free_port()
        self.environment: dict[str, str] = {}
        self.process: subprocess.Popen[str] | None = None

    @property
    def pid(self) -> int:
        assert self.process
        return self.process.pid

    def start(self) -> None:
        """Start it, and wait until it answers."""
        assert self.try_start() == "", self.log.read_text()

    def try_start(self) -> str:
        """Start it; "" once it answers, else what it said when it gave up."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("BANDMETER_", "PROMETHEUS_"))}
        command = [str(Path(sys.executable).parent / "bandmeter"), "--data", str(self.data), "serve"]
        before = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("a") as errors:
            self.process = subprocess.Popen(
                [*command, "--port", str(self.port), "--workers", str(self.workers_number)],
                env=clean | self.environment,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )
        guard = threading.Timer(DEADLINE_SECONDS, self.process.kill)
        guard.start()
        line = (self.process.stdout or io.StringIO()).readline()
        guard.cancel()
        if line.startswith("Listening on "):
            return ""
        process, self.process = self.process, None
        process.communicate()
        return self.log.read_text()[before:] or f"exit status {process.returncode}"

    # ------------------------------------------------------------ its processes

    def feeder(self) -> int:
        """The process that ingests; 0 while there is none."""
        for child in children(self.pid):
            with contextlib.suppress(OSError):
                if b"feeding.run" in Path(f"/proc/{child}/cmdline").read_bytes() and is_alive(child):
                    return child
        return 0

    def workers(self) -> list[int]:
        """Those that answer, the oldest first."""
        feeder = self.feeder()
        return [child for child in children(self.pid) if child != feeder and is_alive(child)]

    def tree(self) -> list[int]:
        """All of them."""
        return [self.pid, *children(self.pid)]

    def rss_bytes(self) -> int:
        """What all of them hold in memory now."""
        return sum(map(rss_bytes, self.tree()))

    # ------------------------------------------------------------ what happens to them

    def kill_group(self) -> None:
        """All at once, as when the power goes."""
        self._end(lambda: os.killpg(self.pid, signal.SIGKILL))

    def kill_parent(self) -> None:
        """The one that has started the others: they end by themselves."""
        self._end(lambda: os.kill(self.pid, signal.SIGKILL))

    def kill_feeder(self) -> None:
        """The one that ingests: another takes its place."""
        old = until(self.feeder, "a process that ingests")
        os.kill(old, signal.SIGKILL)
        until(lambda: self.feeder() not in (0, old) and self.is_ready(), "another process that ingests")

    def kill_worker(self) -> None:
        """The one that has answered longest: another takes its place."""
        old = until(self.workers, "a worker")
        os.kill(old[0], signal.SIGKILL)
        until(lambda: len(set(self.workers()) - set(old)) >= 1, "another worker")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ask it to end; the exit status."""
        assert self.process
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Wait for its end; the exit status."""
        process = self.process
        assert process
        try:
            process.communicate(timeout=DEADLINE_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise
        self.process = None
        return process.returncode

    def _end(self, kill: Callable[[], None]) -> None:
        tree = self.tree()
        kill()
        assert self.process
        self.process.communicate()
        until(lambda: not any(map(is_alive, tree)), "all processes to end")
        self.process = None

    def discard(self) -> None:
        """Leave nothing behind, however a test ended."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.communicate()
            self.process = None

    # ------------------------------------------------------------ what it says

    def get(self, path: str, key: str = "") -> tuple[int, bytes]:
        """Status and body of an answer; 0 when none came."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_SECONDS)
        try:
            connection.request("GET", path, headers={"Authorization": f"Bearer {key}"} if key else {})
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException):
            return 0, b""
        finally:
            connection.close()

    def is_ready(self) -> bool:
        return self.get("/readyz")[0] == 200

    def faults(self) -> list[str]:
        """What `/readyz` says is wrong."""
        status, body = self.get("/readyz")
        found = json.loads(body)
        assert (status, found["ready"]) in ((200, True), (503, False))
        assert bool(found["faults"]) == (status == 503)
        return found["faults"]


@contextlib.contextmanager
def service_of(data: Path, log: Path, workers: int = 2) -> Iterator[Service]:
    """A service that does not run yet, and does not any more afterwards."""
    made = Service(data, log, workers)
    try:
        yield made
    finally:
        made.discard()
