"""The application: finding endpoints, refusing the rest, health, docs, and what happens when something breaks."""

from __future__ import annotations

import asyncio
import json
import re
import threading

import httpx
import pytest
import structlog

from bandmeter.catalog import Catalog
from bandmeter.dialects import DIALECTS
from bandmeter.domain import errors
from bandmeter.domain.errors import BandmeterError
from bandmeter.domain.tenancy import Account, Scope
from bandmeter.pricing import PRICES
from bandmeter.reports import Reports
from bandmeter.store import MemoryStore, SqliteStore
from bandmeter.web import app as application
from bandmeter.web.app import build

NOW_S = 1_700_000_000


class Stub:
    """Reports that do as a test says; `threads` names those in which an answer was asked."""

    def __init__(self, answer=None) -> None:
        self.wanted = answer
        self.threads: set[str] = set()

    def answer(self, question):
        self.threads.add(threading.current_thread().name)
        return self.wanted(question)


@pytest.fixture
def catalog(tmp_path):
    made = Catalog.open(f"sqlite:///{tmp_path}/catalog.db")
    made.add_account(Account("acme"))
    made.add_zone("acme", "static", now_s=0)
    yield made
    made.close()


@pytest.fixture
def key(catalog):
    return catalog.add_key("acme", Scope.READ, None, 0)


def make(catalog, reports=None, health=list, dialects=DIALECTS, told=None):
    reports = reports or Reports(catalog, MemoryStore(), PRICES)
    return build(reports, catalog, dialects, lambda: NOW_S * 1000, health, told=told)


def ask(app, *paths, method="GET", key=None):
    """The answers, all asked at once; one alone for one path."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}

    async def send():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await asyncio.gather(*(client.request(method, path, headers=headers) for path in paths))

    answers = asyncio.run(send())
    return answers[0] if len(answers) == 1 else answers


# ---------------------------------------------------------------- pages


def test_healthz_says_that_the_server_runs(catalog):
    answer = ask(make(catalog, health=lambda: ["broken"]), "/healthz")
    assert (answer.status_code, answer.json()) == (200, {"alive": True})


def test_readyz_says_whether_it_can_answer(catalog):
    answer = ask(make(catalog), "/readyz")
    assert (answer.status_code, answer.json()) == (200, {"ready": True, "faults": []})
    answer = ask(make(catalog, health=lambda: ["The disk is full."]), "/readyz")
    assert (answer.status_code, answer.json()) == (503, {"ready": False, "faults": ["The disk is full."]})


def test_readyz_tells_what_is_wrong_with_ingest(catalog):
    """A fault makes it not ready; of a warning there is a word only where there is one."""

    def ready(faults, warnings):
        async def told():
            return faults, warnings

        answer = ask(make(catalog, told=told), "/readyz")
        return answer.status_code, answer.json()

    assert ready([], []) == (200, {"ready": True, "faults": []})
    assert ready([], ["odd"]) == (200, {"ready": True, "faults": [], "warnings": ["odd"]})
    assert ready(["full"], []) == (503, {"ready": False, "faults": ["full"]})


def test_whoever_asks_for_the_root_is_sent_to_the_docs(catalog):
    answer = ask(make(catalog), "/")
    assert (answer.status_code, answer.headers["location"], answer.content) == (307, "/docs", b"")


def test_docs_are_one_page_that_needs_nothing_from_elsewhere(catalog):
    """A strict policy forbids inline code and other hosts, and the page asks for neither."""
    page, script, style, document = ask(make(catalog), "/docs", "/static/docs.js", "/static/docs.css", "/openapi.json")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert script.headers["content-type"] == "text/javascript; charset=utf-8"
    assert document.headers["content-type"] == "application/json"
    assert json.loads(document.content)["openapi"] == "3.1.0"
    for answer in (page, script, style):
        assert answer.status_code == 200
        assert not re.search(r"(https?:)?//[a-z]|innerHTML|onclick|style=", answer.text.replace("// ", ""))
        assert "default-src 'none'; script-src 'self'" in answer.headers["content-security-policy"]
    assert not re.search(r"<script(?![^>]*src=)|<style", page.text)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/zones", "text/plain"),
        ("/api", "text/plain"),
        ("/zone/", "text/html"),
        ("/api/status/x", "text/html"),
        ("/domains/cost", "text/html"),
        ("/costs/export/xml", "text/html"),
        ("/api/domains/requests", "text/html"),
        ("/api/costs", "text/html"),
    ],
)
def test_an_unknown_path_is_refused_in_its_owners_form(catalog, path, kind):
    """A prefix owns whole path segments only."""
    answer = ask(make(catalog), path)
    assert (answer.status_code, answer.text) == (404, "Not Found")
    assert answer.headers["content-type"] == f"{kind}; charset=utf-8"


@pytest.mark.parametrize("path", ["/healthz", "/docs", "/zone/bw", "/network_status/all"])
@pytest.mark.parametrize("method", ["POST", "DELETE", "OPTIONS", "TRACE", "BREW"])
def test_another_method_is_refused_with_those_that_there_are(catalog, path, method):
    answer = ask(make(catalog), path, method=method)
    assert answer.status_code == 405
    assert {m.strip() for m in answer.headers["allow"].split(",")} == {"GET", "HEAD"}


@pytest.mark.parametrize(
    "path", ["/", "/healthz", "/readyz", "/docs", "/openapi.json", "/zone/status?zone=static", "/zone/bw", "/zone/x"]
)
def test_every_answer_is_uncached_and_taken_as_its_type(catalog, key, path):
    for answer in (ask(make(catalog), path, key=key), ask(make(catalog), path, method="HEAD", key=key)):
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-security-policy"].startswith("default-src 'none'; ")


def test_head_is_get_without_the_body(catalog, key):
    for path in ("/zone/status?zone=static", "/customer/bw", "/healthz", "/zone/status"):
        get, head = ask(make(catalog), path, key=key), ask(make(catalog), path, method="HEAD", key=key)
        assert head.content == b""
        assert (head.status_code, head.headers["content-length"]) == (get.status_code, str(len(get.content)))


# ---------------------------------------------------------------- threads


def test_answers_over_many_zones_are_computed_off_the_event_loop(catalog, key):
    for path, is_heavy in (("/zone/bw?zone=static", False), ("/customer/bw", True), ("/customer/balance", True)):
        stub = Stub(Reports(catalog, MemoryStore(), PRICES).answer)
        assert ask(make(catalog, stub), path, key=key).status_code == 200
        assert all(name.startswith("heavy") == is_heavy for name in stub.threads), stub.threads


def test_many_requests_at_once_over_real_files(catalog, key, tmp_path):
    """Catalog and store are used from several threads at once."""
    store = SqliteStore(tmp_path / "usage.db")
    app = make(catalog, Reports(catalog, store, PRICES))
    answers = ask(app, *["/customer/bw", "/zone/bw?zone=static"] * 40, key=key)
    store.close()
    assert {answer.status_code for answer in answers} == {200}


def test_who_comes_when_too_many_wait_is_told_to_come_back(catalog, key, monkeypatch):
    """The queue for the threads has an end, and is empty again afterwards."""
    monkeypatch.setattr(application, "HEAVY_WAITING_MAX", 3)
    stopped, stub = threading.Event(), Stub()

    def wait(question):
        stopped.wait()
        return Reports(catalog, MemoryStore(), PRICES).answer(question)

    async def send(app):
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            headers = {"Authorization": f"Bearer {key}"}
            waiting = [asyncio.create_task(client.get("/customer/bw", headers=headers)) for _ in range(3)]
            while len(stub.threads) < 3:  # noqa: ASYNC110 - set by other threads
                await asyncio.sleep(0)
            refused = await client.get("/customer/bw", headers=headers)
            stopped.set()
            return refused, await asyncio.gather(*waiting), await client.get("/customer/bw", headers=headers)

    stub.wanted = wait
    refused, waited, later = asyncio.run(send(make(catalog, stub)))
    assert refused.status_code == 503
    assert [answer.status_code for answer in (*waited, later)] == [200] * 4


# ---------------------------------------------------------------- faults


@pytest.mark.parametrize("path", ["/zone/bw?zone=hush", "/customer/bw?cache=hush"])
def test_a_fault_is_logged_without_what_the_caller_sent(catalog, key, path):
    """The caller learns nothing of the fault, and the log nothing of the key or the query."""

    def fail(question):
        raise ValueError(f"cannot read {key} or hush")

    with structlog.testing.capture_logs() as logs:
        answer = ask(make(catalog, Stub(fail)), path, key=key)
    assert (answer.status_code, answer.text) == (500, "Internal Server Error")
    (line,) = logs
    assert (line["log_level"], line["error"]) == ("error", "ValueError")
    assert any(frame.endswith(" fail") for frame in line["frames"])
    assert key not in str(line)
    assert "hush" not in str(line)


def test_an_unavailable_store_is_logged_with_its_reason_and_answered_without(catalog, key):
    def fail(question):
        raise BandmeterError(errors.UNAVAILABLE, "The disk is full.")

    with structlog.testing.capture_logs() as logs:
        answer = ask(make(catalog, Stub(fail)), "/zone/bw?zone=static", key=key)
    assert (answer.status_code, answer.text) == (503, "Service Unavailable")
    assert [line["reason"] for line in logs] == ["The disk is full."]


def test_a_refusal_is_not_logged(catalog):
    with structlog.testing.capture_logs() as logs:
        ask(make(catalog), "/zone/bw?zone=static", "/zone/bw", "/zone/nothing")
    assert logs == []


# ---------------------------------------------------------------- bodies

EXPORT = "/costs/export/json"
ASKED = b'{"dimension": "zones", "from": "2026-01-01", "to": "2026-01-02"}'


def post(app, content, key=None, path=EXPORT, **headers):
    """The answer to a body, which may be pieces that come one by one."""
    headers |= {"Authorization": f"Bearer {key}"} if key else {}

    async def send():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.post(path, content=content, headers=headers)

    return asyncio.run(send())


class Body:
    """Pieces that count how many of them were asked for."""

    def __init__(self, *pieces) -> None:
        self.pieces = pieces
        self.taken = 0

    async def __aiter__(self):
        for piece in self.pieces:
            self.taken += 1
            yield piece


def test_a_body_in_pieces_is_one(catalog, key):
    """A body comes as it comes, and is answered off the event loop with the whole of it."""
    stub = Stub(Reports(catalog, MemoryStore(), PRICES).answer)
    answer = post(make(catalog, stub), Body(ASKED[:9], b"", ASKED[9:]), key)
    assert (answer.status_code, answer.json()) == (200, {})
    assert all(name.startswith("heavy") for name in stub.threads)


@pytest.mark.parametrize("content_type", ["application/json", "application/x-www-form-urlencoded", "text/x", ""])
def test_a_body_is_json_whatever_it_is_called(catalog, key, content_type):
    """curl says x-www-form-urlencoded of whatever it posts."""
    assert post(make(catalog), ASKED, key, **{"Content-Type": content_type}).status_code == 200


def test_a_strangers_body_is_not_read(catalog):
    sent = Body(b"x" * 9)
    assert post(make(catalog), sent).status_code == 401
    assert sent.taken == 0


def test_a_body_is_read_only_where_one_is_wanted(catalog, key):
    """And only with the method that wants it."""
    sent = Body(b"x" * 9)
    assert post(make(catalog), sent, key, "/zone/status?zone=static").status_code == 405
    assert ask(make(catalog), EXPORT, key=key).status_code == 405
    assert ask(make(catalog), EXPORT, method="HEAD", key=key).headers["allow"] == "POST"
    assert sent.taken == 0


def test_a_body_that_does_not_end_is_refused_in_the_dialects_form(catalog, key, monkeypatch):
    monkeypatch.setattr(application.body, "SECONDS_MAX", 0.01)

    class Endless:
        async def __aiter__(self):
            yield ASKED
            await asyncio.Event().wait()

    answer = post(make(catalog), Endless(), key)
    assert (answer.status_code, answer.text) == (408, "The body did not end within 0 seconds.")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"


@pytest.mark.parametrize(
    "content", [b"\xff", b'{"dimension": "\xff"}', b'{"dimension": "\\ud800"}', b'{"a": 1e999}', b"[" * 65_536, b"nul"]
)
def test_bytes_that_are_no_json_are_refused(catalog, key, content):
    """With the dialect's sentence and never as our fault."""
    answer = post(make(catalog), content, key)
    assert (answer.status_code, answer.text) == (400, "The body takes a JSON object, in UTF-8.")
