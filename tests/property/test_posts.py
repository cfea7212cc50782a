"""Bodies that are sent: read without a query or with one they are the same; and each counts once, in any company."""

from __future__ import annotations

import contextlib
import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bandmeter.domain.errors import BandmeterError
from bandmeter.domain.grid import Span
from bandmeter.domain.tenancy import Zone
from bandmeter.domain.usage import Outcomes, Side
from bandmeter.formats import FORMATS
from bandmeter.ingest.batch.attribute import Caller
from bandmeter.ingest.batch.tools import Tools
from bandmeter.ingest.posts import poster, quick
from bandmeter.ingest.posts.poster import Post, Poster
from bandmeter.store import MemoryStore, SqliteStore
from bandmeter.telemetry import counted

NOW_MS = 1_795_392_000_000
ZONES = [
    Zone(1, "acme", "res", "res"),
    Zone(2, "acme", "shop.test", "cdn", side=Side.CLIENT, identities=("shop.test",)),
    Zone(3, "acme", "res-eu", "res"),
    Zone(4, "other", "res", "res", identities=("alice",)),
]
JSONL = FORMATS["jsonl"]
CALLERS = [Caller(), Caller("acme", is_restricted=True), Caller("acme")]


@contextlib.contextmanager
def poster_at(folder, store=None, zones=ZONES):
    tools = Tools(store or MemoryStore(), lambda: zones, lambda: NOW_MS, folder, 1 << 20, version=lambda: 1)
    with contextlib.closing(tools):
        yield Poster(tools), tools.store


def everything(store):
    """All that a store says, sources without what only names how they were read."""
    numbers = [zone.number for zone in ZONES] + [waiting.number for waiting in store.unattributed()]
    rows = {
        (side, resolution): store.read(numbers, side, resolution, posts_span())
        for side in Side
        for resolution in (300, 3600, 86_400)
    }
    rejects = [store.rejects(source.number, 10**6) for source in store.sources()]
    hosts = [store.read_hosts(numbers, side, posts_span(), 10**9) for side in Side]
    return rows, hosts, store.unattributed(), store.sources(), rejects, store.freshness(numbers).newest_ms


def posts_span():
    return Span(0, 4_102_444_800)


TEXTS = st.sampled_from(
    [
        "cust-acme-zone-res",
        "cust-acme-zone-res-session-1",
        "cust-acme-zone-res-eu-session-2",
        "SHOP.test",
        "nobody",
        "alice",
        "",
        "ü",
        "-",
        "x" * 513,
        "a\u0001b",
    ]
)
NUMBERS = st.one_of(
    st.integers(0, 2**50),
    st.sampled_from([0, 1, 2**50, 2**50 + 1, -1, 5.0, 1.5, "5", "x", None, True, 10**30, 1e3, [], {}]),
)
TIMES = st.one_of(
    st.integers(1_795_132_800, 1_795_219_200),
    st.sampled_from(
        [
            1_795_132_800.5,
            1_795_132_799.999,
            1_795_132_799.9999,
            1_795_132_800.0,
            "1795132800.25",
            "2026-11-20T06:00:00Z",
            "2026-11-20T06:00:00.250Z",
            "2026-11-20T06:00:00.2509Z",
            "2026-11-20T08:00:00+02:00",
            "2026-02-30T06:00:00Z",
            "2026-11-20T23:59:60Z",
            "",
            None,
            -1,
            0,
            10**13,
            1_795_392_600,
            1_795_392_601,
            1_795_392_600.001,
            True,
        ]
    ),
)
FIELDS = {
    "time": TIMES,
    "account": st.sampled_from(["acme", "other", "", "no", 5, None]),
    "zone": st.sampled_from(["res", "res-eu", "shop.test", "", "no", None]),
    "identity": TEXTS,
    "bytes_up": NUMBERS,
    "bytes_down": NUMBERS,
    "target_bytes_up": NUMBERS,
    "target_bytes_down": NUMBERS,
    "client_bytes_up": NUMBERS,
    "client_bytes_down": NUMBERS,
    "requests": st.sampled_from([0, 1, 7, 10**9, 10**9 + 1, -1, 1.0, "2", None]),
    "status": st.sampled_from([100, 99, 200, 299, 404, 599, 600, 0, "200", 200.0, None]),
    "scheme": st.sampled_from(["http", "https", "other", "HTTP", "", 1, None]),
    "ip_version": st.sampled_from([4, 6, "4", "6", 5, "unknown", 4.0, None]),
    "network": st.sampled_from(["dc", "res", "cdn", "unknown", "x", None]),
    "access": st.sampled_from(["api", "lpm", "x", None]),
    "pool": st.sampled_from(["default", "extra", "x", None]),
    "host": st.sampled_from(
        [
            *("a.test", "A.Test:443", "a.test.", "b.test", "[2001:DB8::1]:443", "2001:db8::1", "192.0.2.7", "other"),
            *(
                "-",
                "",
                ":",
                "[",
                "[]",
                "...",
                "a:b:c",
                "x:y:z",
                "a b",
                "a\nb",
                "a\tb",
                "=1",
                "user@a.test",
                "a/b",
                "_a",
            ),
            *(
                "x" * 253,
                "x" * 254,
                "x" * 253 + ":443",
                "ü.test",
                "Ü.test",
                "ü" * 127,
                "a\u0000b",
                "\ud800",
                5,
                True,
                [],
            ),
            None,
        ]
    ),
    "unknown": st.sampled_from([1, "x", None, [1, {"time": 5}]]),
}
PLAIN = st.fixed_dictionaries(
    {"time": st.integers(1_795_132_800, 1_795_219_200), "bytes_up": st.integers(0, 2**50), "bytes_down": NUMBERS},
    optional={name: values for name, values in FIELDS.items() if name not in ("time", "bytes_up", "bytes_down")},
)
ANY = st.dictionaries(st.sampled_from(list(FIELDS)), st.none()).flatmap(
    lambda names: st.fixed_dictionaries({name: FIELDS[name] for name in names})
)
LINES = st.one_of(
    st.one_of(PLAIN, ANY).map(lambda record: json.dumps(record).encode()),
    PLAIN.map(
        lambda record: json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
    ),
    st.sampled_from(
        [
            b'{"time":1795132800,"identity":"cust-acme-zone-res","bytes_up":1,"bytes_up":5,"bytes_down":2}',
            b'{"time":1795132800,"account":"acme","zone":"res","zone":null,"bytes_up":1,"bytes_down":2}',
            b'{"time":1795132800,"zone":null,"account":"acme","zone":"res","bytes_up":1,"bytes_down":2}',
            b'{"time":1795132800,"x":"\\"time\\"","time":5,"account":"acme","zone":"res","bytes_up":1,"bytes_down":2}',
            b'{"time":1795132800,"account":"acme","zone":"res","bytes_up":1,"bytes_down":2,"x":'
            + b"[" * 5_000
            + b"]" * 5_000
            + b"}",
        ]
    ),
    st.sampled_from(
        [
            b'{"time":\r1795132800,"bytes_up":1,"bytes_down":2}',
            b'{"time":1795132800,"bytes_up":1,"bytes_down":2,"agent":"caf\xe9"}',
            b'{"time":1795132800,"bytes_up":1,"bytes_down":2,"req\x83uests":16}',
            b"",
            b"{}",
            b"5",
            *(
                b'{"time":%s,"identity":"cust-acme-zone-res","bytes_up":1,"bytes_down":2}' % time
                for time in (b"17951327999995e-4", b"1795132799999.5E-3", b"1.7951328e9", b"1795132799.9995")
            ),
            b"[]",
            b"{",
            b'{"time":1}{"time":2}',
            b"null",
            b"\xff",
            b"\0",
            b"{}\r",
            b" {} ",
        ]
    ),
)


@settings(max_examples=50)
@given(
    bodies=st.lists(st.lists(LINES, min_size=1, max_size=4), min_size=1, max_size=4), caller=st.sampled_from(CALLERS)
)
def test_without_a_query_or_with_one(tmp_path, bodies, caller):
    """The same counts, rows, rejects and answers, whatever is in the bodies."""
    sent = [Post(JSONL, b"".join(line + b"\n" for line in lines), caller, f"s{n}") for n, lines in enumerate(bodies)]
    with poster_at(tmp_path) as (quickly, store), poster_at(tmp_path) as (slowly, other):
        answers = quickly.count(sent)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(quick, "can_read", lambda _format: False)
            expected = slowly.count(sent)
        assert answers == expected
        assert everything(store) == everything(other)
        assert all(source.outcomes.adds_up for source in store.sources())


def test_plain_records_need_no_query(tmp_path, monkeypatch):
    """What senders usually send is read the quick way: else the test above compares a thing with itself."""
    monkeypatch.setattr(Poster, "_read_alone", lambda *_: pytest.fail("a query was made"))
    plain = {"time": 1_795_132_800, "identity": "cust-acme-zone-res-session-1", "bytes_up": 1, "bytes_down": 2}
    more = {"scheme": "https", "status": 200, "ip_version": 4, "network": "res", "host": "a.test", "requests": 2}
    records = [plain, plain | more, plain | {"time": 1_795_132_800.123}]
    body = b"".join(json.dumps(record).encode() + b"\n" for record in records)
    stamped = json.dumps(plain | {"time": "2026-11-20T06:00:00.250Z"}).encode() + b"\n"
    event = json.dumps({"specversion": "1.0", "id": "1", "source": "/x", "type": "t", "data": plain}).encode() + b"\n"
    with poster_at(tmp_path) as (counter, store):
        answers = counter.count(
            [
                Post(JSONL, body, Caller(), "a"),
                Post(JSONL, stamped, Caller(), "b"),
                Post(FORMATS["cloudevents"], event, Caller(), "c"),
            ]
        )
        assert [answer["counted"] for answer in answers] == [3, 1, 1]
        assert store.total(1, Side.TARGET, posts_span())[0] == 6


# ---------------------------------------------------------------- once

SENDS = st.lists(
    st.tuples(st.sampled_from(["a", "b", "key", "none"]), st.integers(1, 6), st.integers(0, 3)), min_size=1, max_size=30
)


@settings(max_examples=30)
@given(sends=SENDS, cuts=st.lists(st.integers(1, 30), max_size=6))
def test_each_body_counts_once(tmp_path_factory, sends, cuts):
    """Numbered ones in their order, keyed ones by key, again and again, together or apart: as a dictionary would."""
    bodies = {
        n: json.dumps({"time": 1_795_132_800 + n, "identity": "cust-acme-zone-res", "bytes_up": n, "bytes_down": 0})
        for n in range(7)
    }
    folder = tmp_path_factory.mktemp("posts")
    store = SqliteStore(folder / "usage.db")
    expected, last, keys, total = [], {}, set(), 0
    sent = []
    for kind, n, _ in sends:
        content = bodies[n].encode() + b"\n"
        if kind in ("a", "b"):
            sent.append(Post(JSONL, content, Caller(), kind, n))
            known = last.get(kind)
            if known is None or n == known + 1:
                last[kind], total = n, total + n
                expected.append("counted")
            else:
                expected.append("duplicate" if n <= known else "out_of_order")
        elif kind == "key":
            sent.append(Post(JSONL, content, Caller(), "keyed", key=f"k{n}"))
            expected.append("duplicate" if n in keys else "counted")
            total += 0 if n in keys else n
            keys.add(n)
        else:
            sent.append(Post(JSONL, content, Caller(), "keyed"))
            expected.append("counted")
            total += n
    with contextlib.closing(store), poster_at(folder, store) as (counter, _):
        found, rest = [], sent
        for cut in [*cuts, len(sent)]:
            part, rest = rest[:cut], rest[cut:]
            found += counter.count(part) if part else []
        kinds = [
            answer.code if isinstance(answer, BandmeterError) else "duplicate" if answer["duplicate"] else "counted"
            for answer in found
        ]
        assert kinds == expected
        for answer in found:
            if isinstance(answer, dict) and answer["duplicate"] and "first" in answer:
                assert answer["first"]["counted"] == 1
        assert store.total(1, Side.TARGET, posts_span()).bytes_up == total
        assert store.check() == []
        received = [source.outcomes.received for source in store.sources()]
        assert sum(received) == sum(kind != "out_of_order" for kind in kinds)


def test_another_body_under_a_used_key_or_number_is_refused(tmp_path):
    record = {"time": 1_795_132_800, "identity": "cust-acme-zone-res", "bytes_up": 1, "bytes_down": 2}
    one, two = (json.dumps(record | {"bytes_up": n}).encode() + b"\n" for n in (1, 2))
    with poster_at(tmp_path) as (counter, store):
        for post in (Post(JSONL, one, Caller(), "s", key="k"), Post(JSONL, one, Caller(), "n", 1)):
            first, again, other = counter.count([post, post, post._replace(content=two)])
            assert first["counted"] == again["duplicate"] == 1
            assert again["first"] == first
            assert other.code == "key_reused"
        assert store.total(1, Side.TARGET, posts_span()).bytes_up == 2


def test_a_table_with_other_columns_is_another_body(tmp_path):
    """Though its lines are the same, they say something else."""
    columns = ("time", "identity", "bytes_up", "bytes_down")
    line = b"1795132800\tcust-acme-zone-res\t1\t2\n"
    with poster_at(tmp_path) as (counter, store):
        for post in (
            Post(FORMATS["tsv"], line, Caller(), "s", key="k", columns=columns),
            Post(FORMATS["tsv"], line, Caller(), "n", 1, columns=columns),
        ):
            other = post._replace(columns=(*columns[:2], *columns[:1:-1]))
            first, again, refused = counter.count([post, post, other])
            assert first["counted"] == again["duplicate"] == 1
            assert refused.code == "key_reused"
        assert store.total(1, Side.TARGET, posts_span())[2:] == (2, 4)


class Failing(MemoryStore):
    """Fails at the writes that it is told to, after the first that has several bodies of one source."""

    def __init__(self, error, at):
        super().__init__()
        self.error, self.at, self.writes = error, at, 0

    def write_together(self, batches):
        self.writes += 1
        if self.writes in self.at:
            raise self.error
        return super().write_together(batches)


@pytest.mark.parametrize("error", [BandmeterError("unavailable", "The disk is full."), ValueError("odd")])
def test_what_was_counted_is_not_counted_again_when_what_follows_fails(tmp_path, error):
    """Bodies with one key are counted one after the other: when the second cannot be, the first ones are told so."""
    body = json.dumps({"time": 1_795_132_800, "identity": "cust-acme-zone-res", "bytes_up": 1, "bytes_down": 0})
    plain, one, two = (Post(JSONL, body.encode() + b"\n", Caller(), "s", seq) for seq in (None, 1, 2))
    with poster_at(tmp_path, Failing(error, {2})) as (counter, store):
        answers = counter.count([plain, one, plain, two])
        assert [a["counted"] for a in answers[:3]] == [1, 1, 1]
        assert answers[3].code == ("unavailable" if isinstance(error, BandmeterError) else "failure")
        assert store.total(1, Side.TARGET, posts_span()).bytes_up == 3


def test_a_body_that_cannot_be_counted_harms_no_neighbour(tmp_path):
    body = json.dumps({"time": 1_795_132_800, "identity": "cust-acme-zone-res", "bytes_up": 1, "bytes_down": 0})
    sent = [Post(JSONL, body.encode() + b"\n", Caller(), f"s{n}") for n in range(4)]
    with poster_at(tmp_path, Failing(ValueError("odd"), {1, 3})) as (counter, store):
        answers = counter.count(sent)
        assert [isinstance(a, BandmeterError) for a in answers] == [False, True, False, False]
        assert store.total(1, Side.TARGET, posts_span()).bytes_up == 3


def test_a_body_of_nothing_but_rejects(tmp_path):
    """Is read in parts, so that explaining them takes bounded memory; each keeps its own line."""
    monkey = random.Random(5)
    lines = [b'{"time": %d}' % monkey.randrange(10**9) for _ in range(poster.REJECTS_MAX + 1_000)]
    good = json.dumps({"time": 5, "identity": "cust-acme-zone-res", "bytes_up": 1, "bytes_down": 2}).encode()
    lines[777] = lines[-1] = good
    with poster_at(tmp_path) as (counter, store):
        (answer,) = counter.count([Post(JSONL, b"\n".join([*lines, b""]), Caller(), "s")])
        rejects = store.rejects(1, 10**6)
    count = len(lines) - 2
    assert Outcomes(*(answer[name] for name in Outcomes._fields)) == Outcomes(len(lines), counted=2, rejected=count)
    assert len(answer["errors"]) == poster.ERRORS_SHOWN_MAX
    assert [reject.line for reject in rejects] == [n + 1 for n, line in enumerate(lines) if line is not good]
    assert [reject.text for reject in rejects] == [line for line in lines if line is not good]


def test_a_key_is_of_one_sender(tmp_path):
    """Two sources, and two accounts, never meet in a key: each has counted its own body only."""
    body = json.dumps({"time": 1_795_132_800, "identity": "cust-acme-zone-res", "bytes_up": 1, "bytes_down": 0})
    post = Post(JSONL, body.encode() + b"\n", Caller(), "s", key="k")
    others = [post._replace(source="t"), post._replace(caller=Caller("acme", is_restricted=True))]
    with poster_at(tmp_path) as (counter, _):
        assert [a["counted"] for a in counter.count([post, *others])] == [1, 1, 1]
        assert [a["duplicate"] for a in counter.count([post, *others])] == [1, 1, 1]
        assert len(counter._tools.store.sources()) == 3


def test_an_account_has_so_many_sources_and_no_more(tmp_path, monkeypatch):
    """Names cannot fill the store; those that are there go on, and so does the operator."""
    monkeypatch.setattr(poster, "SOURCES_MAX", 3)
    body = json.dumps({"time": 1_795_132_800, "identity": "cust-acme-zone-res", "bytes_up": 1, "bytes_down": 0})
    acme = Caller("acme", is_restricted=True)
    store = MemoryStore()
    for sources in (("1", "2"), ("2", "3"), ("4",), ("5", "6"), ("3",)):
        with poster_at(tmp_path, store) as (counter, _):
            sent = [Post(JSONL, body.encode() + b"\n", acme, source) for source in sources]
            codes = [getattr(answer, "code", "") for answer in counter.count(sent)]
            assert codes == ["" if int(source) <= 3 else "parameter_invalid" for source in sources]
            assert counter.count([Post(JSONL, body.encode() + b"\n", Caller(), sources[0])])[0]["counted"] == 1


def test_sums_beyond_64_bits_are_the_senders_mistake(tmp_path):
    """Of one body, or with what is stored; nothing of it is counted, and the others are."""
    record = {"time": 1_795_132_800, "identity": "cust-acme-zone-res", "bytes_up": 0, "bytes_down": 2**50}
    line = json.dumps(record).encode() + b"\n"
    small, half, over = (Post(JSONL, line * times, Caller(), "s") for times in (1, 5_000, 9_000))
    store = SqliteStore(tmp_path / "usage.db")
    with contextlib.closing(store), poster_at(tmp_path, store) as (counter, _):
        for sent, expected in (([small, over, small], [1, 0, 1]), ([half, half, small], [5_000, 0, 1])):
            answers = counter.count(sent)
            assert [0 if isinstance(a, BandmeterError) else a["counted"] for a in answers] == expected
            assert answers[1].code == "sum_too_large"
        assert store.total(1, Side.TARGET, posts_span()).bytes_down == 5_003 * 2**50
        assert store.check() == []


@pytest.mark.parametrize("fails", [False, True])
def test_what_is_committed_is_answered_and_counted_once_whatever_becomes_of_its_metrics(tmp_path, fails, monkeypatch):
    """Sums beyond 64 bits of one body, which no row holds; and whatever else may happen after a commit."""
    metrics = counted.IngestMetrics(lambda number: next((zone for zone in ZONES if zone.number == number), None))
    store = counted.told(SqliteStore(tmp_path / "usage.db"), metrics)
    if fails:
        monkeypatch.setattr(metrics, "committed", None)
    large = [{"time": NOW_MS // 1000 - 86_400 * day, "bytes_up": 2**50, "bytes_down": 0} for day in range(10)] * 900
    bodies = [
        large,
        *([{"time": NOW_MS // 1000, "zone": "shop.test", "bytes_up": 1, "bytes_down": 2}] for _ in range(3)),
    ]
    named = {"account": "acme", "zone": "res"}
    texts = ["".join(json.dumps(named | record) + "\n" for record in body) for body in bodies]
    posts = [Post(JSONL, text.encode(), Caller(), f"s{n}") for n, text in enumerate(texts)]
    with poster_at(tmp_path, store) as (made, _):
        answers = made.count(posts)
    assert [answer["counted"] for answer in answers] == [9_000, 1, 1, 1]
    assert store.total(1, Side.TARGET, posts_span()).requests == 9_000
    assert store.total(2, Side.CLIENT, posts_span())[2:] == (3, 6)
    assert store.total(1, Side.TARGET, posts_span()).bytes_up == 9_000 * 2**50  # beyond 64 bits
    assert store.check() == []
    store.close()


@pytest.mark.parametrize("time", ["17951327999995e-4", "1795132799999.5e-3", "179513279999.95E-2", "1795132799.9995"])
def test_a_time_is_cut_however_it_is_written(tmp_path, time):
    """Half a millisecond before a bucket's edge is before it."""
    body = f'{{"time":{time},"identity":"cust-acme-zone-res","bytes_up":1,"bytes_down":2}}\n'.encode()
    with poster_at(tmp_path) as (counter, store):
        (answer,) = counter.count([Post(JSONL, body, Caller(), "s")])
        before = store.total(1, Side.TARGET, Span(0, 1_795_132_800))
        assert (answer["counted"], before.requests) in ((1, 1), (0, 0))  # or it is no number that we take
        assert store.total(1, Side.TARGET, posts_span()).requests == before.requests
