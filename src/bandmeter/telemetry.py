"""What the running program says of itself: log lines and counters.

No key ever reaches a log line: whatever looks like one is cut to its public id first.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, MutableMapping
from typing import Any, TextIO

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from bandmeter.domain.usage import Outcomes

SECRET = re.compile(r"(bm_[0-9a-f]{12}_)[A-Za-z0-9_-]+")
SECRET_NAMES = frozenset({"authorization", "apikey", "x-apikey", "token", "password", "secret"})
SECONDS_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5)  # a usage answer takes about 1 ms


def redact(text: str) -> str:
    """`text` with every key cut to its public id."""
    return SECRET.sub(r"\1…", text)


def _drop_secrets(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name in SECRET_NAMES.intersection(map(str.lower, event)):
        event = {key: "…" if key.lower() == name else value for key, value in event.items()}
    return event


def _redact_line(_logger: Any, _method: str, line: Any) -> str:
    return redact(line)  # the whole line at last, so that nothing nested slips through


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
        logger_factory=structlog.PrintLoggerFactory(stream or sys.stderr),
        wrapper_class=structlog.make_filtering_bound_logger("info"),
        cache_logger_on_first_use=False,
    )


class Metrics:
    """One process's counters, in a registry of its own, so that two in one process (tests) do not meet."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        labels = ("dialect", "endpoint", "status")
        self.requests = Counter("bandmeter_requests", "Requests answered.", labels, registry=self.registry)
        self.seconds = Histogram(
            "bandmeter_request_seconds", "Time to answer.", labels[:2], buckets=SECONDS_BUCKETS, registry=self.registry
        )
        self._records = Gauge(
            "bandmeter_records", "Records received, and what became of them.", ("outcome",), registry=self.registry
        )
        self._committed = Gauge("bandmeter_committed_ms", "When usage was last committed.", registry=self.registry)

    def answered(self, dialect: str, endpoint: str, status: int, seconds: float) -> None:
        """Count one request."""
        self.requests.labels(dialect, endpoint, str(status)).inc()
        self.seconds.labels(dialect, endpoint).observe(seconds)

    def render(self, outcomes: Iterable[Outcomes], committed_ms: int | None) -> bytes:
        """The Prometheus text, with the store's counts of records as they are now (law 2)."""
        total = Outcomes()
        for one in outcomes:
            total = total.plus(one)
        for name, value in total._asdict().items():
            self._records.labels(name).set(value)
        self._committed.set(committed_ms or 0)
        return generate_latest(self.registry)
