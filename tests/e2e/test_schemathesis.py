"""The OpenAPI document and the server agree, as schemathesis sees it: every check, with a key and without.

One check is given what a schema cannot say. `positive_data_acceptance` wants each request that fits the schema
accepted; but JSON Schema knows neither which zones an account has (Bright Data answers 422 where others answer 404,
which the check allows by itself, and BaishanCloud 400), nor that `from` is not after `to`, that both are at most 800
days apart, that cost takes both or none, and that `details` takes neither; nor which dates there are, and that
`start_time` is before `end_time`, by 31 or 10 days at most. So 422 is allowed, and `mend` makes valid requests keep
the rules between parameters, and name domains that exist. No check is left out.
"""

from __future__ import annotations

import datetime as dt
import itertools
import re
from array import array
from collections import Counter

import pytest
import schemathesis
from schemathesis.engine import events, from_schema
from schemathesis.hooks import GLOBAL_HOOK_DISPATCHER

from bandmeter.catalog import Catalog
from bandmeter.dialects import DIALECTS
from bandmeter.dialects.brightdata.wire import DATE_PATTERN
from bandmeter.domain import tenancy
from bandmeter.domain.contracts import Batch, Hosts, SourceState
from bandmeter.domain.usage import Outcomes
from bandmeter.pricing import PRICES
from bandmeter.reports import Reports
from bandmeter.store import MemoryStore
from bandmeter.web.app import build

NOW_S = 1669116932  # 2022-11-22T11:35:32Z
ZONES = ("static", "idle.example", "*.wild")
SEED = 20221122
EXAMPLES = 25  # of each operation and phase, so that the whole stays under a minute


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """The application over a real catalog, and a read key."""
    catalog = Catalog.open(f"sqlite:///{tmp_path_factory.mktemp('catalog')}/catalog.db")
    catalog.add_account(tenancy.Account("acme", email_verified=True))
    store, rows, hosts = MemoryStore(), array("q"), Hosts([], array("q"))
    for name in ZONES:
        zone = catalog.add_zone("acme", name, product="rpc", now_s=NOW_S)
        for hours in range(0, 900, 7):
            at, counters = NOW_S // 300 * 300 - hours * 3600, (3, 2, 10**6, hours * 10**6, 0, 0, 0, 0)
            rows.extend([zone.number, at, 0, *counters])
            if hours % 3:
                hosts.names.append(("a.test", "[2001:db8::1]", "bücher.example")[hours % 2 + hours % 3 - 1])
                hosts.rows.extend([zone.number, at // 86_400 * 86_400, *counters])
    source = SourceState(0, "files", "tsv", "a.log", b"", 0, b"", 0, "", Outcomes(), None, None, "")
    assert store.write(Batch(source, source, rows, {}, [], NOW_S * 1000, hosts=hosts))
    catalog.set_plan("acme", None, "per_gb", {"price": "0.42"}, now_s=NOW_S)
    key = catalog.add_key("acme", tenancy.Scope.READ, None, NOW_S)
    reports = Reports(catalog, store, PRICES)
    yield build(reports, catalog, DIALECTS, lambda: NOW_S * 1000, list), key
    catalog.close()


@pytest.fixture(scope="module", autouse=True)
def rules():
    """Mend every case before it is sent, in this file only: schemathesis knows this hook but globally."""

    def before_call(context, case, kwargs):
        mend(case)

    schemathesis.hook(before_call)
    yield
    GLOBAL_HOOK_DISPATCHER.unregister(before_call)


def load(app, headers):
    """The served document, under the settings of this test; every check is on by default."""
    config = schemathesis.Config(seed=SEED)
    project = config.projects.default
    project.headers = headers
    project.continue_on_failure = True
    project.generation.max_examples = EXAMPLES
    project.generation.deterministic = True
    project.generation.database = "none"
    project.generation.with_security_parameters = (
        False  # a key that it made up would be tried before the one in headers
    )
    allowed = project.checks.positive_data_acceptance
    allowed.expected_statuses = [*allowed.expected_statuses, "422"]
    return schemathesis.openapi.from_asgi("/openapi.json", app, config=config)


def run(api) -> tuple[list[str], dict[str, Counter[int]]]:
    """Run every phase; what failed, and how often each operation gave each status."""
    failures: list[str] = []
    statuses: dict[str, Counter[int]] = {}
    for event in from_schema(api).execute():
        if isinstance(event, events.NonFatalError | events.FatalError):
            failures.append(str(getattr(event, "value", None) or event.exception))
        if isinstance(event, events.EngineFinished):
            failures += [str(failure) for failure in event.failures]
        if isinstance(event, events.ScenarioFinished):
            for case_id, checks in event.recorder.checks.items():
                failed = [check for check in checks if check.failure_info]
                failures += [f"{check.failure_info.failure}\n{check.failure_info.code_sample}" for check in failed]
                interaction = event.recorder.interactions.get(case_id)
                if interaction and interaction.response:
                    counted = statuses.setdefault(event.recorder.cases[case_id].value.operation.label, Counter())
                    counted[interaction.response.status_code] += 1
    return failures, statuses


turn = itertools.cycle(ZONES)


def mend(case) -> None:
    """Make a valid request keep the rules between parameters, and half of them ask for a zone that exists."""
    if case.meta is None or not case.meta.generation.mode.is_positive or not isinstance(case.query, dict):
        return
    if isinstance(case.body, dict):
        mend_dates(case.body)
    elif case.operation.path.startswith("/v2/"):
        mend_statistics(case.query)
    else:
        mend_dates(case.query)


def mend_statistics(query) -> None:
    """Keep the length of what was generated, as a choice among what exists."""
    if {"domains", "start_time", "end_time"} <= query.keys():
        chosen = len(query["domains"])
        query["domains"] = "all" if chosen % 4 == 3 else ",".join(ZONES[: chosen % 4 + 1])
        time = " 07:05" if " " in query["start_time"] else ""
        query["start_time"], query["end_time"] = f"2022-11-{1 + chosen % 9:02}{time}", "2022-11-10 23:10"


def mend_dates(query) -> None:
    dates = [query[name] for name in ("from", "to") if name in query]
    if not all(isinstance(date, str) and re.search(DATE_PATTERN, date) for date in dates):
        return
    query.pop("details", None) if dates else None
    if len(dates) == 2:
        first, last = sorted(dates, key=day_of)
        query["from"], query["to"] = first, last if close(first, last) else str(day_of(first) + dt.timedelta(days=3))
    elif dates:
        query.pop("from", None), query.pop("to", None)
    if "zone" in query and len(query["zone"]) % 2:
        query["zone"] = next(turn)
    if "zones" in query and len(query["zones"]) % 2:
        query["zones"] = ",".join(ZONES[: len(query["zones"]) % 3 + 1])


def day_of(date) -> dt.date:
    """The day that it writes, of either form of ISO 8601; the offset moves the moment by two days at most."""
    return dt.date.fromisoformat(re.match(r"\d{4}-?\d\d-?\d\d", date)[0])


def close(first, last) -> bool:
    return 3 < (day_of(last) - day_of(first)).days < 790


def test_with_a_key(server):
    """What the document promises to an account's key is so."""
    app, key = server
    api = load(app, {"Authorization": f"Bearer {key}", "x-apikey": key})
    failures, statuses = run(api)
    assert not failures, "\n\n".join(failures[:5])
    assert len(statuses) == api.statistic.operations.total
    assert all(counted[200] for counted in statuses.values()), "an operation was never answered: nothing was tested"


def test_without_a_key(server):
    """Whoever has no key gets 401 wherever one is required."""
    failures, statuses = run(load(server[0], {}))
    assert not failures, "\n\n".join(failures[:5])
    open_to_all = {"GET /healthz", "GET /readyz", "GET /docs"}  # and /openapi.json, which schemathesis itself reads
    assert {name for name, counted in statuses.items() if counted[200]} == open_to_all
    assert all(counted[401] for name, counted in statuses.items() if name not in open_to_all)
