"""A service, the proxies that write its logs, and the senders that post to it, with what all of it adds up to."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from crash import truth, writers
from crash.senders import Kind, Sender
from crash.service import DEADLINE_SECONDS, Service, service_of, until

KINDS = {
    "small": Kind("seq", (1, 2, 5)),
    "keyed": Kind("key", (1, 20, 300)),
    "shipper": Kind("same", (10, 100), is_gzip=True),
    "large": Kind("seq", (500, 4_000), pause_seconds=0.4),
    "packed": Kind("key", (1, 3_000), is_gzip=True, pause_seconds=0.4),
}


class World:
    """All of it."""

    def __init__(self, folder: Path, service: Service, keys: dict[str, str], seed: str, kinds: dict[str, Kind]) -> None:
        self.data, self.service, self.keys = service.data, service, keys
        self.clock = truth.Clock()
        self.writers = writers.Writers(folder / "logs", self.clock, seed)
        self.senders = [
            Sender(service, keys, self.clock, name=name, kind=kind, seed=seed) for name, kind in kinds.items()
        ]

    @property
    def actors(self) -> list[Sender | writers.Writers]:
        return [self.writers, *self.senders]

    def resume(self) -> None:
        for actor in self.actors:
            actor.resume()

    def pause(self) -> None:
        """All that was begun is acknowledged, and every line is whole."""
        for actor in self.actors:
            actor.pause()

    def sums(self) -> truth.Sums:
        """What the store must say once nothing is under way."""
        total = truth.Sums()
        for made in [*self.writers.logs, *self.senders]:
            total.add(made.sums)
        return total

    def settle(self, seconds: float = DEADLINE_SECONDS) -> None:
        """Wait until all is counted; then it was counted once, to the byte, and the store is whole."""
        wanted = self.sums()
        try:
            until(
                lambda: truth.records_by_source(self.data).total() >= wanted.records,
                "all records to be counted",
                seconds,
            )
        except AssertionError:
            assert truth.stored(self.data).difference(wanted) == {}, f"missing; {self.describe()}"
        assert wanted.difference(truth.stored(self.data)) == {}, f"too many, or elsewhere; {self.describe()}"

    def describe(self) -> str:
        """What was made and what was counted, by source, for whoever looks for what went wrong."""
        made = {log.style: log.sums.records for log in self.writers.logs}
        made |= {sender.name: sender.sums.records for sender in self.senders}
        counted = truth.records_by_source(self.data)
        return f"made {made}, counted {counted}; {self.service.get('/readyz')}"


@contextlib.contextmanager
def world_of(
    folder: Path, seed: str, kinds: dict[str, Kind] | None = None, data: Path | None = None
) -> Iterator[World]:
    """Make one that does not run yet, and leave nothing of it behind."""
    data = data or folder / "data"
    keys = truth.prepare(data, writers.settings(folder / "logs"))
    with service_of(data, folder / "log") as service:
        world = World(folder, service, keys, seed, KINDS if kinds is None else kinds)
        for actor in world.actors:
            actor.start()
        try:
            yield world
        finally:
            service.discard()
            for actor in world.actors:
                actor.end()
