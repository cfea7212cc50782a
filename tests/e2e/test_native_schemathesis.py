"""The native API and its OpenAPI document agree, as schemathesis sees it: every check, with both kinds of key.

A schema cannot say which zones there are (404, which every check allows), which cursor was given out, which time zones
there are, nor that `from` and `to` lie on edges of the resolution, nor what does not go with hosts: `mend` makes valid
requests keep those rules. No check is left out, and none is given more statuses than it has by itself.
"""

from __future__ import annotations

import itertools
from array import array

import pytest
import schemathesis
from examination import examine
from schemathesis.hooks import GLOBAL_HOOK_DISPATCHER

from bandmeter.catalog import Catalog
from bandmeter.domain import tenancy, usage
from bandmeter.domain.contracts import Batch, Hosts, SourceState
from bandmeter.pricing import PRICES
from bandmeter.reports import Reports
from bandmeter.store import MemoryStore
from bandmeter.web import native
from bandmeter.web.app import build

NOW_S = 1669116932  # 2022-11-22T11:35:32Z
EXAMPLES = 25  # of each operation and phase
SOURCE = SourceState(0, "t", "jsonl", "", b"", 0, b"", 0, "", usage.Outcomes(), None, None, "")


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """The application over a real catalog and some traffic, an account's key and an operator's."""
    catalog = Catalog.open(f"sqlite:///{tmp_path_factory.mktemp('catalog')}/catalog.db")
    catalog.add_account(tenancy.Account("acme"))
    numbers = [catalog.add_zone("acme", name, now_s=NOW_S).number for name in ("one", "two")]
    rows, hosts = array("q"), Hosts([], array("q"))
    for number, day in itertools.product(numbers, range(20)):
        at = NOW_S // 300 * 300 - day * 86_400
        rows.extend((number, at, 0, *[5] * 8))
        hosts.names.append(("a.test", "bücher.example")[day % 2])
        hosts.rows.extend((number, at // 86_400 * 86_400, *[4] * 8))
    store = MemoryStore()
    store.write(Batch(SOURCE, SOURCE._replace(head=b"x", position=1), rows, {}, [], NOW_S * 1000, hosts=hosts))
    keys = [catalog.add_key(account, tenancy.Scope.READ, None, NOW_S) for account in ("acme", None)]
    reports = Reports(catalog, store, PRICES)
    yield build(reports, catalog, [native.dialect(reports, catalog)], lambda: NOW_S * 1000, list), keys
    catalog.close()


@pytest.fixture(scope="module", autouse=True)
def rules():
    """Mend every case before it is sent, in this file only: schemathesis knows this hook but globally."""

    def before_call(context, case, kwargs):
        mend(case)

    schemathesis.hook(before_call)
    yield
    GLOBAL_HOOK_DISPATCHER.unregister(before_call)


turn = itertools.count()
ZONES = ("UTC", "Asia/Kathmandu", "America/St_Johns")
SPANS = (("2022-11-01", "2022-12-01"), ("2022-10-01", "2022-11-01"), ("2022-10-01", "2022-12-01"))


def mend(case) -> None:
    """Make a valid request keep the rules that its schema cannot say; half of the names are left as they are."""
    if case.meta is None or not case.meta.generation.mode.is_positive or not isinstance(case.query, dict):
        return
    query, number = case.query, next(turn)
    query.pop("cursor", None)
    if "timezone" in query:
        query["timezone"] = ZONES[number % len(ZONES)]
    if "from" in query or "to" in query:
        query["from"], query["to"] = SPANS[number % len(SPANS)]
        if query.get("timezone", "UTC") == "UTC" and number % 2:
            query["to"] += "T00:00:00Z"
    for name, known in (("zones", "two,one"), ("accounts", "acme")):
        if name in query and number % 2:
            query[name] = known
    if "hosts" in query or "host" in query.get("group_by", "").split(","):
        mend_hosts(query, number)


def mend_hosts(query, number) -> None:
    """By host, take away what cannot be had with it."""
    for name in ("rate", "timezone", *usage.DIMENSIONS):
        query.pop(name, None)
    groups = query.get("group_by", "zone").split(",")
    query["group_by"] = ",".join(group for group in groups if group not in usage.DIMENSIONS)
    query["resolution"] = ("day", "month", "total")[number % 3]


def run(app, headers):
    return examine(
        lambda config: schemathesis.openapi.from_asgi("/openapi.json", app, config=config), headers, EXAMPLES
    )


@pytest.mark.parametrize("kind", [0, 1], ids=["account", "operator"])
def test_with_a_key(server, kind):
    """What the document promises is so."""
    app, keys = server
    failures, statuses, operations = run(app, {"Authorization": f"Bearer {keys[kind]}"})
    assert not failures, "\n\n".join(failures[:5])
    assert len(statuses) == operations
    answered = {name for name, counted in statuses.items() if counted[200]}
    assert statuses.keys() - answered == ({"GET /v1/sources"} if kind == 0 else set())  # the operator's alone
    assert statuses["GET /v1/usage"][200] > EXAMPLES


def test_without_a_key(server):
    """Whoever has no key gets 401."""
    failures, statuses, _ = run(server[0], {})
    assert not failures, "\n\n".join(failures[:5])
    assert all(set(counted) <= {400, 401, 405} for name, counted in statuses.items() if "/v1/" in name)
