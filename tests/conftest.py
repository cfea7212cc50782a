"""What several test folders need: an ingest in this process, and the command as a user runs it."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import structlog
from hypothesis import HealthCheck, settings

from bandmeter.domain.contracts import Reject
from bandmeter.domain.grid import Resolution, Span
from bandmeter.domain.tenancy import Zone, default_side
from bandmeter.domain.usage import Counters, Outcomes, Side
from bandmeter.formats import FORMATS
from bandmeter.ingest import FileReport, Job, Pipeline, Tools
from bandmeter.ingest.batch.decode import SMALL_BYTES
from bandmeter.ingest.files import file
from bandmeter.ingest.posts import poster
from bandmeter.store import MemoryStore, SqliteStore

ROOT = Path(__file__).resolve().parents[1]
NOW = "2026-11-23T00:00:00Z"
NOW_MS = 1_795_392_000_000  # the same
EVER = Span(0, 4_102_444_800)

# Examples are the same in every run of CI; elsewhere each run has others, and a failure prints how to repeat it.
# A fixture is shared by a test's examples: ours only say where files may be written.
SHARED = {"deadline": None, "print_blob": True, "suppress_health_check": [HealthCheck.function_scoped_fixture]}
settings.register_profile("ci", derandomize=True, **SHARED)
settings.register_profile("here", **SHARED)
settings.load_profile("ci" if os.environ.get("CI") else "here")


class Meter:
    """An ingest in this process, on a store and zones of its own."""

    def __init__(self, folder, store=None, batch_bytes=1 << 20, now_ms=NOW_MS):
        self.folder = folder
        self.store = store or MemoryStore()
        self.batch_bytes = batch_bytes
        self.now_ms = now_ms
        self.zones: list[Zone] = []

    def add_zone(self, account, name, network="dc", identities=()) -> Zone:
        side = default_side(network)
        self.zones.append(Zone(len(self.zones) + 1, account, name, network, side=side, identities=tuple(identities)))
        return self.zones[-1]

    def feed(self, content, format_name="jsonl", **job) -> FileReport:
        """Ingest a file, or these bytes as a file."""
        if isinstance(content, bytes):
            path = self.folder / "fed.log"
            path.write_bytes(content)
            content = path
        tools = Tools(self.store, lambda: list(self.zones), lambda: self.now_ms, self.folder, self.batch_bytes)
        log_format = FORMATS[format_name] if isinstance(format_name, str) else format_name
        with contextlib.closing(tools):
            return Pipeline(tools).ingest(str(content), Job(log_format, **job))

    def total(self, zone, side=None) -> Counters:
        return self.store.total(zone.number, side or zone.side, EVER)

    def rejects(self) -> list[Reject]:
        return [r for source in self.store.sources() for r in self.store.rejects(source.number, 10**6)]

    def outcomes(self) -> Outcomes:
        """What the store says of all sources."""
        total = Outcomes()
        for source in self.store.sources():
            assert source.outcomes.adds_up
            total = total.plus(source.outcomes)
        return total

    def rows(self):
        """Everything that is stored, waiting identities by name: {(owner, side, resolution): rows}."""
        owners = {zone.number: (zone.account, zone.name) for zone in self.zones}
        owners |= {u.number: (u.identity, u.side) for u in self.store.unattributed()}
        return {
            (owner, side, resolution): list(zip(*columns, strict=True))
            for side in Side
            for resolution in Resolution
            for number, columns in self.store.read(list(owners), side, resolution, EVER).items()
            for owner in [owners[number]]
        }


class Command:
    """`bandmeter` in a data folder, at a time that stands still."""

    def __init__(self, data):
        self.data = data
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("BANDMETER_")}
        self.environment |= {"BANDMETER_DATA": str(data), "BANDMETER_NOW": NOW}
        self.path = str(Path(sys.executable).parent / "bandmeter")

    def __call__(self, *arguments, status=0, **options) -> subprocess.CompletedProcess:
        done = subprocess.run(
            [self.path, *map(str, arguments)],
            capture_output=True,
            check=False,
            timeout=300,
            **{"env": self.environment} | options,
        )
        assert done.returncode == status, done.stderr.decode()
        return done

    def start(self, *arguments, **environment) -> subprocess.Popen:
        return subprocess.Popen(
            [self.path, *map(str, arguments)],
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def position(self) -> int:
        """How many bytes of all sources are counted now, as another process sees it."""
        if not (self.data / "usage.db").exists():
            return 0
        with contextlib.closing(sqlite3.connect(self.data / "usage.db", timeout=30)) as db:
            try:
                return db.execute("SELECT coalesce(sum(position), 0) FROM source").fetchone()[0]
            except sqlite3.OperationalError:  # no tables yet
                return 0

    def ingest(self, format_name, *arguments, status=0, **options) -> Outcomes:
        """Ingest, and return the counts that were printed."""
        done = self("ingest", "--json", "--format", format_name, *arguments, status=status, **options)
        return Outcomes(**json.loads(done.stdout)["total"])

    def apply(self, accounts) -> None:
        """Make zones: {account: {zone: its settings}}."""
        document = {
            "accounts": [
                {"id": account, "zones": [{"name": name, **more} for name, more in zones.items()]}
                for account, zones in accounts.items()
            ],
        }
        self("apply", "-", input=json.dumps(document).encode())


@pytest.fixture(autouse=True)
def logs():
    """Logs are set up for a test alone: the stream of one is closed in the next."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="module", params=[SMALL_BYTES, -1], ids=["small", "large"])
def each_size(request):
    """Every test of the module twice: the second time all batches are read as large ones are, whatever their size."""
    with pytest.MonkeyPatch.context() as patch:
        for reader in (file, poster):
            patch.setattr(reader, "SMALL_BYTES", request.param)
        yield


@pytest.fixture
def durable_meter(make_meter, tmp_path):
    """One of a zone, acme/res, on SQLite; in the end the store is whole, and its counts add up."""
    store = SqliteStore(tmp_path / "usage.db")
    made = make_meter(store=store)
    made.add_zone("acme", "res")
    yield made
    assert store.check() == []
    assert made.outcomes().adds_up
    store.close()


@pytest.fixture
def make_meter(tmp_path):
    """Make an ingest in this process."""
    return lambda **options: Meter(tmp_path, **options)


@pytest.fixture
def meter(make_meter):
    """An ingest in this process, with the zones `acme/res` and, billed on the client's side, `acme/shop.test`."""
    made = make_meter()
    made.add_zone("acme", "res", "res")
    made.add_zone("acme", "shop.test", "cdn", ["shop.test"])
    return made


@pytest.fixture(scope="session")
def make_command():
    """Make a `bandmeter` of a data folder."""
    return Command


@pytest.fixture
def command(tmp_path):
    """`bandmeter`, with a data folder of its own."""
    return Command(tmp_path / "data")


@pytest.fixture(scope="session")
def traffic():
    """The module that makes a large log and its exact sums."""
    spec = importlib.util.spec_from_file_location("bandmeter_bench_traffic", ROOT / "bench" / "traffic.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def traffic_folder(traffic, tmp_path_factory):
    """2,000,000 lines with their exact sums; written once, also when several processes test."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    folder /= "traffic"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "truth_zone.tsv").exists():  # the last that is written
            traffic.write(folder)
    return folder
