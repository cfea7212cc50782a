"""Backups are made while others write, are whole or not there, and what is restored adds up and goes on exactly."""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import shutil
import signal
import sqlite3
import stat
import subprocess
from array import array

import pytest

from bandmeter.catalog import Catalog
from bandmeter.domain.contracts import Batch, SourceState
from bandmeter.domain.errors import BandmeterError
from bandmeter.domain.grid import Span
from bandmeter.domain.usage import Counters, Outcomes, Side
from bandmeter.store import SqliteStore
from bandmeter.upkeep import backup as backups
from bandmeter.upkeep import restore as restores

LINES = 30_000
RECORD = b'{"time": 1795132800, "account": "acme", "zone": "a", "bytes_up": 7, "bytes_down": 9}\n'
START_MS = 1_795_132_800_000
EVER = Span(0, 4_102_444_800)
BATCH = {"BANDMETER_INGEST_BATCH_BYTES": "20000"}  # so small that commits follow each other
ROUNDS = 8
ROUNDS_SOAK = 60
TRIES = 4  # times as many rounds at most, until a third of them was hit
POLL_SECONDS = 0.002
OWN_ROWS = 120_000  # of a store that takes a moment to copy
MOMENT_SECONDS = 0.25  # a copy of that takes about as long


@pytest.fixture
def log(tmp_path):
    """A log of two zones and one stranger, and its exact sums by zone number."""
    draw = random.Random(5)
    sums: dict[int, list[int]] = {1: [0, 0, 0], 2: [0, 0, 0], -1: [0, 0, 0]}
    users = {1: "cust-acme-zone-a", 2: "cust-acme-zone-b-session-1", -1: "cust-nobody-zone-x"}
    path = tmp_path / "access.tsv"
    with path.open("w") as file:
        for i in range(LINES):
            zone, up, down = draw.choice(list(users)), draw.randrange(10**6), draw.randrange(10**9)
            file.write(f"{(START_MS + i * 997) / 1000:.3f}\t{users[zone]}\t{up}\t{down}\t200\n")
            for j, number in enumerate((1, up, down)):
                sums[zone][j] += number
    return path, sums


def tsv(path):
    return ("ingest", "--format", "tsv", "--columns", "time,identity,bytes_up,bytes_down,status", str(path))


def totals(data, numbers=(1, 2, -1)):
    """(requests, bytes up, bytes down) by number, of a store that is whole and whose sources add up."""
    with contextlib.closing(SqliteStore(data / "usage.db")) as store:
        assert store.check() == []
        assert all(source.outcomes.adds_up for source in store.sources())
        found = {number: store.total(number, Side.TARGET, EVER) for number in numbers}
        counted = sum(source.outcomes.counted + source.outcomes.unattributed for source in store.sources())
        assert sum(total.requests for total in found.values()) == counted
        return {number: [total.requests, total.bytes_up, total.bytes_down] for number, total in found.items()}


# ---------------------------------------------------------------- while others write


def test_backups_of_a_running_ingest_add_up_and_go_on_exactly(command, make_command, log, tmp_path):
    """Law 2, law 5, and each restored folder that is given the same file again has every line once."""
    path, sums = log
    command.apply({"acme": {"a": {}, "b": {}}})
    ingest = command.start(*tsv(path), **BATCH)
    sizes = []
    while ingest.poll() is None and len(sizes) < 4:
        before = command.position()
        with contextlib.suppress(subprocess.TimeoutExpired):
            while command.position() <= before and ingest.poll() is None:
                ingest.wait(timeout=POLL_SECONDS)
        command("backup", tmp_path / f"backup-{len(sizes)}")
        sizes.append(command.position())
    ingest.communicate()
    assert ingest.returncode == 0
    assert totals(command.data) == sums
    assert sizes[0] < path.stat().st_size, "the first backup came too late to be of a running ingest"
    for number in range(len(sizes)):
        other = make_command(tmp_path / f"restored-{number}")
        other("restore", tmp_path / f"backup-{number}")
        then = totals(other.data)
        assert all(then[zone][0] <= sums[zone][0] for zone in sums)
        other(*tsv(path))
        assert totals(other.data) == sums


def test_a_catalog_is_never_older_than_the_usage_beside_it(tmp_path, command, monkeypatch):
    """A zone that comes with its traffic between the two copies' moments, or during them, is not half there."""
    command("account", "add", "--id", "acme")
    connect = sqlite3.connect
    names = iter("abcdef")

    def add_zone_with_traffic():
        monkeypatch.undo()
        with contextlib.closing(Catalog.open(f"sqlite:///{command.data}/catalog.db")) as catalog:
            zone = catalog.add_zone("acme", next(names), now_s=0)
        with contextlib.closing(SqliteStore(command.data / "usage.db")) as store:
            new = SourceState(0, zone.name, "tsv", "-", zone.name.encode(), 0, b"", 0, "", Outcomes(), None, None, "")
            row = array("q", (zone.number, START_MS // 1000, 0, 1, 1, 5, 5, 0, 0, 0, 0))
            assert store.write(
                Batch(new, new._replace(position=1, outcomes=Outcomes(1, 1)), row, {zone.number: 1}, [], 1)
            )

    def connected(address, *rest, **more):
        if str(address).endswith("catalog.db?mode=rw"):  # the usage store's moment is over
            add_zone_with_traffic()
        return connect(address, *rest, **more)

    for number in range(2):
        with monkeypatch.context() as patched:
            patched.setattr(sqlite3, "connect", connected)
            is_first = [True]

            def step(*_, is_first=is_first):
                if is_first.pop() if is_first else False:  # both moments are over
                    patched.undo()
                    add_zone_with_traffic()

            backups.back_up(command.data, tmp_path / str(number), 0, step)
        restored = tmp_path / f"restored-{number}"
        restores.restore(tmp_path / str(number), restored, 0, lambda *_: None)
        with contextlib.closing(Catalog.open(f"sqlite:///{restored}/catalog.db")) as catalog:
            zones = {zone.number for zone in catalog.zones()}
        with contextlib.closing(SqliteStore(restored / "usage.db")) as store:
            used = set(store.numbers())
        assert len(zones) == len(used) + 1  # the one between the moments, without its traffic
        assert used < zones


def test_usage_beside_an_older_catalog_is_refused(command):
    """Else a new zone would get the number of one that the catalog has forgotten, and its traffic on the bill."""
    command.apply({"acme": {"a": {}}})
    shutil.copy(command.data / "catalog.db", command.data / "older.db")
    command.apply({"acme": {"b": {}}})
    record = b'{"time": 1795132800, "account": "acme", "zone": "b", "bytes_up": 1, "bytes_down": 1}\n'
    assert command.ingest("jsonl", "-", input=record).counted == 1
    (command.data / "older.db").rename(command.data / "catalog.db")
    said = command("zone", "add", "acme", "c", status=2).stderr.decode()
    assert "zone number 2" in said
    assert "Restore both" in said


def test_a_catalog_that_has_forgotten_who_claimed_an_identity_is_refused(command):
    """Though nothing has moved yet: what comes under that identity would go to whoever gets the zone's number."""
    command.apply({"acme": {"a": {}}})
    shutil.copy(command.data / "catalog.db", command.data / "older.db")
    command.apply({"acme": {"b": {}}})
    command("zone", "claim", "acme", "b", "w")
    (command.data / "older.db").rename(command.data / "catalog.db")
    assert "zone number 2" in command("zone", "add", "acme", "c", status=2).stderr.decode()


# ---------------------------------------------------------------- whole or not there


@pytest.fixture
def large(command):
    """A data folder whose usage store takes a moment to copy."""
    command.apply({"acme": {"a": {}}})
    with contextlib.closing(SqliteStore(command.data / "usage.db")) as store:
        rows = array("q")
        for i in range(OWN_ROWS):
            rows.extend((1, START_MS // 1000 + 300 * i, 0, 1, 1, 2, 3, 0, 0, 0, 0))
        new = SourceState(0, "files", "tsv", "-", b"head", 0, b"", 0, "", Outcomes(), None, None, "")
        counts = Outcomes(OWN_ROWS, OWN_ROWS)
        store.write(Batch(new, new._replace(position=1, lines=OWN_ROWS, outcomes=counts), rows, {1: 1}, [], 1))
    return command


LARGE = {1: [OWN_ROWS, 2 * OWN_ROWS, 3 * OWN_ROWS]}


def killed(process, has_begun, later_s) -> bool:
    """kill -9 a moment after it has begun; False when it ended before."""
    while not has_begun():
        if process.poll() is not None:
            return False
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=POLL_SECONDS)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=later_s)
    was_running = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return was_running


def rounds(request_rounds):
    return random.Random(request_rounds if request_rounds == ROUNDS else random.SystemRandom().randrange(10**6))


BOTH = pytest.mark.parametrize(
    "count", [ROUNDS, pytest.param(ROUNDS_SOAK, marks=pytest.mark.soak)], ids=["short", "soak"]
)


@BOTH
def test_a_backup_that_is_killed_leaves_none_that_passes_for_whole(large, make_command, tmp_path, count):
    draw, hits, number = rounds(count), 0, 0
    folder = tmp_path / "backups"
    folder.mkdir()
    while number < count or (hits < count // 3 and number < TRIES * count):  # on a fast machine many come too late
        number += 1
        target = folder / f"b{number}"
        process = large.start("backup", target)
        hit = killed(process, lambda n=number: any(folder.glob(f"b{n}.*")), draw.random() * MOMENT_SECONDS)
        hits += hit
        left = list(folder.glob(f"b{number}.*"))
        assert all(path.name.endswith(".partial") for path in left)
        other = make_command(tmp_path / f"restored-{number}")
        if target.exists():  # it has its name, so it is whole
            other("restore", target)
            assert totals(other.data, [1]) == LARGE
        else:
            assert hit
            assert b"no backup" in other("restore", target, status=2).stderr
    assert hits >= count // 3, "too few kills hit the middle of a backup"


@BOTH
def test_a_restore_that_is_killed_is_not_taken_for_a_data_folder(large, make_command, tmp_path, count):
    """Afterwards the folder is what it was, or nothing opens it until the same command has finished."""
    draw, hits, states, number = rounds(count), 0, set(), 0
    large("backup", tmp_path / "backup")
    while number < count or (hits < count // 3 and number < TRIES * count):
        number += 1
        other = make_command(tmp_path / f"restored-{number}")
        is_over_another = number % 2 == 0
        if is_over_another:
            other.apply({"globex": {"z": {}}})
        arguments = ("restore", tmp_path / "backup", "--overwrite")
        staging = other.data / "restore.unfinished"
        hits += killed(other.start(*arguments), staging.exists, draw.random() * MOMENT_SECONDS)
        if staging.exists():
            states.add("unfinished")
            for name in (
                ("account", "list"),
                ("serve",),
                ("backup", tmp_path / "x"),
                ("migrate",),
                ("account", "add", "--id", "n"),
            ):
                assert b"has not finished" in other(*name, status=2).stderr
            other("restore", tmp_path / "backup")  # which needs not be told to overwrite again
        elif not (other.data / "usage.db").exists() or b"globex" in other("account", "list").stdout:
            states.add("before")
            other(*arguments)
        assert totals(other.data, [1]) == LARGE
        assert b"acme" in other("account", "list").stdout
        if is_over_another:
            assert list(other.data.glob("replaced-*/catalog.db"))
    assert hits >= count // 3, f"too few kills hit the middle of a restore: {states}"


def test_a_backup_of_a_damaged_store_is_not_made(large, tmp_path):
    with (large.data / "usage.db").open("r+b") as file:
        file.seek(40 * 4096 + 100)
        file.write(os.urandom(2_000))
    assert b"damaged" in large("backup", tmp_path / "backup", status=3).stderr
    assert not list(tmp_path.glob("backup*"))


def test_a_backup_that_does_not_fit_leaves_nothing(large, tmp_path):
    """The disk says so in the middle of the copy."""
    size = (large.data / "usage.db").stat().st_size
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2))  # noqa: E731
    said = large("backup", tmp_path / "backup", status=3, preexec_fn=limit).stderr
    assert said.startswith(b"bandmeter: No backup was made")
    assert not list(tmp_path.glob("backup*"))


def test_a_restore_that_does_not_fit_leaves_the_folder_as_it_was(large, make_command, tmp_path):
    large("backup", tmp_path / "backup")
    other = make_command(tmp_path / "other")
    other.apply({"globex": {"z": {}}})
    before = sorted(path.name for path in other.data.iterdir())
    size = (large.data / "usage.db").stat().st_size
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2))  # noqa: E731
    said = other("restore", tmp_path / "backup", "--overwrite", status=3, preexec_fn=limit).stderr
    assert said.startswith(b"bandmeter: Nothing was restored")
    assert sorted(path.name for path in other.data.iterdir()) == before
    assert b"globex" in other("account", "list").stdout


def test_too_little_room_is_told_before_anything_is_copied(large, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - 10**6, 10**6))
    with pytest.raises(backups.BandmeterError, match="GB free") as caught:
        backups.back_up(large.data, tmp_path / "backup", 0, lambda *_: pytest.fail("copied"))
    assert caught.value.code == "unavailable"


# ---------------------------------------------------------------- there and back


@pytest.fixture(scope="module")
def made(make_command, tmp_path_factory):
    """A data folder with settings, a key and some traffic, and its backup; made once, and copied for each test."""
    folder = tmp_path_factory.mktemp("made")
    command = make_command(folder / "data")
    command.apply({"acme": {"a": {}}})
    (command.data / "bandmeter.toml").write_text("[server]\nport = 8099\n")
    key = command("key", "add", "acme").stdout.strip().decode()
    command.ingest("jsonl", "-", input=RECORD)
    command("backup", folder / "backup")
    return folder, key


@pytest.fixture
def backup(made, tmp_path):
    shutil.copytree(made[0], tmp_path, dirs_exist_ok=True)
    return tmp_path / "backup"


def test_all_of_it_comes_back(made, backup, make_command, tmp_path):
    key = made[1]
    other = make_command(tmp_path / "other")
    other("restore", backup)
    with contextlib.closing(Catalog.open(f"sqlite:///{other.data}/catalog.db")) as catalog:
        assert catalog.authenticate(key, START_MS // 1000).key.account == "acme"
    assert b"port = 8099" in other("config", "--dump").stdout
    assert other.ingest("jsonl", "-", input=RECORD) == Outcomes(received=1, duplicate=1)
    with contextlib.closing(SqliteStore(other.data / "usage.db")) as store:
        assert store.total(1, Side.TARGET, EVER) == Counters(1, 0, 7, 9)
    assert json.loads(other("doctor", "--json").stdout)["checks"]


def test_only_its_owner_may_read_a_backup_and_what_was_restored(backup, make_command, tmp_path):
    make_command(tmp_path / "other")("restore", backup)
    for place in (backup, tmp_path / "other"):
        found = [place, *place.rglob("*")]
        assert [path for path in found if stat.S_IMODE(path.stat().st_mode) & 0o077] == []


def test_a_backup_says_what_it_holds(backup, command, tmp_path):
    manifest = json.loads((backup / "backup.json").read_text())
    assert manifest["created"] == "2026-11-23T00:00:00Z"
    assert {name: file["bytes"] for name, file in manifest["files"].items()} == {
        name: (backup / name).stat().st_size for name in ("usage.db", "catalog.db", "bandmeter.toml")
    }
    shown = json.loads(command("backup", tmp_path / "again", "--json").stdout)
    assert shown["path"] == str(tmp_path / "again")
    assert set(shown["files"]) == set(manifest["files"])


def test_a_backup_is_read_where_nothing_can_be_written(backup, make_command, tmp_path):
    """Each database is one file, without a journal: a read-only disk will do."""
    before = sorted(path.name for path in backup.iterdir())
    for name in ("usage.db", "catalog.db"):
        with contextlib.closing(sqlite3.connect(f"file:{backup / name}?immutable=1", uri=True)) as db:
            assert db.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    make_command(tmp_path / "other")("restore", backup)
    assert sorted(path.name for path in backup.iterdir()) == before


def test_data_is_replaced_only_when_told_and_then_set_aside(backup, make_command, tmp_path):
    other = make_command(tmp_path / "other")
    other.apply({"globex": {"z": {}}})
    (other.data / "bandmeter.toml").write_text("[server]\nport = 8100\n")
    assert b"--overwrite" in other("restore", backup, status=2).stderr
    assert b"globex" in other("account", "list").stdout
    shown = json.loads(other("restore", backup, "--overwrite", "--json").stdout)
    assert b"acme" in other("account", "list").stdout
    assert b"port = 8100" in other("config", "--dump").stdout  # settings that were there stay
    with contextlib.closing(Catalog.open(f"sqlite:///{shown['replaced']}/catalog.db")) as catalog:
        assert [account.id for account in catalog.accounts()] == ["globex"]


@pytest.mark.parametrize("lost", ["usage.db", "catalog.db"])
def test_a_journal_without_its_database_is_set_aside_too(backup, command, lost):
    """SQLite would take it for the one of the database that is restored, and what it holds for part of that."""
    command.apply({"globex": {"z": {}}})
    command.ingest("jsonl", "-", input=RECORD.replace(b"acme", b"globex").replace(b'"a"', b'"z"') * 50)
    with contextlib.closing(sqlite3.connect(command.data / lost, isolation_level=None)) as db:
        db.execute("PRAGMA wal_autocheckpoint = 0")
        db.execute("CREATE TABLE stale (x)")
        for end in ("-wal", "-shm"):
            shutil.copy(command.data / (lost + end), command.data / ("kept" + end))
    (command.data / lost).unlink()
    for end in ("-wal", "-shm"):
        (command.data / ("kept" + end)).rename(command.data / (lost + end))
    assert b"--overwrite" in command("restore", backup, status=2).stderr
    shown = json.loads(command("restore", backup, "--overwrite", "--json").stdout)
    with contextlib.closing(sqlite3.connect(command.data / lost)) as db:
        assert db.execute("SELECT name FROM sqlite_master WHERE name = 'stale'").fetchall() == []
    assert (command.data / shown["replaced"] / f"{lost}-wal").exists()
    with contextlib.closing(SqliteStore(command.data / "usage.db")) as store:
        assert store.total(1, Side.TARGET, EVER) == Counters(1, 0, 7, 9)


def test_a_second_restore_that_fails_leaves_the_folder_closed(backup, command, monkeypatch):
    """Until one has finished, one database may be new and the other old."""
    command.apply({"globex": {"z": {}}})
    (command.data / "restore.unfinished").mkdir(mode=0o700)
    (command.data / "restore.unfinished" / "usage.db").write_bytes(b"left over")
    damaged = backup / "usage.db"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    command("restore", backup, status=2)
    assert b"has not finished" in command("account", "list", status=2).stderr
    with monkeypatch.context() as patch:
        patch.setattr(restores, "check_room", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(BandmeterError):
            restores.restore(backup, command.data, START_MS // 1000, lambda *_: None)
    assert b"has not finished" in command("account", "list", status=2).stderr
    damaged.write_bytes(whole)
    command("restore", backup)
    assert b"acme" in command("account", "list").stdout


def test_a_folder_in_use_is_not_replaced(backup, command, tmp_path, serve_folder):
    """A server would go on answering from the databases that were set aside."""
    with serve_folder(command.data, tmp_path / "log", 1, BANDMETER_NOW="2026-11-23T00:00:00Z"):
        assert b"is in use" in command("restore", backup, "--overwrite", status=2).stderr
        command("backup", tmp_path / "while-serving")
    command("restore", backup, "--overwrite")
    assert not (command.data / "restore.unfinished").exists()


def test_a_damaged_database_can_be_replaced(backup, command):
    """That is what a backup is for."""
    for name in ("usage.db", "catalog.db"):
        (command.data / name).write_bytes(b"not a database, " * 1_000)
    command("doctor", status=1)
    command("restore", backup, "--overwrite")
    assert b"acme" in command("account", "list").stdout


# ---------------------------------------------------------------- what is refused


def test_a_backup_gets_a_new_folder_of_its_own(backup, command, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    assert b"exists" in command("backup", backup, status=2).stderr
    assert b"exists" in command("backup", tmp_path / "file", status=2).stderr
    assert b"make it first" in command("backup", tmp_path / "not" / "mounted", status=2).stderr
    assert not (tmp_path / "not").exists()
    command("backup", tmp_path / "empty")


def test_a_folder_without_data_has_no_backup(make_command, tmp_path):
    other = make_command(tmp_path / "nothing")
    assert b"--data" in other("backup", tmp_path / "backup", status=2).stderr
    assert not (tmp_path / "nothing").exists()


def change(name, text):
    def spoil(folder):
        (folder / name).write_bytes(text((folder / name).read_bytes()))

    return spoil


def schema(name, number):
    """As a newer release would say it."""

    def say(folder):
        manifest = json.loads((folder / "backup.json").read_text())
        manifest["files"][name]["schema"] = number
        (folder / "backup.json").write_text(json.dumps(manifest))

    return say


SPOILT = {
    "a byte that changed": (change("usage.db", lambda b: b[:9_000] + bytes([b[9_000] ^ 1]) + b[9_001:]), "digest"),
    "a file that was cut": (change("catalog.db", lambda b: b[:-4_096]), "digest"),
    "a file that is gone": (lambda folder: (folder / "usage.db").unlink(), "cannot be read"),
    "no manifest": (lambda folder: (folder / "backup.json").unlink(), "no backup"),
    "half a manifest": (change("backup.json", lambda b: b[: len(b) // 2]), "no backup"),
    "a manifest of another kind": (change("backup.json", lambda _: b"[]"), "no backup"),
    "a manifest that never ends": (change("backup.json", lambda _: b'{"x": ' + b"[" * 10**6), "no backup"),
    "a name that leads elsewhere": (
        change("backup.json", lambda b: b.replace(b'"bandmeter.toml"', b'"../bandmeter.toml"')),
        "does not name",
    ),
    "one file too few": (
        change("backup.json", lambda b: b.replace(b'"usage.db"', b'"bandmeter.toml"')),
        "does not name",
    ),
    "a newer usage store": (schema("usage.db", "99"), "newer"),
    "a newer catalog": (schema("catalog.db", "9999"), "newer"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_backup_that_is_not_whole_is_refused(backup, tmp_path, name):
    """As a mistake of the caller's, and the folder stays as it was, also where it was to be overwritten."""
    spoil, sentence = SPOILT[name]
    spoil(backup)
    data = tmp_path / "data"
    before = {path: path.read_bytes() for path in data.iterdir()}
    with pytest.raises(restores.BandmeterError, match=sentence) as caught:
        restores.restore(backup, data, 0, lambda *_: None, overwrite=True)
    assert caught.value.code == "input_invalid"
    assert {path: path.read_bytes() for path in data.iterdir()} == before


def test_of_two_restores_at_once_one_is_refused(backup, make_command, tmp_path):
    data = tmp_path / "other"

    def during(*_):
        with pytest.raises(restores.BandmeterError, match="Another restore") as caught:
            restores.restore(backup, data, 0, lambda *_: None)
        assert caught.value.code == "conflict"

    restores.restore(backup, data, 0, during)
    assert b"acme" in make_command(data)("account", "list").stdout
