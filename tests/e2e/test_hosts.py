"""Usage by target host through the command: `usage --group-by host`, the bound, kills and several processes at once."""

from __future__ import annotations

import contextlib
import json
import random
import subprocess

import pytest

from bandmeter.store import SqliteStore

MIDNIGHT = 1_795_132_800  # 2026-11-20
DAY = 86_400
ZONES = {"a": {"identities": ["alice"]}, "cdn": {"network": "cdn", "identities": ["*.test"]}}
LINES = 12_000
HOSTS = [f"h{n}.test" for n in range(12)]
POLL_SECONDS = 0.005


def write_log(path, draw, lines=LINES):
    """A log of two zones and a stranger over three days; its exact sums by (zone, day, host)."""
    sums: dict = {}
    users = {"a": "alice", "cdn": "shop.test", None: "stranger"}
    with path.open("w") as file:
        for _ in range(lines):
            zone, second = draw.choice(list(users)), MIDNIGHT + draw.randrange(3 * DAY)
            host, up, down = draw.choice([*HOSTS, "-"]), draw.randrange(10**6), draw.randrange(10**9)
            file.write(f"{second}\t{users[zone]}\t{host}\t{up}\t{down}\n")
            if zone:
                key = (zone, second // DAY * DAY, host)
                sums[key] = [a + b for a, b in zip(sums.get(key, [0] * 3), (1, up, down), strict=True)]
    return sums


def start(command, *arguments, **environment):
    columns = "time,identity,host,bytes_up,bytes_down"
    return command.start("ingest", "--format", "tsv", "--columns", columns, *arguments, **environment)


def by_host(command, *arguments):
    """{(zone, bucket, host): [requests, up, down]} of `usage --group-by zone,host`."""
    done = command("usage", "acme", "--group-by", "zone,host", "--output", "json", *arguments)
    return {
        (row["zone"], row["bucket"], row["host"]): [row[name] for name in ("requests", "bytes_up", "bytes_down")]
        for row in json.loads(done.stdout)["rows"]
    }


def added(parts):
    return [sum(column) for column in zip(*parts, strict=True)]


def is_exact(command, sums, bound):
    """Days add up; a host that is named is exact; and there are as many as there may be."""
    with contextlib.closing(SqliteStore(command.data / "usage.db")) as store:
        assert store.check() == []
    found = by_host(command)
    days = {(zone, f"2026-11-{20 + (day - MIDNIGHT) // DAY}T00:00:00Z"): (zone, day) for zone, day, _ in sums}
    assert {key[:2] for key in found} == set(days)
    for shown, (zone, day) in days.items():
        rows = {host: counters for (*key, host), counters in found.items() if tuple(key) == shown}
        assert added(rows.values()) == added(counters for key, counters in sums.items() if key[:2] == (zone, day))
        named = {host: counters for host, counters in rows.items() if host != "other"}
        assert named == {host: sums[zone, day, host] for host in named}
        assert len(named) == min(bound, len(HOSTS))
    return True


@pytest.mark.parametrize("bound", [0, 5, 100])
def test_killed_over_and_over(command, tmp_path, bound):
    """Whatever was committed when it died: the rest is added once, and no host beyond the bound."""
    seed = 11 + bound
    draw = random.Random(seed)
    sums = write_log(tmp_path / "access.tsv", draw)
    command.apply({"acme": ZONES})
    settings = {"BANDMETER_INGEST_BATCH_BYTES": "30000", "BANDMETER_INGEST_HOSTS_PER_DAY": str(bound)}
    size, places = (tmp_path / "access.tsv").stat().st_size, set()
    while True:
        process = start(command, tmp_path / "access.tsv", **settings)
        target = command.position() + draw.randrange(1, size // 2)
        is_killed = False
        while process.poll() is None and not is_killed:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=POLL_SECONDS)
            is_killed = command.position() >= target
        process.kill()
        process.communicate()
        if process.returncode == 0:
            break
        places.add(command.position())
    assert places - {0, size}, f"no kill hit the middle of the work, seed {seed}"
    assert is_exact(command, sums, bound)


def test_several_processes_at_once(command, tmp_path):
    """They fill the same days, and together keep no more hosts than one would."""
    draw = random.Random(7)
    command.apply({"acme": ZONES})
    settings = {"BANDMETER_INGEST_BATCH_BYTES": "30000", "BANDMETER_INGEST_HOSTS_PER_DAY": "5"}
    sums: dict = {}
    processes = []
    for n in range(3):
        for key, counters in write_log(tmp_path / f"{n}.tsv", draw, LINES // 2).items():
            sums[key] = added([sums.get(key, [0] * 3), counters])
        processes.append(start(command, "--source", f"machine{n}", tmp_path / f"{n}.tsv", **settings))
    for process in processes:
        _, complaint = process.communicate()
        assert process.returncode == 0, complaint
    assert is_exact(command, sums, 5)


@pytest.fixture
def counted(command, tmp_path):
    """Two zones with three hosts on the last day of a month and the first of the next; hosts are kept of one per day."""
    lines = [
        ("2026-10-31T23:59:59Z", "alice", "big.test", 0, 700),
        ("2026-10-31T23:00:00Z", "alice", "small.test", 1, 2),
        ("2026-11-01T00:00:00Z", "alice", "big.test", 10, 20),
        ("2026-11-01T09:00:00Z", "alice", "", 3, 4),
        ("2026-11-01T09:00:00Z", "x.test", "shop.test", 5, 6),
    ]
    (tmp_path / "log.tsv").write_text("".join("\t".join(map(str, line)) + "\n" for line in lines))
    command.apply({"acme": ZONES})
    process = start(command, tmp_path / "log.tsv", BANDMETER_INGEST_HOSTS_PER_DAY="1")
    assert process.communicate()[1] == b""
    return command


def test_by_day_month_and_in_total(counted):
    """Hosts of each bucket, and what is missing to it under `other`."""
    assert by_host(counted) == {
        ("a", "2026-10-31T00:00:00Z", "big.test"): [1, 0, 700],
        ("a", "2026-10-31T00:00:00Z", "other"): [1, 1, 2],
        ("a", "2026-11-01T00:00:00Z", "big.test"): [1, 10, 20],
        ("a", "2026-11-01T00:00:00Z", "other"): [1, 3, 4],
        ("cdn", "2026-11-01T00:00:00Z", "shop.test"): [1, 5, 6],
    }
    assert by_host(counted, "--resolution", "month", "--from", "2026-10-31")[
        "a", "2026-10-31T00:00:00Z", "big.test"
    ] == [1, 0, 700]
    assert by_host(counted, "--resolution", "total", "--from", "2026-10-01") == {
        ("a", "2026-10-01T00:00:00Z", "big.test"): [2, 10, 720],
        ("a", "2026-10-01T00:00:00Z", "other"): [2, 4, 6],
        ("cdn", "2026-10-01T00:00:00Z", "shop.test"): [1, 5, 6],
    }


def test_a_zone_a_side_and_no_other_column(counted):
    """Zones are added up where they are not asked for; the other side has what it has."""
    done = counted("usage", "acme/a", "--group-by", "host", "--output", "csv", "--from", "2026-11-01T12:00:00Z")
    assert done.stdout.decode().splitlines() == [
        "bucket,host,requests,bytes_up,bytes_down",
        "2026-11-01T00:00:00Z,big.test,1,10,20",
        "2026-11-01T00:00:00Z,other,1,3,4",
    ]
    done = counted("usage", "acme", "--group-by", "host,account", "--resolution", "total", "--output", "json")
    assert {row["account"] for row in json.loads(done.stdout)["rows"]} == {"acme"}
    assert by_host(counted, "--side", "client") == {("cdn", "2026-11-01T00:00:00Z", "shop.test"): [1, 5, 6]}
    lines = counted("usage", "acme", "--group-by", "host").stdout.decode().splitlines()
    assert lines[-1].split() == ["total", "5", "19", "732", "751", "751", "B"]


def test_turned_off_and_on_again(counted, tmp_path):
    """What was kept stays; what comes while it is off is in `other`, and days add up."""
    line = "2026-11-01T10:00:00Z\talice\tbig.test\t100\t0\n"
    for n, bound in enumerate(("0", "2")):
        (tmp_path / f"more{n}.tsv").write_text(line)
        process = start(counted, "--source", f"s{n}", tmp_path / f"more{n}.tsv", BANDMETER_INGEST_HOSTS_PER_DAY=bound)
        assert process.communicate()[1] == b""
    found = by_host(counted, "--from", "2026-11-01")
    assert found["a", "2026-11-01T00:00:00Z", "big.test"] == [2, 110, 20]
    assert found["a", "2026-11-01T00:00:00Z", "other"] == [2, 103, 4]
