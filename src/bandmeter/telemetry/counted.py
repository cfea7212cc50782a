"""What the process that ingests says of itself: a line and some counters for each batch that was committed.

It stands around the store, so that whatever is committed is told, and only that.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from bandmeter.domain import usage
from bandmeter.domain.contracts import Batch, Store
from bandmeter.domain.tenancy import Zone
from bandmeter.domain.usage import Outcomes
from bandmeter.telemetry import frames

COMMIT_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
SOURCES_MAX = 1_000  # label values; those that come later count as OTHER
ZONES_MAX = 1_000  # the same, of which each is four series
OTHER = "other"
LINE_SECONDS = 1.0  # between two lines about one source: a busy one has hundreds of batches in a second
_WIDTH = len(usage.ROW)
_DIRECTIONS = [
    (name.partition("_")[0], name.rpartition("_")[2], usage.ROW.index(name)) for name in usage.ROW if "bytes" in name
]
_log = structlog.get_logger(__name__)


class IngestMetrics:
    """Counters and gauges of the process that ingests, told by any worker's `/metrics`."""

    def __init__(self, zone_of: Callable[[int], Zone | None]) -> None:
        registry = CollectorRegistry()
        self.batches = Counter("bandmeter_batches", "Batches committed.", ("source",), registry=registry)
        self.records = Counter(
            "bandmeter_source_records",
            "Records of committed batches, and what became of them.",
            ("source", "outcome"),
            registry=registry,
        )
        self.seconds = Histogram(
            "bandmeter_commit_seconds", "Time of a commit.", buckets=COMMIT_BUCKETS, registry=registry
        )
        self.bytes = Counter(
            "bandmeter_zone_bytes",
            "Bytes counted of a zone.",
            ("account", "zone", "side", "direction"),
            registry=registry,
        )
        gauge: dict[str, Any] = {"registry": registry, "multiprocess_mode": "mostrecent"}
        self.waiting = Gauge("bandmeter_source_waiting_bytes", "Not counted yet.", ("source",), **gauge)
        self.lag = Gauge("bandmeter_source_lag_seconds", "Since nothing waited.", ("source",), **gauge)
        self.files = Gauge("bandmeter_source_files", "Files that fit its path.", ("source",), **gauge)
        self.ok = Gauge("bandmeter_source_ok", "1: it can be read.", ("source",), **gauge)
        self.can_commit = Gauge("bandmeter_ingest_ok", "1: batches can be committed.", **gauge)
        self.differences = Gauge("bandmeter_verify_differences", "Found by the last check.", **gauge)
        self.verified = Counter("bandmeter_verified_days", "Days of zones that were checked.", registry=registry)
        self._zone_of = zone_of
        self._sources: set[str] = set()
        self._zones: dict[int, tuple[str, str]] = {}
        self._counters: dict[tuple[int, int], Counter] = {}

    def committed(self, batch: Batch) -> None:
        """Count a batch."""
        source = self._named(batch.after.name)
        self.batches.labels(source).inc()
        for outcome, count in batch.after.outcomes.minus(batch.before.outcomes)._asdict().items():
            if count:
                self.records.labels(source, outcome).inc(count)
        rows = np.frombuffer(batch.rows, dtype=np.int64).reshape(-1, _WIDTH)
        zones, place = np.unique(rows[:, 0], return_inverse=True)
        for n, (_, _, column) in enumerate(_DIRECTIONS):
            sums = np.bincount(place, rows[:, column])  # as floating point, as the counters: it cannot wrap around
            for number, size in zip(zones.tolist(), sums.tolist(), strict=True):
                if size:
                    self._counter(number, n).inc(size)

    def _named(self, source: str) -> str:
        if source not in self._sources:
            if len(self._sources) >= SOURCES_MAX:
                return OTHER
            self._sources.add(source)
        return source

    def _counter(self, number: int, direction: int) -> Counter:
        """The counter of a zone and direction; kept, for finding it by its labels takes longer than counting."""
        counter = self._counters.get((number, direction))
        if counter is None:
            counter = self.bytes.labels(*self._zone(number), *_DIRECTIONS[direction][:2])
            if number in self._zones:
                self._counters[number, direction] = counter
        return counter

    def _zone(self, number: int) -> tuple[str, str]:
        if number not in self._zones:
            found = self._zone_of(number) if number > 0 and len(self._zones) < ZONES_MAX else None
            if found is None:
                return OTHER, OTHER
            self._zones[number] = (found.account, found.name)
        return self._zones[number]


class _Untold(NamedTuple):
    """Batches of a log that no line has told yet."""

    outcomes: Outcomes = Outcomes()
    batches: int = 0
    seconds: float = 0.0
    position: int = 0


class Told:
    """A store whose commits are told. What it does not change is the store's own."""

    def __init__(self, store: Store, metrics: IngestMetrics) -> None:
        self._store, self._metrics = store, metrics
        self._lock = threading.Lock()
        self._untold: dict[tuple[str, str], _Untold] = {}
        self._told_at: dict[tuple[str, str], float] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def write(self, batch: Batch) -> int:
        """As `Store.write`."""
        return next(iter(self.write_together([batch])), 0)

    def write_together(self, batches: Sequence[Batch]) -> list[int]:
        """As `Store.write_together`."""
        start = time.perf_counter()
        numbers = self._store.write_together(batches)
        if numbers:
            # Whatever happens now, it is committed: whoever heard of an error would hand it over once more.
            try:
                self._tell_all(batches, time.perf_counter() - start)
            except Exception as error:  # noqa: BLE001 - as above
                _log.error("what was counted is not told", error=type(error).__name__, frames=frames(error))
        return numbers

    def _tell_all(self, batches: Sequence[Batch], seconds: float) -> None:
        self._metrics.seconds.observe(seconds)
        for batch in batches:
            self._metrics.committed(batch)
            self._tell(batch, seconds)

    def _tell(self, batch: Batch, seconds: float) -> None:
        """A line for each batch; of a log that has many in a second, one for all of them."""
        state = batch.after
        log, now = (state.name, state.path), time.monotonic()
        with self._lock:
            sofar = self._untold.pop(log, _Untold())
            outcomes = sofar.outcomes.plus(state.outcomes.minus(batch.before.outcomes))
            untold = _Untold(outcomes, sofar.batches + 1, sofar.seconds + seconds, state.position)
            if now - self._told_at.get(log, float("-inf")) < LINE_SECONDS:
                self._untold[log] = untold
            else:
                self._told_at[log] = now
                _say(log, untold)

    def tell_rest(self) -> None:
        """What was left for a later line, as nothing came after it. From any thread."""
        now = time.monotonic()
        with self._lock:
            for log in [log for log, told_at in self._told_at.items() if now - told_at >= LINE_SECONDS]:
                del self._told_at[log]
                if log in self._untold:
                    _say(log, self._untold.pop(log))


def _say(log: tuple[str, str], untold: _Untold) -> None:
    _log.info(
        "counted",
        source=log[0],
        path=log[1],
        batches=untold.batches,
        position=untold.position,
        commit_ms=round(untold.seconds * 1000, 1),
        **untold.outcomes._asdict(),
    )


def told(store: Store, metrics: IngestMetrics) -> Store:
    """The store, with its commits told."""
    return cast("Store", Told(store, metrics))


def tell_rest(store: Store) -> None:
    """Of a store that was `told`: see there."""
    cast("Told", store).tell_rest()


def standing(metrics: IngestMetrics, standings: Mapping[str, Any], now_s: float) -> None:
    """Set the gauges of followed sources (`ingest.tail.Standing` by name)."""
    for name, one in list(standings.items())[:SOURCES_MAX]:
        metrics.waiting.labels(name).set(one.waiting_bytes)
        metrics.files.labels(name).set(one.files)
        metrics.ok.labels(name).set(0 if one.problem else 1)
        if one.caught_up_s is not None:
            metrics.lag.labels(name).set(max(0.0, now_s - one.caught_up_s))
