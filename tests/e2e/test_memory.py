"""An ingest needs a bounded amount of memory, whatever the size of the log."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

PEAK_MB_MAX = 512
BIG_BYTES = 300_000_000
KIB_A_UNIT = 1 if sys.platform == "linux" else 1 / 1024  # ru_maxrss is in bytes elsewhere


# A process's peak begins with what its parent had when it was forked: a test runner has much, this little program none.
MEASURED = """
import json, os, subprocess, sys
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE)
out = process.stdout.read().decode()
_, status, usage = os.wait4(process.pid, 0)
print(json.dumps([os.waitstatus_to_exitcode(status), usage.ru_maxrss, out]))
"""


def peak_mb(command, *arguments):
    """Run `bandmeter ingest` to its end: its peak of memory and what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, command.path, "ingest", "--json", *map(str, arguments)],
        env=command.environment,
        capture_output=True,
        check=True,
    )
    status, peak, out = json.loads(done.stdout)
    assert status in (0, 1)
    return peak * KIB_A_UNIT / 1024, json.loads(out)["total"]


def test_two_million_lines_of_200_zones(command, traffic, traffic_folder):
    zones: dict = {}
    for account, zone in traffic.ZONES:
        zones.setdefault(account, {})[zone] = {}
    command.apply(zones)
    peak, total = peak_mb(command, "--format", "tsv", "--columns", traffic.COLUMNS, traffic_folder / "access_ext.tsv")
    assert total["received"] == 2_000_000
    assert total["counted"] + total["no_target"] == 2_000_000
    assert peak < PEAK_MB_MAX


def test_300_mb_of_one_zone(command, tmp_path):
    command.apply({"acme": {"res": {}}})
    block = b"".join(
        b'{"time":%d.5,"account":"acme","zone":"res","bytes_up":%d,"bytes_down":%d,"scheme":"https","status":200}\n'
        % (1_795_132_800 + i, i, i * i)
        for i in range(10_000)
    )
    path, times = tmp_path / "big.jsonl", BIG_BYTES // len(block) + 1
    with path.open("wb") as file:
        for _ in range(times):
            file.write(block)
    peak, total = peak_mb(command, "--format", "jsonl", path)
    path.unlink()
    assert total["counted"] == total["received"] == 10_000 * times
    rows = json.loads(command("usage", "acme/res", "--resolution", "total", "--output", "json").stdout)["rows"]
    up, down = sum(range(10_000)) * times, sum(i * i for i in range(10_000)) * times
    assert [(r["requests"], r["bytes_up"], r["bytes_down"]) for r in rows] == [(10_000 * times, up, down)]
    assert peak < PEAK_MB_MAX


RUBBISH = {
    "NUL bytes, which a truncated file is full of": b"\0" * 40_000_000,
    "a line without an end": b"x" * 40_000_000,
    "short lines": b"?\n" * 40_000,
    "a zone that is not there": b'{"time":1795132800,"account":"acme","zone":"no","bytes_up":1,"bytes_down":2}\n'
    * 300_000,
}


@pytest.mark.parametrize("name", RUBBISH)
def test_rubbish_needs_no_more(command, tmp_path, name):
    """Rejects are taken in parts; and a good line behind them is counted."""
    good = b'{"time":1795132800,"account":"acme","zone":"res","bytes_up":1,"bytes_down":2}\n'
    path = tmp_path / "rubbish"
    path.write_bytes(good + RUBBISH[name] + b"\n" + good)
    command.apply({"acme": {"res": {}}})
    peak, total = peak_mb(command, "--format", "jsonl", path)
    lines = RUBBISH[name].count(b"\n") or b"x" in RUBBISH[name]
    assert (total["counted"], total["rejected"], total["received"]) == (2, lines, 2 + lines)
    assert peak < PEAK_MB_MAX


def test_every_line_names_a_host_of_its_own(command, tmp_path):
    """Batches are made smaller where records fold little."""
    zones = [f"z{n}" for n in range(200)]
    command.apply({"acme": {zone: {} for zone in zones}})
    path, count = tmp_path / "hosts.tsv", 900_000
    with path.open("w") as file:
        file.write("time\tidentity\thost\tstatus\tbytes_up\tbytes_down\n")
        for n in range(count):
            time_s, zone = 1_795_132_800 + n // 20, zones[n % 200]
            file.write(f"{time_s}.5\tcust-acme-zone-{zone}-session-{n}\t{n}.example.com\t200\t{n}\t{n + 1}\n")
    peak, total = peak_mb(command, "--format", "tsv", path)
    assert total["counted"] == count
    assert peak < PEAK_MB_MAX


def test_tunnels_that_were_open_for_a_month(command, tmp_path):
    """A few lines are a million rows, where each is spread over its 5 minutes."""
    zones = [f"z{n}" for n in range(150)]
    command.apply({"acme": {zone: {} for zone in zones}})
    path, month_ms, buckets = tmp_path / "tunnels.tsv", 31 * 86_400_000, 8_928
    with path.open("w") as file:
        file.write("time\tduration_ms\taccount\tzone\thost\tbytes_up\tbytes_down\n")
        for n in range(300):
            file.write(f"1795132799\t{month_ms - 1000}\tacme\t{zones[n % 150]}\t{n}.example.com\t{buckets}\t0\n")
    settings = f'[[source]]\nname = "t"\npath = "{path}"\nformat = "tsv"\nspread = "even"\n'
    (command.data / "bandmeter.toml").write_text(settings)
    peak, total = peak_mb(command)
    assert total["counted"] == 300
    asked = ("usage", "acme/z7", "--from", "2026-10-01", "--to", "2026-12-01", "--resolution", "5m", "--output", "json")
    rows = json.loads(command(*asked).stdout)["rows"]
    assert [row["bytes_up"] for row in rows] == [2] * buckets
    assert peak < PEAK_MB_MAX
