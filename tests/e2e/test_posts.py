"""`POST /v1/records` over HTTP, at a server with two workers: every shape, once, told exactly, and for whom it may."""

from __future__ import annotations

import concurrent.futures
import contextlib
import gzip
import itertools
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import httpx
import pytest
import zstandard

from bandmeter.catalog import Catalog
from bandmeter.domain.tenancy import Account, Scope
from bandmeter.formats import FORMATS
from bandmeter.formats.jsonl import JSONL

NOW = "2026-11-23T00:00:00Z"
TIME = 1_795_305_600  # 2026-11-22T00:00:00Z
TIRED_KEY_POSTS = 3  # a minute
TRIES_MAX = 2_000  # of something that is over in a second
SOCKET_SECONDS = 60
LINES = "application/x-ndjson"
numbers = itertools.count()
# A connection for each request: any worker may get it.
HTTP = httpx.Client(timeout=SOCKET_SECONDS, limits=httpx.Limits(max_keepalive_connections=0))


class Side(NamedTuple):
    """A server, its keys, and the catalog behind it."""

    url: str
    keys: dict[str, str]
    catalog: Catalog
    data: Path
    running: object

    def post(self, content, key="operator", kind=LINES, headers=None, **parameters):
        """Send a body; the answer."""
        sent = {"Authorization": f"Bearer {self.keys[key]}"} if self.keys[key] else {}
        sent |= {"Content-Type": kind} if kind else {}
        address = f"{self.url}/v1/records"
        return HTTP.post(address, content=content, params=parameters, headers=sent | (headers or {}))

    def count(self, content, **options):
        """Send a body that is taken; what became of it."""
        answer = self.post(content, **options)
        assert answer.status_code == 200, answer.text
        counts = answer.json()
        rest = counts["counted"] + counts["duplicate"] + counts["no_target"] + counts["unattributed"]
        assert counts["received"] == rest + counts["rejected"]
        return counts

    def refused(self, content, status, code, **options):
        """Send a body that is not taken; the problem."""
        answer = self.post(content, **options)
        assert answer.status_code == status, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        problem = answer.json()
        assert (problem["code"], problem["status"]) == (code, status)
        assert ("retry-after" in answer.headers) == (status in {429, 503})
        return problem

    def zone(self, **more):
        """A new zone of acme."""
        return self.catalog.add_zone("acme", f"z{next(numbers)}", now_s=0, **more).name

    def total(self, zone, account="acme"):
        """What is counted for a zone: requests, bytes up and down."""
        found = HTTP.get(
            f"{self.url}/v1/usage",
            params={"zones": zone, "from": "2026-11-01", "resolution": "total"},
            headers={"Authorization": f"Bearer {self.keys[f'{account} reads']}"},
        ).json()["rows"]
        return tuple(found[0][name] for name in ("requests", "bytes_up", "bytes_down")) if found else (0, 0, 0)


def make_catalog(data):
    data.mkdir(mode=0o700)
    (data / "usage.db").touch()
    catalog = Catalog.open(f"sqlite:///{data}/catalog.db")
    for account in ("acme", "other", "wayne"):
        catalog.add_account(Account(account, email_verified=True, proxy_username=account))
    for account, zone, more in (
        ("acme", "res2", {}),
        ("acme", "web1", {}),
        ("acme", "shop.test", {"network": "cdn", "identities": ["shop.test"]}),
        ("wayne", "isp62", {}),
        ("other", "res", {"identities": ["alice", "*.wide.test"]}),
        ("other", "only-other", {"network": "cdn"}),
    ):
        catalog.add_zone(account, zone, now_s=0, **more)
    return catalog


@pytest.fixture(scope="module")
def served(tmp_path_factory, serve_folder):
    folder = tmp_path_factory.mktemp("posts")
    catalog = make_catalog(folder / "data")
    keys = {"operator": (None, Scope.INGEST, False), "operator, same body": (None, Scope.INGEST, True)}
    keys |= {"acme": ("acme", Scope.INGEST, False), "acme, same body": ("acme", Scope.INGEST, True)}
    keys |= {"other": ("other", Scope.INGEST, False), "tired": (None, Scope.INGEST, False)}
    keys |= {f"{account} reads": (account, Scope.READ, False) for account in ("acme", "other")}
    made = {
        name: catalog.add_key(account, scope, None, 0, same_body_once=same_body)
        for name, (account, scope, same_body) in keys.items()
    }
    limits = f"[limits.keys]\n{made['tired'].split('_')[1]} = {TIRED_KEY_POSTS}\n"
    (folder / "data" / "bandmeter.toml").write_text(limits)
    with serve_folder(folder / "data", folder / "log", 2, BANDMETER_NOW=NOW) as running:
        yield Side(running.url, made | {"none": "", "unknown": "x"}, catalog, folder / "data", running)
    log = (folder / "log").read_text()
    assert [name for name, key in made.items() if key.split("_", 2)[2] in log] == [], "a secret is in the log"
    catalog.close()


def record(zone, up=1, down=10, **more):
    return {"time": TIME, "account": "acme", "zone": zone, "bytes_up": up, "bytes_down": down} | more


def lines(*records):
    return b"".join(json.dumps(one).encode() + b"\n" for one in records)


# ---------------------------------------------------------------- shapes


def events(records):
    return [{"specversion": "1.0", "id": "1", "source": "/e", "type": "t", "data": one} for one in records]


def table(records, header):
    columns = list(records[0])
    rows = [columns] * header + [list(map(str, one.values())) for one in records]
    return "".join("\t".join(row) + "\n" for row in rows).encode()


COLUMNS = ",".join(record(""))
SHAPES = {
    "lines": (LINES, lambda r: lines(*r), {}),
    "no newline at the end": (LINES, lambda r: lines(*r)[:-1], {}),
    "lines of another system": (LINES, lambda r: lines(*r).replace(b"\n", b"\r\n"), {}),
    "lines with a mark": (LINES, lambda r: b"\xef\xbb\xbf" + lines(*r), {}),
    "lines without a type": (None, lambda r: lines(*r), {}),
    "lines said to be JSON": ("application/json", lambda r: lines(*r), {}),
    "array": ("application/json", lambda r: json.dumps(r).encode(), {}),
    "pretty array": ("application/json", lambda r: json.dumps(r, indent=2).encode(), {}),
    "pretty array of another system": (
        "Application/JSON; charset=utf-8",
        lambda r: json.dumps(r, indent=1).replace("\n", "\r\n").encode(),
        {},
    ),
    "array with a mark": ("application/json", lambda r: b"\xef\xbb\xbf\n" + json.dumps(r).encode(), {}),
    "events": ("application/cloudevents-batch+json", lambda r: json.dumps(events(r), indent=1).encode(), {}),
    "lines of events": ("text/vnd.bandmeter.cloudevents", lambda r: lines(*events(r)), {}),
    "events by format": (LINES, lambda r: lines(*events(r)), {"format": "cloudevents"}),
    "table": ("text/tab-separated-values", lambda r: table(r, header=True), {}),
    "table of another system": (None, lambda r: table(r, header=True).replace(b"\n", b"\r\n"), {"format": "tsv"}),
    "table without a header": ("text/plain", lambda r: table(r, header=False), {"format": "tsv", "columns": COLUMNS}),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_body_of_any_shape_is_counted(served, shape):
    kind, encode, parameters = SHAPES[shape]
    zone = served.zone()
    records = [record(zone), record(zone, 20, 200), record(zone, 300, 3_000)]
    counts = served.count(encode(records), kind=kind, **parameters)
    assert (counts["received"], counts["counted"]) == (3, 3)
    assert served.total(zone) == (3, 321, 3_210)


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("kind", ["application/json", "application/cloudevents+json"])
def test_a_single_object_is_a_record(served, kind, indent):
    zone = served.zone()
    one = record(zone) if kind == "application/json" else events([record(zone)])[0]
    assert served.count(json.dumps(one, indent=indent), kind=kind)["counted"] == 1
    assert served.total(zone) == (1, 1, 10)


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "tsv"])
@pytest.mark.parametrize("is_asked", [False, True])
def test_every_format_by_its_media_type_and_by_its_name(served, name, is_asked):
    example = FORMATS[name].example.encode()
    kind, parameters = ("text/plain", {"format": name}) if is_asked else (f"text/vnd.bandmeter.{name}", {})
    assert (
        served.count(example * (not is_asked) + (example + b"\n") * is_asked, kind=kind, **parameters)["counted"] == 1
    )


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (LINES, b""),
        ("application/json", b"[]"),
        ("application/json", b" \n"),
        (LINES, b"\n\r\n\n"),
        ("text/tab-separated-values", b"time\tidentity\tbytes_up\tbytes_down\n"),
        ("text/vnd.bandmeter.squid", b""),
    ],
)
def test_nothing_is_counted_as_nothing(served, kind, body):
    """And moves a source's number all the same."""
    source = f"empty {next(numbers)}"
    for seq in (1, 2):
        assert served.count(body, kind=kind, source=source, seq=seq)["received"] == 0


# ---------------------------------------------------------------- on the way


def squeezed(zone, pack):
    """Several members or frames, the cuts in the middle of lines."""
    content = lines(*(record(zone, n) for n in range(1_000)))
    return b"".join(pack(content[at : at + 10_007]) for at in range(0, len(content), 10_007)) + pack(b"")


PACK = {"gzip": gzip.compress, "zstd": zstandard.ZstdCompressor().compress}


@pytest.mark.parametrize("encoding", PACK)
@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_packed_body_is_unpacked(served, encoding, is_chunked):
    zone = served.zone()
    packed = squeezed(zone, PACK[encoding])
    sent = iter([packed[at : at + 777] for at in range(0, len(packed), 777)]) if is_chunked else packed
    assert served.count(sent, headers={"Content-Encoding": encoding})["counted"] == 1_000
    assert served.total(zone) == (1_000, 499_500, 10_000)


@pytest.mark.parametrize("encoding", PACK)
def test_half_a_packed_body_counts_nothing(served, encoding):
    """Neither when it ends too early, nor when it is packed in another way than it says."""
    zone = served.zone()
    whole = squeezed(zone, PACK[encoding])
    headers = {"Content-Encoding": encoding}
    for sent in (whole[: len(whole) // 2], whole[:-1], whole[:1], whole + b"x", lines(record(zone))):
        served.refused(sent, 400, "body_invalid", headers=headers)
    served.refused(whole, 415, "media_type_unknown", headers={"Content-Encoding": "br"})
    counts = served.count(whole)  # which says that it is plain
    assert counts["counted"] == 0
    assert counts["rejected"] == counts["received"] > 0
    assert served.total(zone) == (0, 0, 0)


@pytest.mark.parametrize("encoding", PACK)
def test_a_bomb_is_refused(served, encoding):
    served.refused(PACK[encoding](bytes(2**28)) * 8, 413, "body_too_large", headers={"Content-Encoding": encoding})
    endless = (PACK[encoding](b"") * 10_000 for _ in range(1_000))
    with contextlib.suppress(httpx.WriteError):  # it is not read to its end
        served.refused(endless, 400, "body_invalid", headers={"Content-Encoding": encoding})


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_body_of_the_largest_size_is_counted_and_no_larger(served, is_chunked):
    zone = served.zone()
    one = lines(record(zone, host="x" * 2_000))
    body = one * (2**25 // len(one) - 1) + one[:-1]
    body += b" " * (2**25 - len(body))
    assert served.count(iter([body]) if is_chunked else body)["counted"] == 2**25 // len(one)
    body += b" "
    with contextlib.suppress(httpx.WriteError):
        served.refused(iter([body]) if is_chunked else body, 413, "body_too_large")
    assert served.total(zone)[0] == 2**25 // len(one)
    served.refused(b"[" + b"1," * 16_000_000 + b"1]", 413, "body_too_large", kind="application/json")


# ---------------------------------------------------------------- what is told

BAD = {"zone": "nowhere"}
TOLD = {
    "lines": (LINES, lambda g, b: b"\n" + lines(g, b) + b"\r\n\nrubbish\n" + lines(g, b), [3, 6, 8], {}),
    "array": ("application/json", lambda g, b: json.dumps([g, b, g, 5, b], indent=2).encode(), [2, 4, 5], {}),
    "nested array": ("application/json", lambda g, _: json.dumps([g, [g], [], g, {}]).encode(), [2, 3, 5], {}),
    "events": (
        "application/cloudevents-batch+json",
        lambda g, b: json.dumps([*events([g, b]), {}, *events([b])]).encode(),
        [2, 3, 4],
        {},
    ),
    "table": ("text/tab-separated-values", lambda g, b: table([g, b, g, b, b], header=True), [3, 5, 6], {}),
    "table without a header": (
        "text/tab-separated-values",
        lambda g, b: table([g, b, g, b, b], header=False),
        [2, 4, 5],
        {"columns": COLUMNS},
    ),
}


@pytest.mark.parametrize("shape", TOLD)
def test_each_record_that_is_rejected_is_told_by_its_line(served, shape):
    """Elements of an array are counted as lines; a table's header is its first. Their neighbours are counted."""
    kind, encode, expected, parameters = TOLD[shape]
    zone = served.zone()
    counts = served.count(encode(record(zone), record("nowhere")), kind=kind, **parameters)
    assert [error["line"] for error in counts["errors"]] == expected
    assert counts["rejected"] == 3
    assert counts["counted"] == served.total(zone)[0] == counts["received"] - 3
    for error in counts["errors"]:
        assert set(error) == {"line", "field", "reason", "detail"}


def bandmeter(served, *arguments, status=0):
    command = [Path(sys.executable).with_name("bandmeter"), "--data", served.data, *arguments]
    done = subprocess.run(command, env=os.environ | {"BANDMETER_NOW": NOW}, capture_output=True, check=False)
    assert done.returncode == status, done.stderr
    return done.stdout


def test_rejected_lines_can_be_mended_and_sent_again(served):
    """`bandmeter rejects --lines` gives them back as they came."""
    zone, source = served.zone(), f"mended {next(numbers)}"
    wrong = [record(zone, up=-5), record(zone, up="many"), {"what": "ü"}]
    for kind, body in ((LINES, lines(*wrong)), ("application/json", json.dumps(wrong, indent=3).encode())):
        assert served.count(body, kind=kind, source=source)["rejected"] == 3
    found = [json.loads(line) for line in bandmeter(served, "rejects", source, "--lines").splitlines()]
    assert found == wrong * 2
    mended = [record(zone) | one | {"bytes_up": 7} for one in found]
    assert served.count(lines(*mended), source=source)["counted"] == 6
    assert served.total(zone) == (6, 42, 60)


def test_a_hundred_errors_are_told_and_all_are_kept(served):
    source = f"many {next(numbers)}"
    counts = served.count(b"rubbish\n" * 250, source=source)
    assert (counts["rejected"], len(counts["errors"])) == (250, 100)
    assert bandmeter(served, "rejects", source, "--lines") == b"rubbish\n" * 250


PROBLEMS = {
    "no key": (401, "key_missing", {"key": "none"}),
    "an unknown key": (401, "key_invalid", {"key": "unknown"}),
    "a key that reads": (403, "scope_missing", {"key": "acme reads"}),
    "a form": (415, "media_type_unknown", {"kind": "application/x-www-form-urlencoded"}),
    "an unknown format": (415, "media_type_unknown", {"kind": "text/vnd.bandmeter.nothing"}),
    "an unknown format, asked for": (400, "parameter_invalid", {"format": "nothing"}),
    "no format": (400, "parameter_invalid", {"format": ""}),
    "no array": (400, "body_invalid", {"kind": "application/json", "content": b"[1, 2"}),
    "a deep array": (400, "body_invalid", {"kind": "application/json", "content": b"[" * 100_000 + b"]" * 100_000}),
    "a table without times": (400, "body_invalid", {"kind": "text/tab-separated-values", "content": b"a\tb\n1\t2\n"}),
    "columns without times": (400, "parameter_invalid", {"format": "tsv", "columns": "a,b"}),
    "a parameter that is none": (400, "parameter_invalid", {"sequence": "1"}),
    "a number without a source": (400, "parameter_missing", {"seq": "1"}),
    "number 0": (400, "parameter_invalid", {"source": "p", "seq": "0"}),
    "no number": (400, "parameter_invalid", {"source": "p", "seq": "1.0"}),
    "a number beyond JSON's": (400, "parameter_invalid", {"source": "p", "seq": str(2**53 + 1)}),
    "no name": (400, "parameter_invalid", {"source": ""}),
    "a long name": (400, "parameter_invalid", {"source": "x" * 129}),
    "a NUL in a name": (400, "parameter_invalid", {"source": "a\0b"}),
    "a control character": (400, "parameter_invalid", {"source": "a\x1b[2Jb"}),
    "10,000 parameters": (400, "parameter_invalid", {str(n): "" for n in range(10_000)}),
    "a long parameter": (400, "parameter_invalid", {"columns": "x" * 2_049}),
    "a long key": (400, "parameter_invalid", {"headers": {"Idempotency-Key": "x" * 129}}),
    "an empty key": (400, "parameter_invalid", {"headers": {"Idempotency-Key": ""}}),
    "a key of another alphabet": (400, "parameter_invalid", {"headers": {"Idempotency-Key": "ü".encode()}}),
}


@pytest.mark.parametrize("case", PROBLEMS)
def test_what_is_wrong_with_a_whole_body_is_a_problem(served, case):
    """Told as problem details, and nothing of the body is counted."""
    status, code, options = PROBLEMS[case]
    options = dict(options)
    zone = served.zone()
    served.refused(options.pop("content", lines(record(zone))), status, code, **options)
    assert served.total(zone) == (0, 0, 0)


def test_other_methods_are_refused(served):
    for method in ("GET", "PUT", "DELETE"):
        answer = HTTP.request(method, f"{served.url}/v1/records")
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


def raw(served, sent):
    """The first line of the answer to bytes that no client of ours would send; b"" when the connection is closed."""
    address = urlsplit(served.url)
    with socket.create_connection((address.hostname, address.port), timeout=SOCKET_SECONDS) as connection:
        connection.sendall(sent)
        try:
            return connection.recv(65_536).partition(b"\r\n")[0]
        except ConnectionResetError:
            return b""


def test_headers_are_bounded_and_sent_once(served):
    """Too many or too large ones are refused by whoever reads them first; the server goes on."""
    start = f"POST /v1/records HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {served.keys['operator']}\r\n".encode()
    end = b"Content-Length: 0\r\n\r\n"
    assert raw(served, start + end).startswith(b"HTTP/1.1 200 ")
    for more in (
        b"Idempotency-Key: a\r\nIdempotency-Key: b\r\n",
        b"Content-Type: application/json\r\nContent-Type: application/x-ndjson\r\n",
        b"Content-Encoding: gzip\r\nContent-Encoding: gzip\r\n",
        b"X: y\0z\r\n",
        b"X: " + b"y" * 1_000_000 + b"\r\n",
        b"".join(b"X%d: y\r\n" % n for n in range(10_000)),
    ):
        assert re.match(rb"HTTP/1.1 4\d\d |$", raw(served, start + more + end))
    assert raw(served, start + end).startswith(b"HTTP/1.1 200 ")


def test_a_key_with_a_limit_is_told_when_to_come_back(served):
    zone = served.zone()
    for _ in range(TIRED_KEY_POSTS):
        served.count(lines(record(zone)), key="tired")
    answer = served.post(lines(record(zone)), key="tired")
    assert (answer.status_code, answer.json()["code"]) == (429, "rate_limited")
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    assert served.total(zone)[0] == TIRED_KEY_POSTS


# ---------------------------------------------------------------- once


def test_numbered_bodies(served):
    """The first may have any number; up to the last is a duplicate; beyond the next is refused with the one expected."""
    zone, source = served.zone(), f"numbered {next(numbers)}"
    bodies = {n: lines(record(zone, up=10**n), record(zone, up=0)) for n in range(5, 10)}
    first = served.count(bodies[5], source=source, seq=5)
    assert (first["counted"], first["duplicate"]) == (2, 0)
    again = served.count(bodies[5], source=source, seq=5)
    assert (again["received"], again["duplicate"], again["counted"], again["first"]) == (2, 2, 0, first)
    assert served.refused(bodies[7], 409, "out_of_order", source=source, seq=7)["expected"] == 6
    served.refused(bodies[7], 422, "key_reused", source=source, seq=5)
    assert served.count(bodies[6], source=source, seq=6)["counted"] == 2
    for seq in (1, 5):
        assert served.count(bodies[5], source=source, seq=seq)["duplicate"] == 2
    assert served.total(zone) == (4, 1_100_000, 40)


def test_numbered_bodies_that_overtake_each_other(served):
    """Sent by many at once, each again until it is taken: every one counts once."""
    zone, source = served.zone(), f"overtaking {next(numbers)}"
    served.count(lines(record(zone, up=1)), source=source, seq=1)

    def send(seq):
        for _ in range(TRIES_MAX):
            answer = served.post(lines(record(zone, up=2**seq)), source=source, seq=seq)
            if answer.status_code == 200:
                return answer.json()["counted"]
            assert (answer.status_code, answer.json()["expected"] <= seq) == (409, True)
        raise AssertionError("it was never taken")

    seqs = []
    for start in range(2, 30, 4):  # no thread waits for one that waits for a thread
        seqs += random.sample([*range(start, start + 4)] * 2, 8)
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(send, seqs)) == 28
    assert served.total(zone) == (29, 1 + sum(2**seq for seq in range(2, 30)), 290)


def test_keyed_bodies(served):
    """A key is remembered of its account and source, and belongs to one body."""
    zone, key = served.zone(), {"Idempotency-Key": f"key {next(numbers)}"}
    first = served.count(lines(record(zone)), headers=key)
    for kind, body in ((LINES, lines(record(zone))), ("application/json", json.dumps([record(zone)]))):
        again = served.count(body, kind=kind, headers=key)
        assert (again["duplicate"], again["first"]) == (1, first)
    served.refused(lines(record(zone, up=2)), 422, "key_reused", headers=key)
    assert served.count(lines(record(zone)), headers=key, source="another")["counted"] == 1
    assert served.count(lines(record(zone)), headers=key, key="acme")["counted"] == 1
    assert served.total(zone) == (3, 3, 30)


@pytest.mark.parametrize("key", ["operator, same body", "acme, same body"])
def test_a_key_for_which_the_same_body_is_the_same_batch(served, key):
    """However it is packed; with another byte, from another source or by another key it is another batch."""
    zone = served.zone()
    body = lines(record(zone), record(zone))
    first = served.count(body, key=key)
    assert served.count(body, key=key)["first"] == first
    assert served.count(gzip.compress(body), key=key, headers={"Content-Encoding": "gzip"})["duplicate"] == 2
    assert served.total(zone)[0] == 2
    for content, options in (
        (body + b"\n", {"key": key}),
        (body, {"key": key, "source": "another"}),
        (body, {"key": "operator"}),
    ):
        assert served.count(content, **options)["counted"] == 2
    assert served.total(zone)[0] == 8


def test_without_a_number_or_a_key_each_body_is_another(served):
    zone = served.zone()
    for _ in range(3):
        assert served.count(lines(record(zone)))["counted"] == 1
    assert served.total(zone) == (3, 3, 30)


def test_many_small_bodies_at_once(served):
    """Each is told its own counts."""
    zone = served.zone()

    def send(n):
        answer = served.count(lines(*[record(zone, up=n)] * n) + b"rubbish\n" * (n % 3))
        return answer["counted"], answer["rejected"]

    with concurrent.futures.ThreadPoolExecutor(16) as threads:
        found = list(threads.map(send, range(120)))
    assert found == [(n, n % 3) for n in range(120)]
    assert served.total(zone)[:2] == (sum(range(120)), sum(n * n for n in range(120)))


# ---------------------------------------------------------------- read your write


def asked(served, of, path, /, **parameters):
    """An answer over a connection of its own: any worker may give it."""
    key = served.keys["acme reads"]
    headers = {"Authorization": f"Bearer {key}", "x-apikey": key, "Connection": "close"}
    parameters = {name: value.format(zone=of, key=key) for name, value in parameters.items()}
    answer = HTTP.get(f"{served.url}{path}", params=parameters, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json()


DAY = {"start_time": "2026-11-22", "end_time": "2026-11-22"}
# How each dialect is asked for the bytes of a zone.
DIALECTS = {
    "native": lambda s, z: sum(s.total(z)[1:]),
    "zone/bw": lambda s, z: sum(asked(s, z, "/zone/bw", zone="{zone}")["acme"]["data"][z]["bw_sum"]),
    "customer/bw": lambda s, z: sum(asked(s, z, "/customer/bw")["acme"]["data"][z]["bw_sum"]),
    "zone/cost": lambda s, z: asked(s, z, "/zone/cost", zone="{zone}")["acme"]["back_m0"]["bw"],
    "baishan": lambda s, z: sum(
        value * 300 / 8
        for _, value in asked(s, z, "/v2/stat/bandwidth", token="{key}", domains="{zone}", **DAY)["data"]
    ),
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_answer_after_a_2xx_includes_it(served, dialect):
    """At once, from either worker, in every dialect."""
    zone, sent = served.zone(network="cdn"), 0
    for n in range(1, 25):
        sent += 37_500 * n  # 1,000 bits a second of 5 minutes
        assert served.count(lines(record(zone, up=0, down=37_500 * n)))["counted"] == 1
        assert DIALECTS[dialect](served, zone) == sent


def test_evomi_answers_after_a_2xx_too(served):
    def total():
        (product,) = asked(served, "", "/public/usage", product="mp")["data"]["bandwidth"]["products"]
        return product["totalBandwidth"]

    zone, sent = served.zone(network="mobile", product="mp"), total()
    for _ in range(20):
        sent += 1  # MB
        served.count(lines(record(zone, up=0, down=1_000_000)))
        assert total() == sent


# ---------------------------------------------------------------- for whom

# What an account's key sends: who owns the traffic, and whether it counts.
CLAIMS = [
    ({"account": "acme", "zone": "res2"}, True),
    ({"zone": "res2"}, True),
    ({"identity": "cust-acme-zone-res2-session-7"}, True),
    ({"identity": "shop.test"}, True),
    ({"account": "other", "zone": "res"}, False),
    ({"account": "nobody", "zone": "res"}, False),
    ({"account": "acme", "zone": "res"}, False),
    ({"zone": "res"}, False),
    ({"zone": "only-other"}, False),
    ({"identity": "alice"}, False),
    ({"identity": "a.wide.test"}, False),
    ({"identity": "only-other"}, False),
    ({"identity": "cust-other-zone-res-session-7"}, False),
    ({"identity": "cust-acme-zone-res-session-7"}, False),
    ({"identity": "never heard of"}, False),
    ({}, False),
]


def claim(owner):
    return {"time": TIME, "bytes_up": 1, "bytes_down": 2, "target_bytes_up": 1, "target_bytes_down": 2} | owner


@pytest.mark.parametrize("shape", ["lines", "table", "events"])
def test_an_accounts_key_counts_for_its_own_zones_only(served, shape):
    """By whatever a record names; nothing is left unattributed, and nothing reaches another account."""
    before = served.total("res", "other"), served.total("only-other", "other")
    waiting = json.loads(bandmeter(served, "sources", "--json"))["unattributed"]
    columns = [*claim({}), "account", "zone", "identity"]
    for owner, is_own in CLAIMS:
        kind, body = LINES, lines(claim(owner))
        if shape == "events":
            kind, body = "application/cloudevents+json", lines(*events([claim(owner)]))
        if shape == "table":
            row = [str(claim(owner).get(name, "-")) for name in columns]
            kind, body = "text/tab-separated-values", ("\t".join(columns) + "\n" + "\t".join(row) + "\n").encode()
        counts = served.count(body, kind=kind, key="acme")
        assert (counts["counted"], counts["rejected"]) == (is_own, not is_own), owner
        assert not is_own or not counts["errors"]
    assert (served.total("res", "other"), served.total("only-other", "other")) == before
    assert json.loads(bandmeter(served, "sources", "--json"))["unattributed"] == waiting


def test_an_accounts_key_learns_nothing_of_others(served):
    """What is told of a name that another account has is told of one that nobody has, in the same words."""
    for there, nowhere in (
        ({"account": "other", "zone": "res"}, {"account": "ether", "zone": "res"}),
        ({"zone": "only-other"}, {"zone": "only-ether"}),
        ({"identity": "alice"}, {"identity": "elice"}),
        ({"identity": "a.wide.test"}, {"identity": "a.wilde.test"}),
        ({"identity": "cust-other-zone-res"}, {"identity": "cust-ether-zone-res"}),
    ):
        told = []
        for owner in (there, nowhere):
            (error,) = served.count(lines(claim(owner)), key="acme")["errors"]
            assert error["reason"] == "unknown_zone"
            for value in owner.values():
                error["detail"] = error["detail"].replace(value, "…")
            told.append(error)
        assert told[0] == told[1]


def test_sources_of_two_accounts_do_not_meet(served):
    """Nor do they meet the operator's of the same name, in numbers or in keys."""
    source, key = f"shared {next(numbers)}", {"Idempotency-Key": f"key {next(numbers)}"}
    owners = {"operator": "acme", "acme": "acme", "other": "other"}
    for start, (sender, account) in enumerate(owners.items(), start=1):
        one = lines({"time": TIME, "account": account, "zone": "res2", "bytes_up": start, "bytes_down": 0})
        for seq in (start * 10, start * 10 + 1):
            assert served.count(one, key=sender, source=source, seq=seq)["duplicate"] == 0
        assert served.count(one, key=sender, headers=key)["duplicate"] == 0
    for start, sender in enumerate(owners, start=1):
        expected = served.refused(b"", 409, "out_of_order", key=sender, source=source, seq=99)["expected"]
        assert expected == start * 10 + 2
    found = json.loads(bandmeter(served, "sources", "--json"))["sources"]
    assert {one["path"] for one in found if one["name"] == source} == {
        "POST /v1/records",
        "POST /v1/records of acme",
        "POST /v1/records of other",
    }


def test_the_operators_key_counts_for_all_accounts(served):
    before = served.total("res", "other")
    counts = served.count(lines(*(claim(owner) for owner, _ in CLAIMS if "account" in owner or "identity" in owner)))
    assert counts["unattributed"] > 0
    assert served.total("res", "other")[0] > before[0]


# ---------------------------------------------------------------- crashes


def kill(running):
    """End all of a server's processes as a power cut would."""
    children = [
        int(pid)
        for pid in Path(f"/proc/{running.process.pid}/task").glob("*/children")
        for pid in pid.read_text().split()
    ]
    for pid in (running.process.pid, *children):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    running.process.wait()


def test_what_was_counted_is_known_after_a_crash(tmp_path, serve_folder):
    """Numbers, keys and bodies; a source goes on where it was."""
    catalog = make_catalog(tmp_path / "data")
    keys = {"operator": catalog.add_key(None, Scope.INGEST, None, 0)}
    keys["same"] = catalog.add_key(None, Scope.INGEST, None, 0, same_body_once=True)
    keys["acme reads"] = catalog.add_key("acme", Scope.READ, None, 0)
    sends = [{"source": "s", "seq": 7}, {"headers": {"Idempotency-Key": "k"}}, {"key": "same"}]
    firsts = []
    for round_number in range(3):
        with serve_folder(tmp_path / "data", tmp_path / "log", 2, BANDMETER_NOW=NOW) as running:
            served = Side(running.url, keys, catalog, tmp_path / "data", running)
            for n, options in enumerate(sends):
                counts = served.count(lines(record("res2", up=10**n)), **options)
                if not round_number:
                    firsts.append(counts)
                assert round_number == 0 or counts["first"] == firsts[n]
            assert served.refused(b"", 409, "out_of_order", source="s", seq=9)["expected"] == 8
            assert served.total("res2") == (3, 111, 30)
            kill(running)
    catalog.close()


def test_while_the_process_that_ingests_is_away_senders_are_told_to_come_back(served):
    """It is started again, and then what they send again counts once."""
    zone, source = served.zone(), f"away {next(numbers)}"
    tasks = Path(f"/proc/{served.running.process.pid}/task").glob("*/children")
    children = [int(child) for task in tasks for child in task.read_text().split()]
    (ingests,) = [pid for pid in children if b"feeding.run" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(ingests, signal.SIGKILL)
    statuses = []
    for _ in range(TRIES_MAX):
        answer = served.post(lines(record(zone)), source=source, seq=1)
        statuses.append(answer.status_code)
        if answer.status_code == 200:
            break
        assert answer.json()["code"] == "unavailable"
        assert answer.headers["retry-after"] == "5"
    assert statuses[-1] == 200
    assert set(statuses) <= {503, 200}
    assert served.total(zone) == (1, 1, 10)


def test_the_record_that_is_documented_is_the_one_that_is_read():
    """The names that senders use are those of the format."""
    assert {*record(""), "identity", "host", "duration"} < set(JSONL.layouts[0].columns)
