"""Writes a small usage store as SQL: `python tests/schema_states/dump_usage.py` makes usage_NNNN.sql of the schema now.

The dump of a schema that was released is never written again: it is what such a store looks like out there. Whoever
changes the schema adds data to `fill` for what is new, and leaves the rest, since a test knows its numbers.
"""

from __future__ import annotations

import contextlib
import sqlite3
import tempfile
from array import array
from pathlib import Path

from bandmeter.domain.contracts import Batch, Hosts, Receipt, Reject, SourceState
from bandmeter.domain.tenancy import Zone
from bandmeter.domain.usage import SIDED, UNSIDED, Outcomes, Side, pack
from bandmeter.store import SqliteStore
from bandmeter.store.sqlite import migrations

FOLDER = Path(__file__).parent
START = 1_795_132_800  # 2026-11-20T00:00:00Z
SHOP = Zone(2, "acme", "shop.test", "cdn", side=Side.CLIENT)


def fill(store):
    """Two sources; a zone of each side, over two days; one identity that waits, and one that was claimed."""
    first = SourceState(
        0, "squid-1", "squid", "/var/log/squid/access.log", b"h" * 80, 0, b"", 0, "", Outcomes(), None, None, ""
    )
    numbers = store.number_identities([("mallory", UNSIDED), ("shop", SIDED)], START // 86_400)
    mallory, shop = numbers["mallory", UNSIDED], numbers["shop", SIDED]
    rows = array("q")
    for i in range(6):  # two buckets a 10 hours: over two days, in hours of their own and together
        when = START + 36_000 * i
        rows.extend((1, when, pack(scheme="https", network="dc"), 3, 2, 100 + i, 2_000 + i, 0, 0, 0, 0))
        rows.extend((1, when + 300, pack(scheme="http", network="dc", ip_version="6"), 1, 1, 2**40, 7, 0, 0, 0, 0))
        rows.extend((2, when, pack(network="cdn"), 1, 1, 10, 20, 2, 2, 30, 40))
    rows.extend((mallory, START, 0, 5, 0, 11, 12, 0, 0, 0, 0))
    rows.extend((shop, START + 600, 0, 1, 1, 1, 2, 1, 1, 3, 4))
    newest = {
        1: (START + 180_300) * 1000 + 999,
        2: (START + 180_000) * 1000,
        mallory: START * 1000,
        shop: (START + 600) * 1000,
    }
    rejects = [
        Reject(31, 4_000, "time", "bad_value", "no time", b"\xff\x00 torn"),
        Reject(32, 4_010, "", "torn_line", "", b"x"),
    ]
    counts = Outcomes(received=40, counted=30, no_target=2, unattributed=6, rejected=2)
    after = first._replace(
        position=5_000, check=b"c" * 16, lines=40, outcomes=counts, newest_ms=newest[1], note="partial"
    )
    number = store.write(Batch(first, after, rows, newest, rejects, START * 1000 + 1))
    store.note_duplicates(number, 40)
    other = first._replace(name="files", format="tsv", path="-", head=b"time\tbytes_up", columns="time\tbytes_up")
    more = other._replace(position=13, check=b"d" * 16, lines=1)
    store.write(Batch(other, more, array("q"), {}, [], START * 1000 + 2))
    store.claim("shop", SHOP)
    # Since schema 2:
    host_rows = [(1, START, 3, 2, 90, 1_000, 0, 0, 0, 0), (2, START, 1, 1, 10, 20, 2, 2, 30, 40)]
    hosts = Hosts(["example.com", "example.org"], array("q", [number for row in host_rows for number in row]))
    receipts = [Receipt(b"key", b"digest", START + 86_400, b"answer"), Receipt(b"for ever", b"digest", None, b"")]
    third = other._replace(name="post", head=b"post")
    batch = Batch(third, third._replace(position=1), array("q"), {}, [], START * 1000 + 2)
    store.write(batch._replace(receipts=receipts, hosts=hosts))
    # Since schema 3:
    fourth = other._replace(name="mended", head=b"mended")
    after = fourth._replace(position=2, outcomes=Outcomes(2, rejected=2))
    rejects = [Reject(line, line, "time", "bad_value", "no time", b"wrong") for line in (1, 2)]
    number = store.write(Batch(fourth, after, array("q"), {}, rejects, START * 1000 + 2))
    after = after._replace(number=number)
    mended = after._replace(outcomes=Outcomes(2, unattributed=1, rejected=1))
    store.write(Batch(after, mended, array("q"), {}, [], START * 1000 + 2, retried={1: b"right"}))
    for ms in (START * 1000, START * 1000 + 50, START * 1000 + 5_000):
        store.cover({"squid-1": ms}, gap_ms=1_000)


def dump(path):
    """The store as SQL that makes it again."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        *lines, commit = db.iterdump()
        return "\n".join([*lines, f"PRAGMA user_version = {migrations.version(db)};", commit, ""])


if __name__ == "__main__":
    target = FOLDER / f"usage_{migrations.newest():04}.sql"
    with tempfile.TemporaryDirectory() as folder:
        store = SqliteStore(Path(folder) / "usage.db")
        fill(store)
        store.close()
        target.write_text(dump(Path(folder) / "usage.db"))
