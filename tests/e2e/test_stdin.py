"""Standard input is a file like any other: through a pipe or redirected, whole or in parts, once or often."""

from __future__ import annotations

import gzip
import json

import pytest


def lines(count):
    return b"".join(
        b'{"time":%d,"account":"acme","zone":"res","bytes_up":%d,"bytes_down":1}\n' % (1_795_132_800 + i, i)
        for i in range(count)
    )


@pytest.fixture
def ready(command):
    command.apply({"acme": {"res": {}}})
    return command


def up(command):
    rows = json.loads(command("usage", "acme/res", "--resolution", "total", "--output", "json").stdout)["rows"]
    return [(r["requests"], r["bytes_up"]) for r in rows]


def test_a_pipe_and_then_the_file(ready, tmp_path):
    """The pipe had the file's content, so the file adds only what it has more."""
    assert ready.ingest("jsonl", "-", input=lines(500)).counted == 500
    assert ready.ingest("jsonl", "-", input=lines(500)).duplicate == 500
    path = tmp_path / "log"
    path.write_bytes(lines(600))
    total = ready.ingest("jsonl", path)
    assert (total.counted, total.duplicate) == (100, 500)
    assert up(ready) == [(600, sum(range(600)))]
    assert not list(ready.data.glob("stdin-*"))


def test_redirected_and_compressed(ready, tmp_path):
    path = tmp_path / "log.gz"
    path.write_bytes(gzip.compress(lines(500)))
    with path.open("rb") as file:
        assert ready.ingest("jsonl", "-", stdin=file).counted == 500
    assert ready.ingest("jsonl", "-", input=path.read_bytes()).duplicate == 500
    assert up(ready) == [(500, sum(range(500)))]


def test_nothing_comes(ready):
    assert ready.ingest("jsonl", "-", input=b"").received == 0
    done = ready("ingest", "--format", "jsonl", "-", input=lines(1)[:-1])
    assert b"no newline yet" in done.stderr
    assert up(ready) == []
