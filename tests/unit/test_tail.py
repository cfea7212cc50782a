"""Files that are followed: renamed, truncated and deleted at the worst moments, and a store that takes nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil

import pytest

from bandmeter.domain import errors
from bandmeter.domain.errors import BandmeterError
from bandmeter.domain.grid import Span
from bandmeter.domain.tenancy import Zone
from bandmeter.domain.usage import Side
from bandmeter.formats import FORMATS
from bandmeter.ingest.batch.job import Job
from bandmeter.ingest.batch.scratch import Scratch
from bandmeter.ingest.batch.tools import Tools
from bandmeter.ingest.files.file import WRONG_FORMAT_LINES, FileRun
from bandmeter.ingest.files.source import WAITING
from bandmeter.ingest.files.tail import IDLE_SECONDS, NO_FILE, RETRY_SECONDS, SCAN_SECONDS, Tail, Watched
from bandmeter.store import MemoryStore

NOW_MS = 1_795_392_000_000
FULL = "The usage store cannot be used now (database or disk is full)."


class Following:
    """A tail over `folder`, at a time that stands still until it is told to pass."""

    def __init__(self, folder, sources):
        self.folder, self.store, self.uptime_s = folder, MemoryStore(), 0.0
        self.tools = Tools(
            self.store, lambda: [Zone(1, "acme", "res", "res")], lambda: NOW_MS, folder, 1 << 20, version=lambda: 1
        )
        watched = [
            Watched(Job(FORMATS["jsonl"], name, "acme", "res", side=side), f"{folder}/{pattern}")
            for name, pattern, side in sources
        ]
        self.tail = Tail(self.tools, watched, lambda: self.uptime_s)

    def write(self, name, *numbers):
        """Append a line for each number."""
        with (self.folder / name).open("a") as file:
            for number in numbers:
                record = {"time": NOW_MS // 1000 - number}
                record |= {f"{side}_bytes_up": number for side in Side} | {f"{side}_bytes_down": 0 for side in Side}
                file.write(json.dumps(record) + "\n")

    def go_on(self, seconds=SCAN_SECONDS):
        """Let time pass, and look at the files until nothing more is found."""
        self.uptime_s += seconds
        while self.tail.step():
            pass

    @property
    def total(self):
        return self.store.total(1, Side.TARGET, Span(0, 4_102_444_800)).bytes_up

    def problem(self, name):
        return self.tail.standings[name].problem


@pytest.fixture
def make(tmp_path):
    """Make a tail of sources, each a name, a pattern, and a side or None."""
    with contextlib.ExitStack() as stack:

        def made(*sources):
            following = Following(tmp_path, sources)
            stack.enter_context(contextlib.closing(following.tools))
            stack.enter_context(contextlib.closing(following.tail))
            return following

        yield made


@pytest.fixture
def following(make):
    return make(("proxy", "*.log*", None))


def test_what_was_renamed_before_it_was_opened_is_read_and_what_took_its_name_too(following, monkeypatch):
    """Each file once, though one was looked for by the name of the other."""
    following.write("a.log", 1)
    found = following.tail._scan

    def scan_and_rename(now):
        found(now)
        monkeypatch.undo()
        (following.folder / "a.log").rename(following.folder / "a.log.1")
        following.write("a.log", 20)

    monkeypatch.setattr(following.tail, "_scan", scan_and_rename)
    following.go_on()
    following.go_on()
    assert following.total == 21
    following.write("a.log.1", 300)
    following.write("a.log", 4_000)
    following.go_on()
    assert following.total == 4_321


def test_what_is_truncated_and_written_again_while_it_is_read_is_not_its_continuation(following, monkeypatch):
    """What was written before that is in the copy; what was written after it is read from the beginning."""
    following.write("a.log", 1)
    following.go_on()
    following.write("a.log", 20)
    fill = Scratch.fill

    def copy_truncate_and_fill(*arguments):
        monkeypatch.undo()
        (following.folder / "a.log.1").write_bytes((following.folder / "a.log").read_bytes())
        (following.folder / "a.log").write_bytes(b"")
        following.write("a.log", 300, 4_000, 50_000)
        return fill(*arguments)

    monkeypatch.setattr(Scratch, "fill", copy_truncate_and_fill)
    following.go_on(0)
    following.go_on()
    assert following.total == 54_321


def test_while_the_store_takes_nothing_a_file_may_lose_its_name(following, monkeypatch):
    """It stays open, the fault is told and goes away by itself, and all is counted."""
    following.write("a.log", 1)
    following.go_on()

    def refuse(_):
        raise BandmeterError(errors.UNAVAILABLE, FULL)

    monkeypatch.setattr(following.store, "write", refuse)
    following.write("a.log", 20)
    following.go_on()
    assert (following.tail.fault, following.tail.standings["proxy"].problem) == (FULL, FULL)
    (following.folder / "a.log").unlink()
    following.go_on(RETRY_SECONDS)
    assert following.total == 1
    monkeypatch.undo()
    following.go_on(RETRY_SECONDS)
    assert (following.total, following.tail.fault) == (21, "")


def test_a_file_that_breaks_something_stops_no_other(following, monkeypatch):
    following.write("a.log", 1)
    following.go_on()
    write = following.store.write

    def fail_once(_):
        monkeypatch.setattr(following.store, "write", write)
        raise TypeError

    monkeypatch.setattr(following.store, "write", fail_once)
    following.write("a.log", 20)
    following.write("b.log", 300)
    following.go_on()
    assert following.total == 301
    assert following.tail.standings["proxy"].problem == f"{following.folder}/a.log cannot be read (TypeError)."
    following.go_on(RETRY_SECONDS)
    assert (following.total, following.tail.standings["proxy"].problem) == (321, "")


@pytest.mark.parametrize("is_known", [False, True], ids=["while it is followed", "while nobody looked"])
def test_a_source_stands_where_its_file_was_seen_last(make, is_known):
    """Also when nothing was written since it was renamed, and when something is written after that."""
    following = make(("proxy", "*.log*", None))

    def paths():
        return [os.path.relpath(state.path, following.folder) for state in following.store.sources()]

    following.write("a.log", 1)
    following.go_on()
    if is_known:
        following.tail.close()
    (following.folder / "a.log").rename(following.folder / "a.log.1")
    following.go_on()
    assert paths() == ["a.log.1"]
    following.write("a.log.1", 20)
    following.write("a.log", 300)
    following.go_on()
    assert (paths(), following.total) == (["a.log.1", "a.log"], 321)
    following.go_on(IDLE_SECONDS + 1)  # they are closed now
    (following.folder / "a.log.1").rename(following.folder / "a.log.2")
    following.go_on()
    assert paths() == ["a.log.2", "a.log"]


# ---------------------------------------------------------------- files that fit two sources


def test_a_file_that_fits_two_sources_is_counted_by_the_first(make, capsys):
    """The second says so, once in the log, and counts what is its alone; also of a file that came later."""
    following = make(("a", "a*.log", None), ("b", "*.log", None))
    following.go_on()
    assert following.problem("b") == NO_FILE
    following.write("b.log", 1)
    following.write("ab.log", 20)
    (following.folder / "another.log").hardlink_to(following.folder / "ab.log")
    following.go_on()
    following.write("b.log", 300)
    for _ in range(3):
        following.go_on()
    assert following.total == 321
    assert following.problem("a") == ""
    assert "is counted by source a, whose path it fits too" in following.problem("b")
    assert capsys.readouterr().out.count("too: mend") == 1
    for name in ("ab.log", "another.log"):
        (following.folder / name).unlink()
    following.go_on()
    assert following.problem("b") == ""


def test_a_file_stays_with_the_source_that_counts_it(make):
    """Whatever it is called later, while it is open."""
    following = make(("a", "a*.log", None), ("b", "b*.log", None))
    following.write("b.log", 1)
    following.go_on()
    (following.folder / "a.log").hardlink_to(following.folder / "b.log")
    following.go_on()
    assert "by source b" in following.problem("a")
    (following.folder / "b.log").unlink()
    following.write("a.log", 20)
    following.go_on()
    assert following.total == 21


def test_two_sources_may_read_the_two_sides_of_a_file(make):
    """Neither side is counted twice; a third source would be."""
    following = make(("t", "*.log", Side.TARGET), ("c", "*.log", Side.CLIENT), ("both", "*.log", None))
    following.write("a.log", 1)
    following.go_on()
    assert [following.problem(name) for name in ("t", "c")] == ["", ""]
    assert "by source t" in following.problem("both")
    ever = Span(0, 4_102_444_800)
    assert [following.store.total(1, side, ever).bytes_up for side in Side] == [1, 1]


def test_a_line_that_waits_again_and_again_is_noted_once(following):
    """What is followed for months must not grow by what is found each time."""
    path = following.folder / "a.log"
    path.write_text('{"time"')
    run = FileRun(following.tools, str(path), str(path), Job(FORMATS["jsonl"]))
    with contextlib.closing(run):
        run.open()
        for _ in range(3):
            run.count(lambda _: None, lambda *_: True)
            with path.open("a") as file:
                file.write(" ")
            assert run.is_unchanged_before()
        assert run.notes == [WAITING]


# ---------------------------------------------------------------- sources with something wrong


def test_a_source_in_another_format_is_told_and_logged_once(make, capsys):
    """Though the sentence changes while the file grows."""
    following = make(("proxy", "*.log", None))
    for _ in range(3):
        with (following.folder / "a.log").open("a") as file:
            file.write("GET / 200\n" * WRONG_FORMAT_LINES)
        following.go_on(RETRY_SECONDS)
    assert f"none of its first {3 * WRONG_FORMAT_LINES} lines" in following.problem("proxy")
    assert capsys.readouterr().out.count("cannot be counted") == 1


def test_a_source_without_bytes_is_well_again_when_a_batch_has_them(make, tmp_path):
    """One such line is a reject; what is told is how the log is now, as the next `serve` would find it."""
    following = make(("proxy", "*.log", None))
    job = dataclasses.replace(following.tail._sources[0].job, format=FORMATS["haproxy"])
    following.tail._sources = (following.tail._sources[0]._replace(job=job),)
    whole = FORMATS["haproxy"].example + "\n"
    for number, counter in enumerate(("+", "", "", "+")):
        fields = whole.split("\t")
        fields[12] = counter + fields[12]
        with (tmp_path / "a.log").open("a") as file:
            file.write("\t".join(fields))
        following.go_on()
        following.go_on()  # when nothing has come, what was told holds
        assert following.problem("proxy").startswith("CANNOT BE METERED") == (number in {0, 3}), number


def test_a_log_that_another_source_has_counted_is_told_and_logged(make, capsys):
    """As when rotated logs lie under the path of a second source: it is counted there too, and somebody must mend it."""
    first = make(("now", "a.log", None))
    first.write("a.log", *range(100))
    first.go_on()
    (first.folder / "a.log").rename(first.folder / "old.log")
    second = make(("now", "a.log", None), ("old", "old.log", None), ("short", "b.log", None))
    second.store = second.tools.store = first.store
    second.write("b.log", 1)
    second.go_on()
    assert second.problem("old").endswith("source now counted: if it is the same log, it is counted twice")
    assert second.problem("short") == ""
    assert capsys.readouterr().out.count("a log may be counted twice") == 1


def test_a_source_that_is_renamed_goes_on_with_its_logs(make, capsys):
    """Those that are rotated too; it is said once, and is nothing to mend."""
    before = make(("old", "*.log*", None))
    before.write("a.log.1", *range(100))
    before.write("a.log", 100)
    before.go_on()
    before.store.cover({"old": NOW_MS}, 5)
    after = make(("new", "*.log*", None), ("other", "other", None))
    after.store = after.tools.store = before.store
    after.tail._sources = [
        w._replace(job=dataclasses.replace(w.job, other_names={"other"})) for w in after.tail._sources
    ]
    after.go_on()
    assert [state.name for state in after.store.sources()] == ["new", "new"]
    assert after.store.coverage(0, NOW_MS + 1) == {"new": [(NOW_MS, NOW_MS)]}  # so that the time between is a gap
    after.write("a.log", 101)
    after.go_on()
    assert (after.total, after.problem("new")) == (sum(range(102)), "")
    assert capsys.readouterr().out.count("counted before as source old") == 2


def test_a_copy_of_a_log_that_was_rejected_as_a_whole_is_an_older_copy(make):
    """Though its zone is there by now: the log's rejects are tried again, and would count beside it."""
    following = make(("proxy", "*.log", None))
    zones, following.tools._zones = following.tools._zones, list
    following.write("a.log", *range(1, 100))
    following.go_on()
    following.tools._zones, following.tools._known = zones, None
    following.write("b.log", *range(1, 90))
    following.go_on()
    following.go_on(RETRY_SECONDS)
    assert following.total == 0
    assert [(state.outcomes.rejected, state.outcomes.counted) for state in following.store.sources()] == [(99, 0)]


def test_a_copy_that_gets_lines_of_its_own_is_told_and_logged(make, capsys):
    """Both lie under the path of one source; what they have in common is counted twice, and somebody must mend it."""
    following = make(("proxy", "*.log", None))
    following.write("a.log", *range(100))
    shutil.copy(following.folder / "a.log", following.folder / "b.log")
    following.go_on()
    following.write("a.log", 100)
    following.go_on()
    assert (following.problem("proxy"), following.total) == ("", sum(range(101)))
    following.write("b.log", 500)
    following.go_on()
    assert following.problem("proxy").endswith("Keep copies where no source looks")
    assert capsys.readouterr().out.count("a log may be counted twice") == 1


def test_an_older_copy_is_told_and_nobody_waits_for_it(following, capsys):
    """Though nothing of it is counted, the source has reported all that it has."""
    following.write("a.log", *range(100))
    following.go_on()
    content = (following.folder / "a.log").read_bytes()
    for part in (3, 2):  # it is being made
        (following.folder / "a.log.noon").write_bytes(content[: len(content) // part])
        following.go_on(RETRY_SECONDS)
    standing = following.tail.standings["proxy"]
    assert (following.total, standing.waiting_bytes, standing.problem) == (sum(range(100)), 0, "")
    assert capsys.readouterr().out.count("an older copy, nothing was added") == 1


def test_a_name_that_is_no_utf8_is_followed_and_told(following):
    name = os.fsdecode(b"a\xff.log")
    following.write(name, 1)
    following.go_on()
    (following.folder / name).rename(following.folder / os.fsdecode(b"b\xfe.log"))
    following.go_on()
    assert following.total == 1
    assert [source.path.rpartition("/")[2] for source in following.store.sources()] == ["b\\xfe.log"]


def test_what_was_wrong_is_over_though_nothing_new_comes(following, monkeypatch):
    """A renamed file gets no more lines; that the store took nothing when it was renamed is no matter any more."""
    following.write("a.log", 1)
    following.go_on()

    def is_full(*_):
        raise BandmeterError(errors.UNAVAILABLE, FULL)

    with monkeypatch.context() as patch:
        patch.setattr(following.store, "note_path", is_full)
        (following.folder / "a.log").rename(following.folder / "a.log.1")
        following.go_on()
        assert (following.problem("proxy"), following.tail.fault) == (FULL, FULL)
    following.go_on(RETRY_SECONDS)
    assert (following.problem("proxy"), following.tail.fault) == ("", "")
    assert [source.path.rpartition("/")[2] for source in following.store.sources()] == ["a.log.1"]


def test_what_is_written_over_a_file_is_noticed_whatever_its_times_say(following):
    """As by `rsync --inplace --times`: of the same size, and as old as before."""
    following.write("a.log", 1)
    following.go_on()
    path = following.folder / "a.log"
    status = path.stat()
    path.write_bytes(path.read_bytes().replace(b'bytes_up": 1', b'bytes_up": 7'))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size
    following.go_on()
    assert following.total == 8


def test_a_table_whose_header_is_not_finished_is_waited_for(make):
    following = make(("proxy", "*.tsv", None))
    following.tail._sources = [
        watched._replace(job=dataclasses.replace(watched.job, format=FORMATS["tsv"], account=None, zone=None))
        for watched in following.tail._sources
    ]
    path = following.folder / "a.tsv"
    for part in ("time\taccount\tz", "one\tbytes_up\tbytes_down", "\n", f"{NOW_MS // 1000}\tacme\tres\t5\t6\n"):
        with path.open("a") as file:
            file.write(part)
        following.go_on(RETRY_SECONDS)
        assert following.problem("proxy") == ""
    assert following.total == 5


def test_a_source_without_a_file_is_told_and_logged_once(make, capsys):
    """Each time that its last one vanishes."""
    following = make(("proxy", "*.log", None))
    for _ in range(2):
        for _ in range(3):
            following.go_on()
        assert following.problem("proxy") == NO_FILE
        following.write("a.log", 1)
        following.go_on()
        assert following.problem("proxy") == ""
        (following.folder / "a.log").unlink()
    assert capsys.readouterr().out.count(NO_FILE) == 2
