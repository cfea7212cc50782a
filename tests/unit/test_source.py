"""Reading a file's content, compressed or not, and finding how far it was counted."""

from __future__ import annotations

import gzip
import io

import pytest
import zstandard

from bandmeter.domain.contracts import SourceState
from bandmeter.domain.errors import BandmeterError
from bandmeter.domain.usage import Outcomes
from bandmeter.ingest.files import source
from bandmeter.store import MemoryStore

CONTENT = b"".join(b"line %d of some content\n" % i for i in range(20_000))
FORMS = {
    "plain": lambda x: x,
    "gz": gzip.compress,
    "zst": zstandard.compress,
    "gz of members": lambda x: b"".join(gzip.compress(x[i : i + 9_999]) for i in range(0, len(x), 9_999)),
    "zst of frames": lambda x: b"".join(zstandard.compress(x[i : i + 9_999]) for i in range(0, len(x), 9_999)),
}


@pytest.fixture(params=FORMS)
def path(request, tmp_path):
    """A file with the content, in one form."""
    made = tmp_path / "file"
    made.write_bytes(FORMS[request.param](CONTENT))
    return str(made)


def test_content_is_read_to_its_end_in_pieces_of_any_size(path):
    for size in (1 << 20, 4_097, 100_000):
        with source.opened(path) as content:
            pieces = list(iter(lambda content=content, size=size: content.read(size), b""))
            assert all(len(piece) == size for piece in pieces[:-1])
            assert b"".join(pieces) == CONTENT
            assert content.offset == len(CONTENT)
            assert not content.is_torn
            assert content.progress_bytes == content.size


def test_what_is_pushed_back_comes_again(path):
    with source.opened(path) as content:
        first = content.read(1000)
        content.push_back(first[900:])
        content.push_back(first[850:900])
        assert content.offset == 850
        assert content.read(10) == first[850:860]
        assert content.read(len(CONTENT)) == CONTENT[860:]


@pytest.mark.parametrize("position", [0, 1, 4_096, 300_000, len(CONTENT)])
def test_going_forward_to_a_position(path, position):
    with source.opened(path) as content:
        content.read(1)
        assert content.skip_to(max(1, position))
        assert content.read(50) == CONTENT[max(1, position) :][:50]
    with source.opened(path) as content:
        assert not content.skip_to(len(CONTENT) + 1)
        assert content.offset == len(CONTENT)


@pytest.mark.parametrize("kept", [0, 1, 2, 3, 5, 9, 11])
def test_a_file_of_a_few_bytes(tmp_path, kept):
    """A compressed one that has hardly begun is empty, or damaged, but no crash."""
    for form in ("gz", "zst"):
        small = tmp_path / form
        small.write_bytes(FORMS[form](CONTENT)[:kept])
        with source.opened(str(small)) as content:
            text = content.read(100)
        assert text == b"" or (kept < 4 and len(text) == kept)


@pytest.mark.parametrize("damage", [b"\x1f\x8b\x09damaged", b"\x28\xb5\x2f\xfd\x08damaged"])
def test_damage_is_said_with_its_place(tmp_path, damage):
    damaged = tmp_path / "file"
    damaged.write_bytes(damage)
    with source.opened(str(damaged)) as content, pytest.raises(BandmeterError, match="at byte 0"):
        content.read(10)


def counted(content, position, number=1, head=None):
    """A source whose first `position` bytes were counted."""
    head = content[: min(position, source.HEAD_BYTES)] if head is None else head
    check = source.check_of(content[:position])
    return SourceState(number, "files", "squid", "/x", head, position, check, 5, "", Outcomes(), None, None, "")


class _Known(MemoryStore):
    def __init__(self, *states):
        super().__init__()
        self._sources = {state.number: state for state in states}


@pytest.mark.parametrize("position", [1, 23, 4_000, 4_096, 4_097, 8_192, 100_000, len(CONTENT)])
def test_a_counted_file_is_found_where_it_was_left(path, position):
    found = source.find(_Known(counted(CONTENT, position)), "files", "squid", path)
    assert (found.state.number, found.state.position) == (1, position)


def test_another_name_finds_nothing(path):
    found = source.find(_Known(counted(CONTENT, 100)), "other", "squid", path)
    assert (found.state.number, found.considered) == (0, 0)


@pytest.mark.parametrize("position", [5_000, 8_000, 9_000, 100_000])
def test_content_that_only_begins_alike_is_new(path, position):
    """Its first 4 KiB are the same, and behind them it differs."""
    other = CONTENT[: source.HEAD_BYTES] + b"!" + CONTENT[source.HEAD_BYTES + 1 :]
    found = source.find(_Known(counted(other[:position], position)), "files", "squid", path)
    differs_before_the_check = position - source.CHECK_BYTES > source.HEAD_BYTES
    assert found.state.number == (1 if differs_before_the_check else 0)
    assert found.considered == 1


def test_the_furthest_of_several_that_fit(path):
    """As two machines that were one source leave them; the order in which they were seen does not matter."""
    states = [counted(CONTENT, position, i) for i, position in ((1, 9_000), (2, 200), (3, 100_000), (4, 8_000))]
    assert source.find(_Known(*states), "files", "squid", path).state.number == 3


def test_a_beginning_of_what_was_counted_is_not_new(tmp_path):
    longer = counted(CONTENT, 100_000)
    for size in (50, 4_096, 5_000, 90_000):
        copy = tmp_path / "copy"
        copy.write_bytes(CONTENT[:size])
        found = source.find(_Known(longer), "files", "squid", str(copy))
        assert found.state.position >= size
        assert found.is_shorter


def test_standard_input_that_is_a_pipe_is_kept_for_a_while(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(CONTENT)))
    monkeypatch.setattr(source, "_is_pipe", lambda path: path == "/dev/stdin")
    with source.seekable("-", tmp_path) as real, source.opened(real) as content:
        assert content.read(len(CONTENT) + 1) == CONTENT
        assert [p.stat().st_mode & 0o777 for p in tmp_path.iterdir()] == [0o600]
    assert list(tmp_path.iterdir()) == []
