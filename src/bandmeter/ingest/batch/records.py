"""The records of one batch: folded, placed, and what was wrong with the others.

Law 2: received = counted + duplicate + no_target + unattributed + rejected, or the batch is not counted at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import duckdb

from bandmeter.domain import errors
from bandmeter.domain.contracts import Reject
from bandmeter.domain.errors import BandmeterError
from bandmeter.ingest.batch import clean, place
from bandmeter.ingest.batch.explain import explain

if TYPE_CHECKING:
    from collections.abc import Callable

    from bandmeter.domain.contracts import SourceState
    from bandmeter.ingest.batch.decode import Decoder, Groups
    from bandmeter.ingest.batch.scratch import Scratch

    Placing = Callable[[Groups, int], place.Placed]

REJECT_TEXT_BYTES_MAX = clean.LINE_BYTES_MAX  # of a rejected line that is kept: of whatever can be read, all
LINES_MAX = 1_000_000  # that are cleaned at once: 32 MiB of real lines have fewer


class Records:
    """The records of the batch in the scratch: folded, placed, and what was wrong with the others."""

    def __init__(
        self, decoder: Decoder, placing: Placing, scratch: Scratch, now_ms: int, newlines: int, *, is_suspect: bool
    ) -> None:
        self._decoder, self._placing, self._scratch, self._now_ms = decoder, placing, scratch, now_ms
        self._is_suspect = is_suspect
        self._newlines = newlines
        self.received = newlines
        self.unmeterable = 0
        self.groups = 0  # that the records folded into
        self.placed = place.NOTHING

    def read(self, start: SourceState, limit: int, groups_max: int | None = None) -> list[Reject] | None:
        """The rejects; None, and the scratch as it was, when there are more than `limit`, or too many groups."""
        log_format = self._decoder.format
        taken_out: list[Reject] = []
        lines = kept = None
        is_read, groups = self._try_fold(groups_max)
        original = b""
        if not is_read:
            if self._newlines > LINES_MAX > limit:
                return None
            lines = clean.lines(self._scratch)
            original = self._scratch.bytes()
            widths = tuple(len(x.columns) for x in log_format.layouts) if log_format.split == "tab" else ()
            faults = clean.faults(self._scratch, lines, widths)
            if len(faults) > limit:
                return None
            kept = clean.take_out(self._scratch, lines, faults)
            self.received = len(lines) - sum(not reason for reason, _ in faults.values())
            taken_out = [
                self._reject(start, lines, index, ("", reason, detail), original)
                for index, (reason, detail) in sorted(faults.items())
                if reason
            ]
            groups = self._decoder.fold(self._now_ms, groups_max)
            if groups is not None and groups.received != len(kept):
                sentence = f"{groups.received} rows were read of {len(kept)} lines: not counted."
                raise BandmeterError(errors.FAILURE, sentence)
        if groups is None:
            self._restore(original)
            return None
        self.groups = groups.size
        self.placed = self._placing(groups, self._now_ms)
        if not groups.rejected and not self.placed.unknown:
            return self._checked(taken_out)
        if self.received - self.placed.total.received > limit:
            self._restore(original)
            return None
        rows = self._decoder.rejected(self._now_ms, self.placed.unknown)
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
        return self._checked(sorted([*taken_out, *explained]))

    def _restore(self, original: bytes) -> None:
        if original:
            self._scratch.replace(original)

    def _checked(self, rejects: list[Reject]) -> list[Reject]:
        """Law 2."""
        if self.received != self.placed.total.received + len(rejects):
            raise BandmeterError(errors.FAILURE, "The batch's counts do not add up: it was not counted.")
        return rejects

    def _try_fold(self, groups_max: int | None) -> tuple[bool, Groups | None]:
        """The fast way, and whether it went; it does not when the batch has to be cleaned first."""
        if self._is_suspect or not clean.is_clean(self._scratch, is_whole_line=self._decoder.format.split != "tab"):
            return False, None
        try:
            groups = self._decoder.fold(self._now_ms, groups_max)
        except duckdb.InterruptException as error:
            raise KeyboardInterrupt from error
        except duckdb.Error:
            return False, None
        return groups is None or groups.received == self._newlines, groups

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
        field, reason, detail = why
        detail = place.without_secrets(self._decoder.format, detail.encode()).decode()  # columns may be shifted
        return Reject(start.lines + index + 1, start.position + begin, field, reason, detail, text)
