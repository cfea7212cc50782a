"""`GET /v1/zones`: the zones that the key may see."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bandmeter.domain import localtime
from bandmeter.domain.contracts import Call, Reply
from bandmeter.domain.tenancy import Zone
from bandmeter.web.native import chosen, cursor, parameters, tables

if TYPE_CHECKING:
    from bandmeter.catalog import Catalog
    from bandmeter.reports import Reports

COLUMNS = {
    "account": "text",
    "zone": "text",
    "network": "text",
    "product": "text",
    "side": "text",
    "status": "text",
    "created": "time",
}


def respond(reports: Reports, catalog: Catalog, call: Call) -> Reply:
    """A page of zones by account and name, whatever their status, and where the next one begins."""
    form, limit = parameters.read_form(call), parameters.read_limit(call)
    after = _read_state(cursor.read(call))
    found = [zone for _, zones in chosen.choose(reports, catalog, call) for zone in zones]
    rest = sorted((zone for zone in found if (zone.account, zone.name) > after), key=lambda z: (z.account, z.name))
    page = rest[:limit]
    following = cursor.write(call, [page[-1].account, page[-1].name]) if len(rest) > limit else None
    table = tables.Table(COLUMNS, [_row(zone) for zone in page], localtime.UTC, {"next": following})
    return tables.render(table, form, {"Bandmeter-Next-Cursor": following} if following else {})


def _read_state(state: list[Any] | None) -> tuple[str, str]:
    if state is None:
        return "", ""
    if [type(name) for name in state] != [str, str]:
        cursor.refuse()
    return state[0], state[1]


def _row(zone: Zone) -> list[Any]:
    return [zone.account, zone.name, zone.network, zone.product, str(zone.side), str(zone.status), zone.created_s]
