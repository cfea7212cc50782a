"""`POST /v1/records` and its OpenAPI document agree, as schemathesis sees it, over HTTP: every check, and no status else.

A schema cannot say that `seq` needs a `source`, which columns make a table, nor that a number or a key belongs to one
body: `mend` makes valid requests keep those rules.
"""

from __future__ import annotations

import itertools

import pytest
import schemathesis
from examination import examine
from schemathesis.hooks import GLOBAL_HOOK_DISPATCHER

from bandmeter.catalog import Catalog
from bandmeter.domain.tenancy import Account, Scope
from bandmeter.formats import FORMATS

NOW = "2026-11-23T00:00:00Z"
EXAMPLES = 12  # of each phase
turn = itertools.count()


@pytest.fixture(scope="module")
def served(tmp_path_factory, serve_folder):
    folder = tmp_path_factory.mktemp("posts")
    (folder / "data").mkdir(mode=0o700)
    (folder / "data" / "usage.db").touch()
    catalog = Catalog.open(f"sqlite:///{folder}/data/catalog.db")
    catalog.add_account(Account("acme"))
    catalog.add_zone("acme", "res2", now_s=0)
    keys = {kind: catalog.add_key(account, Scope.INGEST, None, 0) for kind, account in KINDS.items() if kind != "none"}
    keys["reads"] = catalog.add_key("acme", Scope.READ, None, 0)
    catalog.close()
    with serve_folder(folder / "data", folder / "log", 1, BANDMETER_NOW=NOW) as running:
        yield running, keys


KINDS = {"account": "acme", "operator": None}


@pytest.fixture(scope="module", autouse=True)
def rules():
    """Mend every case before it is sent, in this file only, and write bodies as text."""

    def before_call(context, case, kwargs):
        mend(case)

    for name in ("tab-separated-values", *(f"vnd.bandmeter.{name}" for name in FORMATS)):
        schemathesis.serializer(f"text/{name}")(write)
    for name in ("x-ndjson", "ndjson", "jsonl"):
        schemathesis.serializer(f"application/{name}")(write)
    schemathesis.hook(before_call)
    yield
    GLOBAL_HOOK_DISPATCHER.unregister(before_call)


def write(context, value):
    """A body of lines; an example of a format is one of them, every other time."""
    text = value if isinstance(value, str) else str(value)
    if next(turn) % 2:
        text += "\n" + "\n".join(log_format.example for log_format in FORMATS.values())
    return text.encode("utf-8", "replace")


def mend(case) -> None:
    """Make a valid request keep the rules that its schema cannot say."""
    if case.meta is None or not case.meta.generation.mode.is_positive or not isinstance(case.query, dict):
        return
    if "seq" in case.query:
        case.query["source"] = f"s{next(turn)}"
    if "Idempotency-Key" in (case.headers or {}):
        case.headers["Idempotency-Key"] = f"key {next(turn)}"
    if "columns" in case.query:
        case.query["columns"] = "time,identity,bytes_up,bytes_down"


def run(served, headers):
    return examine(
        lambda config: schemathesis.openapi.from_url(f"{served.url}/openapi.json", config=config).include(
            path="/v1/records"
        ),
        headers,
        EXAMPLES,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_with_a_key(served, kind):
    """What the document promises is so."""
    running, keys = served
    findings = run(running, {"Authorization": f"Bearer {keys[kind]}"})
    assert not findings.failures, "\n\n".join(findings.failures[:5])
    assert findings.operations == 1
    (statuses,) = findings.statuses.values()
    assert statuses[200] > EXAMPLES
    assert set(statuses) <= {200, 400, 401, 405, 409, 415, 422}
    assert '"level": "error"' not in running.log.read_text()


@pytest.mark.parametrize(("kind", "allowed"), [("", {400, 401, 405}), ("reads", {400, 401, 403, 405})])
def test_without_a_key_that_may_send(served, kind, allowed):
    running, keys = served
    findings = run(running, {"Authorization": f"Bearer {keys[kind]}"} if kind else {})
    assert not findings.failures, "\n\n".join(findings.failures[:5])
    (statuses,) = findings.statuses.values()
    assert set(statuses) <= allowed
    assert statuses[403 if kind else 401] > EXAMPLES
