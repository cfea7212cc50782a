"""Litestream, the real one, with the configuration of docs/backup.md, beside an ingest that writes all the time."""

from __future__ import annotations

import contextlib
import random
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bandmeter.domain.grid import Span
from bandmeter.domain.usage import Side
from bandmeter.store import SqliteStore

ROOT = Path(__file__).resolve().parents[2]
LITESTREAM = Path(sys.prefix) / "clients" / "bin" / "litestream"
PAGE = ROOT / "docs" / "backup.md"
LINES = 20_000
START_MS = 1_795_132_800_000
EVER = Span(0, 4_102_444_800)
BATCH = {"BANDMETER_INGEST_BATCH_BYTES": "40000"}
WAIT_SECONDS = 60
POLL_SECONDS = 0.01

pytestmark = pytest.mark.skipif(not LITESTREAM.exists(), reason="Litestream is installed by `make test` only")


@pytest.fixture
def log(tmp_path):
    """A log of one zone, and its exact sums."""
    draw, sums = random.Random(8), [0, 0, 0]
    path = tmp_path / "access.tsv"
    with path.open("w") as file:
        for i in range(LINES):
            up, down = draw.randrange(10**6), draw.randrange(10**9)
            file.write(f"{(START_MS + i * 997) / 1000:.3f}\tcust-acme-zone-a\t{up}\t{down}\t200\n")
            sums = [sums[0] + 1, sums[1] + up, sums[2] + down]
    return path, sums


class Replica:
    """Litestream on a data folder, with a file replica instead of the page's bucket."""

    def __init__(self, folder, data):
        self.folder, self.data = folder, data
        text = re.search(r"```yaml\n(# litestream\.yml\n.*?)```", PAGE.read_text(), re.DOTALL)[1]
        self.config = folder / "litestream.yml"
        self.config.write_text(
            text.replace("/var/lib/bandmeter", str(data)).replace("s3://BUCKET/", f"file://{folder}/replica/")
        )

    def start(self):
        with (self.folder / "litestream.log").open("ab") as output:
            return subprocess.Popen([LITESTREAM, "replicate", "-config", self.config], stdout=output, stderr=output)

    def names(self):
        return {path.parts[-4] for path in (self.folder / "replica").rglob("*.ltx")}

    def restore(self, into):
        """As the page says; whether there was anything to restore."""
        into.mkdir(mode=0o700)
        for name in ("catalog.db", "usage.db"):
            command = [LITESTREAM, "restore", "-config", self.config, "-integrity-check", "full", "-o", into / name]
            subprocess.run([*command, self.data / name], check=True, capture_output=True)


@pytest.fixture
def replica(command, tmp_path):
    command.apply({"acme": {"a": {}}})
    return Replica(tmp_path, command.data)


def wait_for(is_so, process):
    """Wait until it is so, while the process runs; in vain after a minute."""
    for _ in range(int(WAIT_SECONDS / POLL_SECONDS)):
        if is_so():
            return True
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=POLL_SECONDS)
    return False


def tsv(path):
    return ("ingest", "--format", "tsv", "--columns", "time,identity,bytes_up,bytes_down,status", str(path))


def totals(data):
    with contextlib.closing(SqliteStore(data / "usage.db")) as store:
        assert store.check() == []
        assert all(source.outcomes.adds_up for source in store.sources())
        total = store.total(1, Side.TARGET, EVER)
        assert total.requests == sum(source.outcomes.counted for source in store.sources())
        return [total.requests, total.bytes_up, total.bytes_down]


def test_what_litestream_has_when_it_is_killed_goes_on_exactly(command, make_command, replica, log, tmp_path):
    """Killed in the middle of an ingest: what it has sent is whole, and the same file given again counts once."""
    path, sums = log
    process = replica.start()
    assert wait_for(lambda: replica.names() == {"usage", "catalog"}, process)
    ingest = command.start(*tsv(path), **BATCH)
    before = len(list((tmp_path / "replica" / "bandmeter" / "usage").rglob("*.ltx")))
    usage = tmp_path / "replica" / "bandmeter" / "usage"
    assert wait_for(lambda: len(list(usage.rglob("*.ltx"))) > before + 1 and command.position() > 0, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    ingest.communicate()
    assert ingest.returncode == 0
    other = make_command(tmp_path / "restored")
    replica.restore(other.data)
    assert totals(other.data)[0] <= LINES
    other(*tsv(path))
    assert totals(other.data) == sums == totals(command.data)


def test_litestream_that_was_away_catches_up(command, make_command, replica, log, tmp_path):
    """Stopped, while half of the traffic came, and started again: on its end it has all of it."""
    path, sums = log
    process = replica.start()
    assert wait_for(lambda: replica.names() == {"usage", "catalog"}, process)
    process.terminate()
    process.wait()
    command(*tsv(path), env=command.environment | BATCH)
    sent = len(list((tmp_path / "replica").rglob("*.ltx")))
    process = replica.start()
    assert wait_for(lambda: len(list((tmp_path / "replica").rglob("*.ltx"))) > sent, process)
    process.terminate()  # it sends the rest first
    process.wait()
    other = make_command(tmp_path / "restored")
    replica.restore(other.data)
    assert totals(other.data) == sums
    assert b"acme" in other("account", "list").stdout
