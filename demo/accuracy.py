"""How far each proxy's log is from the bytes on the wire: prints the tables of docs/accuracy.md.

`demo/logs/*/accuracy*.txt` were written when the logs were captured: per scenario the bytes that crossed the client's
and the target's sockets, and what the log says of them. What Bandmeter counts of these logs is what they say (a test
holds the two together).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

LOGS = Path(__file__).resolve().parent / "logs"
# Which table of which file, in the order in which they stand there.
SETUPS = (
    ("squid/accuracy.txt", ("Squid 5, forward proxy",)),
    ("trafficserver/accuracy.txt", ("Traffic Server 9.2, forward proxy",)),
    (
        "haproxy/accuracy_http.txt",
        (
            "HAProxy 2.6 `mode http`, in front of a pool",
            "HAProxy 2.6 `mode http`, forward proxy",
            "HAProxy 2.6 `mode http`, edge with TLS",
        ),
    ),
    ("haproxy/accuracy_tcp.txt", ("HAProxy 2.6 `mode tcp`, by SNI",)),
    ("nginx/accuracy.txt", ("nginx 1.22, edge with TLS",)),
    ("varnish/accuracy.txt", ("Varnish 7.1, edge",)),
)
GROUPS = {
    "downloads": ("get", "get6", "chunked", "range", "keepalive", "cache"),
    "uploads": ("post", "post_chunked", "put", "expect100"),
    "small answers": ("head", "s204", "s404", "s500", "cache304", "bighdr"),
    "inside TLS": ("tls_get", "tls_get6", "tls_post", "tls_keepalive"),
    "broken off": ("abort_slow", "abort_fast", "reset", "tls_abort"),
    "WebSocket": ("ws",),
    "refused": ("refused", "nxdomain", "noauth", "badauth", "badauth_post", "tls_refused", "tls_noauth"),
}


class Pair(NamedTuple):
    """Bytes on the wire, and what the log says of them."""

    wire: int
    log: float

    def plus(self, other: Pair) -> Pair:
        """The sum."""
        return Pair(self.wire + other.wire, self.log + other.log)


class Line(NamedTuple):
    """One scenario of one set-up."""

    scenario: str
    client_up: Pair
    client_down: Pair
    target_up: Pair
    target_down: Pair


def read_line(text: str) -> Line:
    """A line such as `get  54  54 | 12220 +0.00% | 7100166 +0.00% | 11737 12220 +4.12% | 7092984 7100166 +0.10%`."""
    name, *numbers = [part.split() for part in text.split("|")]
    client = [Pair(int(wire), int(wire) * (1 + float(error.rstrip("%")) / 100)) for wire, error in numbers[:2]]
    target = [Pair(int(words[0]), int(words[1])) for words in numbers[2:]]
    return Line(name[0], client[0], client[1], target[0], target[1])


def tables(path: Path) -> list[list[Line]]:
    """The tables of a file, each of its scenarios and its TOTAL."""
    found: list[list[Line]] = []
    for text in path.read_text().splitlines():
        if text.startswith("scenario"):
            found.append([])
        elif "|" in text:
            found[-1].append(read_line(text))
    return found


def setups() -> Iterator[tuple[str, list[Line]]]:
    """Every set-up's name and table."""
    for name, titles in SETUPS:
        yield from zip(titles, tables(LOGS / name), strict=True)


def total(lines: list[Line], scenarios: tuple[str, ...], pick: Callable[[Line], Pair]) -> Pair | None:
    """The sum over some scenarios; None when none of them was run."""
    pairs = [pick(line) for line in lines if line.scenario in scenarios]
    added = Pair(0, 0)
    for pair in pairs:
        added = added.plus(pair)
    return added if pairs else None


def error(pair: Pair | None) -> str:
    """How far the log is off, in per cent of the wire, or in bytes where nothing crossed the wire."""
    if pair is None:
        return ""
    difference = pair.log - pair.wire
    if not pair.wire:
        return f"+{difference:.0f} B" if difference else "0"
    percent = round(100 * difference / pair.wire, 2)
    return f"{percent:+.2f}" if percent else "0"


def cell(lines: list[Line], scenarios: tuple[str, ...], side: str) -> str:
    """Up and down of a group."""
    up = total(lines, scenarios, operator.attrgetter(f"{side}_up"))
    down = total(lines, scenarios, operator.attrgetter(f"{side}_down"))
    return f"{error(up)} / {error(down)}" if up else "not run"


def render(side: str) -> str:
    """The Markdown table of a side."""
    lines = [
        f"| {side} side, up / down, % | {' | '.join(GROUPS)} | **all** |",
        "|---" * (len(GROUPS) + 2) + "|",
    ]
    for title, table in setups():
        cells = [cell(table, scenarios, side) for scenarios in GROUPS.values()]
        lines.append(f"| {title} | {' | '.join(cells)} | **{cell(table, ('TOTAL',), side)}** |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(render("target"), render("client"), sep="\n\n")
