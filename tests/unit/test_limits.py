"""Rate limits: which one holds, exact counts over processes and threads, and answers when nobody can count."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading

import httpx
import pytest
import structlog

from bandmeter import config
from bandmeter.catalog import Catalog
from bandmeter.dialects import DIALECTS
from bandmeter.domain import errors
from bandmeter.domain.contracts import Limit
from bandmeter.domain.errors import BandmeterError
from bandmeter.domain.tenancy import Account, Scope
from bandmeter.pricing import PRICES
from bandmeter.reports import Reports
from bandmeter.store import MemoryStore
from bandmeter.web import limits, native
from bandmeter.web.app import build
from bandmeter.web.limits import CountError, Limiter, Rule, Rules, SharedFile, Standing

MINUTE = 27_818_611
NOW_MS = MINUTE * 60_000
PATHS = {"brightdata": "/status", "evomi": "/public", "native": "/v1/zones", "baishan": "/v2/stat/bandwidth"}


def count(counting, rule, minute=MINUTE):
    return asyncio.run(counting.count(rule, minute))


@pytest.fixture
def file(tmp_path):
    opened = SharedFile(tmp_path / "limits.bin")
    yield opened
    opened.close()


# ---------------------------------------------------------------- which limit holds


def test_a_keys_own_limit_holds_over_all_dialects_together_else_each_dialects():
    rules = Rules({"baishan": 300, "evomi": 0}, {"aa": 5, "bb": 0})
    assert rules.find("baishan", "cc") == Rule("baishan:cc", 300)
    assert rules.find("evomi", "cc") is rules.find("native", "cc") is None
    assert rules.find("baishan", "aa") == rules.find("evomi", "aa") == Rule("aa", 5)
    assert rules.find("baishan", "bb") is None, "0 is no limit"


def test_the_settings_say_so(tmp_path):
    (tmp_path / "bandmeter.toml").write_text(
        '[limits]\nevomi = 7\n[limits.keys]\n0123456789ab = 9\n"ba9876543210" = 0\n'
    )
    found = config.load({"BANDMETER_LIMITS_NATIVE": "8"}, str(tmp_path))
    assert found.limits.dialects == {"brightdata": 0, "evomi": 7, "baishan": 300, "native": 8}
    assert found.key_limits == {"0123456789ab": 9, "ba9876543210": 0}
    (tmp_path / "bandmeter.toml").write_text(config.dump(found))
    again = config.load({}, str(tmp_path))
    assert (again.limits, again.key_limits) == (found.limits, found.key_limits)


@pytest.mark.parametrize(
    "text",
    [
        "[limits]\nkeys = 5",
        "[limits.keys]\nbm_0123456789ab_secret = 5",
        "[limits.keys]\n0123456789ab = -1",
        "[limits.keys]\n0123456789ab = true",
        "[limits]\nserver = 'secret@host'",
        "[limits]\nserver = 'http://:secret@host'",
        "[limits]\nserver = 'redis://:secret@host:port'",
        "[limits]\nserver = 'redis://'",
        "[limits]\nbaishan = -1",
    ],
)
def test_settings_that_cannot_be_meant_are_refused_without_showing_a_secret(tmp_path, text):
    (tmp_path / "bandmeter.toml").write_text(text)
    with pytest.raises(BandmeterError) as caught:
        config.load({}, str(tmp_path))
    assert caught.value.code == errors.INPUT_INVALID
    assert "secret" not in caught.value.sentence
    assert "limits." in caught.value.sentence


def test_every_dialect_has_a_setting():
    assert {dialect.name for dialect in DIALECTS} | {native.NAME} == set(config.Limits().dialects)


# ---------------------------------------------------------------- the file


def test_each_name_counts_alone_and_each_minute_anew(file):
    rule = Rule("a", 2)
    assert [count(file, rule) for _ in range(4)] == [1, 2, 3, 3], "one too many is not counted on"
    assert count(file, Rule("b", 2)) == 1
    assert count(file, rule, MINUTE + 1) == 1


def test_a_request_that_read_the_clock_before_the_minute_turned_counts_in_the_new_one(file):
    assert [count(file, Rule("a", 9), minute) for minute in (MINUTE, MINUTE + 1, MINUTE, MINUTE + 1)] == [1, 1, 2, 3]


def test_a_clock_that_was_set_back_locks_nobody_out(file):
    assert [count(file, Rule("a", 1), minute) for minute in (MINUTE + 600, MINUTE)] == [1, 1]


def test_counts_outlive_a_process_and_old_slots_are_used_again(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "SLOTS_PER_GROUP", 1)
    monkeypatch.setattr(limits, "GROUPS", 1)
    monkeypatch.setattr(limits, "_GROUP_BYTES", limits._SLOT.size)
    limits._place.cache_clear()
    first = SharedFile(tmp_path / "limits.bin")
    assert [count(first, Rule("a", 9)), count(first, Rule("a", 9))] == [1, 2]
    first.close()
    second = SharedFile(tmp_path / "limits.bin")
    assert count(second, Rule("a", 9)) == 3
    with pytest.raises(CountError, match="room"):
        count(second, Rule("b", 9))
    assert count(second, Rule("b", 9), MINUTE + 2) == 1
    second.close()
    limits._place.cache_clear()


def test_nobody_else_may_read_the_file(file, tmp_path):
    assert (tmp_path / "limits.bin").stat().st_mode & 0o077 == 0


COUNT_MANY = """
import asyncio, pathlib, sys
from bandmeter.web.limits import Rule, SharedFile
file, rule = SharedFile(pathlib.Path(sys.argv[1])), Rule("a", 5_000)
async def run():
    return sum([await file.count(rule, int(sys.argv[2])) <= rule.most for _ in range(3_000)])
print(asyncio.run(run()))
"""


def test_several_processes_let_exactly_the_limit_pass(tmp_path):
    """9,000 requests of three processes at once, of which 5,000 may pass."""
    command = [sys.executable, "-c", COUNT_MANY, str(tmp_path / "limits.bin"), str(MINUTE)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    passed = [int(process.communicate(timeout=60)[0]) for process in processes]
    assert sum(passed) == 5_000
    assert count_of(tmp_path / "limits.bin", Rule("a", 5_000)) == 5_001


def count_of(path, rule):
    opened = SharedFile(path)
    try:
        return count(opened, rule)
    finally:
        opened.close()


def test_several_threads_count_exactly(file):
    threads = [threading.Thread(target=lambda: [count(file, Rule("a", 10**6)) for _ in range(200)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count(file, Rule("a", 10**6)) == 801


# ---------------------------------------------------------------- the limiter


class Flaky:
    """Counts, or fails while `trouble` says so."""

    def __init__(self) -> None:
        self.trouble, self.asked = "", 0

    async def count(self, rule, minute):
        self.asked += 1
        if self.trouble:
            raise CountError(self.trouble)
        return 1

    async def check(self):
        if self.trouble:
            raise CountError(self.trouble)


def test_a_standing_says_what_is_left_and_when_the_minute_ends(file):
    limiter, rule = Limiter(Rules({}, {}), file, lambda: 0.0), Rule("a", 2)

    async def hits():
        return [await limiter.hit(rule, NOW_MS + ms) for ms in (0, 1, 59_999)]

    assert asyncio.run(hits()) == [
        Standing(Limit(2, 1, 60), is_over=False),
        Standing(Limit(2, 0, 60), is_over=False),
        Standing(Limit(2, 0, 1), is_over=True),
    ]


def test_who_cannot_be_counted_passes_and_the_log_says_so_once_a_minute():
    counting, now = Flaky(), [0.0]
    limiter = Limiter(Rules({}, {}), counting, lambda: now[0])
    hit = lambda: asyncio.run(limiter.hit(Rule("a", 1), NOW_MS))  # noqa: E731
    counting.trouble = "it is gone"
    with structlog.testing.capture_logs() as logs:
        for now[0] in (0.0, 0.5, 1.0, 30.0, 59.9, 61.0):
            assert hit() is None
    assert [line["reason"] for line in logs] == ["it is gone"] * 2
    assert counting.asked == 5, "a second's pause after each failure"
    assert asyncio.run(limiter.warnings()) == ["Requests are not limited: it is gone."]
    counting.trouble, now[0] = "", 62.0
    assert hit().limit == Limit(1, 0, 60)
    assert asyncio.run(limiter.warnings()) == []


def test_a_file_that_cannot_be_opened_limits_nobody(tmp_path):
    limiter = limits.open_limiter(Rules({"native": 1}, {}), "", tmp_path / "none" / "limits.bin", lambda: 0.0)
    assert asyncio.run(limiter.hit(Rule("a", 1), NOW_MS)) is None
    assert "cannot be opened" in asyncio.run(limiter.warnings())[0]


# ---------------------------------------------------------------- requests


@pytest.fixture
def catalog(tmp_path):
    made = Catalog.open(f"sqlite:///{tmp_path}/catalog.db")
    made.add_account(Account("acme"))
    yield made
    made.close()


@pytest.fixture
def ask(catalog, file):
    """Ask paths in turn under a limit of 2 a minute for each dialect; `clock` moves the time."""
    reports = Reports(catalog, MemoryStore(), PRICES)
    limiter = Limiter(Rules(dict.fromkeys(PATHS, 2), {}), file, lambda: 0.0)
    clock = [NOW_MS]
    dialects = (*DIALECTS, native.dialect(reports, catalog))
    app = build(reports, catalog, dialects, lambda: clock[0], list, limiter=limiter)
    key = catalog.add_key("acme", Scope.READ, None, 0)

    def ask(*paths, key=key):
        async def send():
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
                headers = {"Authorization": f"Bearer {key}", "x-apikey": key}
                return [await client.get(path, headers=headers, params=parameters(path, key)) for path in paths]

        return asyncio.run(send())

    ask.clock = clock
    return ask


def parameters(path, key):
    return {"token": key} if path.startswith("/v2") else {}


@pytest.mark.parametrize("name", sorted(PATHS))
def test_each_dialect_refuses_in_its_own_form_with_a_retry_after(ask, name):
    """A bad request counts like a good one; the dialects do not share a limit, and a minute later all is well."""
    path, other = PATHS[name], next(path for dialect, path in sorted(PATHS.items()) if dialect != name)
    ask.clock[0] = NOW_MS + 20_000
    *passed, refused, elsewhere = ask(path, path, path, other)
    assert {answer.status_code for answer in passed} & {401, 429} == set()
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "40"
    assert elsewhere.status_code != 429
    dialect = next((d for d in DIALECTS if d.name == name), None)
    expected = (
        dialect.render_error(BandmeterError(errors.RATE_LIMITED, "Too many requests in this minute."))
        if dialect
        else None
    )
    if expected:
        assert (refused.content, refused.headers["content-type"]) == (expected.body, expected.content_type)
    else:
        assert refused.json()["code"] == "rate_limited"
    ask.clock[0] = NOW_MS + 60_000
    assert ask(path)[0].status_code == passed[0].status_code


def test_a_stranger_uses_up_nobodys_limit(ask, catalog):
    key = catalog.add_key("acme", Scope.READ, None, 0)
    assert {answer.status_code for answer in ask(*["/v1/zones"] * 5, key=f"bm_{key[3:15]}_{'x' * 43}")} == {401}
    assert ask("/v1/zones", key=key)[0].status_code == 200


def test_baishan_tells_where_the_key_stands_with_errors_too(ask):
    ask.clock[0] = NOW_MS + 39_000
    for left, answer in zip(("1", "0", "0"), ask(*[PATHS["baishan"]] * 3), strict=True):
        assert answer.headers["x-ratelimit-limit"] == "2"
        assert answer.headers["x-ratelimit-remaining"] == left
        assert answer.headers["x-retry-after"] == "21"
