"""kill -9 in the middle of an ingest, as often as you like: nothing is lost and nothing is counted twice."""

from __future__ import annotations

import contextlib
import random
import subprocess

import pytest

from bandmeter.domain.grid import Span
from bandmeter.domain.usage import Counters, Side
from bandmeter.store import SqliteStore

LINES = 40_000
START_MS = 1_795_132_800_000
BATCH = {"BANDMETER_INGEST_BATCH_BYTES": "40000"}
ROUNDS = 8
ROUNDS_SOAK = 50
POLL_SECONDS = 0.005
MOMENT_SECONDS = 0.04  # a batch takes about as long


@pytest.fixture
def log(tmp_path):
    """A log of two zones and one stranger, and its exact sums by zone number."""
    draw = random.Random(9)
    sums: dict[int, list[int]] = {1: [0, 0, 0, 0], 2: [0, 0, 0, 0], -1: [0, 0, 0, 0]}
    users = {1: "cust-acme-zone-a", 2: "cust-acme-zone-b-session-1", -1: "cust-nobody-zone-x"}
    path = tmp_path / "access.tsv"
    with path.open("w") as file:
        for i in range(LINES):
            zone, up, down = draw.choice(list(users)), draw.randrange(10**6), draw.randrange(10**9)
            file.write(f"{(START_MS + i * 997) / 1000:.3f}\t{users[zone]}\t{up}\t{down}\t{draw.choice((200, 503))}\n")
            for j, number in enumerate((1, 0, up, down)):
                sums[zone][j] += number
    return path, sums


def is_exact(command, sums) -> bool:
    """Whether the sums are what the log says, the store is whole, and law 2 holds."""
    with contextlib.closing(SqliteStore(command.data / "usage.db")) as store:
        assert store.check() == []
        for zone, total in sums.items():
            assert store.total(zone, Side.TARGET, Span(0, 4_102_444_800))._replace(successes=0) == Counters(*total)
        (source,) = store.sources()
        assert source.outcomes.adds_up
        assert source.outcomes.counted == sums[1][0] + sums[2][0]
        assert source.outcomes.unattributed == sums[-1][0]
        assert source.lines == LINES
    return True


def start(command, path):
    return command.start(
        "ingest", "--format", "tsv", "--columns", "time,identity,bytes_up,bytes_down,status", path, **BATCH
    )


def kill_when(process, is_time, later_s) -> bool:
    """Kill once it is time, and a moment later; whether it still ran."""
    while True:
        try:
            process.communicate(timeout=POLL_SECONDS)
        except subprocess.TimeoutExpired:
            if is_time():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=later_s)
                process.kill()
                process.communicate()
                return True
        else:
            assert process.returncode == 0, process.stderr
            return False


@pytest.mark.parametrize("rounds", [ROUNDS, pytest.param(ROUNDS_SOAK, marks=pytest.mark.soak)], ids=["short", "soak"])
def test_killed_over_and_over(command, log, rounds):
    """At random moments: while the tables are made, between batches, and within a commit."""
    path, sums = log
    seed = random.SystemRandom().randrange(10**6) if rounds == ROUNDS_SOAK else 4
    draw = random.Random(seed)
    command.apply({"acme": {"a": {}, "b": {}}})
    size, kills, places, passes = path.stat().st_size, 0, set(), 0
    while kills < rounds:
        for file in command.data.glob("usage.db*"):
            file.unlink()
        (command.data / "usage.db").touch()
        passes += 1
        while kills < rounds:
            done = command.position()
            polls = draw.randrange(20, 200)  # from before the first import to after the first batches
            target = done + draw.randrange(1, max(2, (size - done) // 3))

            polling, by_time = iter(range(polls)), kills % 4 == 0

            def is_time(polling=polling, target=target, by_time=by_time):
                return next(polling, None) is None if by_time else command.position() >= target

            if not kill_when(start(command, path), is_time, draw.random() * MOMENT_SECONDS):
                break
            kills += 1
            places.add((passes, command.position()))
        process = start(command, path)
        process.communicate()
        assert process.returncode == 0
        assert is_exact(command, sums), f"seed {seed}"
    in_the_middle = {place for place in places if 0 < place[1] < size}
    assert len(in_the_middle) >= rounds // 3, f"too few kills hit the middle of the work, seed {seed}"
