"""The demo does what it says: whoever pastes its lines gets the numbers that the command line gives."""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BANDMETER = Path(sys.executable).with_name("bandmeter")
NOW = "2027-01-03T12:00:00Z"  # its last seven days lie in two months and two years
STAMP = re.compile(rb'(?:^|(?<=\t)|(?<="t":)|(?<="start":"))(1[0-9]{9})(?=\.[0-9]{3}|[0-9]{3}\t)', re.MULTILINE)


@pytest.fixture(scope="module")
def demo(serve_demo):
    with serve_demo(now=NOW) as running:
        yield running


@pytest.fixture(scope="module")
def pasted(demo):
    """The answers to the three curl lines that the demo prints, by path."""
    lines = re.findall(r"^  (curl .*)$", demo.shown, re.MULTILINE)
    answers = {}
    for line in lines:
        done = subprocess.run(["sh", "-c", f"{line} --max-time 30"], capture_output=True, check=True)
        path = re.search(r'http://[^/]+(/[^?"]*)', line)
        assert path
        answers[path[1]] = json.loads(done.stdout)["acme"]
    return answers


@pytest.fixture(scope="module")
def ask(demo):
    """Run a command on the demo's data."""

    def run(*arguments):
        environment = os.environ | {"BANDMETER_DATA": str(demo.data), "BANDMETER_NOW": NOW}
        done = subprocess.run([BANDMETER, *arguments], env=environment, capture_output=True, check=True)
        return json.loads(done.stdout)

    return run


def test_three_curl_lines_are_printed(pasted):
    assert list(pasted) == ["/zone/bw", "/customer/bw", "/zone/cost"]


def test_zone_bw_has_the_bytes_that_usage_prints(pasted, ask):
    rows = ask("usage", "acme/res2", "--resolution", "day", "--output", "json")["rows"]
    arrays = pasted["/zone/bw"]["data"]["res2"]
    assert len(rows) == 4  # four of the logs have proxy users of acme
    assert [n for n in arrays["bw_up"] if n] == [row["bytes_up"] for row in rows]
    assert [n for n in arrays["bw_dn"] if n] == [row["bytes_down"] for row in rows]
    requests = sum(row["requests"] for row in rows)
    assert requests == sum(arrays["http_svc_req"]) + sum(arrays["https_svc_req"]) > 0


def test_customer_bw_has_every_zone_with_the_bytes_that_usage_prints(pasted, ask):
    rows = ask("usage", "acme", "--resolution", "total", "--group-by", "zone", "--output", "json")["rows"]
    expected = {row["zone"]: row["bytes_up"] + row["bytes_down"] for row in rows}
    found = {zone: sum(arrays["bw_sum"]) for zone, arrays in pasted["/customer/bw"]["data"].items()}
    assert found == expected
    assert len(found) == 5
    assert all(found.values())


def test_zone_cost_is_what_cost_prints(pasted, ask):
    rows = ask("cost", "acme/res2", "--json")["rows"]
    expected = [(row["bytes"], float(row["cost"])) for row in rows]
    found = [(pasted["/zone/cost"][name]["bw"], pasted["/zone/cost"][name]["cost"]) for name in ("back_m1", "back_m0")]
    assert found == expected
    assert sum(size for size, _ in found) > 0
    assert all(cost > 0 for size, cost in found if size)


def test_each_log_is_moved_by_one_constant(demo):
    for moved in (demo.data / "logs").rglob("*.log"):
        original = ROOT / "demo" / "logs" / moved.relative_to(demo.data / "logs")
        pairs = zip(STAMP.findall(original.read_bytes()), STAMP.findall(moved.read_bytes()), strict=True)
        assert len({int(later) - int(earlier) for earlier, later in pairs}) == 1, moved
        assert STAMP.sub(b"", original.read_bytes()) == STAMP.sub(b"", moved.read_bytes())


def test_the_logs_fall_on_the_last_seven_days_and_none_into_the_future(ask):
    newest = [source["newest"] for source in ask("sources", "--json")["sources"]]
    today = dt.date.fromisoformat(NOW[:10])
    assert {time[:10] for time in newest} == {str(today - dt.timedelta(days=n)) for n in range(7)}
    assert max(newest) < NOW


def test_no_record_is_lost(ask):
    """Law 2, and nothing waits for a zone: the catalog of the demo has one for every identity in its logs."""
    listed = ask("sources", "--json")
    assert listed["unattributed"] == []
    for source in listed["sources"]:
        parts = ("counted", "duplicate", "no_target", "unattributed", "rejected")
        assert source["received"] == sum(source[part] for part in parts)
    assert {source["format"]: source["note"] for source in listed["sources"] if source["note"]} == {
        "haproxy": "unmeterable"
    }


def test_doctor_finds_nothing_wrong_with_the_demo(ask, demo):
    """Its folder too is for its owner only, which the command would have made so itself."""
    checks = ask("doctor", "--json")["checks"]
    assert {check["name"] for check in checks} >= {"data folder", "file modes"}
    assert [check for check in checks if not check["ok"]] == []
    assert demo.data.stat().st_mode & 0o777 == 0o700


def test_a_taken_port_is_told_and_ctrl_c_leaves_nothing_behind(serve_demo):
    """Also with the real clock: no log may be ahead of it."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        wanted = taken.getsockname()[1]
        with serve_demo(port=wanted) as running:
            assert f"Port {wanted} is taken." in running.shown
            assert running.port > wanted
            assert running.stop() == 0
            with socket.socket() as probe:
                assert probe.connect_ex(("127.0.0.1", running.port)) != 0
