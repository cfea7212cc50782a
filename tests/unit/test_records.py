"""How a worker takes a body: within its memory and its patience, before anything is counted."""

from __future__ import annotations

import asyncio

import pytest

from bandmeter.domain import errors
from bandmeter.domain.contracts import EVERY_ACCOUNT, Call
from bandmeter.domain.errors import BandmeterError
from bandmeter.domain.tenancy import Account
from bandmeter.formats import find
from bandmeter.ingest.posts import wire
from bandmeter.web import records
from bandmeter.web.records import Taker

PLAIN = [(b"content-type", b"application/x-ndjson")]
ACME, OTHER = Account("acme"), Account("other")


class Feed:
    """Stands for the process that ingests; answers when it is let."""

    def __init__(self):
        self.may_answer = asyncio.Event()
        self.sent = []

    async def send(self, head, content):
        self.sent.append((head, content))
        await self.may_answer.wait()
        return wire.Answer(body={"received": content.count(b"\n")})


def receiving(*chunks, never_ends=False):
    """What ASGI gives of a body."""
    left = list(chunks)

    async def receive():
        if not left:
            await asyncio.Event().wait()
        chunk = left.pop(0)
        return {"type": "http.request", "body": chunk, "more_body": bool(left) or never_ends}

    return receive


def take(taker, *chunks, account=EVERY_ACCOUNT, headers=PLAIN, **options):
    return taker.take(Call(account, {}, 0), headers, receiving(*chunks, **options))


def run(test):
    async def main():
        feed = Feed()
        await test(Taker(feed, find), feed)

    asyncio.run(main())


async def refused(code, taking):
    with pytest.raises(BandmeterError) as caught:
        await taking
    assert caught.value.code == code


def test_a_body_that_stops_is_not_waited_for(monkeypatch):
    """Neither for its next part, nor for all of its small ones."""
    monkeypatch.setattr(records, "PAUSE_SECONDS", 0.01)

    async def test(taker, feed):
        await refused(errors.BODY_LATE, take(taker, b"x", never_ends=True))
        monkeypatch.setattr(records, "PAUSE_SECONDS", 60)
        monkeypatch.setattr(records, "BODY_SECONDS", 0.01)
        await refused(errors.BODY_LATE, take(taker, b"x", never_ends=True))
        assert feed.sent == []

    run(test)


def test_bodies_beyond_a_workers_memory_are_refused_until_there_is_room(monkeypatch):
    """An account has half of it, so it keeps nobody else out; what was let go of can be had again."""
    monkeypatch.setattr(records, "HELD_BYTES_MAX", 100)
    monkeypatch.setattr(records, "ACCOUNT_BYTES_MAX", 50)

    async def test(taker, feed):
        held = [asyncio.create_task(take(taker, b"x" * 25, b"x" * 25, account=ACME))]
        await asyncio.sleep(0)
        await refused(errors.OVERLOADED, take(taker, b"x", account=ACME))
        held.append(asyncio.create_task(take(taker, b"x" * 50, account=OTHER)))
        await asyncio.sleep(0)
        await refused(errors.OVERLOADED, take(taker, b"x"))
        feed.may_answer.set()
        assert [(await one).status for one in held] == [200, 200]
        assert (await take(taker, b"x" * 100)).status == 200
        await refused(errors.OVERLOADED, take(taker, b"x" * 101))
        await refused(errors.BODY_INVALID, take(taker, b"[", headers=[]))
        assert (await take(taker, b"x" * 100)).status == 200

    run(test)


def test_a_body_that_breaks_off_is_no_body():
    async def test(taker, feed):
        async def receive():
            return {"type": "http.disconnect"}

        await refused(errors.BODY_INVALID, taker.take(Call(EVERY_ACCOUNT, {}, 0), PLAIN, receive))
        assert feed.sent == []

    run(test)


def test_more_records_than_can_be_explained_are_refused(monkeypatch):
    monkeypatch.setattr(records, "RECORDS_MAX", 3)

    async def test(taker, feed):
        feed.may_answer.set()
        assert (await take(taker, b"1\n2\n", b"3")).status == 200
        await refused(errors.BODY_TOO_LARGE, take(taker, b"1\n2\n3\n", b"4"))
        await refused(errors.BODY_TOO_LARGE, take(taker, b"[1,2,3,4]", headers=[]))

    run(test)
