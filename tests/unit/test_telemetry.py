"""What the program says of itself never holds a secret, and its counts add up (law 2)."""

from __future__ import annotations

import io
import json
from array import array
from types import SimpleNamespace

import pytest
import structlog

from bandmeter import telemetry
from bandmeter.catalog import keys
from bandmeter.domain.contracts import Batch, SourceState
from bandmeter.domain.usage import Outcomes
from bandmeter.service.keeping import Keeper
from bandmeter.store import MemoryStore
from bandmeter.telemetry import counted

NUMBER, SECRET = keys.new_key()


@pytest.fixture
def stream():
    yield (written := io.StringIO(), telemetry.set_up_logs(lambda: 5, written))[0]
    structlog.reset_defaults()


@pytest.mark.parametrize(
    "fields",
    [
        {"url": f"/public?apikey={SECRET}"},
        {"frames": [f"send {SECRET} now"]},
        {"deep": {"er": {SECRET: 1}}},
        {"Authorization": f"Basic {SECRET}"},
        {"token": "something else entirely"},
    ],
)
def test_no_secret_reaches_a_log_line(stream, fields):
    structlog.get_logger().warning("request", **fields)
    line = stream.getvalue()
    assert SECRET not in line
    assert "something else" not in line
    assert json.loads(line)["event"] == "request"


def test_a_line_is_json_with_our_clocks_time(stream):
    structlog.get_logger().info("ready", port=8080)
    structlog.get_logger().debug("not shown")
    (line,) = stream.getvalue().splitlines()
    assert json.loads(line) == {"event": "ready", "port": 8080, "level": "info", "time_ms": 5}


def test_a_key_in_a_text_is_cut_to_its_public_id():
    assert telemetry.redact(f"with {SECRET}.") == f"with bm_{NUMBER}_…."


def test_the_metrics_hold_what_became_of_all_records():
    metrics = telemetry.Metrics()
    metrics.answered("brightdata", "zone_bw", 200, 0.001)
    text = metrics.render([Outcomes(7, 5, 1, 0, 0, 1), Outcomes(1, 1)], 99).decode().splitlines()
    assert 'bandmeter_requests_total{dialect="brightdata",endpoint="zone_bw",status="200"} 1.0' in text
    assert 'bandmeter_request_seconds_count{dialect="brightdata",endpoint="zone_bw"} 1.0' in text
    assert 'bandmeter_records{outcome="received"} 8.0' in text
    assert 'bandmeter_records{outcome="counted"} 6.0' in text
    assert "bandmeter_committed_ms 99.0" in text


class Full(io.StringIO):
    """A file on a disk that is full."""

    def write(self, _):
        raise OSError

    def flush(self):
        raise OSError


def test_a_line_that_cannot_be_written_stops_nothing():
    telemetry.set_up_logs(lambda: 5, Full())
    assert structlog.get_logger().error("the disk is full") is None
    structlog.reset_defaults()


class Kept(MemoryStore):
    """Which numbers its batches, and keeps nothing."""

    def write_together(self, batches):
        return [1 for _ in batches]


def test_every_batch_is_told_in_time_and_each_log_for_itself(stream, monkeypatch):
    """Many in a second in one line, which comes though nothing follows, by whoever looks after the rest."""
    now = [100.0]
    monkeypatch.setattr(counted.time, "monotonic", lambda: now[0])
    metrics = counted.IngestMetrics(lambda _: None)
    store = counted.told(Kept(), metrics)
    nothing = SimpleNamespace(fault="", standings={})
    keeper = Keeper(SimpleNamespace(store=store), metrics, nothing, nothing)
    before = SourceState(0, "s", "jsonl", "", b"", 0, b"", 0, "", Outcomes(), None, None, "")

    def write(path, count):
        after = before._replace(path=path, outcomes=Outcomes(count, counted=count))
        store.write(Batch(before, after, array("q"), {}, [], 0))

    def lines():
        told = [json.loads(line) for line in stream.getvalue().splitlines()]
        return [(line["path"], line["batches"], line["counted"]) for line in told]

    for path, count in (("a", 1), ("b", 2), ("a", 4), ("a", 8), ("b", 16)):
        write(path, count)
    assert lines() == [("a", 1, 1), ("b", 1, 2)]
    keeper._step(2)
    assert len(lines()) == 2
    now[0] += counted.LINE_SECONDS
    for step in (3, 4):
        keeper._step(step)
    assert lines()[2:] == [("a", 2, 12), ("b", 1, 16)]
