"""Bandmeter, as its operator runs it: one folder, one server, and the logs of all proxies as its sources."""

from __future__ import annotations

import contextlib
import datetime as dt
import gzip
import json
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import httpx

from proxies.clients import edge
from proxies.contracts import Proxy
from proxies.wire import DEADLINE_SECONDS

OK, REJECTED = 0, 1  # exit statuses of `bandmeter ingest`
RENAMED_MAX = 5  # times in a row that a log is renamed just then
ROWS_MAX = 10_000
POLL_SECONDS = 0.1
OUTCOMES = ("counted", "no_target", "unattributed", "rejected")


class Usage(NamedTuple):
    """What Bandmeter says of a zone and a side."""

    requests: int = 0
    bytes_up: int = 0
    bytes_down: int = 0


def by_zone(rows: Sequence[dict]) -> dict[str, Usage]:
    """The sums of each zone."""
    found: dict[str, Usage] = {}
    for row in rows:
        so_far = found.get(row["zone"], Usage())
        found[row["zone"]] = Usage(*(n + row[name] for name, n in so_far._asdict().items()))
    return found


def zones_of(proxy: Proxy) -> dict[str, dict]:
    """A zone for each scenario; at a site it is told by names: the site's own, and those of HAProxy's frontends."""
    if proxy.way is edge:
        return {
            s.name: {"network": "cdn", "identities": [f"{s.name}.{proxy.domain}", f"{proxy.name}-{s.name}"]}
            for s in proxy.scenarios
        }
    return {s.name: {"network": "res"} for s in proxy.scenarios}


class Meter:
    """An account for each proxy; `folder` has the logs, in `PROXY/*/`. `url`: where it serves.

    `follows`: the server itself follows the logs; otherwise `bandmeter ingest` reads them, again and again.
    """

    url = ""

    def __init__(self, command, proxies: Sequence[Proxy], folder: Path, *, follows: bool) -> None:
        self._command = command
        self._follows = follows
        command.environment.pop("BANDMETER_NOW")  # proxies live in the present
        self._patterns = {p.name: [f"{folder / p.name}/*/{log}*" for log in p.logs] for p in proxies}
        command.apply({p.name: zones_of(p) for p in proxies})
        (command.data / "bandmeter.toml").write_text(
            "".join(
                f'[[source]]\nname = "{p.name}-{number}"\nformat = "{p.format}"\npath = "{pattern}"\n\n'
                for p in proxies
                for number, pattern in enumerate(self._patterns[p.name])
            )
        )
        self._key = command("operator-key", "add", "--scope", "admin").stdout.decode().strip()
        self._pause = threading.Event()  # which nobody sets
        now = dt.datetime.now(dt.UTC)
        self._since = now - dt.timedelta(minutes=now.minute % 5, seconds=now.second, microseconds=now.microsecond)

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [self._command.path, *arguments], env=self._command.environment, capture_output=True, check=False
        )

    def catch_up(self, proxy: Proxy) -> None:
        """Afterwards, whatever stood in the logs when this was called is in the answers.

        The one place that knows how the logs get in.
        """
        if not self._follows:
            self.ingest()
            return
        lines = self.lines(proxy)
        last = time.monotonic() + DEADLINE_SECONDS
        while (there := sum(self.outcomes(proxy).values())) < lines:
            assert time.monotonic() < last, f"{there} of {lines} lines"

    def ingest(self) -> dict[str, int]:
        """`bandmeter ingest` of the configured sources; its counts.

        A log that is renamed after it was found is not there when it is opened, and is found under its other name
        when all is looked for again.
        """
        for _ in range(RENAMED_MAX):
            done = self._run("ingest", "--json")
            if done.returncode in (OK, REJECTED):
                return json.loads(done.stdout)["total"]
            assert b"No such file" in done.stderr, done.stderr.decode()
        raise AssertionError(done.stderr.decode())

    @contextlib.contextmanager
    def catching_up(self) -> Iterator[None]:
        """Catch up again and again, in the background, where the server does not do that itself."""
        if self._follows:
            yield
            return
        stopped = threading.Event()

        def run() -> None:
            while not stopped.is_set():
                self.ingest()

        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(run)
            try:
                yield
            finally:
                stopped.set()
                running.result()

    def rows(self, proxy: Proxy, side: str) -> list[dict]:
        """What each zone used since this meter was made, by scheme and IP version."""
        question = {
            "accounts": proxy.name,
            "side": side,
            "from": self._since.isoformat(),
            "to": (self._since + dt.timedelta(days=1)).isoformat(),
            "resolution": "total",
            "group_by": "zone,scheme,ip_version",
            "limit": ROWS_MAX,
        }
        headers = {"Authorization": f"Bearer {self._key}"}
        answer = httpx.get(
            f"{self.url}/v1/usage", params=question, headers=headers, timeout=DEADLINE_SECONDS, trust_env=False
        )
        answer.raise_for_status()
        document = answer.json()
        assert document["next"] is None
        return document["rows"]

    def wait_until_counted(self, proxy: Proxy, wanted: Mapping[str, Mapping[str, int]]) -> None:
        """Wait, while catching up, until the answers have as many requests: {side: {zone: requests}}."""
        last = time.monotonic() + DEADLINE_SECONDS
        while True:
            there = {side: by_zone(self.rows(proxy, side)) for side in wanted}
            lacking = [
                (side, zone, counted, requests)
                for side, zones in wanted.items()
                for zone, requests in zones.items()
                if (counted := there[side].get(zone, Usage()).requests) < requests
            ]
            if not lacking:
                return
            assert time.monotonic() < last, f"(side, zone, requests counted, sent): {lacking}"
            self._pause.wait(POLL_SECONDS)

    def outcomes(self, proxy: Proxy) -> dict[str, int]:
        """The counts of law 2 over all that was read; a line that was read again counts once."""
        document = json.loads(self._run("sources", "--json").stdout)
        sources = [source for source in document["sources"] if source["name"].rpartition("-")[0] == proxy.name]
        return {name: sum(source[name] for source in sources) for name in OUTCOMES}

    def lines(self, proxy: Proxy) -> int:
        """How many lines the logs have that there are now."""
        paths = [path for pattern in self._patterns[proxy.name] for path in Path("/").glob(pattern.lstrip("/"))]
        return sum(content_of(path).count(b"\n") for path in paths)


def content_of(log: Path) -> bytes:
    """The older ones are compressed."""
    content = log.read_bytes()
    return gzip.decompress(content) if log.suffix == ".gz" else content
