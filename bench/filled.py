"""Data folders with traffic to ask for: many zones, accounts of a proxy seller's customers, domains of a CDN."""

from __future__ import annotations

import json
import random
import subprocess
from array import array
from typing import TYPE_CHECKING, NamedTuple, Self

from bandmeter.domain.contracts import Batch, SourceState
from bandmeter.domain.usage import Outcomes, pack
from bandmeter.store.sqlite import SqliteStore
from bench.server import BIN

if TYPE_CHECKING:
    from pathlib import Path

NOW = "2026-11-22T12:00:00Z"
NOW_S = 1_795_348_800  # the same
DAY_S, HOUR_S, STEP_S = 86_400, 3_600, 300
TODAY_S = NOW_S - NOW_S % DAY_S
NOTHING = SourceState(0, "bench", "jsonl", "", b"", 0, b"", 0, "", Outcomes(), None, None, "")
SCHEMES = [pack(scheme=scheme, network="dc") for scheme in ("http", "https")]
POOLS = [pack(scheme="https", network="res", pool=pool) for pool in ("default", "extra")]
EDGES = [pack(scheme=scheme, network="cdn", ip_version=version) for scheme, version in (("http", "4"), ("https", "6"))]


class Filled(NamedTuple):
    """A data folder, and the key of each account in it."""

    folder: Path
    keys: dict[str, str]


def zones(folder: Path, count: int, days: int) -> Filled:
    """That many zones of one account, each with traffic of two schemes on that many days."""
    made = _made(folder, {"bench": [{"name": f"zone{i}", "network": "dc"} for i in range(count)]})
    with _Writer(folder) as writer:
        for day in range(days):
            writer.write([(zone, TODAY_S - day * DAY_S + 36_000, SCHEMES) for zone in range(1, count + 1)])
    return made


def sellers(folder: Path, accounts: int, zones_each: int) -> Filled:
    """Accounts with a few zones of one product, each with traffic in two pools in every hour of eight days."""
    zone = {"network": "res", "product": "rpc"}
    made = _made(folder, {f"e{a}": [{"name": f"z{i}", **zone} for i in range(zones_each)] for a in range(accounts)})
    with _Writer(folder) as writer:
        for hour in range(8 * 24):
            start = NOW_S - hour * HOUR_S
            writer.write([(number, start, POOLS) for number in range(1, accounts * zones_each + 1)])
    return made


def edges(folder: Path, domains: int, days: int) -> Filled:
    """Domains of one account, each with traffic of two kinds in every 5 minutes of that many days."""
    made = _made(folder, {"cdn": [{"name": f"d{i}.example.com", "network": "cdn"} for i in range(domains)]})
    with _Writer(folder) as writer:
        for step in range(days * DAY_S // STEP_S):
            start = TODAY_S + DAY_S - days * DAY_S + step * STEP_S
            writer.write([(number, start, EDGES) for number in range(1, domains + 1)])
    return made


def _made(folder: Path, accounts: dict[str, list[dict[str, str]]]) -> Filled:
    folder.mkdir(mode=0o700)
    document = {"accounts": [{"id": account, "kind": "team", "zones": owned} for account, owned in accounts.items()]}
    (folder / "catalog.json").write_text(json.dumps(document))
    (folder / "bandmeter.toml").write_text("[limits]\nbaishan = 1000000000\n")  # counted, and never reached
    bandmeter = [str(BIN / "bandmeter"), "--data", str(folder)]
    subprocess.run([*bandmeter, "apply", str(folder / "catalog.json")], check=True, stdout=subprocess.DEVNULL)
    keys = {}
    for account in list(accounts)[:100]:  # more keys than that make no difference
        done = subprocess.run([*bandmeter, "key", "add", account], check=True, capture_output=True, text=True)
        keys[account] = done.stdout.strip()
    return Filled(folder, keys)


class _Writer:
    """Writes batches of rows with counters that a seed decides."""

    def __init__(self, folder: Path) -> None:
        self._store = SqliteStore(folder / "usage.db")
        self._state = NOTHING
        self._dice = random.Random(20261122)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._store.close()

    def write(self, traffic: list[tuple[int, int, list[int]]]) -> None:
        """One batch of (zone number, start of the 5 minutes, kinds of traffic)."""
        rows = array("q")
        for zone, start, kinds in traffic:
            for dimensions in kinds:
                up, down = self._dice.randrange(10**6), self._dice.randrange(10**9)
                rows.extend((zone, start, dimensions, 100, 90, up, down, 100, 90, up, down))
        newest_ms = {zone: start * 1000 for zone, start, _ in traffic}
        after = self._state._replace(head=b"x", position=self._state.position + 1)
        number = self._store.write(Batch(self._state, after, rows, newest_ms, [], NOW_S * 1000))
        self._state = after._replace(number=number)
