"""A source is its content: what operators, logrotate, rsync and crashes do to files loses and doubles nothing."""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import zlib
from pathlib import Path

import pytest
import zstandard

from bandmeter.domain.errors import BandmeterError
from bandmeter.domain.grid import Span
from bandmeter.domain.usage import Outcomes, Side
from bandmeter.ingest.files import source
from bandmeter.store import MemoryStore, SqliteStore

COLUMNS = ("time", "identity", "bytes_up", "bytes_down")
DIVERGED = f"{source.TWICE} files counted, and it goes on differently: {source.BOTH_TWICE}"


def lines(start, end):
    """Lines that all differ, in what they add too."""
    return b"".join(
        b'{"time":%d.%03d,"account":"acme","zone":"res","bytes_up":%d,"bytes_down":%d}\n'
        % (1_795_132_800 + 7 * i, i % 1000, i * i + 1, 7 * i)
        for i in range(start, end)
    )


def sums(*spans):
    """(requests, bytes up) of `lines`."""
    numbers = [i for start, end in spans for i in range(start, end)]
    return len(numbers), sum(i * i + 1 for i in numbers)


@pytest.fixture
def meter(durable_meter):
    return durable_meter


@pytest.fixture
def log(tmp_path):
    return tmp_path / "access.log"


def counted(meter):
    total = meter.total(meter.zones[0])
    return total.requests, total.bytes_up


# ---------------------------------------------------------------- the same content


def again(n):
    return Outcomes(n, duplicate=n)


def test_the_same_file_again_adds_nothing(meter, log):
    log.write_bytes(lines(0, 100))
    assert meter.feed(log).outcomes == Outcomes(100, counted=100)
    assert meter.feed(log).outcomes == again(100)
    assert counted(meter) == sums((0, 100))
    assert len(meter.store.sources()) == 1


@pytest.mark.parametrize(
    "how",
    [
        lambda a, b: a.rename(b),
        lambda a, b: b.hardlink_to(a),
        lambda a, b: b.symlink_to(a),
        shutil.copy2,
        lambda a, b: b.write_bytes(gzip.compress(a.read_bytes())),
        lambda a, b: b.write_bytes(zstandard.compress(a.read_bytes())),
        lambda a, b: b.write_bytes(b"".join(map(gzip.compress, a.read_bytes().splitlines(keepends=True)))),
        lambda a, b: b.write_bytes(b"".join(zstandard.compress(x) for x in a.read_bytes().splitlines(keepends=True))),
    ],
    ids=["renamed", "hard link", "symlink", "rsync", "gz", "zst", "gz of many members", "zst of many frames"],
)
def test_the_same_content_under_another_name(meter, log, tmp_path, how):
    log.write_bytes(lines(0, 100))
    meter.feed(log)
    other = tmp_path / "other"
    how(log, other)
    assert meter.feed(other).outcomes == again(100)
    assert counted(meter) == sums((0, 100))
    assert [state.path for state in meter.store.sources()] == [str(other)]  # where it was last seen


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress])
@pytest.mark.parametrize("known", [3, 60])
def test_a_compressed_file_goes_on_where_the_plain_one_stopped(meter, log, tmp_path, compress, known):
    """As rotation leaves it: the last lines were written after the last look."""
    log.write_bytes(lines(0, known))
    meter.feed(log)
    other = tmp_path / "access.log.2"
    other.write_bytes(compress(lines(0, 100)))
    assert meter.feed(other).outcomes == Outcomes(100, counted=100 - known, duplicate=known)
    assert counted(meter) == sums((0, 100))


def test_another_source_name_is_another_source(meter, log):
    """Two machines whose logs happen to be equal; or one log under two names, so it is told."""
    log.write_bytes(lines(0, 100))
    notes = [meter.feed(log, source_name=name).notes for name in ("files", "edge2", "files", "edge2")]
    assert counted(meter) == sums((0, 100), (0, 100))
    assert notes[1] == (f"{source.TWICE} files counted: if it is the same log, it is counted twice",)
    assert notes[0] == notes[2] == notes[3] == ()
    assert meter.feed(log, source_name="edge3", side=Side.CLIENT).notes == ()


@pytest.mark.parametrize("size", [1, 10, 100])
@pytest.mark.parametrize("grows", [False, True])
def test_a_source_that_is_renamed_goes_on_where_it_was(meter, log, size, grows):
    """Also one whose logs were ingested by hand before; whatever their length, and whether or not there is more."""
    log.write_bytes(lines(0, size))
    meter.feed(log, source_name="files")
    if grows:
        log.write_bytes(lines(0, size + 20))
    taken = meter.feed(log, source_name="edge", other_names=frozenset({"edge2"}))
    assert taken.outcomes == Outcomes(size + 20 * grows, counted=20 * grows, duplicate=size)
    assert taken.notes == (source.TAKEN_OVER.format("files"),)
    assert [state.name for state in meter.store.sources()] == ["edge"]
    assert meter.feed(log, source_name="edge", other_names=frozenset()).notes == ()
    assert counted(meter) == sums((0, size + 20 * grows))


@pytest.mark.parametrize(
    "others",
    [pytest.param(frozenset({"files"}), id="that is configured still"), pytest.param(None, id="by the command line")],
)
def test_a_source_that_has_its_name_loses_nothing_to_another(meter, log, others):
    """Two machines whose logs happen to be equal."""
    log.write_bytes(lines(0, 10))
    for name in ("files", "edge", "files", "edge"):
        meter.feed(log, source_name=name, other_names=others if name == "edge" else None)
    assert [state.name for state in meter.store.sources()] == ["files", "edge"]
    assert counted(meter) == sums((0, 10), (0, 10))


@pytest.mark.parametrize("size", [10, 100])
def test_an_older_copy_of_a_log_that_is_taken_over(meter, log, tmp_path, size):
    """It comes first, and is the beginning of what another name has counted."""
    log.write_bytes(lines(0, 2 * size))
    copy = tmp_path / "a-copy.log"
    copy.write_bytes(lines(0, size))
    for path in (log, copy):
        meter.feed(path, source_name="old", other_names=frozenset())
    for _ in range(2):
        for path in (copy, log):
            assert meter.feed(path, source_name="new", other_names=frozenset()).outcomes.counted == 0
    assert counted(meter) == sums((0, 2 * size))


def test_a_log_that_was_rejected_as_a_whole_is_taken_over_with_its_rejects(meter, log):
    """Else they could count under both names."""
    (zone,) = meter.zones
    meter.zones.clear()
    log.write_bytes(lines(0, 10))
    meter.feed(log)
    meter.zones.append(zone)
    assert meter.feed(log, source_name="edge", other_names=frozenset()).outcomes == Outcomes(10, counted=10)


def test_a_log_that_is_taken_over_while_it_is_ingested(make_meter, tmp_path, log):
    """By `serve`, to which it was given meanwhile: the ingest goes on under the new name, and counts nothing again."""
    log.write_bytes(lines(0, 300))
    store = SqliteStore(tmp_path / "usage.db")
    first, second = (make_meter(store=s, batch_bytes=4096) for s in (store, SqliteStore(tmp_path / "usage.db")))
    for one in (first, second):
        one.add_zone("acme", "res")

    class Overtaken:
        def __init__(self):
            self.writes = 0

        def __getattr__(self, name):
            return getattr(store, name)

        def write(self, batch):
            self.writes += 1
            if self.writes == 3:
                part = tmp_path / "part"
                part.write_bytes(lines(0, 200))
                assert second.feed(part, source_name="edge", other_names=frozenset()).notes
            return store.write(batch)

    first.store = Overtaken()
    first.feed(log)
    assert counted(first) == sums((0, 300))
    assert [(state.name, state.outcomes.counted) for state in store.sources()] == [("edge", 300)]
    store.close()
    second.store.close()


def test_short_logs_may_begin_alike(meter, log):
    log.write_bytes(lines(0, 10))
    assert [meter.feed(log, source_name=name).notes for name in ("files", "edge2")] == [(), ()]


def test_rejects_that_began_a_log_are_ingested_again(meter, log, tmp_path):
    """Nothing of them was counted, though they look like an older copy of it; a second time they are counted already."""
    (zone,) = meter.zones
    meter.zones.clear()
    log.write_bytes(lines(0, 50))
    assert meter.feed(log).outcomes.rejected == 50
    meter.zones.append(zone)
    log.write_bytes(lines(0, 60))
    assert meter.feed(log).outcomes == Outcomes(60, counted=10, duplicate=50)
    again = tmp_path / "again.log"
    again.write_bytes(b"".join(reject.text + b"\n" for reject in meter.rejects()))
    report = meter.feed(again)
    assert (report.outcomes, report.notes) == (Outcomes(50, counted=50), (source.REJECTED,))
    assert counted(meter) == sums((0, 60))
    assert meter.feed(again).outcomes == meter.feed(again).outcomes == Outcomes(50, duplicate=50)
    log.write_bytes(lines(0, 55))  # an older copy of the log, some of which was counted
    assert meter.feed(log).notes == (source.OLDER_COPY,)
    assert counted(meter) == sums((0, 60))


def in_zone(zone, start, end):
    return lines(start, end).replace(b'"zone":"res"', b'"zone":"%s"' % zone.encode())


def rejected(meter):
    return b"".join(reject.text + b"\n" for reject in meter.rejects())


@pytest.mark.parametrize("count", [5, 100])
def test_a_log_of_nothing_but_rejects_is_ingested_again(meter, log, tmp_path, count):
    """As often as it is given, until its zone is there; and then it counts once."""
    again = tmp_path / "again.log"
    log.write_bytes(in_zone("later", 0, count))
    assert meter.feed(log).outcomes == Outcomes(count, rejected=count)
    again.write_bytes(rejected(meter))
    for path in (log, again, log):
        report = meter.feed(path)
        assert (report.outcomes, report.notes) == (Outcomes(count, duplicate=count), (source.STILL_REJECTED,))
    assert len(meter.store.sources()) == 1
    meter.add_zone("acme", "later")
    report = meter.feed(again)
    assert (report.outcomes, report.notes) == (Outcomes(count, counted=count), (source.REJECTED,))
    for path in (log, again):
        assert meter.feed(path).outcomes == Outcomes(count, duplicate=count)
    assert meter.total(meter.zones[1]).requests == count


def test_rejects_of_several_logs_are_ingested_again(meter, tmp_path):
    """Each log begins with more of them than tells logs apart."""
    for n in range(2):
        log = tmp_path / f"{n}.log"
        log.write_bytes(in_zone("later", 1_000 * n, 1_000 * n + 100) + lines(1_000 * n + 100, 1_000 * n + 300))
        assert meter.feed(log).outcomes == Outcomes(300, counted=200, rejected=100)
    before = counted(meter)
    again = tmp_path / "again.log"
    again.write_bytes(rejected(meter))
    meter.add_zone("acme", "later")
    assert meter.feed(again).outcomes == Outcomes(200, counted=200)
    assert meter.feed(again).outcomes == Outcomes(200, duplicate=200)
    assert meter.total(meter.zones[1]).requests == 200
    assert counted(meter) == before


def test_rejects_that_are_rejected_again_are_ingested_once_more(meter, log, tmp_path):
    """Of two zones the first is there, and later the second: each line counts once."""
    log.write_bytes(in_zone("one", 0, 60) + in_zone("two", 60, 120))
    meter.feed(log)
    again = tmp_path / "again.log"
    again.write_bytes(rejected(meter))
    meter.add_zone("acme", "one")
    assert meter.feed(again).outcomes == Outcomes(120, counted=60, duplicate=60)
    assert meter.feed(again).outcomes == Outcomes(120, duplicate=120)
    meter.add_zone("acme", "two")
    again.write_bytes(in_zone("two", 60, 120))
    assert meter.feed(again).outcomes == Outcomes(60, counted=60)
    assert meter.feed(again).outcomes == Outcomes(60, duplicate=60)
    assert [meter.total(zone).requests for zone in meter.zones] == [0, 60, 60]


def test_a_long_line_is_kept_whole(meter, log, tmp_path):
    """Whatever can be read can be read again."""
    line = in_zone("later", 0, 1)[:-2] + b',"ignored":"%s"}\n' % (b"x" * 200_000)
    log.write_bytes(line)
    assert meter.feed(log).outcomes.rejected == 1
    again = tmp_path / "again.log"
    again.write_bytes(rejected(meter))
    meter.add_zone("acme", "later")
    assert meter.feed(again).outcomes.counted == 1


def test_rejects_that_are_ingested_under_another_name_are_not_called_counted(meter, log):
    """What was rejected there counts here alone; the name under which it was counted is told."""
    (zone,) = meter.zones
    meter.zones.clear()
    log.write_bytes(lines(0, 60))
    meter.feed(log, source_name="edge")
    meter.zones.append(zone)
    assert meter.feed(log, source_name="files").notes == ()
    assert meter.feed(log, source_name="other").notes[0].startswith(f"{source.TWICE} files counted")


# ---------------------------------------------------------------- growth


@pytest.mark.parametrize("steps", [(1, 2, 3), (40, 47, 48, 49, 50, 200), (0, 1, 500)])
def test_a_grown_file_adds_what_is_new(meter, log, steps):
    """Also around the 4 KiB of the fingerprint."""
    before = 0
    for step in steps:
        log.write_bytes(lines(0, step))
        assert meter.feed(log).outcomes == Outcomes(step, counted=step - before, duplicate=before)
        before = step
    assert counted(meter) == sums((0, steps[-1]))
    assert len(meter.store.sources()) == 1


def test_every_length_around_a_lines_end(meter, log):
    """Grown byte by byte over the ends of lines, looked at each time."""
    content = lines(0, 4)
    ends = [len(lines(0, n)) for n in range(5)]
    for length in sorted({end + i for end in ends for i in (-2, -1, 0, 1) if 0 <= end + i <= len(content)}):
        log.write_bytes(content[:length])
        meter.feed(log)
    assert counted(meter) == sums((0, 4))
    assert meter.outcomes().counted == 4


def test_a_torn_last_line_waits(meter, log):
    content = lines(0, 10)
    log.write_bytes(content[:-20])
    report = meter.feed(log)
    assert report.outcomes == Outcomes(9, counted=9)
    assert report.notes == ("the last line has no newline yet: it waits",)
    log.write_bytes(content)
    assert meter.feed(log).outcomes == Outcomes(10, counted=1, duplicate=9)
    assert counted(meter) == sums((0, 10))


def test_a_last_line_without_its_newline_is_counted_once_it_has_one(meter, log):
    log.write_bytes(lines(0, 1)[:-1])
    assert meter.feed(log).outcomes == Outcomes()
    assert meter.store.sources() == []
    log.write_bytes(lines(0, 2)[:-1])
    meter.feed(log)
    log.write_bytes(lines(0, 2))
    meter.feed(log)
    assert counted(meter) == sums((0, 2))


@pytest.mark.parametrize("size", [1, 30, 60, 99])
def test_a_copy_made_when_the_file_was_shorter(meter, log, tmp_path, size):
    log.write_bytes(lines(0, size))
    shutil.copy2(log, tmp_path / "copy")
    log.write_bytes(lines(0, 100))
    meter.feed(log)
    report = meter.feed(tmp_path / "copy")
    assert "older copy" in report.notes[0]
    assert report.outcomes == again(size)
    assert counted(meter) == sums((0, 100))
    (tmp_path / "copy").write_bytes(lines(0, 120))
    meter.feed(tmp_path / "copy")
    assert counted(meter) == sums((0, 120))


def test_a_shorter_copy_with_lines_that_were_ahead_of_the_clock(meter, log, tmp_path):
    """They were rejected while the clock was behind; once it is right they make no old copy a new file."""
    log.write_bytes(lines(0, 100))
    right_ms, meter.now_ms = meter.now_ms, 1_795_132_800_000  # when the lines begin
    assert meter.feed(log).outcomes == Outcomes(100, counted=86, rejected=14)
    assert {reject.reason for reject in meter.rejects()} == {"in_future"}
    meter.now_ms = right_ms
    (tmp_path / "copy").write_bytes(lines(0, 95))
    report = meter.feed(tmp_path / "copy")
    assert "older copy" in report.notes[0]
    assert report.outcomes == again(95)
    assert counted(meter) == sums((0, 86))


# ---------------------------------------------------------------- rotation and replacement


@pytest.mark.parametrize("order", [("access.log", "access.log.1"), ("access.log.1", "access.log")])
def test_rotation_in_both_orders(meter, log, tmp_path, order):
    log.write_bytes(lines(0, 50))
    meter.feed(log)
    log.write_bytes(lines(0, 80))  # written between the last look and the rotation
    log.rename(tmp_path / "access.log.1")
    log.write_bytes(lines(80, 90))
    for name in order:
        meter.feed(tmp_path / name)
    log.write_bytes(lines(80, 130))
    for name in order:
        meter.feed(tmp_path / name)
    assert counted(meter) == sums((0, 130))


def test_copytruncate(meter, log, tmp_path):
    log.write_bytes(lines(0, 100))
    meter.feed(log)
    shutil.copy2(log, tmp_path / "access.log.1")
    os.truncate(log, 0)
    assert meter.feed(log).outcomes == Outcomes()
    with log.open("ab") as file:
        file.write(lines(100, 103))
    meter.feed(log)
    meter.feed(tmp_path / "access.log.1")
    with log.open("ab") as file:
        file.write(lines(103, 300))
    meter.feed(log)
    assert counted(meter) == sums((0, 300))


def test_copytruncate_of_a_file_that_is_held_open(meter, log):
    """The writer goes on at its old offset, and the file system fills the gap with NUL bytes."""
    log.write_bytes(lines(0, 100))
    meter.feed(log)
    offset = log.stat().st_size
    for batch_bytes in (1 << 20, 4096):
        log.write_bytes(b"")
        with log.open("r+b") as file:
            file.seek(offset)
            file.write(lines(100, 103) if batch_bytes > 4096 else lines(200, 203))
            offset = file.tell()
        meter.batch_bytes = batch_bytes
        assert meter.feed(log).outcomes == Outcomes(3, counted=3)
        assert meter.feed(log).outcomes == again(3)
    assert counted(meter) == sums((0, 103), (200, 203))
    assert meter.rejects() == []


@pytest.mark.parametrize("size", [30, 100, 150])
def test_another_file_of_the_same_name(meter, log, size):
    log.write_bytes(lines(0, 100))
    meter.feed(log)
    log.write_bytes(lines(500, 500 + size))
    meter.feed(log)
    meter.feed(log)
    assert counted(meter) == sums((0, 100), (500, 500 + size))


@pytest.mark.parametrize("kept", [48, 60, 90, 100])
def test_a_replaced_file_that_begins_as_the_old_one(meter, log, kept):
    """Its first 4 KiB are equal, and it is longer than what was counted: only the check tells them apart."""
    log.write_bytes(lines(0, 100))
    meter.feed(log)
    assert len(lines(0, 48)) > 4096
    log.write_bytes(lines(0, kept) + lines(700, 900))
    report = meter.feed(log)
    if kept == 100:
        assert report.outcomes == Outcomes(300, counted=200, duplicate=100)
        assert counted(meter) == sums((0, 100), (700, 900))
    else:
        assert report.notes == (DIVERGED,)
        assert report.outcomes == Outcomes(kept + 200, counted=kept + 200)
    before = counted(meter)
    meter.feed(log)
    assert counted(meter) == before


def test_a_file_that_lost_its_end_and_went_on_is_a_new_file(meter, log):
    """It is shorter than what was counted of it, and begins alike; only its newer times tell it from an older copy."""
    log.write_bytes(lines(0, 200))
    meter.feed(log)
    log.write_bytes(lines(0, 80) + lines(300, 350))
    report = meter.feed(log)
    assert report.outcomes == Outcomes(130, counted=130)
    assert report.notes == (DIVERGED,)
    assert meter.feed(log).outcomes == again(130)
    assert counted(meter) == sums((0, 200), (0, 80), (300, 350))


def test_a_copy_that_gets_lines_of_its_own_is_told(meter, log, tmp_path):
    """Until then nothing of it is counted; from then on it is another log, and what both have is counted twice."""
    copy = tmp_path / "copy.log"
    for path in (log, copy):
        path.write_bytes(lines(0, 100))
        assert meter.feed(path).notes == ()
    log.write_bytes(lines(0, 110))
    assert meter.feed(log).notes == ()
    copy.write_bytes(lines(0, 100) + lines(300, 320))
    report = meter.feed(copy)
    assert (report.outcomes, report.notes) == (Outcomes(120, counted=120), (DIVERGED,))
    assert meter.feed(copy).notes == ()
    assert counted(meter) == sums((0, 110), (0, 100), (300, 320))


def test_logs_that_begin_with_a_hole_are_not_taken_for_copies(meter, log):
    """As truncation leaves it where the proxy goes on writing at its old place."""
    for start in (0, 100):
        log.write_bytes(bytes(9_000) + lines(start, start + 50))
        assert meter.feed(log).notes in ((), (source.REPLACED,))
    assert counted(meter) == sums((0, 50), (100, 150))
    assert meter.feed(log, source_name="other").notes == ()


def test_a_new_file_at_a_known_path_is_said(meter, log):
    """Truncated, replaced or rotated: the operator is told that it was counted as a new file."""
    log.write_bytes(lines(0, 20))
    assert meter.feed(log).notes == ()
    log.write_bytes(lines(500, 510))
    assert meter.feed(log).notes == (source.REPLACED,)


def test_an_empty_file_says_nothing(meter, log, tmp_path):
    """A log that was just rotated is empty, and no news."""
    log.write_bytes(lines(0, 200))
    meter.feed(log)
    empty = tmp_path / "empty.log"
    empty.write_bytes(b"")
    assert meter.feed(empty).notes == ()


def test_a_file_rotated_between_two_looks_of_one_ingest(meter, log, tmp_path, monkeypatch):
    """The path names another file by the time it is read: neither loses what the other has counted."""
    log.write_bytes(lines(0, 100))
    meter.feed(log)
    log.write_bytes(lines(0, 150))
    really = source.find

    def find_and_rotate(*arguments):
        found = really(*arguments)
        if not (tmp_path / "access.log.1").exists():
            log.rename(tmp_path / "access.log.1")
            log.write_bytes(lines(150, 400))
        return found

    monkeypatch.setattr(source, "find", find_and_rotate)
    assert meter.feed(log).outcomes == Outcomes(250, counted=250)
    meter.feed(tmp_path / "access.log.1")
    assert counted(meter) == sums((0, 400))


def test_a_new_file_rotated_between_two_looks(meter, log, tmp_path, monkeypatch):
    meter.feed(lines(500, 600))  # known already, and about to appear at the path
    really = source.find

    def find_and_rotate(*arguments):
        found = really(*arguments)
        if not (tmp_path / "access.log.1").exists():
            log.rename(tmp_path / "access.log.1")
            log.write_bytes(lines(500, 600))
        return found

    log.write_bytes(lines(0, 10))
    monkeypatch.setattr(source, "find", find_and_rotate)
    assert meter.feed(log).outcomes == again(100)
    meter.feed(tmp_path / "access.log.1")
    assert counted(meter) == sums((500, 600), (0, 10))


# ---------------------------------------------------------------- compressed files


def test_a_grown_gz(meter, log):
    for n in (1, 20, 21, 300):
        log.write_bytes(b"".join(gzip.compress(lines(i, i + 1)) for i in range(n)))
        meter.feed(log)
    assert counted(meter) == sums((0, 300))


@pytest.mark.parametrize("missing", [1, 8, 9, 100, 2000])
def test_a_torn_gz_is_counted_as_far_as_it_goes(meter, log, missing):
    """What its bytes say is counted now, the rest when it is there."""
    whole = gzip.compress(lines(0, 2000))
    log.write_bytes(whole[:-missing])
    there = zlib.decompressobj(31).decompress(whole[:-missing])
    report = meter.feed(log)
    assert report.outcomes.counted == there.count(b"\n") > 1500
    assert any("ends in the middle" in note for note in report.notes)
    log.write_bytes(whole)
    meter.feed(log)
    assert counted(meter) == sums((0, 2000))


def test_a_torn_zst(meter, log):
    whole = zstandard.compress(lines(0, 20_000))
    log.write_bytes(whole[: len(whole) // 2])
    meter.feed(log)
    log.write_bytes(whole)
    meter.feed(log)
    assert counted(meter) == sums((0, 20_000))


def test_a_damaged_gz_is_refused_and_goes_on_when_it_is_mended(meter, log):
    first, second = gzip.compress(lines(0, 5000)), gzip.compress(lines(5000, 9000))
    log.write_bytes(first + b"no gzip" + second)
    meter.batch_bytes = 50_000
    with pytest.raises(BandmeterError, match="cannot be read at byte"):
        meter.feed(log)
    assert 0 < counted(meter)[0] < 5000
    log.write_bytes(first + second)
    meter.feed(log)
    assert counted(meter) == sums((0, 9000))


# ---------------------------------------------------------------- odd files


def test_a_line_longer_than_a_batch_is_one_reject(meter, log):
    meter.batch_bytes = 4096
    long = b'{"time":1795132800,"x":"' + b"y" * 100_000 + b'"}\n'
    log.write_bytes(lines(0, 60) + long + lines(60, 70))
    assert meter.feed(log).outcomes == Outcomes(71, counted=70, rejected=1)
    (reject,) = meter.rejects()
    assert (reject.line, reject.byte, reject.reason) == (61, len(lines(0, 60)), "corrupt")
    assert long.startswith(reject.text)
    assert len(reject.text) >= 4096
    assert meter.feed(log).outcomes == again(71)
    assert counted(meter) == sums((0, 70))


def test_a_line_longer_than_a_batch_comes_first(meter, log):
    meter.batch_bytes = 4096
    log.write_bytes(b"x" * 5000)
    assert meter.feed(log).outcomes == Outcomes()
    log.write_bytes(b"x" * 5000 + b"\n" + lines(0, 5))
    assert meter.feed(log).outcomes == Outcomes(6, counted=5, rejected=1)
    log.write_bytes(b"x" * 5000 + b"\n" + lines(0, 50))
    meter.feed(log)
    assert counted(meter) == sums((0, 50))


def test_a_line_over_the_limit_is_a_reject_whatever_stands_beside_it(meter):
    """A line of 300 kB, beside clean lines and beside a damaged one: a line is read from nothing but itself."""
    long = b'{"time":1795132800,"account":"acme","zone":"res","bytes_up":1,"bytes_down":1,"host":"%s"}\n' % (
        b"x" * 300_000
    )
    for neighbour in (b"", b"\x01\n"):
        meter.feed(lines(0, 3) + long + neighbour, source_name=repr(neighbour))
        assert [r.reason for r in meter.rejects() if len(r.text) > 10][-1] == "corrupt"
    assert counted(meter) == sums((0, 3), (0, 3))


def test_a_long_line_below_the_limit_counts(meter):
    long = b'{"time":1795132800,"account":"acme","zone":"res","bytes_up":1,"bytes_down":1,"host":"%s"}\n' % (
        b"x" * 200_000
    )
    assert meter.feed(lines(0, 3) + long * 40 + b"?\n").outcomes == Outcomes(44, counted=43, rejected=1)


@pytest.mark.parametrize("end", [b"\r\n", b"\n\n", b"\n\r\n\n", b"\r\n\r\n"])
def test_blank_lines_and_crlf_are_no_records(meter, log, end):
    content = lines(0, 20).replace(b"\n", end)
    log.write_bytes(content)
    assert meter.feed(log).outcomes == Outcomes(20, counted=20)
    assert meter.feed(log).outcomes == again(20)
    assert counted(meter) == sums((0, 20))
    assert meter.store.sources()[0].lines == content.count(b"\n")


def test_a_byte_order_mark_is_no_part_of_a_line(meter):
    """At a file's beginning, and where files with one were put together."""
    assert meter.feed(b"\xef\xbb\xbf" + lines(0, 3) + b"\xef\xbb\xbf" + lines(3, 5)).outcomes == Outcomes(5, counted=5)
    assert counted(meter) == sums((0, 5))


@pytest.mark.parametrize("name", ["jsonl", "tsv", "squid"])
@pytest.mark.parametrize(
    "content", [b"", gzip.compress(b"", mtime=0), b"\n", b"\r\n\n"], ids=["empty", "gz", "blank", "blanks"]
)
def test_a_file_with_nothing_in_it(meter, log, name, content):
    log.write_bytes(content)
    if name == "tsv" and b"\n" in content:
        with pytest.raises(BandmeterError, match="has no column `time`"):
            meter.feed(log, name)
    else:
        assert meter.feed(log, name).outcomes == Outcomes()
    assert meter.outcomes() == Outcomes()


def test_what_cannot_be_read_is_said(meter, tmp_path):
    with pytest.raises(BandmeterError, match="No such file"):
        meter.feed(tmp_path / "missing")
    with pytest.raises(BandmeterError, match="Is a directory"):
        meter.feed(tmp_path)
    assert meter.store.sources() == []


def test_one_unreadable_file_stops_no_other(command, tmp_path):
    """Root may read everything; everybody else is told."""
    command.apply({"acme": {"res": {}}})
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.write_bytes(lines(0, 10))
    bad.write_bytes(lines(10, 20))
    bad.chmod(0)
    readable = os.access(bad, os.R_OK)
    total = command.ingest("jsonl", tmp_path / "no", bad, good, status=2)
    assert total.counted == (20 if readable else 10)


# ---------------------------------------------------------------- tables


def table(start, end):
    return b"".join(
        b"%d.%03d\tcust-acme-zone-res-session-%d\t%d\t%d\n" % (1_795_132_800 + 7 * i, i % 1000, i, i * i + 1, 7 * i)
        for i in range(start, end)
    )


@pytest.mark.parametrize("header", ["\t".join(COLUMNS), "host\tbytes_down\ttime\tidentity\tbytes_up\tnote"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_table_with_a_header_is_resumed(meter, log, header, mark, end):
    """In any order of columns, with columns that we do not know, with a byte order mark, with CRLF."""
    names = header.split("\t")

    def content(n):
        rows = [dict(zip(COLUMNS, line.split(b"\t"), strict=True)) for line in table(0, n).splitlines()]
        body = [b"\t".join(row.get(name, b"some text") for name in names) for row in rows]
        return mark + end.join([header.encode(), *body, b""])

    for step, before in ((0, 0), (1, 0), (40, 1), (200, 40), (200, 200)):
        log.write_bytes(content(step))
        assert meter.feed(log, "tsv").outcomes == Outcomes(step, counted=step - before, duplicate=before)
    log.write_bytes(gzip.compress(content(210)))
    meter.feed(log, "tsv")
    assert counted(meter) == sums((0, 210))
    assert len(meter.store.sources()) == 1


def test_a_table_whose_first_line_is_longer_than_a_batch(meter, log):
    meter.batch_bytes = 4096
    log.write_bytes("\t".join(COLUMNS).encode() + b"\n" + b"x" * 9000 + b"\n" + table(0, 100))
    assert meter.feed(log, "tsv").outcomes == Outcomes(101, counted=100, rejected=1)
    assert meter.feed(log, "tsv").outcomes == again(101)
    assert counted(meter) == sums((0, 100))


def test_a_table_without_a_header_is_resumed(meter, log):
    for step in (3, 90, 100):
        log.write_bytes(table(0, step))
        meter.feed(log, "tsv", columns=COLUMNS)
    assert counted(meter) == sums((0, 100))


def test_a_table_that_lacks_what_is_needed_is_refused(meter, log):
    log.write_bytes(b"identity\tbytes_up\n" + b"a\t1\n")
    with pytest.raises(BandmeterError, match="has no column `time`"):
        meter.feed(log, "tsv")
    log.write_bytes(b"time\tbytes_up" * 10_000)
    with pytest.raises(BandmeterError, match="header"):
        meter.feed(log, "tsv")
    assert meter.store.sources() == []


# ---------------------------------------------------------------- several processes


def test_two_processes_ingest_one_new_file_at_once(command, log):
    """Each line is counted by one of them, and seen again by the other."""
    log.write_bytes(lines(0, 1500))
    command.apply({"acme": {"res": {}}})
    started = [
        command.start("ingest", "--json", "--format", "jsonl", log, BANDMETER_INGEST_BATCH_BYTES="4096")
        for _ in range(3)
    ]
    for process in started:
        process.communicate(timeout=120)
        assert process.returncode == 0
    store = SqliteStore(command.data / "usage.db")
    total = store.total(1, Side.TARGET, Span(0, 4_102_444_800))
    (state,) = store.sources()
    assert store.check() == []
    store.close()
    assert (total.requests, total.bytes_up) == sums((0, 1500))
    assert (state.outcomes.counted, state.lines, state.position) == (1500, 1500, log.stat().st_size)
    assert state.outcomes.duplicate <= 2 * 1500


def test_two_ingests_take_turns_batch_by_batch(make_meter, tmp_path, log):
    """The other one always writes first: every batch of this one has to be decided anew."""
    log.write_bytes(lines(0, 300))
    store = SqliteStore(tmp_path / "usage.db")
    first, second = (make_meter(store=s, batch_bytes=4096) for s in (store, SqliteStore(tmp_path / "usage.db")))
    for one in (first, second):
        one.add_zone("acme", "res")

    class Rival:
        def __init__(self):
            self.turns = 0

        def __getattr__(self, name):
            return getattr(store, name)

        def write(self, batch):
            if self.turns < 3:
                self.turns += 1
                short = tmp_path / f"copy{self.turns}"
                short.write_bytes(lines(0, 300)[: 4096 * 2 * self.turns].rpartition(b"\n")[0] + b"\n")
                second.feed(short)
            return store.write(batch)

    first.store = rival = Rival()
    first.feed(log)
    assert rival.turns == 3
    assert counted(first) == sums((0, 300))
    (state,) = store.sources()
    assert state.outcomes.counted == 300
    store.close()
    second.store.close()


def test_an_ingest_that_is_always_too_late_gives_up(make_meter, log):
    """And says so, instead of trying for ever."""

    class Busy(MemoryStore):
        def write(self, batch):
            return 0

    meter = make_meter(store=Busy())
    meter.add_zone("acme", "res")
    log.write_bytes(lines(0, 3))
    with pytest.raises(BandmeterError, match="another process"):
        meter.feed(log)


def test_a_path_that_is_a_pipe_is_read_whole(command, log):
    """What `<(zcat …)` of a shell gives."""
    command.apply({"acme": {"res": {}}})
    log.write_bytes(gzip.compress(lines(0, 3000)))
    script = f'"{command.path}" ingest --format jsonl <(zcat "{log}") && "{command.path}" ingest --format jsonl "{log}"'
    done = subprocess.run(["bash", "-c", script], env=command.environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    store = SqliteStore(command.data / "usage.db")
    assert store.total(1, Side.TARGET, Span(0, 4_102_444_800))[::2] == sums((0, 3000))
    assert [s.outcomes for s in store.sources()] == [Outcomes(6000, counted=3000, duplicate=3000)]
    store.close()
    assert not list(Path(command.data).glob("stdin-*"))


# ---------------------------------------------------------------- names and headers


def test_a_name_that_is_no_utf8_is_shown_as_it_can_be(meter, tmp_path):
    path = os.fsdecode(bytes(tmp_path) + b"/x\xff.log")
    Path(path).write_bytes(lines(0, 10))
    report = meter.feed(path)
    assert (report.outcomes, Path(report.path).name) == (Outcomes(10, counted=10), "x\\xff.log")
    assert [source.path for source in meter.store.sources()] == [report.path]


@pytest.mark.parametrize("known", [b"", b"1795132800\tacme\tres\t1\t2\n"])
def test_a_table_whose_header_is_not_finished_is_empty(meter, tmp_path, known):
    """Also where a log with that header was counted already."""
    header = b"time\taccount\tzone\tbytes_up\tbytes_down"
    if known:
        (tmp_path / "a.tsv").write_bytes(header + b"\n" + known)
        assert meter.feed(tmp_path / "a.tsv", "tsv").outcomes == Outcomes(1, counted=1)
    torn = tmp_path / "b.tsv"
    torn.write_bytes(header)
    assert meter.feed(torn, "tsv").outcomes == Outcomes()
    torn.write_bytes(header + b"\n1795132900\tacme\tres\t5\t6\n")
    assert meter.feed(torn, "tsv").outcomes == Outcomes(1, counted=1)
    assert all(source.outcomes.duplicate == 0 for source in meter.store.sources())
