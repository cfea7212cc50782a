"""Two days of a proxy's traffic that never happened, the same every time, with its exact sums.

200 zones and 10,000 hosts by Zipf's law, 72 % CONNECT, 3 % refused (407, no user), 2 % failed (503), sizes log-normal
with a heavy tail, more by day than by night; 30 % of the users carry `-session-<n>`. Lines are in the order in which
requests ended. `write` makes in a folder:

    access.log         Squid's native format: one byte counter
    access_ext.tsv     COLUMNS, tab-separated, without a header
    truth_zone.tsv     zone, requests, bytes up, bytes down; zone `-` are the refused requests
    truth_zone_5m.tsv  zone, start of the 5 minutes, requests, bytes up, bytes down
    truth_zone_day.tsv zone, start of the day, requests, bytes up, bytes down
"""

from __future__ import annotations

import argparse
import bisect
import math
import random
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

SEED = 20_261_120
START_S = 1_795_132_800  # 2026-11-20T00:00:00Z
DAYS = 2
COLUMNS = "time,duration_ms,client,identity,method,host,port,status,result,target_ip,bytes_up,bytes_down"
ACCOUNTS = ("acme", "globex", "initech", "umbrella", "hooli", "stark", "wayne", "soylent")
NETWORKS = ("res", "dc", "isp", "mob")
ZONES = tuple((ACCOUNTS[i % 8], f"{NETWORKS[i % 4]}{i}") for i in range(200))
NOBODY = "-"
BYTES_DOWN_MAX = 3_000_000_000

_SUBDOMAINS = ("www", "api", "cdn", "img", "m", "shop", "static", "search")
_ENDINGS = ("com", "net", "org", "io", "co.uk", "de")
_HOSTS = tuple(f"{_SUBDOMAINS[i % 8]}.site{i:05d}.{_ENDINGS[i % 6]}" for i in range(10_000))
_CLIENTS = tuple(f"10.{i >> 8}.{i & 255}.{1 + i % 250}" for i in range(2_000))


class Request(NamedTuple):
    """One request, as both logs write it. `time` is the text that is printed: the sums go by it."""

    time: str
    duration_ms: int
    client: str
    zone: str
    user: str
    is_tunnel: bool
    host: str
    status: int
    result: str
    target_ip: str
    bytes_up: int
    bytes_down: int
    page: int


def _zipf(count: int, exponent: float) -> list[float]:
    """The cumulative shares of `count` things."""
    sums, total = [], 0.0
    for i in range(1, count + 1):
        total += 1 / i**exponent
        sums.append(total)
    return [x / total for x in sums]


def _address(draw: random.Random, i: int) -> str:
    if i % 7:
        return f"{draw.randrange(11, 200)}.{draw.randrange(256)}.{draw.randrange(256)}.{draw.randrange(1, 255)}"
    return f"2a00:{draw.randrange(65_536):x}:{draw.randrange(65_536):x}::{draw.randrange(1, 65_536):x}"


def _times(draw: random.Random, count: int) -> list[float]:
    """When the requests ended, in order: more of them around 14:00 UTC."""
    weights = [1 + 0.7 * math.sin((hour - 8) / 24 * 2 * math.pi) for hour in range(24)]
    total = sum(weights) * DAYS
    found: list[float] = []
    for day in range(DAYS):
        for hour in range(24):
            start = START_S + day * 86_400 + hour * 3_600
            found += [start + draw.random() * 3_600 for _ in range(round(count * weights[hour] / total))]
    while len(found) < count:
        found.append(START_S + draw.random() * 86_400 * DAYS)
    return sorted(found[:count])


def requests(count: int) -> Iterator[Request]:
    """The requests, in the order in which they ended."""
    draw = random.Random(SEED)
    zone_shares, host_shares = _zipf(len(ZONES), 0.9), _zipf(len(_HOSTS), 1.05)
    addresses = [_address(draw, i) for i in range(len(_HOSTS))]
    users = [f"cust-{account}-zone-{zone}" for account, zone in ZONES]
    for moment in _times(draw, count):
        luck = draw.random()
        zone = bisect.bisect_left(zone_shares, draw.random())
        host = bisect.bisect_left(host_shares, draw.random())
        has_session = draw.random() < 0.3
        user = f"{users[zone]}-session-{draw.randrange(10**6)}" if has_session else users[zone]
        is_tunnel = draw.random() < 0.72
        duration_ms = int(draw.lognormvariate(5.2, 1.3))
        up = int(draw.lognormvariate(6.6, 0.8)) + 150
        down = min(int(draw.lognormvariate(9.0, 2.0)) + 200, BYTES_DOWN_MAX)
        if luck < 0.03:
            status, result, up, down = 407, "TCP_DENIED", 0, 3_900 + int(luck * 1_000)
        else:
            status, result, down = _answer(luck, down, is_tunnel=is_tunnel)
        is_denied = status == 407
        yield Request(
            f"{moment:.3f}",
            duration_ms,
            _CLIENTS[(zone * 10 + int(luck * 1e6)) % 2_000],
            NOBODY if is_denied else users[zone],
            NOBODY if is_denied else user,
            is_tunnel,
            _HOSTS[host],
            status,
            result,
            NOBODY if is_denied else addresses[host],
            up,
            down,
            int(luck * 5_000),
        )


def _answer(luck: float, down: int, *, is_tunnel: bool) -> tuple[int, str, int]:
    """Status, Squid's result and bytes down of a request that was let through."""
    if luck < 0.05:
        return (503, "NONE_NONE", 0) if is_tunnel else (503, "TCP_MISS", 3_600)
    if is_tunnel:
        return 200, "TCP_TUNNEL", down
    if luck < 0.08:
        return 200, "TCP_MISS_ABORTED", down // 3
    if luck < 0.12:
        return 404, "TCP_MISS", 400 + down % 2_000
    return 200, "TCP_MISS", down


def _native_line(r: Request) -> str:
    method, url, kind = "GET", f"http://{r.host}/p/{r.page}", "text/html"
    if r.is_tunnel:
        method, url, kind = "CONNECT", f"{r.host}:443", "-"
    peer = "HIER_NONE/-" if r.status == 407 else f"HIER_DIRECT/{r.target_ip}"
    return (
        f"{r.time} {r.duration_ms:6d} {r.client} {r.result}/{r.status:03d} {r.bytes_down} {method} {url} {r.user} "
        f"{peer} {kind}\n"
    )


def _table_line(r: Request) -> str:
    method, port = ("CONNECT", 443) if r.is_tunnel else ("GET", 80)
    return (
        f"{r.time}\t{r.duration_ms}\t{r.client}\t{r.user}\t{method}\t{r.host}\t{port}\t{r.status}\t{r.result}\t"
        f"{r.target_ip}\t{r.bytes_up}\t{r.bytes_down}\n"
    )


def write(folder: Path, lines: int = 2_000_000) -> None:
    """Write both logs and their exact sums into `folder`."""
    sums: dict[tuple[str, int], list[int]] = defaultdict(lambda: [0, 0, 0])
    with (folder / "access.log").open("w") as native, (folder / "access_ext.tsv").open("w") as table:
        for request in requests(lines):
            native.write(_native_line(request))
            table.write(_table_line(request))
            total = sums[request.zone, int(request.time[:-4]) // 300 * 300]
            total[0] += 1
            total[1] += request.bytes_up
            total[2] += request.bytes_down
    _write_sums(folder / "truth_zone_5m.tsv", sums)
    _write_sums(folder / "truth_zone_day.tsv", _added(sums, lambda zone, bucket: (zone, bucket // 86_400 * 86_400)))
    _write_sums(folder / "truth_zone.tsv", _added(sums, lambda zone, _: (zone,)))


def _added(sums, key_of):
    added = defaultdict(lambda: [0, 0, 0])
    for key, counters in sums.items():
        total = added[key_of(*key)]
        for i, counter in enumerate(counters):
            total[i] += counter
    return added


def _write_sums(path: Path, sums) -> None:
    lines = ("\t".join(map(str, (*key, *counters))) + "\n" for key, counters in sorted(sums.items()))
    path.write_text("".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description="Write two days of deterministic traffic, and its exact sums.")
    parser.add_argument("folder", type=Path, nargs="?", default=Path())
    parser.add_argument("--lines", type=int, default=2_000_000)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    write(given.folder, given.lines)
    print(f"{given.lines} lines in {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
