"""A batch's buffer: the same bytes for Python and for DuckDB, whatever was in it before."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from bandmeter.ingest.batch.scratch import Scratch


@pytest.fixture
def scratch():
    made = Scratch(100)
    yield made
    made.close()


def reader(content, step=7):
    """Gives `content` in pieces of at most `step` bytes, as pipes and compressed files do."""
    stream = io.BytesIO(content)

    def read_into(view):
        return stream.readinto(view[:step])

    return read_into


@pytest.mark.parametrize(
    ("size", "limit", "ended"), [(0, 100, True), (99, 100, True), (100, 100, False), (300, 40, False)]
)
def test_it_is_filled_up_to_the_limit(scratch, size, limit, ended):
    content = bytes(range(250))[:size] or b"x" * size
    assert scratch.fill(reader(content), limit) is ended
    assert scratch.bytes() == content[:limit]
    assert scratch.length == min(len(content), limit)


def test_what_was_there_before_is_gone(scratch):
    """Also from the file that DuckDB opens."""
    for content in (b"a" * 100, b"bb\n", b"c" * 60, b""):
        scratch.fill(reader(content), 100)
        scratch.cut(len(content))
        assert scratch.bytes() == bytes(scratch.array) == Path(scratch.path).read_bytes() == content


def test_it_holds_what_replaces_it_shorter_and_longer(scratch):
    scratch.fill(reader(b"a" * 50), 100)
    for content in (b"b" * 3, b"c" * 100, b"", b"d"):
        scratch.replace(content)
        assert scratch.bytes() == Path(scratch.path).read_bytes() == content


def test_it_looks_only_at_what_it_holds(scratch):
    scratch.fill(reader(b"ab\ncd\nxx\0"), 100)
    scratch.cut(6)
    assert (scratch.rfind(b"\n"), scratch.rfind(b"x")) == (5, -1)
    assert (scratch.holds(b"d"), scratch.holds(b"\0")) == (True, False)
    assert scratch.bytes(3) == b"cd\n"
    assert scratch.bytes(3, 99) == b"cd\n"


def test_closing_it_hides_no_error():
    """An exception on its way may hold a part of the buffer."""
    scratch = Scratch(10)
    view = scratch.array
    scratch.close()
    assert len(view) == 0
