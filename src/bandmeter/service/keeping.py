"""What goes on beside counting, in the process that ingests: coverage is noted, gauges are set, numbers are checked."""

from __future__ import annotations

import random
import threading
from typing import TYPE_CHECKING

import structlog

from bandmeter import service
from bandmeter.domain.errors import BandmeterError
from bandmeter.telemetry import counted, frames
from bandmeter.verify import Findings, check_days, check_sources

if TYPE_CHECKING:
    from bandmeter.ingest.files.tail import Tail
    from bandmeter.ingest.posts.server import Counter
    from bandmeter.service import Parts

STEP_SECONDS = 1.0
COVER_SECONDS = 10  # between two notes of who has reported; after a crash so much seems to be a gap
GAP_MS = 60_000  # without a note: longer than a restart takes
VERIFY_SECONDS = 60  # between two checks
VERIFY_DAYS = 50  # of one check, about a millisecond each
_log = structlog.get_logger(__name__)


class Keeper:
    """A thread that looks after the rest. `counter` and `tail` are asked, never waited for."""

    def __init__(self, parts: Parts, metrics: counted.IngestMetrics, counter: Counter, tail: Tail) -> None:
        self._parts, self._metrics, self._counter, self._tail = parts, metrics, counter, tail
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="keep")
        self._draw = random.Random()  # noqa: S311 - it chooses what to check

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Note coverage a last time, and end."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        step = 0
        while not self._stopping.wait(STEP_SECONDS):
            step += 1
            try:
                self._step(step)
            except Exception as error:  # noqa: BLE001 - whatever it is, the next step may go well
                _log.error("what goes on beside counting failed", error=type(error).__name__, frames=frames(error))
        self._cover()
        counted.tell_rest(self._parts.store)

    def _step(self, step: int) -> None:
        self._set_gauges()
        counted.tell_rest(self._parts.store)
        if step % COVER_SECONDS == 1:
            self._cover()
        if step % VERIFY_SECONDS == 0:
            self._verify()

    def _set_gauges(self) -> None:
        counted.standing(self._metrics, self._tail.standings, service.clock_ms() / 1000)
        self._metrics.can_commit.set(0 if self._counter.fault or self._tail.fault else 1)

    def _cover(self) -> None:
        heard = {
            name: int(one.caught_up_s * 1000)
            for name, one in self._tail.standings.items()
            if one.caught_up_s is not None
        }
        try:
            self._parts.store.cover(heard, GAP_MS)
        except BandmeterError as error:
            _log.error("coverage could not be noted", reason=error.sentence)

    def _verify(self) -> None:
        findings = Findings()
        try:
            check_sources(self._parts.store, findings)
            check_days(self._parts.store, self._draw, VERIFY_DAYS, findings, self._stopping.is_set)
        except BandmeterError as error:
            _log.error("numbers could not be checked", reason=error.sentence)
            return
        self._metrics.verified.inc(sum(findings.checked.values()))
        self._metrics.differences.set(len(findings.differences))
        for sentence in findings.differences:
            _log.error("stored numbers disagree", difference=sentence)
