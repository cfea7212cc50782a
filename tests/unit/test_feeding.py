"""The process that ingests, seen from the one that keeps it, and the thread in it that counts bodies."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import types
from multiprocessing import connection

import pytest
import structlog

from bandmeter.domain import errors
from bandmeter.domain.errors import BandmeterError
from bandmeter.ingest.posts import server
from bandmeter.ingest.posts.server import Counter
from bandmeter.service import feeding
from bandmeter.service.feeding import Feeder

SECONDS_MAX = 30  # for what takes some hundredths
# As the real one: it says that it listens, and ends when it is let go, after a while.
WAITS = "import sys; print('listening', flush=True); sys.stdin.read()"


class Kept(Feeder):
    """A feeder of processes that only wait; `spawned`: all of them."""

    def __init__(self, folder):
        super().__init__(str(folder))
        self.spawned = []
        self.has_spawned = threading.Event()

    def _spawn(self):
        process = subprocess.Popen([sys.executable, "-c", WAITS], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.spawned.append(process)
        self.before_it_is_told()
        self.has_spawned.set()
        return process

    def before_it_is_told(self):
        """Hook."""


@pytest.fixture
def feeder(tmp_path, monkeypatch):
    monkeypatch.setattr(feeding, "PAUSES_SECONDS", (0.01,))
    monkeypatch.setenv(feeding.SOCKET, "")
    with structlog.testing.capture_logs():
        made = Kept(tmp_path)
        yield made
        for process in made.spawned:
            process.kill()
            process.wait()
            process.stdin.close()
            process.stdout.close()


def test_what_ends_is_started_again_until_it_is_stopped(feeder):
    feeder.start()
    feeder.has_spawned.clear()
    os.kill(feeder.spawned[0].pid, signal.SIGKILL)
    assert feeder.has_spawned.wait(SECONDS_MAX)
    feeder.stop()
    assert [process.wait(SECONDS_MAX) for process in feeder.spawned] == [-signal.SIGKILL, 0]


def test_one_that_is_being_started_while_it_is_stopped_ends_too(feeder):
    feeder.start()
    is_spawning, may_go_on = threading.Event(), threading.Event()
    feeder.before_it_is_told = lambda: (is_spawning.set(), may_go_on.wait(SECONDS_MAX))
    os.kill(feeder.spawned[0].pid, signal.SIGKILL)
    assert is_spawning.wait(SECONDS_MAX)
    stopping = threading.Thread(target=feeder.stop)
    stopping.start()
    assert feeder._stopping.wait(SECONDS_MAX)
    may_go_on.set()
    stopping.join(SECONDS_MAX)
    assert not stopping.is_alive()
    assert feeder.spawned[1].wait(SECONDS_MAX) == 0


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_worker_does_not_hold_the_process_when_its_parent_has_gone(feeder):
    """Workers are forked: what they inherit must not keep the pipe open whose end tells the process to end."""
    feeder.start()
    go, told = os.pipe()
    worker = os.fork()
    if not worker:
        os.close(told)
        os.read(go, 1)  # lives on
        os._exit(0)
    feeder.stop()
    assert feeder.spawned[0].wait(SECONDS_MAX) == 0
    os.close(told)
    os.close(go)
    os.waitpid(worker, 0)


class Poster:
    """A store that is full, for as long as it is."""

    def __init__(self):
        self.is_full = True
        self.asked = threading.Semaphore(0)

    def try_store(self):
        self.asked.release()
        if self.is_full:
            raise BandmeterError(errors.UNAVAILABLE, "full")

    def count(self, posts):
        return [BandmeterError(errors.UNAVAILABLE, "full") if self.is_full else {"received": 1} for _ in posts]


def test_a_fault_goes_away_by_itself(monkeypatch):
    """Whether nothing can be counted is known before anything is sent, and that it is over after that."""
    monkeypatch.setattr(server, "RETRY_SECONDS", 0.01)
    poster = Poster()
    counter = Counter(poster)
    counter.start()
    for _ in range(3):
        assert poster.asked.acquire(timeout=SECONDS_MAX)
    assert counter.fault == "full"
    poster.is_full = False
    while poster.asked.acquire(timeout=0.5):
        pass  # until it is not asked any more
    assert counter.fault == ""
    counter.stop()


def test_a_worker_that_another_thread_has_waited_for_is_not_taken_for_one_that_runs():
    """It would be told of as killed, after it had stopped as it should."""
    worker = types.SimpleNamespace(inner=multiprocessing.get_context("spawn").Process(target=sys.exit))
    worker.inner.start()
    assert feeding.is_alive(worker)
    connection.wait([worker.inner.sentinel])
    os.waitpid(worker.inner.pid, 0)
    assert worker.inner.is_alive()  # which is why it is asked in another way
    assert not feeding.is_alive(worker)
