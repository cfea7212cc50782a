"""From a file to the store, a batch at a time.

Life of a record: a batch is cut at a newline; decoded and folded in DuckDB; attributed; written in one transaction
together with the source's new position; and only then counted in the report. Reading and folding go on while the
batch before is being committed on a thread of its own.

Law 2: received = counted + duplicate + no_target + unattributed + rejected. Always, also after a crash.
"""

from __future__ import annotations

import dataclasses
import queue
import threading
from array import array
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Self

import duckdb

from bandmeter.domain import errors
from bandmeter.domain.contracts import Batch, Reject, SourceState
from bandmeter.domain.errors import BandmeterError
from bandmeter.domain.usage import Outcomes
from bandmeter.formats import check as check_format
from bandmeter.formats.tsv import with_columns
from bandmeter.ingest import clean, place, source
from bandmeter.ingest.attribute import Attribution
from bandmeter.ingest.decode import Decoder
from bandmeter.ingest.explain import explain
from bandmeter.ingest.scratch import Scratch

if TYPE_CHECKING:
    from pathlib import Path

    from bandmeter.domain.contracts import Format, Store
    from bandmeter.domain.tenancy import Zone

BATCH_BYTES = 33_554_432  # 32 MiB: larger gains little and costs memory four times its size
QUEUED_BATCHES_MAX = 2  # decoded and waiting for their commit
HEADER_BYTES_MAX = 65_536
READ_BYTES = 1 << 20
REJECT_TEXT_BYTES_MAX = 65_536  # of a rejected line that is kept
# So many first lines, none of which has the format's form, are a wrong --format and not damage.
WRONG_FORMAT_LINES = 100
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


class _Moved(Exception):  # noqa: N818 - a signal, not an error
    """Another process counted this source further meanwhile."""


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
            while True:
                run = _FileRun(self, real_path, path, job, progress)
                try:
                    return run.ingest()
                except _Moved:
                    continue


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
        self._notes = [self._found.note] if self._found.note else []
        self._is_stopped = False
        self._tail = b""  # the last bytes before the position, for its check

    def ingest(self) -> FileReport:
        first = self._state
        if self._found.is_older_copy:
            return self._note_older_copy()
        if first.number and first.lines:
            self._store.note_duplicates(first.number, first.outcomes.received - first.outcomes.duplicate)
        seen = first.outcomes.received - first.outcomes.duplicate
        self._decoder = self._make_decoder()
        with source.opened(self._path) as content, _Committer(self._store, first.number) as committer:
            content.skip_to(max(0, first.position - source.CHECK_BYTES))
            self._tail = content.read(first.position - content.offset)
            if not first.position and self._state.position:  # the header line
                self._tail = content.read(self._state.position)
            self._count(content, committer)
            committer.finish()
            self._state = self._state._replace(number=committer.number)
            if content.is_torn:
                self._notes.append("the compressed file ends in the middle: counted up to there")
        outcomes = self._state.outcomes.minus(first.outcomes).plus(Outcomes(received=seen, duplicate=seen))
        return self._report(outcomes)

    def _note_older_copy(self) -> FileReport:
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
            log_format = with_columns(names)
            self._state = self._state._replace(columns="\t".join(names))
            check_format(log_format)
        decoder = Decoder(log_format, job.account, job.zone)
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
        return line.decode("utf-8", "replace").removesuffix("\r").split("\t")

    # ------------------------------------------------------------ batches

    def _count(self, content: source.Content, committer: _Committer) -> None:
        before = self._found.state._replace(path=self._shown_path)
        while True:
            has_ended = self._scratch.fill(content.read_into)
            cut = self._scratch.rfind(b"\n") + 1
            if cut:
                content.push_back(self._scratch.bytes(cut))
                self._scratch.cut(cut)
                batch = self._fold(before)
            elif has_ended:
                if self._scratch.length:
                    self._notes.append("the last line has no newline yet: it waits")
                return
            else:
                skipped = self._skip_long_line(before, content)
                if skipped is None:
                    self._notes.append("the last line has no newline yet: it waits")
                    return
                batch = skipped
            committer.put(batch)
            before = self._state = batch.after
            if not self._progress(content.progress_bytes, content.size, self._state.lines):
                self._is_stopped = True
                return

    def _fold(self, before: SourceState) -> Batch:
        now_ms = self._clock_ms()
        start = self._state
        tail = self._tail + self._scratch.bytes(max(0, self._scratch.length - source.CHECK_BYTES))
        head = (start.head if before.number or start.head else self._tail) + self._scratch.bytes(0, source.HEAD_BYTES)
        size = self._scratch.length
        newlines, has_long_line = clean.count(self._scratch)
        records = _Records(self._decoder, self._scratch, now_ms, newlines, is_suspect=has_long_line)
        rejects = records.read(self._attribution, start, self._store)
        self._refuse_wrong_format(start, rejects, records.received)
        placed = records.placed
        after = start._replace(
            head=head[: source.HEAD_BYTES],
            position=start.position + size,
            check=source.check_of(tail),
            lines=start.lines + newlines,
            outcomes=start.outcomes.plus(placed.outcomes).plus(Outcomes(len(rejects), rejected=len(rejects))),
            newest_ms=max(filter(None, (start.newest_ms, *placed.newest_ms.values())), default=None),
            note=self._note_of(start, records.unmeterable),
        )
        self._tail = tail[-source.CHECK_BYTES :]
        return Batch(before, after, placed.rows, placed.newest_ms, rejects, now_ms, self._found.considered)

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
            and all(reject.reason in SHAPE_REASONS for reject in rejects)
        ):
            first = rejects[0]
            raise BandmeterError(
                errors.INPUT_INVALID,
                f"{self._shown_path} is not in the format {self._job.format.name}: none of its first {received} lines "
                f"is. Line {first.line}: {first.reason}, {first.detail}. Nothing was counted.",
            )

    def _skip_long_line(self, before: SourceState, content: source.Content) -> Batch | None:
        """A line longer than a whole batch is one reject; None when its end is not there yet."""
        start = self._state
        text = self._scratch.bytes(0, REJECT_TEXT_BYTES_MAX)
        head = (start.head + self._scratch.bytes(0, source.HEAD_BYTES))[: source.HEAD_BYTES]
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


class _Records:
    """The records of the batch in the scratch: folded, placed, and what was wrong with the others."""

    def __init__(self, decoder: Decoder, scratch: Scratch, now_ms: int, newlines: int, *, is_suspect: bool) -> None:
        self._decoder, self._scratch, self._now_ms = decoder, scratch, now_ms
        self._is_suspect = is_suspect
        self._newlines = newlines
        self.received = newlines
        self.unmeterable = 0
        self.placed = place.NOTHING

    def read(self, attribution: Attribution, start: SourceState, store: Store) -> list[Reject]:
        log_format = self._decoder.format
        taken_out: list[Reject] = []
        lines = kept = None
        folded = self._try_fold()
        original = b""
        if folded is None:
            lines = clean.lines(self._scratch)
            original = self._scratch.bytes()
            widths = tuple(len(x.columns) for x in log_format.layouts) if log_format.split == "tab" else ()
            faults = clean.faults(self._scratch, lines, widths)
            kept = clean.take_out(self._scratch, lines, faults)
            self.received = len(lines) - sum(not reason for reason, _ in faults.values())
            taken_out = [
                self._reject(start, lines, index, ("", reason, detail), original)
                for index, (reason, detail) in sorted(faults.items())
                if reason
            ]
            folded = self._decoder.fold(self._scratch.path, self._now_ms)
            if folded[0] != len(kept):
                raise BandmeterError(errors.FAILURE, f"{folded[0]} rows were read of {len(kept)} lines: not counted.")
        _, bad, keys = folded
        self.placed, unknown = place.place(self._decoder, keys, attribution, store, self._now_ms)
        if not bad and not unknown:
            return taken_out
        rows = self._decoder.rejected(self._scratch.path, self._now_ms, unknown)
        if lines is None:
            lines, original = clean.lines(self._scratch), self._scratch.bytes()
        self.unmeterable = sum(bool(row["is_unmeterable"]) and row["width"] is not None for row in rows)
        explained = [
            self._reject(
                start,
                lines,
                int(kept[row["row"]]) if kept is not None else row["row"],
                explain(log_format, row, self._now_ms),
                original,
            )
            for row in rows
        ]
        rejects = sorted([*taken_out, *explained])
        if self.received != sum(self.placed.outcomes[1:]) + len(rejects):
            raise BandmeterError(errors.FAILURE, "The batch's counts do not add up: it was not counted.")
        return rejects

    def _try_fold(self) -> tuple[int, int, list[tuple[str | None, str | None, str | None]]] | None:
        """The fast way, None when the batch has to be cleaned first."""
        if self._is_suspect or not clean.is_clean(self._scratch, is_whole_line=self._decoder.format.split != "tab"):
            return None
        try:
            folded = self._decoder.fold(self._scratch.path, self._now_ms)
        except duckdb.InterruptException as error:
            raise KeyboardInterrupt from error
        except duckdb.Error:
            return None
        return folded if folded[0] == self._newlines else None

    def _reject(
        self,
        start: SourceState,
        lines: clean.Lines,
        index: int,
        why: tuple[str, str, str],
        original: bytes,
    ) -> Reject:
        begin, end = int(lines.starts[index]), int(lines.ends[index])
        text = place.without_secrets(self._decoder.format, original[begin : min(end, begin + REJECT_TEXT_BYTES_MAX)])
        return Reject(start.lines + index + 1, start.position + begin, *why, text)


class _Committer:
    """Writes batches on a thread of its own, in order. Leaving it waits for those that were put, also on Ctrl-C."""

    def __init__(self, store: Store, number: int) -> None:
        self.number = number
        self._store = store
        self._queue: queue.Queue[Batch | None] = queue.Queue(QUEUED_BATCHES_MAX)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="commit")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    def put(self, batch: Batch) -> None:
        """Hand over a batch; raises what a batch before it failed with."""
        self._raise()
        self._queue.put(batch)

    def finish(self) -> None:
        """Wait until all is committed."""
        self._queue.put(None)
        self._thread.join()
        self._raise()

    def _raise(self) -> None:
        if self._error:
            raise self._error

    def _run(self) -> None:
        while (batch := self._queue.get()) is not None:
            if self._error is None:
                try:
                    self._write(batch)
                except BaseException as error:  # noqa: BLE001 - raised again where the pipeline waits
                    self._error = error

    def _write(self, batch: Batch) -> None:
        number = self._store.write(batch._replace(before=batch.before._replace(number=self.number)))
        if not number:
            raise _Moved
        self.number = number
