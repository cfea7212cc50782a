"""One file, from where it was counted to its last newline; and on from there, when it has grown.

Law 2: received = counted + duplicate + no_target + unattributed + rejected. Always, also after a crash.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from bandmeter.domain import errors
from bandmeter.domain.contracts import Batch, Reject, SourceState, overlaps
from bandmeter.domain.errors import BandmeterError
from bandmeter.domain.usage import Outcomes
from bandmeter.formats import check as check_format
from bandmeter.formats.tsv import with_columns
from bandmeter.ingest.batch import clean, place
from bandmeter.ingest.batch.decode import SMALL_BYTES, Decoder
from bandmeter.ingest.batch.records import REJECT_TEXT_BYTES_MAX, Records
from bandmeter.ingest.files import source
from bandmeter.ingest.files.commit import Moved

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bandmeter.ingest.batch.job import Job, Progress
    from bandmeter.ingest.batch.tools import Tools

FIRST_BATCH_BYTES = 4_194_304  # so that a wrong --format is told at once
# What a batch is cut for where lines are short, or fold little; each costs some 500 bytes.
BATCH_LINES, BATCH_GROUPS = 300_000, 250_000
REJECTS_MAX = 10_000  # of a batch that can be divided; each costs some 2 KB
UNDIVIDED_BYTES = 1_024  # a batch as small as this is not divided
HEADER_BYTES_MAX = 65_536
# So many first lines, none of which has the format's form, are a wrong --format and not damage.
WRONG_FORMAT_LINES = 20
SHAPE_REASONS = frozenset({"not_json", "torn_line", "corrupt", "bad_time"})


class FileRun:
    """A file that is being read. `real_path` is what is opened, `shown_path` what people know it by.

    Making one looks up how far the content was counted, and calls it by the job's name; raises `input_invalid` when it
    cannot be read.
    """

    def __init__(self, tools: Tools, real_path: str, shown_path: str, job: Job) -> None:
        shown_path = errors.printable(shown_path)
        self.job = job
        self._tools, self._path, self._shown_path = tools, real_path, shown_path
        self.found = source.find(tools.store, job.source_name, job.format.name, real_path, job.other_names)
        self.state = source.in_format(self.found.state._replace(path=shown_path), job)
        if self.found.is_taken_over:
            tools.store.note_path(self.state.number, self.state.name, self.state.path)
        self.notes = [self.found.note] if self.found.note else []
        is_new = not (self.state.number or self.notes or shown_path == source.STDIN)
        if is_new and tools.store.has_path(job.source_name, shown_path):
            self.notes = [source.REPLACED]
        if not (self.state.number or job.side):  # where each side has a source, two read one log
            self.notes += source.twins(tools.store, job.source_name, self.found.head)
        self.is_stopped = False
        self.must_reopen = False  # to go on: part of a line was read whose end is not there yet
        self._before = self.found.state._replace(path=shown_path)
        self._tail = self._tail_after = b""  # the last bytes before the position, for its check; of the next batch
        self._weight = 1.0  # of the last batch: 1 is as much as a batch should have
        self._columns: tuple[str, ...] = ()
        self._content: source.Content | None = None

    def open(self) -> None:
        """Open the file where its counted part ends. Raises `Moved` when it is not the file that was looked at."""
        self.name_columns()
        first = self.found.state
        content = self._content = source.open_content(self._path)
        content.skip_to(max(0, first.position - source.CHECK_BYTES))
        self._tail = content.read(first.position - content.offset)
        if first.position and source.check_of(self._tail) != first.check:
            raise Moved  # another file has taken the path since it was looked at
        if not first.position and self.state.position:  # the header line
            self._tail = content.read(self.state.position)

    @property
    def content(self) -> source.Content:
        """The open file."""
        if self._content is None:
            msg = "the file is not open"
            raise ValueError(msg)
        return self._content

    def close(self) -> None:
        """Close the file."""
        if self._content is not None:
            self._content.close()

    def rename(self, path: str) -> None:
        """People know it by another path now."""
        path = errors.printable(path)
        self._shown_path = path
        self.state = self.state._replace(path=path)
        self._before = self._before._replace(path=path)

    def lines(self, path: str) -> Iterator[bytes]:
        """The content's lines, without a header line and blank ones; up to the first that is too long for any."""
        has_header = self.job.format.has_header and not self.job.columns
        with source.opened(path) as content:
            rest = b""
            while chunk := content.read(source.CHECK_BYTES * 16):
                *whole, rest = (rest + chunk).split(b"\n")
                yield from filter(None, whole[has_header:])
                has_header = has_header and not whole
                if len(rest) > clean.LINE_BYTES_MAX:
                    yield rest
                    return

    def repeat(self, lines: int) -> Batch:
        """What to remember of a new file whose lines, so many, were rejected before: all of them are duplicates."""
        position, tail, rest = 0, b"", b""
        with source.opened(self._path) as content:
            while chunk := content.read(source.CHECK_BYTES * 16):
                whole, newline, rest = (rest + chunk).rpartition(b"\n")
                tail = (tail + whole + newline)[-source.CHECK_BYTES :]
                position += len(whole + newline)
        before = source.new(self.state.name, self.state.format, self._shown_path)
        after = before._replace(
            columns=self.state.columns,
            head=self.found.head[:position],
            position=position,
            check=source.check_of(tail),
            lines=lines,
            outcomes=Outcomes(lines, duplicate=lines),
            note=source.REPEATS,
        )
        return Batch(before, after, array("q"), {}, (), self._tools.clock_ms(), self.found.considered)

    def begin_anew(self) -> None:
        """Count the file as a new source, though it begins like a known one."""
        new = source.new(self.state.name, self.state.format, self._shown_path)
        note = source.replaced(self.state.name, self.found.head, [self.found.state])
        self.found = self.found._replace(state=new, is_shorter=False)
        self.state = self._before = new
        self.notes = [note]

    def is_unchanged_before(self) -> bool:
        """Go back to the position of a file that may have grown; whether what stands before it is what was counted."""
        return self.content.return_to(self.state.position, self._tail)

    def name_columns(self) -> None:
        """Read the header line of a format that has one; the position moves behind it, with the first batch.

        Raises `input_invalid` when the columns do not make a format.
        """
        if not self.job.format.has_header:
            return
        names = self.job.columns or tuple(self.state.columns.split("\t") if self.state.columns else self._header())
        if names != ("",) or self.state.position:  # else nothing is there yet
            if "time" not in names:
                sentence = "has no column `time`: its first line, or --columns, names them, tab-separated or by commas."
                raise BandmeterError(errors.INPUT_INVALID, f"{self._shown_path} {sentence}")
            check_format(with_columns(names))
            self._columns = names
            self.state = self.state._replace(columns="\t".join(names))

    def decoder(self, size: int) -> Decoder:
        """The decoder for a batch of that many bytes."""
        job = self.job
        return self._tools.decoder(job, job.reading, self._columns, is_small=size <= SMALL_BYTES)

    def _header(self) -> list[str]:
        with source.opened(self._path) as content:
            line, newline, _ = content.read(HEADER_BYTES_MAX).partition(b"\n")
        if not newline and 0 < len(line) < HEADER_BYTES_MAX:
            self.must_reopen = True  # its end is not there yet
            return [""]
        if not newline and line:
            raise BandmeterError(
                errors.INPUT_INVALID,
                f"{self._shown_path} has no header line within {HEADER_BYTES_MAX} bytes: name them by --columns.",
            )
        if not self.state.number:
            self.state = self.state._replace(position=len(line + newline), lines=1 if newline else 0)
        return line.decode("utf-8-sig", "replace").removesuffix("\r").split("\t")

    # ------------------------------------------------------------ batches

    def count(self, put: Callable[[Batch], None], progress: Progress) -> None:
        """Hand over a batch after the other, until the content ends or `progress` says to stop."""
        scratch, content = self._tools.scratch, self.content
        limit, growth, least = min(FIRST_BATCH_BYTES, scratch.size), 8, UNDIVIDED_BYTES
        while True:
            has_ended = scratch.fill(content.read_into, limit)
            around = self._tail + scratch.bytes(0, source.CHECK_BYTES)
            if not content.has(around, self.state.position - len(self._tail)):
                raise Moved  # truncated, and written again, while it was read
            cut = scratch.rfind(b"\n") + 1
            if cut:
                content.push_back(scratch.bytes(cut))
                scratch.cut(cut)
                batch = self._fold(is_divisible=cut > least)
                if batch is None:
                    content.push_back(scratch.bytes())
                    limit, growth = max(least, cut // 8), 2
                    continue
                limit = max(UNDIVIDED_BYTES, min(limit * growth, int(cut / self._weight), scratch.size))
                least = UNDIVIDED_BYTES
            elif has_ended:
                self._wait_for_newline()
                return
            elif limit < scratch.size:
                content.push_back(scratch.bytes())
                limit = least = min(limit * 8, scratch.size)
                continue
            else:
                skipped = self._skip_nuls() or self._skip_long_line()
                if skipped is None:
                    self._note(source.WAITING)
                    self.must_reopen = True
                    return
                batch = skipped
            put(batch)
            self._before = self.state = batch.after  # not before it was put: what was not is read again
            self._tail = self._tail_after
            if not progress(content.progress_bytes, content.size, self.state.lines):
                self.is_stopped = True
                return

    def _wait_for_newline(self) -> None:
        """Give back what has no newline yet."""
        if self._tools.scratch.length:
            self.content.push_back(self._tools.scratch.bytes())
            self._note(source.WAITING)

    def _note(self, sentence: str) -> None:
        """Once: a file is followed for months, and looked at ten times a second."""
        if sentence not in self.notes:
            self.notes.append(sentence)

    def _fold(self, *, is_divisible: bool) -> Batch | None:
        """The batch of what is in the scratch; None, and the scratch as it was, when that would take too much memory.

        Rejects are large: those of a whole log that names a wrong zone come in parts.
        """
        tools, scratch = self._tools, self._tools.scratch
        now_ms = tools.clock_ms()
        start = self.state
        tail = self._tail + scratch.bytes(max(0, scratch.length - source.CHECK_BYTES))
        head = self._head()
        size = scratch.length
        newlines, has_long_line = clean.count(scratch)
        if is_divisible and newlines > 2 * BATCH_LINES:
            return None
        job = self.job
        records = Records(
            self.decoder(size),
            lambda groups, now_ms: tools.place(groups, now_ms, job, job.caller),
            scratch,
            now_ms,
            newlines,
            is_suspect=has_long_line,
        )
        limits = (REJECTS_MAX, BATCH_GROUPS // 2) if is_divisible else (newlines, None)
        rejects = records.read(start, *limits)
        if rejects is None:
            return None
        self._weight = max(newlines / BATCH_LINES, records.groups / BATCH_GROUPS)
        self._refuse_wrong_format(start, rejects, records.received)
        placed = records.placed
        after = start._replace(
            head=head,
            position=start.position + size,
            check=source.check_of(tail),
            lines=start.lines + newlines,
            outcomes=start.outcomes.plus(placed.total).plus(Outcomes(len(rejects), rejected=len(rejects))),
            newest_ms=max(filter(None, (start.newest_ms, placed.newest)), default=None),
            note=self._note_of(start, records.unmeterable),
        )
        self._tail_after = tail[-source.CHECK_BYTES :]
        return self._batch(after, placed, rejects, now_ms)

    def _batch(self, after: SourceState, placed: place.Placed, rejects: list[Reject], now_ms: int) -> Batch:
        return Batch(
            self._before,
            after,
            placed.rows,
            placed.newest_ms,
            rejects,
            now_ms,
            self.found.considered,
            hosts=placed.hosts,
        )

    def _head(self) -> bytes:
        """The content's beginning, as far as it is counted with the scratch."""
        before = self._before
        known = before.head if before.number or before.head else self._tail  # the header line, or nothing
        beginning = self._tools.scratch.bytes(0, source.HEAD_BYTES)
        head = source.without_secrets((known + beginning)[: source.HEAD_BYTES])
        if not before.head and not overlaps(head, self.found.head):
            raise Moved  # another file has taken the path since it was looked at
        return head

    def _note_of(self, start: SourceState, unmeterable: int) -> str:
        if unmeterable:
            self._note(
                f"{source.UNMETERABLE}: lines without their bytes, rejected. {self.job.format.unmeterable_reason}"
            )
            return "unmeterable"
        return start.note or ("partial" if self.job.format.partial else "")

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
                f"{self._shown_path} is not in the format {self.job.format.name}: none of its first {received} lines "
                f"is. Line {first.line}: {first.reason}, {first.detail}. Nothing was counted.",
            )

    def _skip_nuls(self) -> Batch | None:
        """NUL bytes at the start of the scratch, which a truncation left, belong to no line; None without any."""
        scratch = self._tools.scratch
        length = clean.leading_nuls(scratch)
        if not length:
            return None
        self.content.push_back(scratch.bytes(length))
        scratch.cut(length)
        start, head = self.state, self._head()
        tail = (self._tail + scratch.bytes(max(0, length - source.CHECK_BYTES)))[-source.CHECK_BYTES :]
        after = start._replace(head=head, position=start.position + length, check=source.check_of(tail))
        self._tail_after = tail
        return self._batch(after, place.NOTHING, [], self._tools.clock_ms())

    def _skip_long_line(self) -> Batch | None:
        """A line longer than a whole batch is one reject; None when its end is not there yet."""
        start, scratch, content = self.state, self._tools.scratch, self.content
        text = place.without_secrets(self.job.format, scratch.bytes(0, REJECT_TEXT_BYTES_MAX))
        head = self._head()
        tail = scratch.bytes(scratch.length - source.CHECK_BYTES)
        end = start.position + scratch.length
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
        self._tail_after = tail
        reject = Reject(start.lines + 1, start.position, "", "corrupt", "the line is longer than a batch", text)
        after = start._replace(
            head=head,
            position=end,
            check=source.check_of(tail),
            lines=start.lines + 1,
            outcomes=start.outcomes.plus(Outcomes(1, rejected=1)),
        )
        return self._batch(after, place.NOTHING, [reject], self._tools.clock_ms())
