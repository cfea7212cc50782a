"""Logs that are still there, counted once more, and compared with what is stored.

A log is recognised by its content, as ingest does it, and read exactly as far as it was counted, in slices that are
cut at newlines: law 1 says that cutting changes nothing. Its records are attributed by the catalog of today, so

- the number of records of each source, and of those that are rejected, must be what is stored;
- a source whose records are judged otherwise today (a zone was added that it named, its settings were changed, or it
  was ingested with --account and --zone, which are not stored) says so, and is left out of what follows;
- the buckets of zones are sums over all sources. Where each of them was recounted, buckets must be equal; where some
  logs are gone, what is stored must be no less than the others say. Traffic that waits under an identity counts for
  the zone that this identity would reach today.

Ingest may go on meanwhile: what it adds is recounted too, until nothing was added between two looks.
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from bandmeter.domain.contracts import Reject, SourceState, Store
from bandmeter.domain.errors import BandmeterError
from bandmeter.domain.tenancy import Zone
from bandmeter.domain.usage import Outcomes
from bandmeter.ingest import Job, Pipeline, Tools
from bandmeter.ingest.files import source
from bandmeter.store import STORES
from bandmeter.verify.compare import compare, pour
from bandmeter.verify.findings import Findings, Progress

SLICE_BYTES = 64 * 2**20  # on the disk, of a log at a time
READ_BYTES = 1 << 20
LINE_BYTES = 4_096  # that are read at once to find a line's end
LOOKS_MAX = 10  # at a store that is written to all the time
IDENTITIES_MAX = 2**40  # a day: what is stored has a bound, and must not be compared with another
REJECTS_MAX = 100_000  # of a source, that are looked at for their reasons
TODAY = frozenset({"unknown_zone", "in_future"})  # reasons of rejects that may be none today
RECORDS = "records recounted"
LOGS = "logs recounted"


class Candidate(NamedTuple):
    """A file that may hold the content of a source of that name."""

    name: str
    format: str
    path: str


class _Done(NamedTuple):
    """How far a source was recounted, what its records became, and whether its rows can be compared."""

    position: int
    outcomes: Outcomes
    is_comparable: bool


class Recount:
    """One recount of all that can be found.

    `find_job(name, format)`: how a source of that name is read; raises `input_invalid`. `folder`: on whose disk copies
    of slices and rows may lie meanwhile.
    """

    def __init__(
        self,
        store: Store,
        zones: Callable[[], list[Zone]],
        find_job: Callable[[str, str], Job],
        folder: Path | None = None,
        batch_bytes: int = 32 * 2**20,
    ) -> None:
        self._store, self._zones, self._find_job = store, zones, find_job
        self._batch_bytes = batch_bytes
        self._parent = folder
        self._done: dict[int, _Done] = {}
        self._failed: dict[int, str] = {}
        self._is_spoilt = False

    def check(self, candidates: Iterable[Candidate], findings: Findings, progress: Progress) -> None:
        """Recount the sources whose content is in one of the candidates, or still where it was last seen."""
        with tempfile.TemporaryDirectory(prefix="bandmeter-verify-", dir=self._parent) as folder:
            self._folder = Path(folder)
            with contextlib.closing(STORES["sqlite"](self._folder / "logs.db", IDENTITIES_MAX)) as logs:
                self._logs: Store = logs
                wanted = list(candidates)
                for _ in range(LOOKS_MAX):
                    self._catch_up(wanted, progress)
                    with self._store.at_one_moment():
                        states = self._store.sources()
                        if self._has_all(states):
                            self._judge(states, findings)
                            return
                findings.leaves_out("logs were not compared: usage was added faster than they could be recounted.")

    # ------------------------------------------------------------ counting

    def _catch_up(self, candidates: list[Candidate], progress: Progress) -> None:
        """Recount what was not recounted yet of each source whose content is found."""
        due = [state for state in self._store.sources() if self._is_due(state)]
        numbers = {state.number for state in due}
        found = self._locate([*(Candidate(s.name, s.format, s.path) for s in due), *candidates], numbers)
        for number in numbers - found.keys():
            self._failed.setdefault(number, "")
        sizes = {n: state.position - self._position(n) for n, (state, _) in found.items()}
        total, before = sum(sizes.values()), 0
        for number, (state, path) in found.items():
            progress("Recounting", before, total)
            try:
                self._recount(state, path, lambda size: progress("Recounting", before + size, total))  # noqa: B023
            except BandmeterError as error:
                self._failed[number] = error.sentence
            before += sizes[number]
            progress("Recounting", before, total)

    def _is_due(self, state: SourceState) -> bool:
        if state.note == source.REPEATS:  # its lines are another's
            return False
        return state.number not in self._failed and state.position != self._position(state.number)

    def _position(self, number: int) -> int:
        return self._done[number].position if number in self._done else 0

    def _locate(self, candidates: list[Candidate], numbers: set[int]) -> dict[int, tuple[SourceState, str]]:
        """Of each of these sources whose content is found: its state by now, and where."""
        found: dict[int, tuple[SourceState, str]] = {}
        for name, log_format, path in dict.fromkeys(candidates):
            if not Path(path).is_file():  # a pipe would be waited for
                continue
            with contextlib.suppress(BandmeterError):
                seen = source.find(self._store, name, log_format, path)
                if seen.state.number in numbers and not seen.is_shorter:
                    found.setdefault(seen.state.number, (seen.state, path))
        return found

    def _recount(self, state: SourceState, path: str, step: Callable[[int], None]) -> None:
        start, known = self._position(state.number), self._done.get(state.number)
        outcomes = known.outcomes if known else Outcomes()
        rows_file = self._folder / "source.db"
        with contextlib.closing(STORES["sqlite"](rows_file, IDENTITIES_MAX)) as rows:
            # The clock of the last batch: a record that was ahead of it then is ahead of it now.
            now_ms = state.committed_ms or 0
            known_job = self._find_job(state.name, state.format)
            tools = Tools(rows, self._zones, lambda: now_ms, self._folder, self._batch_bytes, by_host=False)
            with contextlib.closing(tools):
                pipeline = Pipeline(tools)
                for number, (piece, position) in enumerate(self._slices(path, start, state)):
                    columns = _columns(state, piece, is_first=start == 0 and number == 0)
                    # Each slice is a source of its own, also where two are equal.
                    job = dataclasses.replace(known_job, source_name=str(number), columns=columns, other_names=None)
                    outcomes = outcomes.plus(pipeline.ingest(str(piece), job).outcomes)
                    step(position - start)
            has_rules = bool(known_job.rules or known_job.zone)
            is_comparable = _is_comparable(state.outcomes, outcomes, has_rules=has_rules)
            if is_comparable:
                pour(rows, self._logs)
            elif known and known.is_comparable:
                self._is_spoilt = True  # its first part is among the rows, and cannot be taken out
        for file in self._folder.glob("source.db*"):
            file.unlink()
        self._done[state.number] = _Done(state.position, outcomes, is_comparable)

    def _slices(self, path: str, start: int, state: SourceState) -> Iterator[tuple[Path, int]]:
        """A log's content as files of whole lines, one at a time, each with the position where it ends."""
        piece, rest = self._folder / "slice.log", b""
        with source.opened(path) as content:
            content.skip_to(start)
            blocks = self._blocks(content, state)
            while content.offset < state.position or rest:
                with piece.open("wb") as file:
                    file.write(rest)
                    rest = b""
                    for block in blocks:
                        cut = block.rfind(b"\n") + 1 if file.tell() >= SLICE_BYTES else 0
                        file.write(block[:cut] if cut else block)
                        if cut:
                            rest = block[cut:]
                            break
                yield piece, content.offset

    def _blocks(self, content: source.Content, state: SourceState) -> Iterator[bytes]:
        """What is left of the content, with what was mended in the place of rejects."""
        for reject in self._mended(state):
            if reject.byte < content.offset:
                continue
            yield from _read_to(content, reject.byte)
            yield reject.text + b"\n"
            while line := content.read(LINE_BYTES):
                _, newline, rest = line.partition(b"\n")
                if newline:
                    content.push_back(rest)
                    break
        yield from _read_to(content, state.position)

    def _mended(self, state: SourceState) -> Iterator[Reject]:
        after = 0
        while found := self._store.rejects(state.number, REJECTS_MAX, after, "mended"):
            yield from found
            after = found[-1].line

    # ------------------------------------------------------------ comparing

    def _has_all(self, states: list[SourceState]) -> bool:
        return not any(self._is_due(state) for state in states)

    def _judge(self, states: list[SourceState], findings: Findings) -> None:
        """Compare all that was recounted with what is stored, at one moment."""
        self._tell_missing(states, findings)
        is_complete = not self._failed and not any(map(_has_grown, states))
        for state in states:
            done = self._done.get(state.number)
            if done is None or state.number in self._failed:
                continue
            findings.looked_at(LOGS)
            findings.looked_at(RECORDS, done.outcomes.received)
            if not done.is_comparable:
                is_complete = False
                self._explain(state, done.outcomes, findings)
        if self._is_spoilt:
            findings.leaves_out("zones were not compared: a log's records were judged otherwise half-way.")
        elif self._done:
            compare(self._store, self._logs, self._zones(), findings, is_complete=is_complete)

    def _tell_missing(self, states: list[SourceState], findings: Findings) -> None:
        gone = [s for s in states if self._failed.get(s.number) == "" and s.outcomes.received > s.outcomes.duplicate]
        if gone:
            findings.leaves_out(
                f"{len(gone)} of {len(states)} sources: their logs are not there, such as source"
                f" {gone[0].number} ({gone[0].path}). What is stored may be more than the other logs say."
            )
        for state in filter(_has_grown, states):
            sentence = "it began with rejects of other logs, and what it got besides is not recounted."
            findings.leaves_out(f"source {state.number} ({state.path}): {sentence}")
        for state in states:
            if self._failed.get(state.number):
                findings.leaves_out(f"source {state.number} ({state.path}): {self._failed[state.number]}")

    def _explain(self, state: SourceState, today: Outcomes, findings: Findings) -> None:
        """Why a source's records are judged otherwise: a difference, or another catalog."""
        stored = state.outcomes
        named = f"source {state.number} ({state.path})"
        fresh = stored.received - stored.duplicate
        fewer = stored.rejected - today.rejected
        if fresh != today.received:
            findings.differs(f"{named}: {fresh} records are stored, and its log has {today.received}.")
        elif fewer < 0 or fewer > self._explicable(state):
            findings.differs(f"{named}: {stored.rejected} records were rejected, and {today.rejected} would be today.")
        else:
            shown = [f"{name} {then}, today {now}" for name, then, now in _changes(stored, today)]
            findings.leaves_out(
                f"{named}: its records are judged otherwise today ({'; '.join(shown)}): zones or settings are others"
                " now, or it was ingested with --account and --zone. Its buckets were not compared."
            )

    def _explicable(self, state: SourceState) -> int:
        """How many of a source's rejects may be none today."""
        return sum(reject.reason in TODAY for reject in self._store.rejects(state.number, REJECTS_MAX))


def _read_to(content: source.Content, end: int) -> Iterator[bytes]:
    while content.offset < end and (block := content.read(min(READ_BYTES, end - content.offset))):
        yield block


def _has_grown(state: SourceState) -> bool:
    """Whether a file that repeated rejects has got lines of its own, which are not recounted."""
    return state.note == source.REPEATS and state.outcomes.received > state.outcomes.duplicate


def _columns(state: SourceState, piece: Path, *, is_first: bool) -> tuple[str, ...]:
    """The names of a slice's columns; () where its first line is a header that says them."""
    if state.columns and is_first:
        with piece.open("rb") as file:
            header = file.readline(READ_BYTES).decode("utf-8-sig", "replace").rstrip("\r\n")
        if header == state.columns:
            return ()
    return tuple(state.columns.split("\t")) if state.columns else ()


def _is_comparable(stored: Outcomes, today: Outcomes, *, has_rules: bool) -> bool:
    """Whether the records became the same; what was unattributed may have a zone by now.

    But for a source's own rules: by those an identity says nothing of where its traffic would go.
    """
    return (
        stored.received - stored.duplicate == today.received
        and (stored.rejected, stored.no_target) == (today.rejected, today.no_target)
        and (stored.counted == today.counted if has_rules else stored.counted <= today.counted)
    )


def _changes(stored: Outcomes, today: Outcomes) -> Iterator[tuple[str, int, int]]:
    for name in ("counted", "no_target", "unattributed", "rejected"):
        then, now = getattr(stored, name), getattr(today, name)
        if then != now:
            yield name, then, now
