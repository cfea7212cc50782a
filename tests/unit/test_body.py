"""Bodies: read whole, within a size and a time, whatever the caller says of them."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from bandmeter.domain import errors
from bandmeter.domain.errors import BandmeterError
from bandmeter.web import body

LIES = [b"65537", b"9" * 4_000, b"-1", b"", b"x", b"1_0", "²".encode(), b"0" * 5_000 + b"2"]


class Sender:
    """Pieces of a body as a server hands them over; `taken` counts those that were read."""

    def __init__(self, pieces, last=b"") -> None:
        self.pieces = iter(pieces)
        self.last = last
        self.taken = 0

    async def __call__(self):
        self.taken += 1
        piece = next(self.pieces, None)
        if piece is None:
            return {"type": "http.request", "body": self.last, "more_body": False}
        return {"type": "http.request", "body": piece, "more_body": True}


def read(receive, *lengths):
    return asyncio.run(body.read([(b"content-length", value) for value in lengths], receive))


def code_of(receive, *lengths):
    with pytest.raises(BandmeterError) as caught:
        read(receive, *lengths)
    return caught.value.code


def test_a_body_is_its_pieces_in_order():
    assert read(Sender([b"a", b"", b"bc"], b"d")) == b"abcd"
    assert read(Sender([])) == b""


def test_the_largest_body_is_read_and_one_byte_more_is_not():
    largest = b"x" * body.BYTES_MAX
    assert read(Sender([largest])) == largest
    assert code_of(Sender([largest], b"y")) == errors.BODY_TOO_LARGE


def test_what_is_announced_as_too_large_is_not_read():
    sender = Sender([b"x"])
    assert code_of(sender, b"%d" % (body.BYTES_MAX + 1)) == errors.BODY_TOO_LARGE
    assert sender.taken == 0
    assert read(Sender([b"x"]), b"%d" % body.BYTES_MAX) == b"x"


@pytest.mark.parametrize("said", LIES)
def test_a_length_that_lies_changes_no_limit(said):
    """Whatever a header says, it is no other error than too large, and what comes is counted."""
    sender = Sender(itertools.repeat(b"x" * 1_000))
    assert code_of(sender, said) == errors.BODY_TOO_LARGE
    assert sender.taken <= body.BYTES_MAX // 1_000 + 1


def test_a_body_without_end_is_cut_off_at_the_limit():
    sender = Sender(itertools.repeat(b"xy"))
    assert code_of(sender) == errors.BODY_TOO_LARGE
    assert sender.taken == body.BYTES_MAX // 2 + 1


def test_a_body_that_does_not_come_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(body, "SECONDS_MAX", 0.01)

    async def receive():
        await asyncio.Event().wait()

    assert code_of(receive) == errors.BODY_LATE


def test_a_body_that_trickles_has_no_more_time_than_one_that_stops(monkeypatch):
    """The time is of the whole body, not of each piece."""
    monkeypatch.setattr(body, "SECONDS_MAX", 0.01)

    async def receive():
        await asyncio.sleep(0)
        return {"type": "http.request", "body": b"", "more_body": True}

    assert code_of(receive) == errors.BODY_LATE


def test_a_caller_that_goes_away_has_sent_no_body():
    """What came so far is never taken for the whole."""

    async def receive():
        return {"type": "http.disconnect"}

    assert code_of(receive) == errors.PARAMETER_INVALID
