"""The native API: one call answers what takes the vendors' users one call a zone.

It is a dialect's table like the others', so that routes, guard and OpenAPI are the same. Its endpoints ask as many
questions of `reports.answer` (law 6) as a call needs, which one `parse` could not say, so `render` does it all.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from bandmeter.domain import errors
from bandmeter.domain.contracts import Call, Dialect, Endpoint, Reply
from bandmeter.domain.usage import DIMENSIONS
from bandmeter.web.native import parameters, problems, rates, sources, tables, usage, zones
from bandmeter.web.native.fold import COUNTERS

if TYPE_CHECKING:
    from collections.abc import Callable

    from bandmeter.catalog import Catalog
    from bandmeter.reports import Reports

NAME = "native"
_TEXT = {"type": "string"}
_TIME = {"type": "string", "format": "date-time"}
_COUNT = {"type": "integer", "minimum": 0}
_CURSOR = {"type": ["string", "null"], "description": "`cursor` of the next page; null: this is the last."}
_ERRORS = (errors.ACCOUNT_UNKNOWN, errors.ZONE_UNKNOWN, problems.FORMAT_UNAVAILABLE)


def _object(properties: dict[str, Any], optional: frozenset[str] = frozenset(), **more: Any) -> dict[str, Any]:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False} | more


def _rows(row: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": row, "maxItems": parameters.LIMIT_MAX}


_GROUPED: dict[str, Any] = {"account": _TEXT, "zone": _TEXT, parameters.HOST: _TEXT}
_GROUPED |= {name: {"type": "string", "enum": list(one.values)} for name, one in DIMENSIONS.items()}
_MS = {"type": ["integer", "null"], "description": "Unix milliseconds; null: never."}
_USAGE_SCHEMA = _object(
    {
        "rows": _rows(
            _object(
                {"bucket": _TIME, **_GROUPED, **dict.fromkeys(COUNTERS, _COUNT)},
                frozenset(_GROUPED),
                patternProperties={f"^rate_{rates.PATTERN}_bps$": _COUNT},
            )
        ),
        "next": _CURSOR,
        "from": _TIME,
        "to": _TIME,
        "timezone": _TEXT,
        "fresh": _object({"newest_ms": _MS, "committed_ms": _MS, "reported_ms": _MS}),
        "gaps": {
            "type": "array",
            "items": _object({"from": _TIME, "to": _TIME}),
            "description": "When a followed source did not report: no traffic there is not known to be none.",
        },
    }
)
_ZONES_SCHEMA = _object(
    {
        "rows": _rows(_object({name: _TIME if kind == "time" else _TEXT for name, kind in zones.COLUMNS.items()})),
        "next": _CURSOR,
    }
)


_SOURCES_SCHEMA = _object({"rows": _rows(_object(sources.ROW)), "next": _CURSOR, "from": _TIME, "to": _TIME})


def dialect(
    reports: Reports, catalog: Catalog, more: tuple[Endpoint, ...] = (), followed: tuple[str, ...] = ()
) -> Dialect:
    """The native API over these reports, for the accounts of this catalog.

    `more`: what else it has; `followed`: the names of the sources whose coverage answers tell.
    """
    shared: dict[str, Any] = {
        "parse": _ask_nothing,
        "errors": _ERRORS,
        "is_heavy": True,
        "is_for_operators": True,
        "media_types": tuple(tables.MEDIA_TYPES.values()),
    }
    return Dialect(
        name=NAME,
        title="Bandmeter's own API",
        endpoints=(
            Endpoint(
                name="usage",
                paths=("/v1/usage",),
                summary="Usage of any zones, split and cut as asked",
                render=_bound(functools.partial(usage.respond, followed=followed), reports, catalog),
                schema=_USAGE_SCHEMA,
                parameters=parameters.USAGE,
                **shared,
            ),
            Endpoint(
                name="zones",
                paths=("/v1/zones",),
                summary="The zones that the key may see",
                render=_bound(zones.respond, reports, catalog),
                schema=_ZONES_SCHEMA,
                parameters=(
                    parameters.ACCOUNTS,
                    parameters.ZONES,
                    parameters.LIMIT,
                    parameters.CURSOR,
                    parameters.FORMAT,
                ),
                **shared,
            ),
            Endpoint(
                name="sources",
                paths=("/v1/sources",),
                summary="What was counted of each source, and when it did not report",
                render=_bound(sources.respond, reports, catalog),
                schema=_SOURCES_SCHEMA,
                parameters=sources.PARAMETERS,
                **shared | {"media_types": ("application/json",)},
            ),
            *more,
        ),
        credentials=(("bearer", "authorization"),),
        render_error=problems.render_error,
        prefixes=("/v1",),
        is_strict=True,
    )


def _ask_nothing(_call: Call) -> None:
    return None


def _bound(
    respond: Callable[[Reports, Catalog, Call], Reply], reports: Reports, catalog: Catalog
) -> Callable[[Call, Any, Any], Reply]:
    answer = functools.partial(respond, reports, catalog)
    return lambda call, _question, _answer: answer(call)
