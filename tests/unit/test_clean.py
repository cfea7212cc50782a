"""What a splitter could misread is found, line by line, and only there."""

from __future__ import annotations

import io

import pytest

from bandmeter.ingest.batch import clean
from bandmeter.ingest.batch.scratch import Scratch


@pytest.fixture
def hold():
    """Put bytes into a buffer."""
    made = Scratch(1 << 20)

    def fill(content):
        assert made.fill(io.BytesIO(content).readinto, 1 << 20)
        made.cut(len(content))
        return made

    yield fill
    made.close()


CLEAN = [b"", b"a\n", b"\n\n", "ünï😀\n".encode(), b"\t\x02\x1f\x7f\n", b"a\xef\xbb\xbf\n"]
DIRTY = [
    b"\0\n",
    b"a\r\n",
    b"a\rb\n",
    b"\xff\n",
    b"\xed\xa0\x80\n",
    b"\xef\xbb\xbfa\n",
    b"a\n\xef\xbb\xbfb\n",
    b"\xc3\n",
]


@pytest.mark.parametrize("content", CLEAN)
def test_clean_bytes_go_the_fast_way(hold, content):
    assert clean.is_clean(hold(content), is_whole_line=True)


@pytest.mark.parametrize("content", DIRTY)
def test_what_could_mislead_does_not(hold, content):
    assert not clean.is_clean(hold(content), is_whole_line=False)
    assert not clean.is_clean(hold(b"fine\n" * 1000 + content), is_whole_line=True)


def test_0x01_matters_only_where_it_separates(hold):
    assert clean.is_clean(hold(b"a\x01\n"), is_whole_line=False)
    assert not clean.is_clean(hold(b"a\x01\n"), is_whole_line=True)


# content of one line, without its newline → (reason, what the detail says)
FAULTS = {
    b"fine": None,
    b"fine\r": None,
    b"\0\0fine": None,
    b"\xef\xbb\xbffine": None,
    b"\0\xef\xbb\xbffine\r": None,
    b"": ("", ""),
    b"\r": ("", ""),
    b"\0\0": ("", ""),
    b"\0\r": ("", ""),
    b"\xef\xbb\xbf": ("", ""),
    b"a\0b": ("corrupt", "NUL"),
    b"a\0": ("corrupt", "NUL"),
    b"\0a\0": ("corrupt", "NUL"),
    b"a\rb": ("corrupt", "carriage return"),
    b"a\r\r": ("corrupt", "carriage return"),
    b"\ra": ("corrupt", "carriage return"),
    b"a\x01": ("corrupt", "0x01"),
    b"ab\xff": ("corrupt", "byte 2 of the line"),
    b"\xff\0\r\x01": ("corrupt", "UTF-8"),
    b"x" * clean.LINE_BYTES_MAX: None,
    b"x" * (clean.LINE_BYTES_MAX + 1): ("corrupt", str(clean.LINE_BYTES_MAX)),
}


def test_each_line_has_its_own_fault(hold):
    """In one buffer, in both orders, so that each has each as a neighbour once."""
    for lines in (list(FAULTS), list(FAULTS)[::-1]):
        scratch = hold(b"".join(line + b"\n" for line in lines))
        places = clean.lines(scratch)
        assert len(places) == len(lines)
        found = clean.faults(scratch, places, ())
        for i, line in enumerate(lines):
            if FAULTS[line] is None:
                assert i not in found, line[:20]
            else:
                assert found[i][0] == FAULTS[line][0]
                assert FAULTS[line][1] in found[i][1]
        kept = clean.take_out(scratch, places, found)
        assert [lines[i] for i in kept.tolist()] == [line for line in lines if FAULTS[line] is None]
        left = scratch.bytes().split(b"\n")[:-1]
        assert {x[:6] for x in left} == {b"fine", b"xxxxxx"}
        assert scratch.bytes().count(b"\n") == len(kept)


def test_the_number_of_columns_is_held_against_the_format(hold):
    scratch = hold(b"1\t2\t3\n1\t2\n\t\t\t\t\n1\n\n1\t2\t3\t4\t5\t6\n")
    found = clean.faults(scratch, clean.lines(scratch), (3, 5))
    assert {i: reason for i, (reason, _) in found.items()} == {1: "torn_line", 3: "torn_line", 4: "", 5: "corrupt"}
    assert "2 columns, and the format has 3 or 5" in found[1][1]


def test_lines_are_counted_and_long_ones_suspected(hold):
    for length, is_suspect in ((10, False), (clean.LINE_BYTES_MAX // 2 - 1, False), (clean.LINE_BYTES_MAX + 1, True)):
        for before in (0, 1, 7000, 140_000):
            count, suspect = clean.count(hold(b"\n" * before + b"x" * length + b"\n" * 3))
            assert count == before + 3
            assert suspect or not is_suspect


def test_leading_nul_bytes_are_counted(hold):
    assert [clean.leading_nuls(hold(content)) for content in (b"", b"a\0", b"\0", b"\0\0a\0", b"\0\n")] == [
        0,
        0,
        1,
        2,
        1,
    ]
