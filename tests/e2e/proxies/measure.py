"""One whole run of a proxy: all scenarios, two rotations in between, and Bandmeter reading all the while."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from proxies.clients import Client
from proxies.contracts import SIDES, Proxy, Started, World
from proxies.meter import Meter, Usage, by_zone
from proxies.names import NameServer
from proxies.origin import Origin
from proxies.rotation import Rotation
from proxies.running import Place, running
from proxies.scenarios import Scenario
from proxies.wire import Bytes, Tally


@dataclasses.dataclass(frozen=True, slots=True)
class Measured:
    """What crossed the wires, and what Bandmeter says, by side and scenario.

    `rows`: usage with its dimensions. `lines`: of all logs, and `outcomes` what became of them; `again`: what another
    `bandmeter ingest` of them counted.
    """

    proxy: Proxy
    wire: dict[str, dict[str, Bytes]]
    usage: dict[str, dict[str, Usage]]
    rows: dict[str, list[dict]]
    lines: int
    outcomes: dict[str, int]
    again: dict[str, int]


def measure(proxy: Proxy, meter: Meter, folder: Path) -> Measured:
    """Run a proxy until Bandmeter has told all that it did; AssertionError when something does not happen in time.

    `folder`: where the meter looks for the proxies' logs.
    """
    with tempfile.TemporaryDirectory() as own:
        origin, names = Origin(Path(own), proxy.domain), NameServer()
        world = World(origin, names)
        started: list[Started] = []
        try:
            with running(folder / proxy.name, lambda place: started.append(proxy.start(place, world))) as place:
                client = Client(proxy, origin, started[-1].port_of, Path(own), Tally())
                rotation = Rotation(place, proxy.logs, started[-1].reopen, Path(own))
                return _measure(client, meter, place, rotation)
        finally:
            origin.close()
            names.close()


def _measure(client: Client, meter: Meter, place: Place, rotation: Rotation) -> Measured:
    proxy = client.proxy

    def wait_for_lines(scenarios: Sequence[Scenario]) -> None:
        """Also for those that count for nobody."""
        lines = sum(map(proxy.transactions, scenarios))
        place.wait_for(lambda: meter.lines(proxy) >= lines, f"{lines} lines")

    parts = [proxy.scenarios[n :: proxy.rotations + 1] for n in range(proxy.rotations + 1)]
    with meter.catching_up():
        for number, part in enumerate(parts):
            if not number:
                _run(client, part)
            elif rotation.is_renaming:  # while requests go on
                rotation.wait_until_reopened()
                _run(client, part, rotation.rotate)
            else:  # what is written between the copy and the cut is lost, so all must be written before
                before = [scenario for earlier in parts[:number] for scenario in earlier]
                wait_for_lines(before)
                meter.wait_until_counted(proxy, _requests(proxy, before))
                rotation.rotate()
                _run(client, part)
        wait_for_lines(proxy.scenarios)
        meter.wait_until_counted(proxy, _requests(proxy, proxy.scenarios))
    place.stop()
    meter.catch_up(proxy)
    rows = {side: meter.rows(proxy, side) for side in SIDES}
    wires = {"client": client.wire, "target": client.origin.tally}
    return Measured(
        proxy,
        {side: {s.name: wires[side].of(s.name) for s in proxy.scenarios} for side in SIDES},
        {side: by_zone(rows[side]) for side in SIDES},
        rows,
        meter.lines(proxy),
        meter.outcomes(proxy),
        meter.ingest(),
    )


def _run(client: Client, scenarios: Sequence[Scenario], meanwhile: Callable[[], None] = lambda: None) -> None:
    """Run scenarios, and something else at the same time."""
    with ThreadPoolExecutor(1) as pool:
        running_there = pool.submit(lambda: [client.run(scenario) for scenario in scenarios])
        meanwhile()
        running_there.result()


def _requests(proxy: Proxy, scenarios: Sequence[Scenario]) -> dict[str, dict[str, int]]:
    """What a log that is whole must have: each line has both sides, where there is one log."""
    sides = SIDES if len(proxy.logs) > 1 else ("client",)
    return {side: {s.name: proxy.requests(s, side) for s in scenarios} for side in sides}
