"""Rejected records, counted where they lie as soon as they can be.

Law 3: a reject is taken out in the transaction that counts it, so it counts once, whoever tries, and however often.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from typing import TYPE_CHECKING

from bandmeter.domain import errors
from bandmeter.domain.contracts import Batch
from bandmeter.domain.errors import BandmeterError
from bandmeter.domain.usage import Outcomes
from bandmeter.ingest.batch import clean
from bandmeter.ingest.batch.attribute import NO_CALLER, Caller
from bandmeter.ingest.batch.decode import SMALL_BYTES
from bandmeter.ingest.batch.records import REJECT_TEXT_BYTES_MAX, Records
from bandmeter.ingest.files.source import in_format

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from bandmeter.domain.contracts import Reject, SourceState, Store
    from bandmeter.ingest.batch.job import Job
    from bandmeter.ingest.batch.place import Placed
    from bandmeter.ingest.batch.tools import Tools

    Mend = Callable[[Reject], bytes | None]  # the line to read in a reject's place; None: leave it

AT_ONCE = 10_000  # rejects in one transaction; each costs some 2 KB when it is one again
TRIES_MAX = 1_000  # of a commit that another process was faster with: `serve` may follow the same source


def as_it_is(reject: Reject) -> bytes | None:
    """The line that was kept; None for one that was cut: what is left of it might be read as another."""
    return reject.text if len(reject.text) < REJECT_TEXT_BYTES_MAX else None


def repeated(wanted: Counter[bytes]) -> Mend:
    """Those of which a line is wanted, by its digest, as often as it is; they are not any more then."""

    def mend(reject: Reject) -> bytes | None:
        text = as_it_is(reject) if wanted[digest(reject.text)] > 0 else None
        if text:
            wanted[digest(text)] -= 1
        return text

    return mend


def replaced(lines: Iterable[bytes]) -> Mend:
    """One after the other, by these lines."""
    following = iter(lines)
    return lambda _: next(following, None)


class Retry:
    """Reads rejects once more, in the way of a job, and counts those that can be counted by now."""

    def __init__(self, tools: Tools, job: Job, caller: Caller = NO_CALLER) -> None:
        self._tools, self._job, self._caller = tools, job, caller

    def count(self, state: SourceState, mend: Mend = as_it_is, beside: Batch | None = None) -> Outcomes:
        """Those of a source; what became of those that were read.

        `beside`: a batch that is written with the first that counts. Raises `input_invalid` when the names of the
        source's columns are kept nowhere, `unavailable` when another process is always faster.
        """
        has_columns = self._job.format.has_header
        columns = self._job.columns or tuple(filter(None, state.columns.split("\t"))) if has_columns else ()
        if has_columns and not columns:
            sentence = f"The columns of source {state.number} are not kept: mend its lines and send them again."
            raise BandmeterError(errors.INPUT_INVALID, sentence)
        total = Outcomes()
        for rejects in self._parts(state.number):
            read = [(reject, text) for reject in rejects if (text := mend(reject)) and text.strip()]
            outcomes = self._count(state.number, columns, read, beside) if read else Outcomes()
            beside = beside if outcomes.received == outcomes.rejected else None
            total = total.plus(outcomes)
        return total

    def _parts(self, number: int) -> Iterator[list[Reject]]:
        """All rejects, in parts that fit into the scratch."""
        for rejects in _in_order(self._tools.store, number):
            part: list[Reject] = []
            size = 0
            for reject in rejects:
                size += len(reject.text) + 1
                if size > self._tools.scratch.size and part:
                    yield part
                    part, size = [], len(reject.text) + 1
                part.append(reject)
            yield part

    def _count(
        self, number: int, columns: tuple[str, ...], read: list[tuple[Reject, bytes]], beside: Batch | None
    ) -> Outcomes:
        for _ in range(TRIES_MAX):
            state = next(s for s in self._tools.store.sources() if s.number == number)
            placed, still = self._read(b"".join(text + b"\n" for _, text in read), columns, state)
            good = [one for place, one in enumerate(read, start=1) if place not in still]
            retried = {reject.line: None if text == reject.text else text for reject, text in good}
            outcomes = placed.total.plus(Outcomes(len(still), rejected=len(still)))
            if not retried:
                return outcomes
            # They were received before, and were among the rejected.
            counted = placed.total._replace(received=0, rejected=-len(retried))
            newest_ms = max(filter(None, (state.newest_ms, placed.newest)), default=None)
            after = in_format(state, self._job)._replace(
                columns="\t".join(columns), outcomes=state.outcomes.plus(counted), newest_ms=newest_ms
            )
            now_ms = self._tools.clock_ms()
            batch = Batch(state, after, placed.rows, placed.newest_ms, (), now_ms, hosts=placed.hosts, retried=retried)
            if self._tools.store.write_together([batch, beside] if beside else [batch]):
                return outcomes
            kept = {reject.line for reject in self._tools.store.rejects(number, AT_ONCE, read[0][0].line - 1)}
            read = [one for one in read if one[0].line in kept]  # another process may have counted the others
            if not read:
                return Outcomes()
        raise BandmeterError(errors.UNAVAILABLE, f"Source {number} is counted all the time: try again later.")

    def _read(self, content: bytes, columns: tuple[str, ...], state: SourceState) -> tuple[Placed, set[int]]:
        """What counts, and the numbers of the lines that do not."""
        tools, job = self._tools, self._job
        tools.scratch.hold(content)
        newlines, has_long_line = clean.count(tools.scratch)
        is_small = len(content) <= SMALL_BYTES
        reading = dataclasses.replace(job.reading, has_default_account=self._caller.is_restricted)
        records = Records(
            tools.decoder(job, reading, columns, self._caller, is_small=is_small),
            lambda groups, now_ms: tools.place(groups, now_ms, job, self._caller),
            tools.scratch,
            tools.clock_ms(),
            newlines,
            is_suspect=has_long_line,
        )
        rejects = records.read(state._replace(lines=0, position=0), newlines) or ()
        return records.placed, {reject.line for reject in rejects}


def match(store: Store, kept: Iterable[SourceState], texts: Iterable[bytes], *, are_all: bool) -> Counter[bytes]:
    """How often each of some lines came, by digest, when they are kept as rejects of these sources.

    Empty when one of them is not, if `are_all` must be.
    """
    most = sum(store.count_rejects(state.number, state.lines) for state in kept)
    wanted: Counter[bytes] = Counter()
    for text in texts:
        wanted[digest(text)] += 1
        if len(wanted) > most and are_all:
            return Counter()
    missing = set(wanted) if are_all else set()
    for state in kept if missing else ():
        missing -= {digest(reject.text) for part in _in_order(store, state.number) for reject in part}
    return Counter() if missing else wanted


def digest(text: bytes) -> bytes:
    """What stands for a line."""
    return hashlib.blake2b(text, digest_size=16).digest()


def _in_order(store: Store, number: int) -> Iterator[list[Reject]]:
    after = 0
    while rejects := store.rejects(number, AT_ONCE, after):
        after = rejects[-1].line
        yield rejects
