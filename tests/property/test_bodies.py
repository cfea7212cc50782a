"""What comes in a body, as lines: whatever it is packed in, and however its JSON is laid out."""

from __future__ import annotations

import gzip
import json

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from bandmeter.domain import errors
from bandmeter.domain.errors import BandmeterError
from bandmeter.formats import FORMATS
from bandmeter.ingest.posts import bodies
from bandmeter.ingest.posts.bodies import LINES, VALUE

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from(['"', "\\", '\\"', '"],[{"', "\n", ","]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.just('",'), inner, max_size=4),
    max_leaves=20,
)
LAYOUTS = st.fixed_dictionaries(
    {
        "indent": st.sampled_from([None, 0, 2, "\t"]),
        "separators": st.sampled_from([None, (",", ":"), (" ,\n", " :\r\n ")]),
        "ensure_ascii": st.booleans(),
    }
)


def encode(value, layout, newline="\n", mark=b"", around=b""):
    return mark + around + json.dumps(value, **layout).replace("\n", newline).encode("utf-8", "replace") + around


@given(
    elements=st.lists(JSON, max_size=6),
    layout=LAYOUTS,
    newline=st.sampled_from(["\n", "\r\n", "\r"]),
    mark=st.sampled_from([b"", b"\xef\xbb\xbf"]),
    around=st.sampled_from([b"", b" ", b"\r\n\n\t"]),
    size=st.sampled_from([1, 2, 7, 1 << 20]),
)
def test_each_element_of_an_array_is_a_line(elements, layout, newline, mark, *, around, size):
    """However it is laid out, whatever is in its texts, and wherever it is cut to be worked on."""
    layout = layout | {"ensure_ascii": True}  # else Python writes half characters, which are no UTF-8
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bodies, "SPLIT_BYTES", size)
        found = bodies.lines(encode(elements, layout, newline, mark, around), VALUE)
    assert found.endswith(b"\n") or not elements
    assert [json.loads(line) for line in found.split(b"\n")[:-1]] == elements


@given(record=st.dictionaries(st.text(), JSON, min_size=1), layout=LAYOUTS, newline=st.sampled_from(["\n", "\r\n"]))
def test_an_object_is_a_line(record, layout, newline):
    found = bodies.lines(encode(record, layout | {"ensure_ascii": True}, newline, around=b"\n"), VALUE)
    assert found.count(b"\n") == 1
    assert json.loads(found) == record


@pytest.mark.parametrize(
    ("sent", "lines"),
    [
        (b"", b""),
        (b" \r\n\t", b""),
        (b"[]", b""),
        (b"\xef\xbb\xbf [ \n ] ", b""),
        (b'{"a":1}', b'{"a":1}\n'),
        (b'{"a":1}\n{"b":\n', b'{"a":1}\n{"b":\n'),
        (b'\n{"a":1}\n{"b":2}', b'\n{"a":1}\n{"b":2}\n'),
        (b"5", b"5\n"),
        (b'{"a":' + b"[" * 100_000, b'{"a":' + b"[" * 100_000 + b"\n"),
    ],
)
def test_json_that_is_no_array_stays_as_it_is(sent, lines):
    """One object a line, or what is none: each line is judged alone, and keeps its number."""
    assert bodies.lines(sent, VALUE) == lines


def test_other_lines_are_left_alone():
    assert bodies.lines(b"[1,\n2]", LINES) == b"[1,\n2]\n"
    assert bodies.lines(b"", LINES) == b""


@pytest.mark.parametrize("sent", [b"[", b"[1", b"[1,]", b"[1 2]", b"[1]]", b"[1],", b'["]', b"[" * 100_000])
def test_an_array_that_is_none_is_refused(sent):
    with pytest.raises(BandmeterError) as caught:
        bodies.lines(sent, VALUE)
    assert caught.value.code == errors.BODY_INVALID


# ---------------------------------------------------------------- packed

PACK = {"gzip": gzip.compress, "zstd": zstandard.ZstdCompressor().compress, "identity": bytes}


def unpack(encoding, packed, step, most=10**9):
    stream = bodies.decompressor(encoding)
    found = b"".join(stream.feed(packed[at : at + step], most) for at in range(0, len(packed), step))
    stream.finish()
    return found


@given(
    encoding=st.sampled_from(list(PACK)),
    parts=st.lists(st.binary(max_size=2_000), min_size=1, max_size=5),
    step=st.integers(1, 5_000),
)
def test_what_was_packed_is_unpacked(encoding, parts, step):
    """Also several members or frames, empty ones too, wherever the network cuts them."""
    assert unpack(encoding, b"".join(map(PACK[encoding], parts)), step) == b"".join(parts)


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_half_of_it_is_refused(encoding):
    """At whatever byte it ends: nothing is taken for whole that is not."""
    packed = PACK[encoding](b"some lines\n" * 10) + PACK[encoding](b"and more\n" * 10)
    ends = {len(packed), len(PACK[encoding](b"some lines\n" * 10))}
    for end in set(range(len(packed) + 1)) - ends:
        with pytest.raises(BandmeterError) as caught:
            unpack(encoding, packed[:end], 1_000)
        assert caught.value.code == errors.BODY_INVALID
    with pytest.raises(BandmeterError):
        unpack(encoding, packed + b"rubbish", 1_000)


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_a_bomb_is_not_unpacked(encoding):
    """A gigabyte of nothing: it stops soon after what is wanted."""
    stream = bodies.decompressor(encoding)
    packed = PACK[encoding](bytes(2**28)) * 4
    assert 1_000 < len(stream.feed(packed, 1_000)) <= 2**23


@pytest.mark.parametrize("encoding", ["br", "deflate", "gzip, gzip", "*", "utf-8"])
def test_what_nobody_can_unpack_is_refused(encoding):
    with pytest.raises(BandmeterError) as caught:
        bodies.decompressor(encoding)
    assert caught.value.code == errors.MEDIA_TYPE_UNKNOWN


@pytest.mark.parametrize("encoding", ["", "identity", "GZIP", " x-gzip ", "Zstd"])
def test_names_of_encodings_are_the_same_in_any_case(encoding):
    assert bodies.decompressor(encoding)


# ---------------------------------------------------------------- what it is


@pytest.mark.parametrize(
    ("media_type", "asked", "found"),
    [
        ("", "", ("jsonl", VALUE)),
        ("Application/JSON; charset=utf-8", "", ("jsonl", VALUE)),
        ("application/x-ndjson", "", ("jsonl", LINES)),
        ("application/cloudevents-batch+json", "", ("cloudevents", VALUE)),
        ("text/vnd.bandmeter.squid-native", "", ("squid-native", LINES)),
        ("text/vnd.bandmeter.my-own", "", ("my-own", LINES)),
        ("application/x-www-form-urlencoded", "squid", ("squid", LINES)),
        ("application/x-ndjson", "cloudevents", ("cloudevents", LINES)),
        ("application/octet-stream", "jsonl", ("jsonl", VALUE)),
        ("application/json", "cloudevents", ("cloudevents", VALUE)),
    ],
)
def test_the_format_asked_for_wins_over_the_media_type(media_type, asked, found):
    assert bodies.find(media_type, asked) == found


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", "x", "text/vnd.other.squid"])
def test_another_media_type_is_refused(media_type):
    with pytest.raises(BandmeterError) as caught:
        bodies.find(media_type, "")
    assert caught.value.code == errors.MEDIA_TYPE_UNKNOWN


@pytest.mark.parametrize(
    ("header", "columns"),
    [
        (b"time\tbytes_up\tbytes_down\n", ("time", "bytes_up", "bytes_down")),
        (b"\xef\xbb\xbftime\todd\tbytes_up\r\n", ("time", "ignored_1", "bytes_up")),
        (b"\xff\ttime\tbytes_down", ("ignored_0", "time", "bytes_down")),
    ],
)
def test_a_tables_header_names_its_columns(header, columns):
    """What it does not know gets a name of ours: so a header can neither grow nor be two."""
    tsv = FORMATS["tsv"]
    assert bodies.take_header(header + b"1\n" * header.endswith(b"\n"), tsv, ()) == (
        b"1\n" * header.endswith(b"\n"),
        columns,
    )
    assert bodies.take_header(b"1\n", tsv, columns) == (b"1\n", columns)
    assert bodies.take_header(header, FORMATS["squid"], ()) == (header, ())


@pytest.mark.parametrize("names", ["time", "bytes_up", "time\ttime\tbytes_up", "time\tbytes_up" + "\tx" * 200])
def test_a_header_that_makes_no_table_is_refused(names):
    for content, columns, code in (
        (names.encode() + b"\n", (), errors.BODY_INVALID),
        (b"", tuple(names.split("\t")), errors.PARAMETER_INVALID),
    ):
        with pytest.raises(BandmeterError) as caught:
            bodies.take_header(content, FORMATS["tsv"], columns)
        assert caught.value.code == code
    with pytest.raises(BandmeterError):
        bodies.take_header(b"time\tbytes_up\t" + b"x" * 65_536 + b"\n", FORMATS["tsv"], ())
