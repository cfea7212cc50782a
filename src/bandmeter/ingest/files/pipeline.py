"""Files into the store, one after another, each part of them once.

Life of a record: a batch is cut at a newline; decoded and folded in DuckDB; attributed; written in one transaction
together with the source's new position; and only then counted in the report. Reading and folding go on while the
batch before is being committed on a thread of its own.
"""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING

from bandmeter.domain import errors
from bandmeter.domain.contracts import POSTED
from bandmeter.domain.errors import BandmeterError
from bandmeter.domain.usage import Outcomes
from bandmeter.ingest.batch.job import FileReport
from bandmeter.ingest.files import source
from bandmeter.ingest.files.commit import Committer, Moved
from bandmeter.ingest.files.file import FileRun
from bandmeter.ingest.files.retry import Retry, match, repeated

if TYPE_CHECKING:
    from bandmeter.ingest.batch.decode import Decoder
    from bandmeter.ingest.batch.job import Job, Progress
    from bandmeter.ingest.batch.tools import Tools

MOVES_MAX = 100  # times in a row that another process was faster
READ_BYTES = 1 << 20
REJECTS_MAX = 100_000  # of a source that are looked at: some 300 bytes each


class Pipeline:
    """Ingests files, one after another. Not for several threads at once."""

    def __init__(self, tools: Tools) -> None:
        self._tools, self._store = tools, tools.store

    def ingest(self, path: str, job: Job, progress: Progress = lambda *_: True) -> FileReport:
        """Count what is new in a file.

        Raises `input_invalid` when the file cannot be read or is not of the format; what was committed stays.
        """
        with source.seekable(path, self._tools.folder) as real_path:
            earlier, in_vain = Outcomes(), 0  # earlier: what this run has counted before another process moved it on
            while in_vain < MOVES_MAX:
                run = FileRun(self._tools, real_path, path, job)
                try:
                    report = self._retry(run, real_path, job)
                except Moved:
                    in_vain += 1
                    continue
                if report:
                    return report
                if run.found.is_shorter and is_older_copy(self._tools, run, real_path):
                    return self._note_older_copy(run, real_path, job)
                committer, report = self._ingest(run, earlier, progress)
                if report:
                    return report
                earlier = earlier.plus(committer.done)  # ours, and not another process's
                job = dataclasses.replace(job, source_name=self._name_now(committer.number, job))
                in_vain = 0 if committer.done.received else in_vain + 1
        raise BandmeterError(errors.UNAVAILABLE, f"{path} is counted by another process all the time: try again later.")

    def _ingest(self, run: FileRun, earlier: Outcomes, progress: Progress) -> tuple[Committer, FileReport | None]:
        """Count to the end; what has committed it, and the report, None when another process moved the source on."""
        first = run.state
        known = first.lines if first.note == source.REPEATS else first.outcomes.received - first.outcomes.duplicate
        seen = max(0, known - earlier.received)
        committer = Committer(self._store, first.number)
        try:
            with contextlib.closing(run), committer:
                run.open()
                run.count(committer.put, progress)
                committer.finish()
                if run.content.is_torn:
                    run.notes.append("the compressed file ends in the middle: counted up to there")
        except Moved:
            return committer, None
        if seen:
            self._store.note_duplicates(first.number, seen)
        if first.number and run.found.state.path != first.path != source.STDIN:
            self._store.note_path(first.number, first.name, first.path)
        outcomes = committer.done.plus(Outcomes(received=seen, duplicate=seen)).plus(earlier)
        return committer, _report(run, committer.number, outcomes)

    def _retry(self, run: FileRun, real_path: str, job: Job) -> FileReport | None:
        """Count the rejects that a file repeats, where they are kept; None for a file that holds anything else.

        Such a file is remembered, so that none of it counts when it comes once more, or grows. Raises `Moved`.
        """
        state = run.state
        is_known, is_repeat = state.number > 0 and not run.found.is_shorter, state.note == source.REPEATS
        if is_known and not (is_repeat or state.outcomes.is_all_rejected):
            return None
        kept = [s for s in self._store.sources_with_rejects(state.name) if not s.head.startswith(POSTED)]
        if not kept:
            return None
        run.name_columns()
        wanted = match(self._store, kept, lambda: run.lines(real_path))
        lines = wanted.total()
        if not lines or (is_known and is_repeat and lines != state.lines):
            return None
        if not is_known and not self._store.write(run.repeat(lines)):
            raise Moved
        job = dataclasses.replace(job, columns=tuple(filter(None, run.state.columns.split("\t"))))
        total, mend, again = Outcomes(), repeated(wanted), Retry(self._tools, job, job.caller)
        for one in kept:
            if one.format == job.format.name or one.outcomes.is_all_rejected:
                total = total.plus(again.count(one, mend))
        counted = total.minus(Outcomes(total.rejected, rejected=total.rejected))
        seen = lines - counted.received
        run.notes = [source.REJECTED if counted.received else source.STILL_REJECTED]
        if is_known and seen:
            self._store.note_duplicates(state.number, seen)
        return _report(run, state.number, counted.plus(Outcomes(seen, duplicate=seen)))

    def _name_now(self, number: int, job: Job) -> str:
        """What the source is called by now: when another process has taken it over, this one must not count it anew."""
        return next((s.name for s in self._store.sources() if s.number == number), job.source_name)

    def _note_older_copy(self, run: FileRun, real_path: str, job: Job) -> FileReport:
        run.notes = [source.OLDER_COPY]
        lines = max(0, count_lines(real_path) - bool(job.format.has_header and not job.columns))
        self._store.note_duplicates(run.state.number, lines)
        return _report(run, run.state.number, Outcomes(received=lines, duplicate=lines))


def _report(run: FileRun, number: int, outcomes: Outcomes) -> FileReport:
    return FileReport(run.state.path, number, outcomes, tuple(run.notes), is_stopped=run.is_stopped)


def count_lines(path: str) -> int:
    """How many lines a file has that end."""
    with source.opened(path) as content:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: content.read(READ_BYTES), b""))


def is_older_copy(tools: Tools, run: FileRun, real_path: str) -> bool:
    """Whether nothing in a shortened file is newer than what was counted; else it goes on as a new file.

    Of a log that was rejected as a whole a copy has nothing but its rejects, which count where they are kept.
    """
    run.name_columns()
    if run.state.outcomes.is_all_rejected and match(tools.store, [run.state], lambda: run.lines(real_path)):
        return True
    decoder = run.decoder(tools.scratch.size)
    counted_ms = _newest_known_ms(tools, run, decoder)
    with source.opened(real_path) as content:
        has_ended = False
        while not has_ended:
            has_ended = tools.scratch.fill(content.read_into, tools.scratch.size)
            cut = tools.scratch.rfind(b"\n") + 1
            content.push_back(tools.scratch.bytes(cut))
            has_ended = has_ended or not cut
            tools.scratch.cut(cut)
            newest_ms = decoder.newest_ms(tools.clock_ms()) if cut else None
            if newest_ms is not None and (counted_ms is None or newest_ms > counted_ms):
                run.begin_anew()
                return False
    return True


def _newest_known_ms(tools: Tools, run: FileRun, decoder: Decoder) -> int | None:
    """The newest time of what is known of a source: also of what was ahead of a clock that was set since then."""
    rejects = tools.store.rejects(run.state.number, REJECTS_MAX)
    ahead = b"".join(reject.text + b"\n" for reject in rejects if reject.reason == "in_future")
    tools.scratch.hold(ahead[-tools.scratch.size :])
    newest_ms = decoder.newest_ms(tools.clock_ms()) if ahead else None
    return max(filter(None, (run.state.newest_ms, newest_ms)), default=None)
