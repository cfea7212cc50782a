"""Records that are made up, what they add up to, and whether a store says the same, to the byte."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections import Counter
from pathlib import Path
from typing import Any

from bandmeter.catalog import Catalog
from bandmeter.domain.grid import Resolution, Span
from bandmeter.domain.tenancy import Account, Scope
from bandmeter.domain.usage import Side
from bandmeter.store import SqliteStore

EVER = Span(0, 4_102_444_800)
ACCOUNT = "acme"
OWNERS = ("a", "b", "carol", "stranger-1", "stranger-2")  # two zones by their name, one by an identity, two nobodies
STRANGERS = OWNERS[3:]
USERS = {"a": "cust-acme-zone-a", "b": "brd-customer-acme-zone-b-session-77"}
SPAN_SECONDS = 7_200  # over which records are spread: 24 buckets
REJECTED_SHARE = 0.02
AHEAD_SECONDS_MAX = 600  # of the service's clock
COLUMNS = "time,identity,bytes_up,bytes_down"


class Sums:
    """What records add up to: requests, bytes up and bytes down by owner and 5 minutes, and what became of them."""

    def __init__(self) -> None:
        self.usage: Counter[tuple[str, int, str]] = Counter()
        self.outcomes: Counter[str] = Counter()

    def add(self, other: Sums) -> None:
        self.usage.update(other.usage)
        self.outcomes.update(other.outcomes)

    def count(self, owner: str, time_ms: int, up: int, down: int) -> None:
        bucket = time_ms // 300_000 * 300
        for name, value in (("requests", 1), ("up", up), ("down", down)):
            self.usage[owner, bucket, name] += value
        self.outcomes["unattributed" if owner in STRANGERS else "counted"] += 1

    @property
    def records(self) -> int:
        return sum(self.outcomes.values())

    def difference(self, other: Sums) -> dict[Any, int]:
        """What the other has more than this one; empty when they are equal."""
        more, fewer = Counter(other.usage), Counter(other.outcomes)
        more.subtract(self.usage)
        fewer.subtract(self.outcomes)
        return {key: value for key, value in [*more.items(), *fewer.items()] if value}


class Clock:
    """When records end, and what the service takes for now; for both it is the machine's clock until it is set."""

    def __init__(self) -> None:
        self.records_s: float | None = None
        self.service_s: float | None = None

    def is_ahead(self, time_ms: int) -> bool:
        """Whether the service refuses a record of that time."""
        return self.service_s is not None and time_ms > (self.service_s + AHEAD_SECONDS_MAX) * 1000


def make(draw: Any, number: int, form: str, clock: Clock) -> tuple[bytes, Sums]:
    """So many records, as lines of `jsonl` or `tsv`, and what they add up to."""
    sums, lines = Sums(), []
    end_ms = int((clock.records_s or time.time()) * 1000)
    for _ in range(number):
        owner, up, down = draw.choice(OWNERS), draw.randrange(10**6), draw.randrange(10**9)
        time_ms = end_ms - draw.randrange(SPAN_SECONDS * 1000)
        user = USERS.get(owner, owner)
        if draw.random() < REJECTED_SHARE:
            sums.outcomes["rejected"] += 1
            up = -up - 1
        elif clock.is_ahead(time_ms):
            sums.outcomes["rejected"] += 1
        else:
            sums.count(owner, time_ms, up, down)
        if form == "tsv":
            lines.append(f"{time_ms / 1000:.3f}\t{user}\t{up}\t{down}\n")
        else:
            whose = f'"account":"{ACCOUNT}","zone":"{owner}"' if owner in USERS else f'"identity":"{user}"'
            lines.append(f'{{"time":{time_ms / 1000:.3f},{whose},"bytes_up":{up},"bytes_down":{down}}}\n')
    return "".join(lines).encode(), sums


def prepare(data: Path, settings: str) -> dict[str, str]:
    """Make a data folder with the account and its zones; an operator's keys: `plain`, and `same` for --same-body-once."""
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    (data / "bandmeter.toml").write_text(settings)
    (data / "usage.db").touch()
    with contextlib.closing(Catalog.open(f"sqlite:///{data}/catalog.db")) as catalog:
        catalog.add_account(Account(ACCOUNT))
        for zone in ("a", "b", "c"):
            catalog.add_zone(ACCOUNT, zone, now_s=0)
        catalog.add_identity(ACCOUNT, "c", "carol")
        return {
            "plain": catalog.add_key(None, Scope.INGEST, None, 0),
            "same": catalog.add_key(None, Scope.INGEST, None, 0, same_body_once=True),
            "read": catalog.add_key(ACCOUNT, Scope.READ, None, 0),
        }


def stored(data: Path) -> Sums:
    """What the store says; and it is whole, its resolutions agree, and the counts of each source add up."""
    sums = Sums()
    with (
        contextlib.closing(SqliteStore(data / "usage.db")) as store,
        contextlib.closing(Catalog.open(f"sqlite:///{data}/catalog.db")) as catalog,
    ):
        assert store.check() == []
        for source in store.sources():
            assert source.outcomes.adds_up, source
            sums.outcomes.update(source.outcomes._asdict())
        owners = {zone.number: {"c": "carol"}.get(zone.name, zone.name) for zone in catalog.zones()}
        owners |= {unattributed.number: unattributed.identity for unattributed in store.unattributed()}
        for number, columns in store.read(list(owners), Side.TARGET, Resolution.FIVE_MINUTES, EVER).items():
            for row in columns.rows:
                for name, value in (("requests", row.requests), ("up", row.bytes_up), ("down", row.bytes_down)):
                    sums.usage[owners[number], row.bucket, name] += value
    del sums.outcomes["received"], sums.outcomes["duplicate"]
    return sums


def records_by_source(data: Path) -> Counter[str]:
    """How many different records the store has received of each source, as another process sees it now."""
    with contextlib.closing(sqlite3.connect(data / "usage.db", timeout=30)) as db:
        return Counter(dict(db.execute("SELECT name, sum(received - duplicate) FROM source GROUP BY name")))
