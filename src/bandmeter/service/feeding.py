"""The process that ingests, beside the workers of `serve`: it follows sources, and counts what workers hand over."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from multiprocessing import connection, parent_process
from pathlib import Path
from typing import Any, TextIO

import structlog

from bandmeter import service, telemetry
from bandmeter.config import Config
from bandmeter.domain import errors
from bandmeter.domain.errors import BandmeterError
from bandmeter.ingest.files.tail import Tail, Watched
from bandmeter.ingest.posts import bodies
from bandmeter.ingest.posts.poster import Poster
from bandmeter.ingest.posts.server import Counter, Server
from bandmeter.service import sources
from bandmeter.service.keeping import Keeper
from bandmeter.telemetry import counted

SOCKET = "BANDMETER_FEED_SOCKET"  # where workers find the process
START_SECONDS = 60.0  # for the process to listen: twice what it may wait for another's transaction
STOP_SECONDS = 20.0  # for it to count what it has
# Sockets and the workers' counters are kept in memory where there is such a place: a disk that is full then harms none.
MEMORY = Path("/dev/shm")  # noqa: S108 - a folder of our own is made in it
FOLDER_PREFIX = "bandmeter-"
PAUSES_SECONDS = (0.2, 1.0, 5.0)  # before it is started again; the last one for ever
LONG_SECONDS = 60.0  # after which a start counts as the first again
PR_SET_PDEATHSIG = 1  # of prctl(2)
_log = structlog.get_logger(__name__)


# ---------------------------------------------------------------- inside


def run(path: str) -> None:
    """What the process does, until its parent lets it go, or has gone."""
    # A terminal's signals, and the SIGTERM of systemd, reach all processes at once; this one is the last to end, for
    # the workers' sake, and its parent says when.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    config = service.configure(None)
    telemetry.set_up_logs(service.clock_ms)
    with service.open_parts(config) as opened:
        metrics = counted.IngestMetrics(opened.catalog.zone_by_number)
        parts = opened._replace(store=counted.told(opened.store, metrics))
        _run(config, parts, metrics, Path(path))


def _run(config: Config, parts: service.Parts, metrics: counted.IngestMetrics, path: Path) -> None:
    with _threads(config, parts) as (counter, tail):
        keeper = Keeper(parts, metrics, counter, tail)

        def status() -> dict[str, Any]:
            faults = list(dict.fromkeys(filter(None, (counter.fault, tail.fault))))
            standings = tail.standings.items()
            wrong = {name: one.problem for name, one in standings if one.problem and one.problem not in faults}
            warning = f"Sources with something wrong: {len(wrong)} of {len(standings)}; `bandmeter doctor` says what."
            return {"faults": faults, "warnings": [warning] if wrong else [], "problems": wrong}

        server = Server(counter, lambda name: service.find_format(config, name), status)
        keeper.start()
        try:
            asyncio.run(_listen(server, path))
        finally:
            keeper.stop()


@contextlib.contextmanager
def _threads(config: Config, parts: service.Parts) -> Iterator[tuple[Counter, Tail]]:
    """The two that count, each with memory of its own."""
    watched = [Watched(service.job_of(config, source), sources.pattern(config, source)) for source in config.sources]
    with (
        contextlib.closing(service.tools_of(parts, bodies.CONTENT_BYTES_MAX)) as for_posts,
        contextlib.closing(service.tools_of(parts, config.ingest.batch_bytes)) as for_files,
    ):
        counter, tail = Counter(Poster(for_posts)), Tail(for_files, watched)
        follower = threading.Thread(target=tail.run, name="tail")
        counter.start()
        follower.start()
        try:
            yield counter, tail
        finally:
            tail.stop()
            counter.stop()
            follower.join()


async def _listen(server: Server, path: Path) -> None:
    stopping = asyncio.Event()
    # The parent holds the other end of this pipe: when it has gone, however it went, there is an end to read.
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), stopping.set)
    await server.start(path)
    with contextlib.suppress(BrokenPipeError):  # the parent has gone already
        sys.stdout.write("listening\n")
        sys.stdout.flush()
    await stopping.wait()
    await server.stop()


# ---------------------------------------------------------------- from outside


@contextlib.contextmanager
def only_one(config: Config) -> Iterator[str]:
    """Hold the data folder's lock: two that follow the same sources would only be in each other's way.

    Gives the path of an empty folder for what ends with the service. Raises `unavailable`.
    """
    with contextlib.ExitStack() as stack:
        try:
            lock = stack.enter_context((config.data / service.LOCK_FILE).open("a+"))
            folder = _lock(lock, config)
        except OSError as error:
            sentence = f"{config.data / service.LOCK_FILE} cannot be used ({error.strerror}): see `bandmeter doctor`."
            raise BandmeterError(errors.UNAVAILABLE, sentence) from error
        stack.enter_context(folder)
        yield folder.name


def _lock(lock: TextIO, config: Config) -> tempfile.TemporaryDirectory[str]:
    """Take the lock; a folder, whose path is kept in the file, so that the next one can remove what a crash leaves."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        sentence = f"Another `bandmeter serve` runs on {config.data}: stop it, or name another folder with --data."
        raise BandmeterError(errors.UNAVAILABLE, sentence) from error
    lock.seek(0)
    left = Path(lock.read())
    if left.name.startswith(FOLDER_PREFIX):
        shutil.rmtree(left, ignore_errors=True)
    memory = MEMORY if os.access(MEMORY, os.W_OK) else None
    folder = tempfile.TemporaryDirectory(prefix=FOLDER_PREFIX, dir=memory, ignore_cleanup_errors=True)
    with contextlib.suppress(OSError):  # the disk may be full; then a folder may stay
        lock.truncate(0)
        lock.write(folder.name)
        lock.flush()
    return folder


@contextlib.contextmanager
def running(folder: str) -> Iterator[None]:
    """The process, for as long as the workers run; its socket is in `folder`."""
    feeder = Feeder(folder)
    feeder.start()
    try:
        yield
    finally:
        feeder.stop()


def end_when_told() -> None:
    """Have a process that was just forked end by a signal, as long as it has nothing to finish.

    It inherits its parent's way of taking signals, which would only note them: it would start, and not know.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def is_alive(worker: Any) -> bool:
    """Whether a worker's process runs, by the end of its pipe.

    Asked by its id, as multiprocessing does it, it seems to run for a moment after another thread has waited for it:
    now and then, a worker that had stopped as it should was told of as killed.
    """
    return not connection.wait([worker.inner.sentinel], 0)


def end_with_parent() -> None:
    """Have the kernel end this process when the one that started it has gone, however it went; on Linux.

    At once: it would go on for as long as some body is not at its end, with the port and the lock that the next one
    needs. A parent that ends in peace waits for it.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        parent = parent_process()
        if parent and parent.pid != os.getppid():  # it went before that was said
            os.kill(os.getpid(), signal.SIGKILL)


class Feeder:
    """Starts the process, and starts it again whenever it ends before it should."""

    def __init__(self, folder: str) -> None:
        self._path = str(Path(folder) / service.SOCKET_FILE)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="feeder")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it listens; raises `failure`."""
        os.environ[SOCKET] = self._path
        os.register_at_fork(after_in_child=self._let_go)  # a worker would hold the pipe open when we have gone
        self._process = self._spawn()
        self._thread.start()

    def stop(self) -> None:
        """Let it count what it has, and end."""
        self._stopping.set()
        self._let_go()
        self._thread.join(STOP_SECONDS)
        if self._thread.is_alive() and self._process:
            self._process.kill()
        self._thread.join()

    def _let_go(self) -> None:
        if self._process and self._process.stdin:
            with contextlib.suppress(OSError):
                self._process.stdin.close()

    def _spawn(self) -> subprocess.Popen[bytes]:
        Path(self._path).unlink(missing_ok=True)
        command = [sys.executable, "-c", f"from bandmeter.service import feeding; feeding.run({self._path!r})"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # noqa: S603 - ourselves
        guard = threading.Timer(START_SECONDS, process.kill)
        guard.start()
        is_listening = process.stdout is not None and process.stdout.readline() == b"listening\n"
        guard.cancel()
        if not is_listening:
            process.kill()
            process.wait()
            sentence = "The process that ingests cannot run: the lines above say why."
            raise BandmeterError(errors.FAILURE, sentence)
        return process

    def _keep(self) -> None:
        failures = 0
        while self._process is not None:
            started = time.monotonic()
            status = self._process.wait()
            if self._stopping.is_set():
                return
            failures = 1 if time.monotonic() - started > LONG_SECONDS else failures + 1
            _log.error("the process that ingests has ended, and is started again", status=status)
            self._stopping.wait(PAUSES_SECONDS[min(failures, len(PAUSES_SECONDS)) - 1])
            if self._stopping.is_set():
                return
            with contextlib.suppress(BandmeterError, OSError):  # and once more after the next pause
                self._process = self._spawn()
            if self._stopping.is_set():  # meanwhile, and only the one before was let go
                self._let_go()
