"""What the running program says of itself: log lines and counters.

No key ever reaches a log line: whatever looks like one is cut to its public id first.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from typing import Any, TextIO, cast

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram, Metric, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from bandmeter.domain.usage import Outcomes

SECRET = re.compile(r"(bm_[0-9a-f]{12}_)[A-Za-z0-9_-]+")
NAMING = frozenset({"source", "account", "zone"})  # labels that name what is a customer's, or the operator's
SECRET_NAMES = frozenset({"authorization", "apikey", "x-apikey", "token", "password", "secret"})
SECONDS_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5)  # a usage answer takes about 1 ms


def redact(text: str) -> str:
    """`text` with every key cut to its public id."""
    return SECRET.sub(r"\1…", text)


def frames(error: BaseException) -> list[str]:
    """Where it broke, without what it said or held: a message or a local may quote a key, a query or a record."""
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)]


def _drop_secrets(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name in SECRET_NAMES.intersection(map(str.lower, event)):
        event = {key: "…" if key.lower() == name else value for key, value in event.items()}
    return event


def _redact_line(_logger: Any, _method: str, line: Any) -> str:
    return redact(line)  # the whole line at last, so that nothing nested slips through


class _Lines(io.TextIOBase):
    """Where log lines go. What cannot be written, to a full disk or a closed stream, is lost, and stops nothing."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, or lose it."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Write what was kept back, or lose it."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


def set_up_logs(clock_ms: Callable[[], int], stream: TextIO | None = None) -> None:
    """Log JSON lines to `stream` (standard error), stamped by the program's clock."""

    def stamp(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event["time_ms"] = clock_ms()
        return event

    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            stamp,
            structlog.processors.format_exc_info,
            _drop_secrets,
            structlog.processors.JSONRenderer(ensure_ascii=False, default=str),
            _redact_line,
        ],
        logger_factory=structlog.PrintLoggerFactory(cast("TextIO", _Lines(stream or sys.stderr))),
        wrapper_class=structlog.make_filtering_bound_logger("info"),
        cache_logger_on_first_use=False,
    )


class Metrics:
    """What was answered, and how fast.

    In a registry of its own, so that two in one process (tests) do not meet. Where PROMETHEUS_MULTIPROC_DIR names a
    folder, as `serve` does for its workers, each process counts in a file there, and any of them tells the sum of all;
    also of those that have ended, so that no counter ever goes back.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        labels = ("dialect", "endpoint", "status")
        self.requests = Counter("bandmeter_requests", "Requests answered.", labels, registry=self.registry)
        self.seconds = Histogram(
            "bandmeter_request_seconds", "Time to answer.", labels[:2], buckets=SECONDS_BUCKETS, registry=self.registry
        )
        self._counted: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    def answered(self, dialect: str, endpoint: str, status: int, seconds: float) -> None:
        """Count one request."""
        key = (dialect, endpoint, status)
        found = self._counted.get(key)
        if found is None:  # looking labels up takes longer than all the rest
            found = self.requests.labels(dialect, endpoint, str(status)), self.seconds.labels(dialect, endpoint)
            self._counted[key] = found
        found[0].inc()
        found[1].observe(seconds)

    def render(self, outcomes: Iterable[Outcomes], committed_ms: int | None, *, with_names: bool = False) -> bytes:
        """The Prometheus text, with the store's counts of records as they are now (law 2).

        Without `with_names` whatever is told by source, account or zone is left out.
        """
        total = Outcomes()
        for one in outcomes:
            total = total.plus(one)
        registry = self.registry
        if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
            if not with_names:
                registry = _without_names(registry)
        stored = CollectorRegistry()
        stored.register(_Stored(total, committed_ms or 0))
        return generate_latest(registry) + generate_latest(stored)


def _without_names(registry: CollectorRegistry) -> CollectorRegistry:
    kept = CollectorRegistry()
    kept.register(_Nameless(registry))
    return kept


class _Nameless(Collector):
    """What a registry tells, without the metrics whose labels name somebody."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        """Those metrics."""
        for metric in self._registry.collect():
            if not any(NAMING.intersection(sample.labels) for sample in metric.samples):
                yield metric


class _Stored(Collector):
    """What the store says: the same in every process, so it is not counted but read."""

    def __init__(self, total: Outcomes, committed_ms: int) -> None:
        self._total = total
        self._committed_ms = committed_ms

    def collect(self) -> Iterator[Metric]:
        """The two metrics."""
        records = GaugeMetricFamily(
            "bandmeter_records", "Records received, and what became of them.", labels=("outcome",)
        )
        for name, value in self._total._asdict().items():
            records.add_metric((name,), value)
        yield records
        yield GaugeMetricFamily("bandmeter_committed_ms", "When usage was last committed.", self._committed_ms)
