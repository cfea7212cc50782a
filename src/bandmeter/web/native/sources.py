"""`GET /v1/sources`: what was counted of each source, and when it did not report. For the operator alone.

"No traffic" and "no report" are different things: a source that was heard of at a time and brought nothing had no
traffic then; in a gap nobody knows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from bandmeter.domain import errors, grid
from bandmeter.domain.contracts import EVERY_ACCOUNT, Call, Reply, SourceState
from bandmeter.domain.errors import BandmeterError
from bandmeter.domain.grid import Span
from bandmeter.domain.usage import Outcomes
from bandmeter.reports.folding import gaps, newest_ms
from bandmeter.web.native import cursor, parameters

if TYPE_CHECKING:
    from bandmeter.catalog import Catalog
    from bandmeter.reports import Reports

_DAYS = 7 * 86_400  # without `from`
_TEXT = {"type": "string"}
_TIME = {"type": ["string", "null"], "format": "date-time"}
_COUNT = {"type": "integer", "minimum": 0}
_GAP = {"type": "object", "properties": {"from": _TEXT, "to": _TEXT}, "required": ["from", "to"]}
ROW = {
    "source": _TEXT,
    "formats": {"type": "array", "items": _TEXT},
    "files": _COUNT | {"description": "Contents that were counted under this name, and ways in which bodies came."},
    **dict.fromkeys(Outcomes._fields, _COUNT),
    "newest": _TIME | {"description": "Time of the newest record; of a source that reports, of its files."},
    "committed": _TIME | {"description": "When a batch of it was last committed."},
    "reported": _TIME | {"description": "Up to when all that it had was counted; null: it is not followed."},
    "gaps": {"type": "array", "items": _GAP, "description": "Within `from` and `to`: when it did not report."},
    "notes": {"type": "array", "items": _TEXT},
}
FROM = parameters.FROM._replace(description="Start, inclusive. RFC 3339, or a date. Without it: seven days ago.")
PARAMETERS = (FROM, parameters.TO, parameters.LIMIT, parameters.CURSOR)


def respond(reports: Reports, _catalog: Catalog, call: Call) -> Reply:
    """A page of sources by name; raises `scope_missing` for an account's key."""
    if call.account is not EVERY_ACCOUNT:
        raise BandmeterError(errors.SCOPE_MISSING, "Sources are told to an operator's key only.")
    limit, state = parameters.read_limit(call), cursor.read(call)
    if state is not None and (len(state) != 1 or not isinstance(state[0], str)):
        cursor.refuse()
    span = _span(call)
    by_name: dict[str, list[SourceState]] = {}
    for source in reports.store.sources():
        by_name.setdefault(source.name, []).append(source)
    coverage = reports.store.coverage(span.start * 1000, span.end * 1000)
    names = sorted(name for name in {*by_name, *coverage} if state is None or name > state[0])
    rows = [_row(name, by_name.get(name, []), coverage.get(name), span) for name in names[:limit]]
    following = cursor.write(call, [names[limit - 1]]) if len(names) > limit else None
    about = {"next": following, "from": grid.format_time(span.start), "to": grid.format_time(span.end)}
    return Reply(msgspec.json.encode({"rows": rows, **about}))


def _span(call: Call) -> Span:
    now_s = call.now_ms // 1000
    if "from" not in call.parameters:
        start = grid.format_time(max(0, now_s - _DAYS) // 300 * 300)
        call = call._replace(parameters={**call.parameters, "from": start})
    return parameters.read_span(call, None, "UTC")


def _row(name: str, sources: list[SourceState], stretches: list[tuple[int, int]] | None, span: Span) -> dict[str, Any]:
    total = Outcomes()
    for source in sources:
        total = total.plus(source.outcomes)
    found = gaps({name: stretches}, span) if stretches else []
    return {
        "source": name,
        "formats": sorted({source.format for source in sources}),
        "files": len(sources),
        **total._asdict(),
        "newest": _time(newest_ms(sources, is_followed=bool(stretches))),
        "committed": _time(max((s.committed_ms for s in sources if s.committed_ms is not None), default=None)),
        "reported": _time(stretches[-1][1]) if stretches else None,
        "gaps": [{"from": grid.format_time(gap.start), "to": grid.format_time(gap.end)} for gap in found],
        "notes": sorted({source.note for source in sources if source.note}),
    }


def _time(ms: int | None) -> str | None:
    return None if ms is None else grid.format_time(ms // 1000)
