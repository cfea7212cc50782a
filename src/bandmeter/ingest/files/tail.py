"""Following the files of configured sources: through growth, rotation and truncation, for months.

A file is known by its inode while it is open, and by its content otherwise (`source.py`), so it does not matter by
which name it comes back. A file that was renamed is read to its end before what took its name; one that is gone is read
on for a while, since a proxy may write to it until it opens the next. What cannot be read now is tried again later; and
while nothing can be stored a file stays open, so that it may lose its name meanwhile.
"""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import structlog

from bandmeter import telemetry
from bandmeter.domain import errors
from bandmeter.domain.errors import BandmeterError
from bandmeter.ingest.files.commit import Direct, Moved
from bandmeter.ingest.files.file import FileRun
from bandmeter.ingest.files.found import Identity, Shares, identity_of, regular_files
from bandmeter.ingest.files.pipeline import is_older_copy
from bandmeter.ingest.files.source import OLDER_COPY, TWICE, UNMETERABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from bandmeter.ingest.batch.job import Job
    from bandmeter.ingest.batch.tools import Tools

POLL_SECONDS = 0.1  # between two looks at the open files: half of what a reader waits for on average
SCAN_SECONDS = 1.0  # between two looks for new files
IDLE_SECONDS = 600.0  # how long a file is kept open after its last line, also one that has lost its name
RETRY_SECONDS = 5.0  # after a file could not be read or counted
TURN_SECONDS = 1.0  # of one file, before the others have their turn
FILES_MAX = 10_000  # open at once, of all sources; the system's own limit may be lower
NO_FILE = "No file fits its path."
_Change = tuple[int, int, int]
_log = structlog.get_logger(__name__)


class Watched(NamedTuple):
    """A configured source: how its lines are read, and the pattern of its files' paths."""

    job: Job
    pattern: str


@dataclasses.dataclass(slots=True)
class Standing:
    """How a source is doing: files open, bytes not yet counted, what is wrong; `caught_up_s`: when nothing waited."""

    files: int = 0
    waiting_bytes: int = 0
    problem: str = ""
    caught_up_s: float | None = None


class _Follower:
    """One file of a source, open or about to be."""

    def __init__(
        self, tools: Tools, watched: Watched, path: str, identity: Identity, uptime_s: Callable[[], float]
    ) -> None:
        self.watched, self.path = watched, path
        self._name = watched.job.source_name
        self._stored_path = path
        self.problem = self._problem_kind = self._complaint = ""
        self.fault = ""  # why the store takes nothing now
        self.is_gone = False
        self._is_copy = False  # an older one of a log that is counted
        self.waiting_bytes = 0
        self._tools, self._identity, self._uptime_s = tools, identity, uptime_s
        self._run: FileRun | None = None
        self._direct = Direct(tools.store, 0)
        self._seen: _Change | None = None  # size and time of the last change when nothing was left to read
        self._stable: _Change | None = None  # the same of a compressed file that may still be written
        self._asleep_until = 0.0
        self._changed_at = uptime_s()

    @property
    def is_open(self) -> bool:
        """Whether the file is held open: it may then be read though it has no name."""
        return self._run is not None

    def close(self) -> None:
        """Close the file."""
        if self._run:
            self._run.close()
        self._run = None

    def step(self, should_stop: Callable[[], bool]) -> bool:
        """Count what is new; whether anything was."""
        now = self._uptime_s()
        if now < self._asleep_until:
            return False
        try:
            has_counted = self._step(should_stop, now + TURN_SECONDS)
            self._note_path()
        except Moved:
            self.close()  # and looked up again, at once
            return True
        except Exception as error:  # noqa: BLE001 - whatever it is, the other files are followed
            is_store = isinstance(error, BandmeterError) and error.code == errors.UNAVAILABLE
            if not is_store or (self._run and self._run.content.is_compressed):  # which cannot be read again
                self.close()
            self._complain(error)
            self.fault = self.problem if is_store else ""
            self._asleep_until = self._uptime_s() + RETRY_SECONDS
            return False
        self.fault = ""
        if self._complaint and self.problem == self._complaint:  # it is over, though nothing new was found
            self._tell("", "")
        return has_counted

    def _complain(self, error: Exception) -> None:
        if isinstance(error, BandmeterError):
            self._complaint = error.sentence
            self._tell(error.sentence, error.code)
            return
        kind = type(error).__name__
        self._complaint = f"{self._shown_path} cannot be read ({getattr(error, 'strerror', None) or kind})."
        more = {} if isinstance(error, OSError) else {"frames": telemetry.frames(error)}
        self._tell(self._complaint, kind, **more)

    def _tell(self, sentence: str, kind: str, **more: Any) -> None:
        """Say what is wrong, in the log once for each kind: the sentence may change with each line that is written."""
        if sentence and kind != self._problem_kind:
            name = self.watched.job.source_name
            event = "a log may be counted twice" if kind == "twice" else "a source cannot be counted"
            _log.error(event, source=name, path=self._shown_path, reason=sentence, **more)
        self.problem, self._problem_kind = sentence, kind

    def _step(self, should_stop: Callable[[], bool], until: float) -> bool:
        status = self._status()
        if status is None or self._seen == _change(status):
            if self._run and self._uptime_s() - self._changed_at > IDLE_SECONDS:
                self.close()
            return False
        self._changed_at = self._uptime_s()
        self.waiting_bytes = max(0, status.st_size - (self._run.state.position if self._run else 0))
        run = self._run or self._open(status)
        if run is None:
            return False
        if not run.content.is_compressed and not run.is_unchanged_before():
            self.close()  # truncated and written again, or another file
            return True
        before, notes = run.state.position, run.notes
        run.notes = [note for note in notes if not note.startswith(UNMETERABLE)]
        run.count(self._direct.put, lambda *_: not should_stop() and self._uptime_s() < until)
        if run.state.position == before:  # what was told last still holds
            run.notes = notes
        kinds = {UNMETERABLE: "unmeterable", TWICE: "twice"}
        told = ((note, kind) for note in run.notes for start, kind in kinds.items() if note.startswith(start))
        self._tell(*next(told, ("", "")))
        if not run.is_stopped:
            self.waiting_bytes = 0
            self._seen = _change(status)
            if run.content.is_compressed or run.must_reopen:
                self.close()
        run.is_stopped = False
        return run.state.position > before

    def _note_path(self) -> None:
        """Tell the store of the path where the file is now, when it knows another."""
        if self._direct.number and self._stored_path != self._shown_path:
            self._tools.store.note_path(self._direct.number, self._name, self._shown_path)
            self._stored_path = self._shown_path
            if self._run:
                self._run.rename(self._shown_path)

    @property
    def _shown_path(self) -> str:
        return errors.printable(self.path)

    def _status(self) -> os.stat_result | None:
        """Of the file; None while it is not open and another has its path, until the next look for new names."""
        try:
            status = os.fstat(self._run.content.fileno) if self._run else os.stat(self.path)  # noqa: PTH116 - as glob gave it
        except FileNotFoundError:
            return None
        return status if identity_of(status) == self._identity else None

    def _open(self, status: os.stat_result) -> FileRun | None:
        """The file, opened where its counted part ends; None when there is nothing to count in it now."""
        if not status.st_size:
            self._seen = _change(status)
            return None
        run = FileRun(self._tools, self.path, self.path, self.watched.job)
        if run.found.is_shorter and is_older_copy(self._tools, run, self.path):
            self._seen = _change(status) if self._status() else None
            self.waiting_bytes = 0
            if not self._is_copy:
                _log.info(OLDER_COPY, source=self.watched.job.source_name, path=self._shown_path)
            self._is_copy = True
            return None
        run.open()
        if identity_of(os.fstat(run.content.fileno)) != self._identity:  # it was renamed a moment ago
            run.close()
            return None
        if run.content.is_compressed and self._stable != _change(status):
            run.close()
            self._stable = _change(status)  # it may still be written: looked at again in the next round
            return None
        self._direct = Direct(self._tools.store, run.state.number)
        self._run, self._name, self._stored_path = run, run.state.name, run.found.state.path
        if run.found.is_taken_over:
            _log.info(run.found.note, source=self._name, path=self._shown_path)
        return run


def _change(status: os.stat_result) -> _Change:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns  # the last one moves whatever a writer sets


class Tail:
    """Follows the files of all sources. Everything but `standings` and `stop` belongs to the thread that runs it."""

    def __init__(
        self, tools: Tools, sources: Iterable[Watched], uptime_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._tools, self._sources, self._uptime_s = tools, tuple(sources), uptime_s
        self._followers: dict[tuple[str, Identity], _Follower] = {}
        self._stopping = threading.Event()
        self._scanned_at = float("-inf")
        self.fault = ""  # why the store takes nothing now; "" when the last commit went well
        self._shared: dict[str, str] = {}  # source → which of its files another source counts
        self._told = dict.fromkeys((watched.job.source_name for watched in self._sources), "")
        self.standings = {watched.job.source_name: Standing() for watched in self._sources}

    def run(self) -> None:
        """Follow until `stop`."""
        while not self._stopping.is_set():
            if not self.step():
                self._stopping.wait(POLL_SECONDS)
        self.close()

    def stop(self) -> None:
        """End `run` after the batch that is being counted."""
        self._stopping.set()

    def close(self) -> None:
        """Close all files."""
        for follower in self._followers.values():
            follower.close()
        self._followers.clear()

    def step(self) -> bool:
        """Look at each file once; whether anything was counted."""
        now = self._uptime_s()
        if now - self._scanned_at >= SCAN_SECONDS:
            self._scan(now)
        has_counted = False
        for follower in list(self._followers.values()):
            if self._stopping.is_set():
                break
            has_counted |= follower.step(self._stopping.is_set)
        self._note_standings()
        return has_counted

    def _scan(self, now: float) -> None:
        """Find new files, new names of known ones, and files that have none any more."""
        self._scanned_at = now
        found = [(watched, *file) for watched in self._sources for file in regular_files(watched.pattern)]
        present = {(watched.job.source_name, identity) for watched, _, identity in found}
        shares = Shares()
        for key, follower in list(self._followers.items()):  # before all others: a file stays with its source
            follower.is_gone = key not in present
            if follower.is_gone and not follower.is_open:
                del self._followers[key]
            else:
                shares.take(key[0], follower.watched.job.side, key[1])
        self._shared = {}
        for watched, path, identity in found:
            name = watched.job.source_name
            other = shares.take(name, watched.job.side, identity)
            if other:
                shown = errors.printable(path)
                sentence = f"{shown} is counted by source {other}, whose path it fits too: mend one of the paths."
                self._shared.setdefault(name, sentence)
                continue
            if (name, identity) in self._followers:
                self._followers[name, identity].path = path
            elif len(self._followers) < FILES_MAX:
                follower = _Follower(self._tools, watched, path, identity, self._uptime_s)
                self._followers[name, identity] = follower

    def _note_standings(self) -> None:
        self.fault = next((follower.fault for follower in self._followers.values() if follower.fault), "")
        for name, standing in self.standings.items():
            mine = [follower for (source_name, _), follower in self._followers.items() if source_name == name]
            standing.files = sum(not follower.is_gone for follower in mine)
            standing.waiting_bytes = sum(follower.waiting_bytes for follower in mine)
            of_path = self._shared.get(name) or ("" if standing.files else NO_FILE)
            standing.problem = of_path or next((follower.problem for follower in mine if follower.problem), "")
            if not standing.waiting_bytes and not standing.problem:
                standing.caught_up_s = self._tools.clock_ms() / 1000
            kind = "shared" if name in self._shared else of_path  # a sentence of two sources may change all the time
            if kind and kind != self._told[name]:  # of a file its follower tells
                _log.error("a source cannot be counted", source=name, reason=of_path)
            self._told[name] = kind
