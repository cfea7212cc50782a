"""Rejected records, counted where they lie as soon as they can be.

Law 3: a reject is taken out in the transaction that counts it, so it counts once, whoever tries, and however often.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import re
from collections import Counter
from typing import TYPE_CHECKING

from bandmeter.domain import errors
from bandmeter.domain.contracts import Batch
from bandmeter.domain.errors import BandmeterError
from bandmeter.domain.usage import Outcomes
from bandmeter.ingest.batch import clean
from bandmeter.ingest.batch.attribute import NO_CALLER, Caller
from bandmeter.ingest.batch.decode import SMALL_BYTES
from bandmeter.ingest.batch.records import Records
from bandmeter.ingest.files.source import in_format

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from bandmeter.domain.contracts import Reject, Rejects, SourceState, Store
    from bandmeter.ingest.batch.job import Job
    from bandmeter.ingest.batch.place import Placed
    from bandmeter.ingest.batch.tools import Tools

    Mend = Callable[[Reject], bytes | None]  # the line to read in a reject's place; None: leave it

LINES_FIRST = 100  # of a file, that tell whether it may be one of rejects
BLANK = b" \t\r\n\0\xef\xbb\xbf"  # of a line that is no record: with the bytes of a byte order mark
TOO_LONG = re.compile(r"the line is longer than a batch|the line has over \d+ bytes")
AT_ONCE = 10_000  # rejects in one transaction; each costs some 2 KB when it is one again
TRIES_MAX = 1_000  # of a commit that another process was faster with: `serve` may follow the same source


def as_it_is(reject: Reject) -> bytes | None:
    """The line that was kept; None for one that was too long, and cut: what is left of it might be read as another."""
    return None if reject.reason == "corrupt" and TOO_LONG.fullmatch(reject.detail) else reject.text


def repeated(wanted: Counter[bytes]) -> Mend:
    """Those of which a line is wanted, by its digest, as often as it is; they are not any more then."""

    def mend(reject: Reject) -> bytes | None:
        text = as_it_is(reject) if wanted[digest(reject.text)] > 0 else None
        if text:
            wanted[digest(text)] -= 1
        return text

    return mend


def replaced(mended: Iterable[tuple[int, bytes]]) -> Mend:
    """By what is mended, each with the line of its reject, in order; another process may count some meanwhile."""
    following = iter(mended)
    ahead: list[tuple[int, bytes]] = []

    def mend(reject: Reject) -> bytes | None:
        while not ahead or ahead[0][0] < reject.line:
            ahead[:] = itertools.islice(following, 1)
            if not ahead:
                return None
        return ahead[0][1] if ahead[0][0] == reject.line else None

    return mend


class Retry:
    """Reads rejects once more, in the way of a job, and counts those that can be counted by now."""

    def __init__(self, tools: Tools, job: Job, caller: Caller = NO_CALLER) -> None:
        self._tools, self._job, self._caller = tools, job, caller

    def count(self, state: SourceState, mend: Mend = as_it_is) -> Outcomes:
        """Those of a source; what became of those that were read.

        Raises `input_invalid` when the names of the source's columns are kept nowhere, `unavailable` when another
        process is always faster.
        """
        has_columns = self._job.format.has_header
        columns = self._job.columns or tuple(filter(None, state.columns.split("\t"))) if has_columns else ()
        if has_columns and not columns:
            sentence = f"The columns of source {state.number} are not kept: mend its lines and send them again."
            raise BandmeterError(errors.INPUT_INVALID, sentence)
        total = Outcomes()
        for part in self._parts(state.number, mend):
            total = total.plus(self._count(state.number, columns, part))
        return total

    def _parts(self, number: int, mend: Mend) -> Iterator[list[tuple[Reject, bytes]]]:
        """The rejects and what is read in their place, as much at once as fits into the scratch."""
        for rejects in _in_order(self._tools.store, number):
            part: list[tuple[Reject, bytes]] = []
            size = 0
            for reject in rejects:
                text = mend(reject)
                if not text or not text.strip(BLANK):
                    continue
                size += len(text) + 1
                if size > self._tools.scratch.size and part:
                    yield part
                    part, size = [], len(text) + 1
                part.append((reject, text))
            if part:
                yield part

    def _count(self, number: int, columns: tuple[str, ...], read: list[tuple[Reject, bytes]]) -> Outcomes:
        for _ in range(TRIES_MAX):
            state = next(s for s in self._tools.store.sources() if s.number == number)
            placed, still = self._read(b"".join(text + b"\n" for _, text in read), columns, state)
            good = [one for place, one in enumerate(read, start=1) if place not in still]
            retried = {reject.line: b"" if text == reject.text else text for reject, text in good}
            outcomes = placed.total.plus(Outcomes(len(still), rejected=len(still)))
            if placed.total.received != len(good):
                sentence = f"The rejects of source {number} do not add up to its lines: none was counted."
                raise BandmeterError(errors.FAILURE, sentence)
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
            if self._tools.store.write(batch):
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


def match(store: Store, kept: Sequence[SourceState], lines: Callable[[], Iterable[bytes]]) -> Counter[bytes]:
    """How often each of a file's lines comes, by digest, when all are rejects of these sources, or were; else empty."""
    first = {digest(line) for line in itertools.islice(lines(), LINES_FIRST)}
    rows = 0
    for known in _digests(store, kept):
        rows += len(known)
        first -= known
    if first:
        return Counter()
    wanted: Counter[bytes] = Counter()
    for line in lines():
        wanted[digest(line)] += 1
        if len(wanted) > rows:
            return Counter()
    missing = set(wanted)
    for known in _digests(store, kept):
        missing -= known
    return Counter() if missing else wanted


def _digests(store: Store, states: Iterable[SourceState]) -> Iterator[set[bytes]]:
    for state in states:
        for rejects in itertools.chain(_in_order(store, state.number), _in_order(store, state.number, "counted")):
            yield {digest(reject.text) for reject in rejects}


def digest(text: bytes) -> bytes:
    """What stands for a line."""
    return hashlib.blake2b(text, digest_size=16).digest()


def _in_order(store: Store, number: int, which: Rejects = "kept") -> Iterator[list[Reject]]:
    after = 0
    while rejects := store.rejects(number, AT_ONCE, after, which):
        after = rejects[-1].line
        yield rejects
