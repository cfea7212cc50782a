"""Ctrl-C stops between two batches, says so, and the same command goes on from there."""

from __future__ import annotations

import json
import signal
import subprocess

import pytest

LINES = 30_000


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_ingest_goes_on_where_it_stopped(command, tmp_path, number):
    path = tmp_path / "access.jsonl"
    line = '{{"time": {}, "account": "acme", "zone": "res", "bytes_up": 3, "bytes_down": 1000003}}\n'
    path.write_text("".join(line.format(1_795_132_800 + i) for i in range(LINES)))
    command.apply({"acme": {"res": {}}})
    process = command.start("ingest", "--json", "--format", "jsonl", path, path, BANDMETER_INGEST_BATCH_BYTES="20000")
    while command.position() == 0:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=0.01)
    process.send_signal(number)
    out, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"give the same command again" in error
    stopped = json.loads(out)["total"]
    assert 0 < stopped["received"] == stopped["counted"] < LINES
    total = command.ingest("jsonl", path)
    assert (total.duplicate, total.counted) == (stopped["counted"], LINES - stopped["counted"])
    rows = json.loads(command("usage", "acme/res", "--resolution", "total", "--output", "json").stdout)["rows"]
    assert [(r["requests"], r["bytes_up"], r["bytes_down"]) for r in rows] == [(LINES, 3 * LINES, 1_000_003 * LINES)]
