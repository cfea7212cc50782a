"""The OpenAPI document and the server agree, as schemathesis sees it: every check, with a key and without.

One check is given what a schema cannot say. `positive_data_acceptance` wants each request that fits the schema
accepted; but JSON Schema knows neither which zones an account has (this vendor answers 422 where others answer 404,
which the check allows by itself), nor that `from` is not after `to`, that both are at most 800 days apart, that cost
takes both or none, and that `details` takes neither. So 422 is allowed, and `mend` makes valid requests keep the
rules between parameters. No check is left out.
"""

from __future__ import annotations

import datetime as dt
import itertools
import re

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings

from bandmeter.catalog import Catalog
from bandmeter.dialects import DIALECTS
from bandmeter.dialects.brightdata.wire import DATE_PATTERN
from bandmeter.domain import tenancy
from bandmeter.pricing import PRICES
from bandmeter.reports import Reports
from bandmeter.store import MemoryStore
from bandmeter.web.app import build

NOW_S = 1669116932  # 2022-11-22T11:35:32Z
ZONES = ("static", "idle.example", "*.wild")
EXAMPLES = settings(
    max_examples=25,
    derandomize=True,  # the same requests on every run
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """The application over a real catalog, and a read key."""
    catalog = Catalog.open(f"sqlite:///{tmp_path_factory.mktemp('catalog')}/catalog.db")
    catalog.add_account(tenancy.Account("acme"))
    for name in ZONES:
        catalog.add_zone("acme", name, now_s=NOW_S)
    catalog.set_plan("acme", None, "per_gb", {"price": "0.42"}, now_s=NOW_S)
    key = catalog.add_key("acme", tenancy.Scope.READ, None, NOW_S)
    reports = Reports(catalog, MemoryStore(), PRICES)
    yield build(reports, catalog, DIALECTS, lambda: NOW_S * 1000, list), key
    catalog.close()


def load(app):
    config = schemathesis.Config()
    config.projects.default.checks.positive_data_acceptance.expected_statuses.append("422")
    return schemathesis.openapi.from_asgi("/openapi.json", app, config=config)


@pytest.fixture(scope="session")
def api(server):
    return load(server[0])


schema = schemathesis.pytest.from_fixture("api")
turn = itertools.cycle(ZONES)


def mend(case) -> None:
    """Make a valid request keep the rules between parameters, and half of them ask for a zone that exists."""
    if case.meta is None or not case.meta.generation.mode.is_positive or not isinstance(case.query, dict):
        return
    query = case.query
    dates = [query[name] for name in ("from", "to") if name in query]
    if not all(isinstance(date, str) and re.search(DATE_PATTERN, date) for date in dates):
        return
    query.pop("details", None) if dates else None
    if len(dates) == 2:
        start = dt.date.fromisoformat(min(dates)[:10])
        query["from"], query["to"] = min(dates), max(dates) if close(dates) else str(start + dt.timedelta(days=2))
    elif dates:
        query.pop("from", None), query.pop("to", None)
    if "zone" in query and len(query["zone"]) % 2:
        query["zone"] = next(turn)


def close(dates) -> bool:
    first, last = (dt.date.fromisoformat(date[:10]) for date in sorted(dates))
    return 2 < (last - first).days < 790


@schema.parametrize()
@EXAMPLES
def test_with_a_key(case, server):
    """What the document promises of an account's key is so."""
    mend(case)
    case.call_and_validate(headers={"Authorization": f"Bearer {server[1]}"})


@schema.parametrize()
@EXAMPLES
def test_without_a_key(case):
    """What the document promises of whoever has none is so: nothing but 401 where a key is required."""
    case.call_and_validate()
