"""Kept replies: what is asked again is not computed again, until something that it rests on changes."""

from __future__ import annotations

import asyncio
import sqlite3
from array import array

import httpx
import pytest
import structlog

from bandmeter.catalog import Catalog
from bandmeter.dialects import DIALECTS
from bandmeter.domain import errors
from bandmeter.domain.contracts import Batch, Call, Endpoint, Reply, SourceState
from bandmeter.domain.errors import BandmeterError
from bandmeter.domain.grid import Span
from bandmeter.domain.questions import Basis, CostAnswer, SeriesAnswer, UsageAnswer, UsageQuestion
from bandmeter.domain.tenancy import Account, Scope
from bandmeter.domain.usage import Outcomes, Side
from bandmeter.pricing import PRICES
from bandmeter.reports import Reports
from bandmeter.store import MemoryStore
from bandmeter.web import kept
from bandmeter.web.app import build
from bandmeter.web.kept import Kept, key_of

NOW_S = 1_795_348_800  # 2026-11-22T12:00:00Z
DAY_S = 86_400
ASKED = {
    "zone_bw": "/zone/bw?zone=one",
    "customer_bw": "/customer/bw",
    "usage": "/public/usage?product=rpc",
    "bandwidth": "/v2/stat/bandwidth?domains=one&start_time=2026-11-21&end_time=2026-11-22",
}


class House:
    """A server that keeps replies; `answered` counts the questions that were not answered from them."""

    def __init__(self, folder) -> None:
        self.catalog = Catalog.open(f"sqlite:///{folder}/catalog.db")
        for account in ("acme", "other"):
            self.catalog.add_account(Account(account, kind="team"))
            for name in ("one", "two"):
                self.catalog.add_zone(account, name, "res", "rpc", now_s=0)
        self.zones = self.catalog.zones("acme")
        self.store = MemoryStore()
        self.reports = Reports(self.catalog, self.store, PRICES)
        self.now_ms, self.answered, self.written = NOW_S * 1000, 0, 0
        answer, self.reports.answer = self.reports.answer, self._answer
        self._really_answer = answer
        self.app = build(self.reports, self.catalog, DIALECTS, lambda: self.now_ms, list, kept_bytes=2**20)
        self.keys = {account: self.catalog.add_key(account, Scope.READ, None, 0) for account in ("acme", "other")}

    def _answer(self, question):
        self.answered += 1
        return self._really_answer(question)

    def get(self, path, account="acme") -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.keys[account]}", "x-apikey": self.keys[account]}

        async def send():
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                return await client.get(path, headers=headers)

        return asyncio.run(send())

    def counts(self, path, account="acme") -> int:
        """How many questions it took to answer."""
        before = self.answered
        assert self.get(path, account).status_code == 200
        return self.answered - before

    def carry(self, zone) -> None:
        self.written += 1
        row = array("q", [zone.number, NOW_S, 0, 1, 1, 10**7, 10**7, 0, 0, 0, 0])
        source = SourceState(0, f"{self.written}", "jsonl", "", b"", 0, b"", 0, "", Outcomes(), None, None, "")
        assert self.store.write(Batch(source, source, row, {zone.number: NOW_S * 1000}, [], self.now_ms + self.written))


@pytest.fixture
def house(tmp_path):
    made = House(tmp_path)
    yield made
    made.catalog.close()


# ---------------------------------------------------------------- what makes an answer new


@pytest.mark.parametrize("path", ASKED.values(), ids=ASKED)
def test_who_asks_again_gets_the_same_bytes_without_a_question(house, path):
    house.carry(house.zones[0])
    first = house.get(path)
    assert house.counts(path) == 0
    again = house.get(path)
    assert (again.content, again.status_code) == (first.content, first.status_code)
    assert {k: v for k, v in again.headers.items() if k != "x-ratelimit-remaining"} == {
        k: v for k, v in first.headers.items() if k != "x-ratelimit-remaining"
    }


@pytest.mark.parametrize("path", ASKED.values(), ids=ASKED)
def test_traffic_of_the_zone_a_change_of_the_catalog_and_the_next_day_are_answered_anew(house, path):
    house.counts(path)
    house.carry(house.zones[0])
    assert house.counts(path) > 0
    house.catalog.add_identity("acme", "two", "somebody")
    assert house.counts(path) > 0
    assert house.counts(path) == 0
    house.now_ms += DAY_S * 1000
    assert house.counts(path) > 0


def test_traffic_of_another_zone_changes_the_stamp_only(house):
    house.carry(house.zones[0])
    before = house.get(ASKED["zone_bw"]).json()["acme"]
    house.carry(house.zones[1])
    asked = house.answered
    after = house.get(ASKED["zone_bw"]).json()["acme"]
    assert house.answered == asked
    assert (before.pop("last_update_ts"), after.pop("last_update_ts")) == (
        "2026-11-22T12:00:00.001Z",
        "2026-11-22T12:00:00.002Z",
    )
    assert after == before


def test_an_account_never_gets_what_was_kept_for_another(house):
    """The same parameters are another question under another account's key."""
    house.carry(house.zones[0])
    for path in ASKED.values():
        mine = house.get(path)
        assert house.counts(path, "other") > 0
        assert house.get(path, "other").content != mine.content


def test_parameters_tell_replies_apart_and_those_that_nobody_knows_do_not(house):
    assert house.counts("/zone/bw?zone=one") > 0
    assert house.counts("/zone/bw?zone=one&x=1") == 0
    assert house.counts("/zone/bw?zone=one&details=1") > 0
    assert house.counts("/zone/bw?zone=two") > 0


def test_a_refusal_is_not_kept(house):
    assert house.get("/zone/bw?zone=three").status_code == 422
    house.catalog.add_zone("acme", "three", "res", "rpc", now_s=0)
    assert house.get("/zone/bw?zone=three").status_code == 200


def test_a_revoked_key_gets_no_kept_reply(house):
    house.counts(ASKED["zone_bw"])
    house.catalog.revoke_key(house.keys["acme"].split("_")[1])
    assert house.get(ASKED["zone_bw"]).status_code == 401


def test_a_store_that_cannot_be_asked_gives_no_kept_reply(house, monkeypatch):
    house.counts(ASKED["zone_bw"])

    def fail(zones):
        raise BandmeterError(errors.UNAVAILABLE, "no disk") from sqlite3.OperationalError()

    monkeypatch.setattr(house.store, "freshness", fail)
    with structlog.testing.capture_logs() as logs:
        assert house.get(ASKED["zone_bw"]).status_code == 503
    assert [line["reason"] for line in logs] == ["no disk"]


def test_nothing_is_kept_where_nothing_may_be(house):
    house.app = build(house.reports, house.catalog, DIALECTS, lambda: house.now_ms, list)
    assert [house.counts(ASKED["zone_bw"]) for _ in range(2)] == [1, 1]


# ---------------------------------------------------------------- bounds


def endpoint():
    return Endpoint("e", ("/e",), "", lambda _: None, lambda *_: Reply(b""), {}, steady_s=60)


def key(n):
    return key_of("d", endpoint(), Call(Account("acme"), {"n": str(n)}, 0))


def series(zones=(1,)):
    return SeriesAnswer([], (), Basis(tuple(zones), 0))


def size_of(reply, zones=1):
    shelf = Kept(MemoryStore(), 2**30)
    shelf.keep(key(0), 1, series(range(zones)), reply)
    return shelf._bytes


def test_what_was_asked_for_last_stays_and_the_memory_has_an_end():
    reply = Reply(b"x" * 1_000)
    room = kept.REPLIES_MIN + 6
    shelf = Kept(MemoryStore(), size_of(reply) * room + 500)  # keys differ by a digit
    for n in range(3 * room):
        shelf.keep(key(n), 1, series(), reply)
        assert shelf.find(key(0), endpoint(), 1) == reply  # asked for all the time
        assert 0 < shelf._bytes <= shelf._bytes_max
        assert shelf._bytes == sum(entry.size for entry in shelf._entries.values())
    there = [n for n in range(3 * room) if shelf.find(key(n), endpoint(), 1)]
    assert there[:2] == [0, 3 * room - len(there) + 1]
    assert len(there) >= room - 1


def test_a_reply_that_is_replaced_or_wrong_by_now_takes_no_memory():
    shelf, reply = Kept(MemoryStore(), 2**20), Reply(b"x" * 1_000)
    for _ in range(5):
        shelf.keep(key(0), 1, series(), reply)
    assert (len(shelf._entries), shelf._bytes) == (1, size_of(reply))
    assert shelf.find(key(0), endpoint(), 2) is None  # the catalog has changed
    assert (len(shelf._entries), shelf._bytes) == (0, 0)


def test_a_huge_reply_and_one_of_very_many_zones_are_not_kept():
    shelf = Kept(MemoryStore(), 2**20)
    shelf.keep(key(0), 1, series(), Reply(b"x" * (2**20 // kept.REPLIES_MIN)))
    shelf.keep(key(1), 1, series(range(kept.ZONES_MAX + 1)), Reply(b""))
    assert not shelf._entries
    shelf.keep(key(1), 1, series(range(kept.ZONES_MAX)), Reply(b""))
    assert shelf._bytes >= kept.ZONES_MAX * 8


def test_only_what_rests_on_usage_alone_is_kept():
    """Money also rests on prices, and what no question was asked for rests on nothing that is known."""
    shelf, usage = Kept(MemoryStore(), 2**20), UsageAnswer([], None, None, Basis((1,), 0))
    for answer in (None, CostAnswer("USD", []), [usage, CostAnswer("USD", [])]):
        shelf.keep(key(0), 1, answer, Reply(b""))
        assert not shelf._entries
    shelf.keep(key(0), 1, [usage, series()], Reply(b""))
    assert len(shelf._entries) == 1


def test_a_basis_names_every_zone_that_could_have_been_in_the_answer(house):
    """Also those without traffic, which are not shown: it may come."""
    house.catalog.set_zone_status("acme", "two", "deleted")
    answer = house.reports.answer(UsageQuestion("acme", Span(0, DAY_S), side=Side.TARGET))
    assert [used.zone.name for used in answer.zones] == ["one"]
    assert answer.basis.zones == tuple(zone.number for zone in house.zones)
