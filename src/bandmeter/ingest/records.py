"""The records of one batch: folded, placed, and what was wrong with the others.

Law 2: received = counted + duplicate + no_target + unattributed + rejected, or the batch is not counted at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import duckdb

from bandmeter.domain import errors
from bandmeter.domain.contracts import Reject
from bandmeter.domain.errors import BandmeterError
from bandmeter.ingest import clean, place
from bandmeter.ingest.explain import explain

if TYPE_CHECKING:
    from bandmeter.domain.contracts import SourceState, Store
    from bandmeter.ingest.attribute import Attribution
    from bandmeter.ingest.decode import Decoder
    from bandmeter.ingest.scratch import Scratch

REJECT_TEXT_BYTES_MAX = 65_536  # of a rejected line that is kept
LINES_MAX = 1_000_000  # that are cleaned at once: 32 MiB of real lines have fewer


class Records:
    """The records of the batch in the scratch: folded, placed, and what was wrong with the others."""

    def __init__(self, decoder: Decoder, scratch: Scratch, now_ms: int, newlines: int, *, is_suspect: bool) -> None:
        self._decoder, self._scratch, self._now_ms = decoder, scratch, now_ms
        self._is_suspect = is_suspect
        self._newlines = newlines
        self.received = newlines
        self.unmeterable = 0
        self.placed = place.NOTHING

    def read(self, attribution: Attribution, start: SourceState, store: Store, limit: int) -> list[Reject] | None:
        """The rejects; None, and the scratch as it was, when there are more than `limit`."""
        log_format = self._decoder.format
        taken_out: list[Reject] = []
        lines = kept = None
        folded = self._try_fold()
        original = b""
        if folded is None:
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
            folded = self._decoder.fold(self._scratch.path, self._now_ms)
            if folded[0] != len(kept):
                raise BandmeterError(errors.FAILURE, f"{folded[0]} rows were read of {len(kept)} lines: not counted.")
        _, bad, keys = folded
        self.placed, unknown = place.place(self._decoder, keys, attribution, store, self._now_ms)
        if not bad and not unknown:
            return self._checked(taken_out)
        if self.received - sum(self.placed.outcomes[1:]) > limit:
            if original:
                self._scratch.replace(original)
            return None
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
        return self._checked(sorted([*taken_out, *explained]))

    def _checked(self, rejects: list[Reject]) -> list[Reject]:
        """Law 2."""
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
        field, reason, detail = why
        detail = place.without_secrets(self._decoder.format, detail.encode()).decode()  # columns may be shifted
        return Reject(start.lines + index + 1, start.position + begin, field, reason, detail, text)
