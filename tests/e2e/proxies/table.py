"""The table of docs/accuracy.md that says by how much the logs may be off, made of what the tests hold them to."""

from __future__ import annotations

from collections.abc import Sequence

from proxies.contracts import OTHERS, OTHERS_TLS, SIDES, Off, Proxy
from proxies.scenarios import FORWARD

TITLES = {s.name: s.title for s in FORWARD} | {OTHERS: "all others in the clear", OTHERS_TLS: "all others in TLS"}


def bounds(limits: tuple[int, int]) -> str:
    """Such as `-40 to 0`."""
    return " to ".join(f"{n:+,}" if n else "0" for n in sorted(set(limits)))


def line(proxy: Proxy, side: str, off: Off) -> str:
    """A row of the table."""
    kinds = "; ".join(TITLES[name] for name in off.scenarios.split())
    return f"| {proxy.title} | {side} | {kinds} | {bounds(off.up)} | {bounds(off.down)} | {off.why} |"


def render(proxies: Sequence[Proxy]) -> str:
    """The Markdown table."""
    rows = [
        line(proxy, side, off)
        for proxy in proxies
        for side in SIDES
        for off in (proxy.target if side == "target" else proxy.client)
    ]
    return "\n".join(["| proxy | side | requests | up | down | why |", "|---|---|---|---|---|---|", *rows])
