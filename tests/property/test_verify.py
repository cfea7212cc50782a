"""Verify: what is right is found right, whatever happened on the way, and what somebody changed is found."""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import json
import os
import random
import sqlite3
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bandmeter.domain.usage import Outcomes
from bandmeter.formats import FORMATS
from bandmeter.ingest import Job
from bandmeter.store import SqliteStore
from bandmeter.verify import Candidate, Findings, Recount, check_days, check_sources, check_zones, recount

ROOT = Path(__file__).resolve().parents[2]
LOGS = {
    name: sorted((ROOT / "demo" / "logs" / name).glob("*.log"))
    for name in ("squid", "nginx", "haproxy", "trafficserver", "varnish", "envoy")
}
START = 1_795_132_800
TABLES = {"usage_5m": 300, "usage_hour": 3_600, "usage_day": 86_400}
TIMES_MORE = 20 if os.environ.get("BANDMETER_SOAK") else 1
DAYS = 40  # drawn from stores of one or two days: all of them, in all likelihood


def quiet(*_):
    pass


def verified(
    meter, candidates=(), progress=quiet, days=DAYS, jobs=lambda name, log_format: Job(FORMATS[log_format], name)
):
    findings = Findings()
    check_sources(meter.store, findings)
    check_days(meter.store, random.Random(3), days, findings)
    check_zones(meter.store, lambda: meter.zones, findings)
    checked = Recount(meter.store, lambda: list(meter.zones), jobs, batch_bytes=meter.batch_bytes)
    checked.check(candidates, findings, progress)
    return findings


def line(i, zone="res", **more):
    record = {
        "time": START + 200 * i,
        "account": "acme",
        "zone": zone,
        "bytes_up": i + 1,
        "bytes_down": 1_000 + i,
        "status": 200,
    }
    return json.dumps({key: value for key, value in (record | more).items() if value is not None}).encode() + b"\n"


def named(i, identity):
    return line(i, account=None, zone=None, identity=identity)


@pytest.fixture
def meter(make_meter, tmp_path):
    made = make_meter(store=SqliteStore(tmp_path / "usage.db"))
    made.add_zone("acme", "res", "res")
    made.add_zone("acme", "shop.test", "cdn", ["shop.test"])
    yield made
    made.store.close()


def write(folder, name, *lines):
    path = folder / name
    path.write_bytes(b"".join(lines))
    return path


def change(meter, *statements):
    with contextlib.closing(sqlite3.connect(meter.store.path, isolation_level=None)) as db:
        for statement in statements:
            db.execute(statement)


# ---------------------------------------------------------------- what is right


@pytest.mark.parametrize("name", LOGS)
def test_logs_of_real_proxies_are_recounted_as_they_were_counted(meter, name):
    for path in LOGS[name]:
        meter.feed(path, name)
    findings = verified(meter)
    assert (findings.differences, findings.unchecked) == ([], [])
    assert findings.checked["logs recounted"] == len(LOGS[name]) > 0
    assert findings.checked["records recounted"] == meter.outcomes().received
    assert findings.checked["5-minute buckets recounted"] > 0


@pytest.mark.parametrize("size", [1, 70, 1_000])
def test_a_log_is_recounted_in_slices(meter, monkeypatch, size):
    """However they are cut: with long lines, damage, NUL bytes and a line that waits for its end."""
    monkeypatch.setattr(recount, "SLICE_BYTES", size)
    monkeypatch.setattr(recount, "READ_BYTES", 50)
    lines = [
        *map(line, range(40)),
        b"\0" * 90 + b"torn\n",
        b"x" * 300 + b"\n",
        *(named(i, "carol") for i in range(9)),
        b'{"time": 1',
    ]
    meter.batch_bytes = 4_096
    meter.feed(write(meter.folder, "a.log", *lines))
    findings = verified(meter)
    assert (findings.differences, findings.unchecked) == ([], [])
    assert findings.checked["records recounted"] == 51


@pytest.mark.parametrize("has_header", [True, False])
def test_a_table_is_recounted_with_its_columns(meter, has_header, monkeypatch):
    monkeypatch.setattr(recount, "SLICE_BYTES", 100)
    monkeypatch.setattr(recount, "READ_BYTES", 100)
    rows = [f"{START + i}\tcust-acme-zone-res\t{i}\t{i}\n".encode() for i in range(30)]
    header = "time\tidentity\tbytes_up\tbytes_down"
    if has_header:
        meter.feed(write(meter.folder, "a.tsv", f"{header}\n".encode(), *rows), "tsv")
    else:
        meter.feed(write(meter.folder, "a.tsv", *rows), "tsv", columns=tuple(header.split("\t")))
    findings = verified(meter)
    assert (findings.differences, findings.unchecked) == ([], [])
    assert findings.checked["records recounted"] == 30


def test_a_log_that_has_grown_since_is_recounted_as_far_as_it_was_counted(meter):
    path = write(meter.folder, "a.log", *map(line, range(10)))
    meter.feed(path)
    with path.open("ab") as file:
        file.write(line(11) + b'{"ti')
    findings = verified(meter)
    assert (findings.differences, findings.checked["records recounted"]) == ([], 10)


def test_a_log_that_was_fed_twice_is_recounted_once(meter):
    path = write(meter.folder, "a.log", *map(line, range(10)))
    meter.feed(path)
    meter.feed(path)
    assert meter.outcomes().duplicate == 10
    assert verified(meter).differences == []


def test_a_rotated_log_is_found_among_the_candidates(meter):
    """It is known by its content, compressed or not; its old path has another content by now."""
    path = write(meter.folder, "a.log", *map(line, range(100)))
    meter.feed(path)
    rotated = meter.folder / "a.log.1.gz"
    rotated.write_bytes(gzip.compress(path.read_bytes()))
    path.write_bytes(line(500))
    findings = verified(meter)
    assert len(findings.unchecked) == 1
    assert "logs recounted" not in findings.checked
    findings = verified(meter, [Candidate("files", "jsonl", str(rotated)), Candidate("other", "jsonl", str(rotated))])
    assert (findings.differences, findings.unchecked) == ([], [])
    assert findings.checked["records recounted"] == 100


def test_identities_that_wait_and_that_were_claimed_are_compared_too(meter):
    """Also when a zone that would get them was added after they had come, and when they were given to one."""
    people = ("alice", "bob", "cust-acme-zone-new", "shop.test", "dave")
    meter.feed(write(meter.folder, "a.log", *(named(i, name) for i in range(20) for name in people)))
    alice, bob = meter.zones[0], meter.zones[1]
    meter.zones[0] = dataclasses.replace(alice, identities=("alice",))
    meter.zones[1] = dataclasses.replace(bob, identities=("shop.test", "bob"))
    meter.store.claim("alice", meter.zones[0])
    meter.store.claim("bob", meter.zones[1])  # which bills the other side
    meter.add_zone("acme", "new", "res")  # its history waits under the identity
    findings = verified(meter)
    assert (findings.differences, findings.unchecked) == ([], [])
    assert findings.checked["zones and identities recounted"] == 4


def test_what_is_added_meanwhile_is_recounted_too(meter):
    """Ingest goes on while the logs are recounted, in files that were there and in new ones."""
    path = write(meter.folder, "a.log", *map(line, range(50)))
    meter.feed(path)
    more = iter(range(3))

    def progress(*_):
        number = next(more, None)
        if number is not None:
            with path.open("ab") as file:
                file.write(line(50 + number))
            meter.feed(path)
            meter.feed(write(meter.folder, f"new{number}.log", line(200 + number)), source_name="new")

    findings = verified(meter, progress=progress)
    assert (findings.differences, findings.unchecked) == ([], [])
    assert findings.checked["records recounted"] == 56
    assert findings.checked["logs recounted"] == 4


def test_a_store_that_grows_without_end_is_not_waited_for(meter):
    path = write(meter.folder, "a.log", line(0))
    meter.feed(path)

    def progress(*_):
        with path.open("ab") as file:
            file.write(line(1))
        meter.feed(path)

    findings = verified(meter, progress=progress)
    assert findings.differences == []
    assert "faster than" in findings.unchecked[0]


def test_an_empty_store_has_nothing_to_check(meter):
    findings = verified(meter)
    assert findings == Findings()


@settings(max_examples=8 * TIMES_MORE)
@given(data=st.data())
def test_whatever_was_ingested_is_found_right_and_one_changed_counter_is_found(make_meter, data):
    """Logs of several sources, fed in parts, some of them twice; then one counter of one bucket, in all resolutions."""
    with tempfile.TemporaryDirectory() as folder:
        meter = make_meter(store=SqliteStore(Path(folder) / "usage.db"))
        meter.add_zone("acme", "res", "res")
        meter.add_zone("acme", "shop.test", "cdn", ["shop.test"])
        owners = st.sampled_from(
            [
                ("res", None),
                ("shop.test", None),
                ("gone", None),
                (None, "shop.test"),
                (None, "eve"),
                (None, "cust-acme-zone-res-session-1"),
            ]
        )
        for source in range(data.draw(st.integers(1, 3))):
            path = Path(folder) / f"{source}.log"
            path.touch()
            for part in data.draw(st.lists(st.lists(st.tuples(owners, st.integers(0, 900)), max_size=8), max_size=3)):
                with path.open("ab") as file:
                    for (zone, identity), i in part:
                        file.write(line(i, zone=zone, account=zone and "acme", identity=identity, n=source))
                for _ in range(data.draw(st.integers(1, 2))):
                    meter.feed(path, source_name=f"s{source}")
        findings = verified(meter)
        assert (findings.differences, findings.unchecked) == ([], [])
        with contextlib.closing(sqlite3.connect(meter.store.path, isolation_level=None)) as db:
            rows = db.execute("SELECT zone, bucket, dimensions FROM usage_5m").fetchall()
            if rows:
                zone, bucket, dimensions = data.draw(st.sampled_from(rows))
                counter = data.draw(st.sampled_from(["target_requests", "target_bytes_up", "client_bytes_down"]))
                by = data.draw(st.sampled_from([1, -1, 2**40]))
                for table, seconds in TABLES.items():
                    db.execute(
                        f"UPDATE {table} SET {counter} = {counter} + {by} WHERE zone = ? AND bucket = ? AND dimensions = ?",
                        [zone, bucket * 300 // seconds, dimensions],
                    )
        if rows:
            assert meter.store.check() == []
            assert len(verified(meter).differences) == 1
        meter.store.close()


# ---------------------------------------------------------------- what is wrong


def test_what_reached_no_target_before_its_zone_was_there_is_no_difference(meter):
    """Its client's side is not kept, and named; whatever else is not as in the log is a difference all the same."""
    refused = [{"client_bytes_up": i, "client_bytes_down": 2 * i} for i in (3, 4)]
    records = [
        {"time": START, "identity": "cust-acme-zone-new", **r}
        for r in (*refused, {"target_bytes_up": 5, "target_bytes_down": 6})
    ]
    meter.feed(write(meter.folder, "a.log", *(json.dumps(record).encode() + b"\n" for record in records)))
    assert verified(meter).differences == []
    meter.add_zone("acme", "new")
    findings = verified(meter)
    assert findings.differences == []
    assert any("lacks 2 requests that reached no target" in sentence for sentence in findings.unchecked)
    for counter in ("target_bytes_up", "client_bytes_up", "client_requests"):
        change(meter, *(f"UPDATE {table} SET {counter} = {counter} + 8 WHERE zone < 0" for table in TABLES))
        assert len(verified(meter).differences) == 1
        change(meter, *(f"UPDATE {table} SET {counter} = {counter} - 8 WHERE zone < 0" for table in TABLES))


CHANGES = {
    "a day": ["UPDATE usage_day SET target_bytes_up = target_bytes_up + 1 WHERE zone = 1"],
    "an hour": ["UPDATE usage_hour SET target_bytes_up = target_bytes_up + 1 WHERE zone = 1"],
    "a bucket in all resolutions": [f"UPDATE {t} SET target_bytes_up = target_bytes_up - 1 WHERE zone = 1 AND bucket = {START // s}" for t, s in TABLES.items()],
    "a zone that is gone": [f"DELETE FROM {t} WHERE zone = 1" for t in TABLES],
    "traffic of another zone": [f"UPDATE {t} SET zone = 2 WHERE zone = 1" for t in TABLES],
    "traffic of a zone that nobody knows": [f"UPDATE {t} SET zone = 9 WHERE zone = 1" for t in TABLES],
    "traffic at another time": [f"UPDATE {t} SET bucket = bucket + {864_000 // s}" for t, s in TABLES.items()],
    "an identity that is gone": [f"DELETE FROM {t} WHERE zone = -1" for t in TABLES],
    "a source's count": ["UPDATE source SET received = received + 1, counted = counted + 1"],
    "a source's rejects": ["UPDATE source SET counted = counted - 1, rejected = rejected + 1"],
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_what_somebody_changed_is_found(meter, name):
    meter.feed(write(meter.folder, "a.log", *map(line, range(10)), *(named(i, "eve") for i in range(5))))
    assert verified(meter).differences == []
    change(meter, *CHANGES[name])
    assert verified(meter).differences != []


def test_law_2_is_looked_at(meter, monkeypatch):
    """SQLite holds it by itself; another store may not."""
    meter.feed(write(meter.folder, "a.log", *map(line, range(10))))
    (state,) = meter.store.sources()
    monkeypatch.setattr(meter.store, "sources", lambda: [state._replace(outcomes=Outcomes(11, 10))])
    findings = Findings()
    check_sources(meter.store, findings)
    assert findings.differences == [f"source 1 ({state.path}): received 11, accounted for 10."]


def test_a_log_that_is_gone_makes_the_others_a_lower_bound(meter):
    first = write(meter.folder, "a.log", *map(line, range(10)))
    second = write(meter.folder, "b.log", *map(line, range(5, 15)))
    meter.feed(first)
    meter.feed(second)
    second.unlink()
    findings = verified(meter)
    assert findings.differences == []
    assert "1 of 2 sources" in findings.unchecked[0]
    change(
        meter,
        *(
            f"UPDATE {t} SET target_bytes_up = target_bytes_up + 5 WHERE bucket = {START // s}"
            for t, s in TABLES.items()
        ),
    )
    assert verified(meter).differences == []  # it may have come from the log that is gone
    change(meter, *(f"UPDATE {t} SET target_bytes_up = 0 WHERE bucket = {START // s}" for t, s in TABLES.items()))
    (sentence,) = verified(meter, days=0).differences
    assert "zone acme/res: 1 buckets hold less than the logs say" in sentence


def test_another_file_under_the_name_is_not_taken_for_the_log(meter):
    path = write(meter.folder, "a.log", *map(line, range(10)))
    meter.feed(path)
    write(meter.folder, "a.log", *map(line, range(20, 30)))
    findings = verified(meter)
    assert findings.differences == []
    assert "are not there" in findings.unchecked[0]


def test_what_came_through_a_pipe_cannot_be_recounted(meter, monkeypatch):
    meter.feed(write(meter.folder, "a.log", *map(line, range(10))))
    change(meter, "UPDATE source SET path = '-'")
    monkeypatch.chdir(meter.folder)
    assert "1 of 1 sources" in verified(meter).unchecked[0]


# ---------------------------------------------------------------- what is judged otherwise today


def test_another_network_of_a_zone_is_no_difference(meter):
    """What was counted before keeps the old one; usage that somebody changed is found all the same."""
    meter.feed(write(meter.folder, "a.log", *map(line, range(5))))
    meter.zones[0] = dataclasses.replace(meter.zones[0], network="isp")
    assert verified(meter).differences == []
    change(
        meter,
        *(
            f"UPDATE {table} SET target_bytes_up = target_bytes_up + 1 WHERE bucket = (SELECT min(bucket) FROM {table})"
            for table in TABLES
        ),
    )
    assert len(verified(meter).differences) == 1


def test_records_of_a_zone_that_was_added_later_are_no_difference(meter):
    """They were rejected then, and would be counted today."""
    meter.feed(write(meter.folder, "a.log", *map(line, range(10)), *(line(i, zone="later") for i in range(4))))
    meter.feed(write(meter.folder, "b.log", *map(line, range(30, 40))))
    meter.add_zone("acme", "later", "res")
    findings = verified(meter)
    assert findings.differences == []
    (sentence,) = findings.unchecked
    assert "counted 10, today 14; rejected 4, today 0" in sentence
    assert findings.checked["logs recounted"] == 2


def test_a_log_that_was_given_to_a_zone_is_left_out(meter):
    """Under which --account and --zone a log came is not stored."""
    meter.feed(write(meter.folder, "a.log", *(named(i, "eve") for i in range(10))), account="acme", zone="res")
    findings = verified(meter)
    assert findings.differences == []
    assert "--account and --zone" in findings.unchecked[0]


def test_a_log_is_read_as_its_source_says(meter):
    """With its zone, its own rules, and the bytes that its headers lack; a rule that came later is no difference."""
    path = write(meter.folder, "a.log", *(named(i, "eve") for i in range(10)), *(named(i, "bob") for i in range(5)))
    settings = {"account": "acme", "zone": "res", "rules": (("bob", "acme", "shop.test"),), "header_adjust_bytes": 7}
    meter.feed(path, **settings)
    findings = verified(meter, jobs=lambda name, log_format: Job(FORMATS[log_format], name, **settings))
    assert (findings.differences, findings.unchecked) == ([], [])
    other = meter.folder / "b.log"
    other.write_bytes(path.read_bytes())
    meter.feed(other, source_name="other")
    findings = verified(meter, jobs=lambda name, log_format: Job(FORMATS[log_format], name, **settings))
    assert findings.differences == []
    assert "zones or settings are others now" in findings.unchecked[0]


def test_a_day_with_too_many_identities_is_left_out(meter):
    meter.store.identities_per_day = 2
    meter.feed(write(meter.folder, "a.log", *(named(i, f"u{i}") for i in range(10))))
    findings = verified(meter)
    assert findings.differences == []
    assert "beyond a day's bound" in findings.unchecked[0]
    assert findings.checked["records recounted"] == 10


def test_a_format_that_is_gone_is_told(meter):
    meter.feed(write(meter.folder, "a.log", *map(line, range(10))))
    change(meter, "UPDATE source SET format = 'mine'")
    checked, findings = Recount(meter.store, lambda: meter.zones, find_none), Findings()
    checked.check([], findings, quiet)
    assert findings.unchecked == [f"source 1 ({meter.folder}/a.log): there is no format mine."]


def find_none(_, log_format):
    raise recount.BandmeterError("input_invalid", f"there is no format {log_format}.")


# ---------------------------------------------------------------- beside a server's work


def test_a_sample_ends_when_it_is_told_to(meter):
    meter.feed(write(meter.folder, "a.log", *map(line, range(10))))
    findings, left = Findings(), iter([False] * 7)
    check_days(meter.store, random.Random(1), 10**9, findings, lambda: next(left, True))
    assert findings.checked == {"days of zones": 7}


def test_the_same_seed_draws_the_same_days(meter, monkeypatch):
    meter.feed(
        write(meter.folder, "a.log", *(line(i * 400) for i in range(40)), *(named(i, f"u{i}") for i in range(9)))
    )
    seen = []
    monkeypatch.setattr(meter.store, "check_day", lambda *day: seen.append(day) or [])
    for seed in (1, 1, 2):
        check_days(meter.store, random.Random(seed), 30, Findings())
    assert seen[:30] == seen[30:60] != seen[60:]
    assert {number for number, _ in seen} > {1, -1}


# ---------------------------------------------------------------- the command


def test_the_command_ends_with_1_when_something_differs(command, tmp_path):
    command.apply({"acme": {"res": {}}})
    command.ingest("jsonl", write(tmp_path, "a.log", *map(line, range(10))))
    shown = command("verify").stdout.decode()
    assert "10 records recounted" in shown
    assert {"1 source", "1 zone", "1 log recounted", "1 zone or identity recounted"} <= set(shown.splitlines())
    assert "\n1000 draws of a zone's day (--seed " in shown
    assert "No difference" in shown
    with contextlib.closing(sqlite3.connect(command.data / "usage.db")) as db, db:
        db.execute("UPDATE usage_day SET target_bytes_up = 0")
    document = json.loads(command("verify", "--json", "--seed", "5", "--no-logs", status=1).stdout)
    assert document["seed"] == 5
    assert document["differences"][0].startswith("zone 1, 2026-11-20T00:00:00Z")
    assert document["unchecked"] == ["the logs were not looked at: --no-logs."]
    assert document["checked"]["days of zones"] == 1_000
    assert b"1 database, whole" in command("verify", "--sample", "0", status=1).stdout


def test_a_rotated_log_of_a_configured_source_is_found(command, tmp_path):
    command.apply({"acme": {"res": {}}})
    (command.data / "bandmeter.toml").write_text('[[source]]\nname = "edge"\nformat = "jsonl"\npath = "../logs/*"\n')
    (tmp_path / "logs").mkdir()
    path = write(tmp_path / "logs", "a.log", *map(line, range(10)))
    command("ingest")
    path.rename(tmp_path / "logs" / "a.log.1")
    assert "10 records recounted" in command("verify").stdout.decode()
