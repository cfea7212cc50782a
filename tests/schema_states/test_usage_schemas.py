"""Every schema of the usage store that a released Bandmeter made must open in this one, with all that it held."""

from __future__ import annotations

import contextlib
import hashlib
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from bandmeter.catalog.tables import HEAD
from bandmeter.domain import errors
from bandmeter.domain.errors import BandmeterError
from bandmeter.domain.grid import Resolution, Span
from bandmeter.domain.usage import Counters, HostRow, Outcomes, Side
from bandmeter.store import SqliteStore
from bandmeter.store.sqlite import migrations

DUMPS = sorted(Path(__file__).parent.glob("usage_*.sql"))
OLDEST = DUMPS[0]
# What was released stays as it was: a changed schema gets a dump of its own.
RELEASED = {"usage_0001": "7f56ccd62f2f7fd1"}
START = 1_795_132_800
EVER = Span(0, START + 10 * 86_400)
GROWN = ("ALTER TABLE source ADD COLUMN more TEXT NOT NULL DEFAULT ''", "CREATE TABLE more (number INTEGER) STRICT")
PROGRAM = """
import sys
from pathlib import Path
from bandmeter.store import SqliteStore
from bandmeter.store.sqlite import migrations

def step(db):
    db.execute("CREATE TABLE more (number INTEGER) STRICT")
    if sys.argv[2] == "wait":
        print("in the middle", flush=True)
        sys.stdin.read()
    taken.append(1)

taken = []
migrations.STEPS = (*migrations.STEPS, step)
store = SqliteStore(Path(sys.argv[1]))
print(len(taken), len(store.check()), store._writer.execute("SELECT sum(target_bytes_up) FROM usage_day").fetchone()[0])
"""


def restore(dump, path):
    with contextlib.closing(sqlite3.connect(path)) as raw:
        raw.executescript(dump.read_text())
    return path


def tables(path):
    with contextlib.closing(sqlite3.connect(path)) as raw:
        found = raw.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL")
        return {name: " ".join(sql.split()) for name, sql in found}, migrations.version(raw)


def is_whole(store):
    """Whether the store answers what was written into the dumps: the numbers stand here, not in the code."""
    assert store.check() == []
    assert store.total(1, Side.TARGET, EVER) == Counters(24, 18, 6 * 2**40 + 615, 12_057)
    assert store.total(1, Side.CLIENT, EVER) == Counters()
    assert store.total(2, Side.CLIENT, EVER) == Counters(13, 13, 183, 244)
    assert store.total(2, Side.TARGET, EVER) == Counters(7, 7, 61, 122)
    days = store.read([1], Side.TARGET, Resolution.DAY, EVER)[1]
    assert days.bytes_down == [6_003, 21, 4_007, 14, 2_005, 7]
    hours = store.read([2], Side.CLIENT, Resolution.HOUR, EVER)[2]
    assert (hours.bucket[0], hours.bytes_up[0], len(hours.bucket)) == (START, 33, 6)
    assert store.total(2, Side.CLIENT, Span(START + 600, START + 900)) == Counters(1, 1, 3, 4)
    squid, tsv, *since_2 = store.sources()
    assert squid.outcomes == Outcomes(80, 30, 40, 2, 6, 2)
    assert (squid.position, squid.lines, squid.head, squid.check) == (5_000, 40, b"h" * 80, b"c" * 16)
    assert (squid.note, tsv.path, tsv.columns, tsv.position) == ("partial", "-", "time\tbytes_up", 13)
    assert [(reject.line, reject.text) for reject in store.rejects(1, 9)] == [(31, b"\xff\x00 torn"), (32, b"x")]
    assert [(u.identity, u.target) for u in store.unattributed() if u.number > -4] == [
        ("mallory", Counters(5, 0, 11, 12))
    ]
    assert store.freshness([1]).newest_ms == (START + 180_300) * 1000 + 999
    assert store.committed_ms() == START * 1000 + 2
    hosts = store.read_hosts([1, 2], Side.CLIENT, EVER, 9)
    assert hosts == ({2: [HostRow(START, "example.org", 2, 2, 30, 40)]} if since_2 else {})
    assert (store.receipt(b"for ever") is not None) == bool(since_2)
    for number in [s.number for s in since_2 if s.name == "mended"]:
        assert [reject.line for reject in store.rejects(number, 9)] == [2]
        assert [(r.line, r.text) for r in store.rejects(number, 9, 0, "mended")] == [(1, b"right")]
    return True


@pytest.mark.parametrize("dump", DUMPS, ids=lambda path: path.stem)
def test_an_old_store_opens_with_all_that_it_held(tmp_path, dump):
    path = restore(dump, tmp_path / "usage.db")
    for _ in range(2):  # as it was, and as the first opening left it
        with contextlib.closing(SqliteStore(path)) as store:
            assert is_whole(store)
            assert store.number_identities([("new", "")], 1) == {("new", ""): -4}
    with contextlib.closing(SqliteStore(tmp_path / "new.db")):
        assert tables(path) == tables(tmp_path / "new.db")


def test_a_schema_is_not_changed_without_a_version_and_a_dump(tmp_path):
    """The newest dump has the tables that a new store gets: change one, and a new version with its dump is due."""
    SqliteStore(tmp_path / "new.db").close()
    assert tables(restore(DUMPS[-1], tmp_path / "dumped.db")) == tables(tmp_path / "new.db")
    numbers = range(migrations.FIRST, migrations.newest() + 1)
    assert [path.stem for path in DUMPS] == [f"usage_{number:04}" for number in numbers]


def test_the_dump_of_a_released_schema_stays():
    digests = {path.stem: hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in DUMPS}
    assert RELEASED.items() <= digests.items()


# ---------------------------------------------------------------- the steps


def test_a_step_is_taken_once(tmp_path, monkeypatch):
    """Whether it is SQL or a function; and a new store has all of them from the beginning."""
    path, taken = restore(OLDEST, tmp_path / "usage.db"), []
    monkeypatch.setattr(
        migrations, "STEPS", (*migrations.STEPS, GROWN, lambda db: taken.append(migrations.version(db)))
    )
    for _ in range(2):
        with contextlib.closing(SqliteStore(path)) as store:
            assert is_whole(store)
    assert taken == [1]
    assert tables(path)[1] == migrations.newest()
    assert "more" in tables(path)[0]


def test_a_step_that_fails_leaves_the_old_schema(tmp_path, monkeypatch):
    path = restore(OLDEST, tmp_path / "usage.db")
    before = tables(path)
    monkeypatch.setattr(migrations, "STEPS", (*migrations.STEPS, (*GROWN, "SELECT absent FROM nowhere")))
    with pytest.raises(BandmeterError, match="nowhere") as caught:
        SqliteStore(path)
    assert caught.value.code == errors.UNAVAILABLE
    assert tables(path) == before


@pytest.mark.parametrize(
    "fault",
    [
        "UPDATE usage_day SET target_bytes_up = target_bytes_up + 1 WHERE zone = 1",
        "DELETE FROM usage_5m WHERE zone = -1",
        "UPDATE usage_hour SET zone = 3 WHERE zone = 2",
    ],
)
def test_a_step_that_changes_a_number_is_not_kept(tmp_path, monkeypatch, fault):
    path = restore(OLDEST, tmp_path / "usage.db")
    before = tables(path)
    monkeypatch.setattr(migrations, "STEPS", (*migrations.STEPS, (*GROWN, fault)))
    with pytest.raises(BandmeterError, match="left as it was") as caught:
        SqliteStore(path)
    assert caught.value.code == errors.FAILURE
    assert tables(path) == before
    monkeypatch.undo()
    with contextlib.closing(SqliteStore(path)) as store:
        assert is_whole(store)


def program(path, what="go"):
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, path, what], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_of_several_processes_one_migrates(tmp_path):
    path = restore(OLDEST, tmp_path / "usage.db")
    first = program(path, "wait")
    assert first.stdout.readline() == "in the middle\n"
    others = [program(path) for _ in range(3)]
    shown = [process.communicate()[0] for process in (first, *others)]  # ends the first one's wait
    up = 6 * 2**40 + 615 + 61 + 11
    assert shown == [f"1 0 {up}\n", *[f"0 0 {up}\n"] * 3]


def test_killed_in_the_middle_of_a_migration(tmp_path):
    """kill -9 leaves the old schema with all that it held; the next to open it begins anew."""
    path = restore(OLDEST, tmp_path / "usage.db")
    before = tables(path)
    process = program(path, "wait")
    assert process.stdout.readline() == "in the middle\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert tables(path) == before
    with contextlib.closing(SqliteStore(path)) as store:
        assert is_whole(store)
    assert program(path).communicate()[0].startswith("1 0 ")


# ---------------------------------------------------------------- newer releases


def test_a_schema_from_the_future_is_refused_in_a_sentence(tmp_path):
    SqliteStore(tmp_path / "usage.db").close()
    with contextlib.closing(sqlite3.connect(tmp_path / "usage.db")) as raw:
        raw.execute("PRAGMA user_version = 99")
    before = (tmp_path / "usage.db").read_bytes()
    with pytest.raises(BandmeterError, match=r"schema 99.*newer release") as caught:
        SqliteStore(tmp_path / "usage.db")
    assert caught.value.code == errors.INPUT_INVALID
    assert (tmp_path / "usage.db").read_bytes() == before


def test_an_old_process_writes_no_more_once_a_newer_one_has_migrated(tmp_path, monkeypatch):
    """It would leave out what the newer schema wants to know, and nobody would see it."""
    store = SqliteStore(restore(OLDEST, tmp_path / "usage.db"))
    with monkeypatch.context() as newer:
        newer.setattr(migrations, "STEPS", (*migrations.STEPS, GROWN))
        SqliteStore(store.path).close()
    with pytest.raises(BandmeterError, match="another release") as caught:
        store.note_duplicates(1, 5)
    assert caught.value.code == errors.UNAVAILABLE
    assert store.sources()[0].outcomes.duplicate == 40
    store.close()


# ---------------------------------------------------------------- the command


def test_migrate_says_what_it_did(command, tmp_path):
    command.apply({"acme": {"a": {}, "shop.test": {}}})
    (command.data / "usage.db").unlink()
    restore(OLDEST, command.data / "usage.db")
    assert b'{"file": "usage.db", "from": "1"' in command("migrate", "--json").stdout
    assert command("migrate").stdout.decode() == "".join(
        f"{name}: schema {version}, nothing to do.\n"
        for name, version in (("usage.db", migrations.newest()), ("catalog.db", HEAD))
    )


def test_migrate_refuses_a_newer_schema(command):
    command("account", "add", "--id", "acme")
    with contextlib.closing(sqlite3.connect(command.data / "usage.db")) as raw:
        raw.execute("PRAGMA user_version = 99")
    assert b"newer release" in command("migrate", status=2).stderr
