"""From a file to the store, a batch at a time.

Life of a record: a batch is cut at a newline; decoded and folded in DuckDB; attributed; written in one transaction
together with the source's new position; and only then counted in the report. Reading and folding go on while the
batch before is being committed on a thread of its own.

Law 2: received = counted + duplicate + no_target + unattributed + rejected. Always, also after a crash.
"""

from __future__ import annotations

import dataclasses
import functools
from array import array
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from bandmeter.domain import errors
from bandmeter.domain.contracts import Batch, Reject, SourceState, overlaps
from bandmeter.domain.errors import BandmeterError
from bandmeter.domain.usage import Outcomes
from bandmeter.formats import check as check_format
from bandmeter.formats.tsv import with_columns
from bandmeter.ingest import clean, place, source
from bandmeter.ingest.attribute import Attribution, Caller
from bandmeter.ingest.commit import Committer, Moved
from bandmeter.ingest.decode import Decoder
from bandmeter.ingest.query import Reading
from bandmeter.ingest.records import REJECT_TEXT_BYTES_MAX, Records
from bandmeter.ingest.scratch import Scratch

if TYPE_CHECKING:
    from pathlib import Path

    from bandmeter.domain.contracts import Format, Store
    from bandmeter.domain.tenancy import Zone
    from bandmeter.ingest.decode import Groups

BATCH_BYTES = 33_554_432  # 32 MiB: larger gains little and costs memory four times its size
FIRST_BATCH_BYTES = 4_194_304  # so that a wrong --format is told at once
REJECTS_MAX = 10_000  # of a batch that can be divided; each costs some 2 KB
REJECTS_BATCH_BYTES = 65_536  # a batch as small as this is not divided
HEADER_BYTES_MAX = 65_536
MOVES_MAX = 100  # times in a row that another process was faster
READ_BYTES = 1 << 20
# So many first lines, none of which has the format's form, are a wrong --format and not damage.
WRONG_FORMAT_LINES = 20
SHAPE_REASONS = frozenset({"not_json", "torn_line", "corrupt", "bad_time"})


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """What to ingest, and how. `account` and `zone`: for records that name none."""

    format: Format
    source_name: str = "files"
    account: str | None = None
    zone: str | None = None
    columns: tuple[str, ...] = ()


class FileReport(NamedTuple):
    """What became of one file in this run, duplicates included; `notes` are what the operator should know of it.

    `error`: why the file, or the rest of it, was not counted; `is_stopped`: somebody asked to stop in the middle.
    """

    path: str
    source: int = 0
    outcomes: Outcomes = Outcomes()
    notes: tuple[str, ...] = ()
    error: str = ""
    is_stopped: bool = False


# Called after each batch with the bytes read of the file, its size, and its lines so far; whether to go on.
Progress = Callable[[int, int, int], bool]


class Pipeline:
    """Ingests files, one after another. Not for several threads at once."""

    def __init__(
        self,
        store: Store,
        zones: Callable[[], list[Zone]],
        clock_ms: Callable[[], int],
        folder: Path,
        batch_bytes: int = BATCH_BYTES,
    ) -> None:
        self._store = store
        self._zones = zones
        self._clock_ms = clock_ms
        self._folder = folder
        self._scratch = Scratch(batch_bytes)

    def close(self) -> None:
        """Give the memory back."""
        self._scratch.close()

    def ingest(self, path: str, job: Job, progress: Progress = lambda *_: True) -> FileReport:
        """Count what is new in a file.

        Raises `input_invalid` when the file cannot be read or is not of the format; what was committed stays.
        """
        with source.seekable(path, self._folder) as real_path:
            earlier, in_vain = Outcomes(), 0
            while in_vain < MOVES_MAX:
                run = _FileRun(self, real_path, path, job, progress)
                try:
                    return run.ingest(earlier)
                except Moved:
                    earlier = earlier.plus(run.done)  # ours, and not another process's
                    in_vain = 0 if run.done.received else in_vain + 1
        raise BandmeterError(errors.UNAVAILABLE, f"{path} is counted by another process all the time: try again later.")


class _FileRun:
    """One file, from where it was counted to its last newline."""

    def __init__(
        self,
        pipeline: Pipeline,
        real_path: str,
        path: str,
        job: Job,
        progress: Progress,
    ) -> None:
        self._store = pipeline._store  # noqa: SLF001 - one machine, two classes
        self._clock_ms = pipeline._clock_ms  # noqa: SLF001
        self._scratch = pipeline._scratch  # noqa: SLF001
        self._attribution = Attribution(pipeline._zones())  # noqa: SLF001
        self._path, self._shown_path, self._job, self._progress = real_path, path, job, progress
        self._found = source.find(self._store, job.source_name, job.format.name, real_path)
        self._state = self._found.state._replace(path=path)
        self._caller = Caller(job.account or "", job.zone or "")
        self._notes = [self._found.note] if self._found.note else []
        if not self._state.number and path != source.STDIN and self._store.has_path(job.source_name, path):
            self._notes = [source.REPLACED]
        self.done = Outcomes()
        self._is_stopped = False
        self._tail = b""  # the last bytes before the position, for its check

    def ingest(self, earlier: Outcomes) -> FileReport:
        """Count to the end. `earlier`: what this run has counted of the file before another process moved it on."""
        if self._found.is_shorter and self._is_older_copy():
            return self._note_older_copy()
        first = self._state
        seen = max(0, first.outcomes.received - first.outcomes.duplicate - earlier.received)
        self._decoder = self._make_decoder()
        with source.opened(self._path) as content, Committer(self._store, first.number) as committer:
            content.skip_to(max(0, first.position - source.CHECK_BYTES))
            self._tail = content.read(first.position - content.offset)
            if first.position and source.check_of(self._tail) != first.check:
                raise Moved  # another file has taken the path since it was looked at
            if not first.position and self._state.position:  # the header line
                self._tail = content.read(self._state.position)
            try:
                self._count(content, committer)
                committer.finish()
            finally:
                self.done = committer.done
            self._state = self._state._replace(number=committer.number)
            if content.is_torn:
                self._notes.append("the compressed file ends in the middle: counted up to there")
        if seen:
            self._store.note_duplicates(first.number, seen)
        outcomes = self._state.outcomes.minus(first.outcomes).plus(Outcomes(received=seen, duplicate=seen))
        return self._report(outcomes.plus(earlier))

    def _is_older_copy(self) -> bool:
        """Whether nothing in a shortened file is newer than what was counted; else it goes on as a new file."""
        decoder, counted_ms = self._make_decoder(), self._state.newest_ms
        with source.opened(self._path) as content:
            has_ended = False
            while not has_ended:
                has_ended = self._scratch.fill(content.read_into, self._scratch.size)
                cut = self._scratch.rfind(b"\n") + 1
                content.push_back(self._scratch.bytes(cut))
                has_ended = has_ended or not cut
                self._scratch.cut(cut)
                newest_ms = decoder.newest_ms(self._clock_ms()) if cut else None
                if newest_ms is not None and (counted_ms is None or newest_ms > counted_ms):
                    new = source.new(self._state.name, self._state.format, self._shown_path)
                    self._found = self._found._replace(state=new, is_shorter=False)
                    self._state, self._notes = new, [source.REPLACED]
                    return False
        return True

    def _note_older_copy(self) -> FileReport:
        self._notes = [source.OLDER_COPY]
        with source.opened(self._path) as content:
            lines = sum(chunk.count(b"\n") for chunk in iter(lambda: content.read(READ_BYTES), b""))
        lines -= bool(self._job.format.has_header and not self._job.columns)
        self._store.note_duplicates(self._state.number, lines)
        return self._report(Outcomes(received=lines, duplicate=lines))

    def _report(self, outcomes: Outcomes) -> FileReport:
        notes = tuple(dict.fromkeys(self._notes))
        return FileReport(self._shown_path, self._state.number, outcomes, notes, is_stopped=self._is_stopped)

    def _make_decoder(self) -> Decoder:
        job, log_format = self._job, self._job.format
        if log_format.has_header:
            names = job.columns or tuple(self._state.columns.split("\t") if self._state.columns else self._header())
            if names == ("",) and not self._state.position:  # nothing is there yet
                return Decoder(log_format, Reading(), self._scratch.path)
            log_format = with_columns(names)
            self._state = self._state._replace(columns="\t".join(names))
            check_format(log_format)
        reading = Reading(has_default_zone=bool(job.account and job.zone))
        decoder = Decoder(log_format, reading, self._scratch.path)
        decoder.attribute_with(self._attribution)
        return decoder

    def _header(self) -> list[str]:
        """The names in the file's first line; the position moves behind it, with the first batch."""
        with source.opened(self._path) as content:
            line, newline, _ = content.read(HEADER_BYTES_MAX).partition(b"\n")
        if not newline and line:
            raise BandmeterError(
                errors.INPUT_INVALID,
                f"{self._shown_path} has no header line within {HEADER_BYTES_MAX} bytes: name them by --columns.",
            )
        self._state = self._state._replace(position=len(line + newline), lines=1 if newline else 0)
        return line.decode("utf-8-sig", "replace").removesuffix("\r").split("\t")

    # ------------------------------------------------------------ batches

    def _count(self, content: source.Content, committer: Committer) -> None:
        before = self._found.state._replace(path=self._shown_path)
        limit, growth, least = min(FIRST_BATCH_BYTES, self._scratch.size), 8, REJECTS_BATCH_BYTES
        while True:
            has_ended = self._scratch.fill(content.read_into, limit)
            cut = self._scratch.rfind(b"\n") + 1
            if cut:
                content.push_back(self._scratch.bytes(cut))
                self._scratch.cut(cut)
                batch = self._fold(before, is_divisible=cut > least)
                if batch is None:  # rejects are large: those of a whole log that names a wrong zone come in parts
                    content.push_back(self._scratch.bytes())
                    limit, growth = max(least, limit // 8), 2
                    continue
                limit, least = min(limit * growth, self._scratch.size), REJECTS_BATCH_BYTES
            elif has_ended:
                if self._scratch.length:
                    self._notes.append("the last line has no newline yet: it waits")
                return
            elif limit < self._scratch.size:
                content.push_back(self._scratch.bytes())
                limit = least = min(limit * 8, self._scratch.size)
                continue
            else:
                skipped = self._skip_nuls(before, content) or self._skip_long_line(before, content)
                if skipped is None:
                    self._notes.append("the last line has no newline yet: it waits")
                    return
                batch = skipped
            committer.put(batch)
            before = self._state = batch.after
            if not self._progress(content.progress_bytes, content.size, self._state.lines):
                self._is_stopped = True
                return

    def _fold(self, before: SourceState, *, is_divisible: bool) -> Batch | None:
        """The batch of what is in the scratch; None, and the scratch as it was, when it has too many rejects."""
        now_ms = self._clock_ms()
        start = self._state
        tail = self._tail + self._scratch.bytes(max(0, self._scratch.length - source.CHECK_BYTES))
        head = self._head(before)
        size = self._scratch.length
        newlines, has_long_line = clean.count(self._scratch)
        records = Records(self._decoder, self._place, self._scratch, now_ms, newlines, is_suspect=has_long_line)
        rejects = records.read(start, REJECTS_MAX if is_divisible else newlines)
        if rejects is None:
            return None
        self._refuse_wrong_format(start, rejects, records.received)
        placed = records.placed
        after = start._replace(
            head=head,
            position=start.position + size,
            check=source.check_of(tail),
            lines=start.lines + newlines,
            outcomes=start.outcomes.plus(placed.total).plus(Outcomes(len(rejects), rejected=len(rejects))),
            newest_ms=max(filter(None, (start.newest_ms, *placed.newest_ms.values())), default=None),
            note=self._note_of(start, records.unmeterable),
        )
        self._tail = tail[-source.CHECK_BYTES :]
        return Batch(before, after, placed.rows, placed.newest_ms, rejects, now_ms, self._found.considered)

    def _place(self, groups: Groups, now_ms: int) -> place.Placed:
        find = functools.partial(self._attribution.find, caller=self._caller)
        return place.place(groups, find, self._store, now_ms, judged_by=self._job.format.side)

    def _head(self, before: SourceState) -> bytes:
        """The content's beginning, as far as it is counted with the scratch."""
        known = before.head if before.number or before.head else self._tail  # the header line, or nothing
        head = source.without_secrets((known + self._scratch.bytes(0, source.HEAD_BYTES))[: source.HEAD_BYTES])
        if not before.head and not overlaps(head, self._found.head):
            raise Moved  # another file has taken the path since it was looked at
        return head

    def _note_of(self, start: SourceState, unmeterable: int) -> str:
        if unmeterable:
            self._notes.append(
                f"CANNOT BE METERED: lines without their bytes. {self._job.format.unmeterable_reason}",
            )
            return "unmeterable"
        return start.note or ("partial" if self._job.format.partial else "")

    def _refuse_wrong_format(self, start: SourceState, rejects: list[Reject], received: int) -> None:
        is_first = not start.number and not start.outcomes.received
        if (
            is_first
            and received == len(rejects) >= WRONG_FORMAT_LINES
            and all(r.reason in SHAPE_REASONS or (r.field, r.reason) == ("time", "missing_field") for r in rejects)
        ):
            first = rejects[0]
            raise BandmeterError(
                errors.INPUT_INVALID,
                f"{self._shown_path} is not in the format {self._job.format.name}: none of its first {received} lines "
                f"is. Line {first.line}: {first.reason}, {first.detail}. Nothing was counted.",
            )

    def _skip_nuls(self, before: SourceState, content: source.Content) -> Batch | None:
        """NUL bytes at the start of the scratch, which a truncation left, belong to no line; None without any."""
        length = clean.leading_nuls(self._scratch)
        if not length:
            return None
        content.push_back(self._scratch.bytes(length))
        self._scratch.cut(length)
        start, head = self._state, self._head(before)
        self._tail = (self._tail + self._scratch.bytes(max(0, length - source.CHECK_BYTES)))[-source.CHECK_BYTES :]
        after = start._replace(head=head, position=start.position + length, check=source.check_of(self._tail))
        return Batch(before, after, array("q"), {}, [], self._clock_ms(), self._found.considered)

    def _skip_long_line(self, before: SourceState, content: source.Content) -> Batch | None:
        """A line longer than a whole batch is one reject; None when its end is not there yet."""
        start = self._state
        text = place.without_secrets(self._job.format, self._scratch.bytes(0, REJECT_TEXT_BYTES_MAX))
        head = self._head(before)
        tail = self._scratch.bytes(self._scratch.length - source.CHECK_BYTES)
        end = start.position + self._scratch.length
        while True:
            chunk = content.read(source.CHECK_BYTES)
            if not chunk:
                return None
            line, newline, rest = chunk.partition(b"\n")
            tail = (tail + line + newline)[-source.CHECK_BYTES :]
            end += len(line + newline)
            if newline:
                content.push_back(rest)
                break
        self._tail = tail
        reject = Reject(start.lines + 1, start.position, "", "corrupt", "the line is longer than a batch", text)
        after = start._replace(
            head=head,
            position=end,
            check=source.check_of(tail),
            lines=start.lines + 1,
            outcomes=start.outcomes.plus(Outcomes(1, rejected=1)),
        )
        return Batch(before, after, array("q"), {}, [reject], self._clock_ms(), self._found.considered)
