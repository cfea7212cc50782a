"""What to read, and how; and what became of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from bandmeter.domain.usage import Outcomes, Side
from bandmeter.ingest.batch.attribute import Caller
from bandmeter.ingest.batch.query import Reading

if TYPE_CHECKING:
    from bandmeter.domain.contracts import Format


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """What to ingest, and how. `account` and `zone`: for records that name none.

    `columns` names those of a table without a header; `side`, `spread` and `header_adjust_bytes` as in `query.Reading`.
    `rules`: (identity, account, zone), which hold above what zones have registered. `other_names`: those of all other
    sources that are configured; a log that was counted under none of them, but under another, goes on from there.
    """

    format: Format
    source_name: str = "files"
    account: str | None = None
    zone: str | None = None
    columns: tuple[str, ...] = ()
    side: Side | None = None
    spread: bool = False
    header_adjust_bytes: int = 0
    rules: tuple[tuple[str, str, str], ...] = ()
    other_names: frozenset[str] | None = None

    @property
    def reading(self) -> Reading:
        """How the lines are read."""
        return Reading(
            side=self.side,
            spread=self.spread,
            header_adjust_bytes=self.header_adjust_bytes,
            has_default_zone=bool(self.account and self.zone),
        )

    @property
    def caller(self) -> Caller:
        """For whom."""
        return Caller(self.account or "", self.zone or "")


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
