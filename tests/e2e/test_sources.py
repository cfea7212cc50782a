"""What is wrong with a source that `serve` follows is told to whoever looks."""

from __future__ import annotations

import json

import pytest
from crash.service import service_of, until

from bandmeter.ingest.files.file import WRONG_FORMAT_LINES

TABLE = "[[source]]\nname = '{name}'\nformat = 'jsonl'\npath = '{folder}/{name}/*.log'\n"


@pytest.fixture
def sources(command, tmp_path):
    """Three: one that is well, one that is in another format, and one whose folder has gone."""
    names = ("well", "odd", "gone")
    for name in names[:2]:
        (tmp_path / name).mkdir()
    command.apply({"acme": {"res": {}}})
    record = '{"time": 1795132800, "account": "acme", "zone": "res", "bytes_up": 1, "bytes_down": 1}\n'
    (tmp_path / "well" / "a.log").write_text(record)
    (tmp_path / "odd" / "a.log").write_text("GET / 200\n" * WRONG_FORMAT_LINES)
    (command.data / "bandmeter.toml").write_text("".join(TABLE.format(name=n, folder=tmp_path) for n in names))
    return names


def problems(command):
    checks = json.loads(command("doctor", "--json", status=1).stdout)["checks"]
    return {check["name"]: check["problem"] for check in checks if "source" in check["name"] and not check["ok"]}


@pytest.mark.usefixtures("sources")
def test_sources_with_something_wrong_are_told_by_all_who_tell(command, tmp_path):
    """`/readyz`, for anybody, how many; `doctor` and the log which, and why; each once."""
    log = tmp_path / "serve.log"
    with service_of(command.data, log, workers=1) as service:
        service.start()
        sentence = "Sources with something wrong: 2 of 3; `bandmeter doctor` says what."
        until(lambda: json.loads(service.get("/readyz")[1]).get("warnings") == [sentence], "the warning")
        assert service.faults() == []
        found = problems(command)
        assert service.stop() == 0
    assert set(found) == {"source odd", "source gone"}
    assert "is not in the format jsonl" in found["source odd"]
    assert f"No file fits {tmp_path}/gone/*.log" in found["source gone"]
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    told = [line["source"] for line in lines if line["event"] == "a source cannot be counted"]
    assert sorted(told) == ["gone", "odd"]
    assert set(problems(command)) == {"source gone"}  # which needs nobody to serve
