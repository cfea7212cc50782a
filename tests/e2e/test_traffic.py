"""Two million lines of a busy proxy: per zone, day and 5 minutes to the byte, however they are cut, mixed or sent."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from bandmeter.domain.grid import Resolution
from bandmeter.domain.usage import Outcomes, Side
from bandmeter.store import SqliteStore

LINES = 2_000_000


class TwiceStore(SqliteStore):
    """Gets every batch twice, as from a sender that did not hear the answer."""

    refused = 0

    def write(self, batch):
        number = super().write(batch)
        assert super().write(batch) == 0
        self.refused += 1
        return number


@pytest.fixture(scope="session")
def truth(traffic_folder):
    """{(zone, resolution, start): (requests, bytes up, bytes down)}, and the lines that reached no target."""
    sums, refused = {}, 0
    for name, resolution in (("5m", Resolution.FIVE_MINUTES), ("day", Resolution.DAY)):
        for line in (traffic_folder / f"truth_zone_{name}.tsv").read_text().splitlines():
            zone, bucket, *counters = line.split("\t")
            if zone == "-":
                refused += int(counters[0]) if name == "day" else 0
            else:
                sums[zone, resolution, int(bucket)] = tuple(map(int, counters))
    assert sum(c[0] for (_, r, _), c in sums.items() if r is Resolution.DAY) + refused == LINES
    return sums, refused


@pytest.fixture
def make_traffic_meter(make_meter, tmp_path, traffic):
    """An ingest with the 200 zones, on SQLite."""
    stores = []

    def make(kind=SqliteStore, **options):
        stores.append(kind(tmp_path / "usage.db"))
        meter = make_meter(store=stores[0], **options)
        for account, zone in traffic.ZONES:
            meter.add_zone(account, zone)
        meter.columns = tuple(traffic.COLUMNS.split(","))
        return meter

    yield make
    for store in stores:
        store.close()


def is_exact(meter, truth) -> bool:
    """Whether the store holds what was carried, to the byte."""
    sums, refused = truth
    found: Counter = Counter()
    for ((account, zone), side, resolution), rows in meter.rows().items():
        assert side is Side.TARGET
        for bucket, _, requests, _, up, down in rows:
            if resolution is not Resolution.HOUR:
                for i, number in enumerate((requests, up, down)):
                    found[f"cust-{account}-zone-{zone}", resolution, bucket, i] += number
    expected = {(*key, i): number for key, counters in sums.items() for i, number in enumerate(counters)}
    assert found == expected
    assert meter.store.check() == []
    assert meter.store.unattributed() == []
    outcomes = meter.outcomes()
    assert (outcomes.counted, outcomes.no_target, outcomes.rejected) == (LINES - refused, refused, 0)
    return True


def test_one_file(make_traffic_meter, traffic_folder, truth):
    meter = make_traffic_meter(batch_bytes=32 << 20)
    meter.feed(traffic_folder / "access_ext.tsv", "tsv", columns=meter.columns)
    assert is_exact(meter, truth)
    assert len({number for number in range(1, 201) if meter.total(meter.zones[number - 1])}) == 200


def test_37_files_cut_anywhere(make_traffic_meter, traffic_folder, truth, tmp_path):
    """Cut in the middle of lines too: the rest of a torn line comes when the piece grows."""
    meter = make_traffic_meter(batch_bytes=7_654_321)
    content = (traffic_folder / "access_ext.tsv").read_bytes()
    draw = random.Random(37)
    cuts = sorted(draw.sample(range(1, len(content)), 36))
    pieces = [content[a:b] for a, b in zip([0, *cuts], [*cuts, len(content)], strict=True)]
    waiting, mended = b"", []
    for piece in pieces:  # a line belongs to the piece in which it ends
        head, newline, torn = (waiting + piece).rpartition(b"\n")
        mended.append(head + newline)
        waiting = torn
    assert waiting == b""
    assert b"".join(mended) == content
    for i in draw.sample(range(37), 37):
        path = tmp_path / f"piece{i}"
        torn = mended[i][: -draw.randrange(1, 60)]
        path.write_bytes(torn)
        meter.feed(path, "tsv", columns=meter.columns)
        path.write_bytes(mended[i])
        meter.feed(path, "tsv", columns=meter.columns)
        path.unlink()
    assert is_exact(meter, truth)


def test_any_order_of_lines(make_traffic_meter, traffic_folder, truth, tmp_path):
    meter = make_traffic_meter(batch_bytes=16 << 20)
    lines = (traffic_folder / "access_ext.tsv").read_bytes().splitlines(keepends=True)
    random.Random(11).shuffle(lines)
    path = tmp_path / "shuffled.tsv"
    path.write_bytes(b"".join(lines))
    del lines
    meter.feed(path, "tsv", columns=meter.columns)
    path.unlink()
    assert is_exact(meter, truth)


def test_every_batch_and_the_whole_file_twice(make_traffic_meter, traffic_folder, truth):
    meter = make_traffic_meter(TwiceStore, batch_bytes=20 << 20)
    path = traffic_folder / "access_ext.tsv"
    meter.feed(path, "tsv", columns=meter.columns)
    assert meter.store.refused > 10
    assert meter.feed(path, "tsv", columns=meter.columns).outcomes == Outcomes(LINES, duplicate=LINES)
    assert is_exact(meter, truth)
