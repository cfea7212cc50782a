"""What a proxy's file says of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

from proxies.names import NameServer
from proxies.origin import Origin
from proxies.running import Place
from proxies.scenarios import Scenario
from proxies.wire import Bytes

# (proxy, scenario, address of the relay, origin) → curl's options, and what stands before a path
Way = Callable[["Proxy", Scenario, str, Origin], tuple[list[str], str]]
SIDES = ("target", "client")


class World(NamedTuple):
    """What a proxy finds around it."""

    origin: Origin
    names: NameServer


class Started(NamedTuple):
    """`port_of`: where a scenario's client connects. `reopen`: the shell command for after its logs were renamed.

    Without one its log is held open for ever, and is copied and truncated.
    """

    port_of: Callable[[Scenario], int]
    reopen: str = ""


# Stand for all scenarios that no other row of the proxy's side names.
OTHERS, OTHERS_TLS = "*", "tls*"


class Off(NamedTuple):
    """By how many bytes a request the log of some scenarios is above the wire, at least and at most, and why.

    Of a client that hangs up while all buffers are full, down is only known to be between what client and origin
    exchanged with the proxy.
    """

    scenarios: str
    up: tuple[int, int] = (0, 0)
    down: tuple[int, int] = (0, 0)
    why: str = ""

    def allows(self, scenario: Scenario, says: Bytes, wire: Bytes, other: Bytes, requests: int) -> bool:
        """Whether it is so. `wire`: of the log's side; `other`: of the other one."""
        is_up_good = self.up[0] * requests <= says.up - wire.up <= self.up[1] * requests
        if not scenario.is_full:
            return is_up_good and self.down[0] * requests <= says.down - wire.down <= self.down[1] * requests
        least, most = sorted((wire.down, other.down))
        around = 1_000 + most // 100  # headers, and TLS where a side has it
        return is_up_good and least - around <= says.down <= most + around


@dataclasses.dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy in one of its uses.

    `programs`: without which it is skipped. `logs`: names in its folder. `ends_tls`: it sees the requests inside.
    `target` and `client`: by how much its log is off on that side; whatever is not named there is exact.
    `target_requests`: scenario → how many requests the target's side has, where that is not how many reached one.
    `garbled`: scenarios whose lines cannot be read. `rotations`: of its logs, in one run.
    """

    name: str
    title: str
    format: str
    programs: tuple[str, ...]
    way: Way
    scenarios: tuple[Scenario, ...]
    start: Callable[[Place, World], Started]
    logs: tuple[str, ...]
    target: tuple[Off, ...] = ()
    client: tuple[Off, ...] = ()
    target_requests: dict[str, int] = dataclasses.field(default_factory=dict)
    garbled: tuple[str, ...] = ()
    ends_tls: bool = False
    rotations: int = 2

    @property
    def domain(self) -> str:
        """Of the hosts that its clients ask for."""
        return f"{self.name}.test"

    def transactions(self, scenario: Scenario) -> int:
        """How many lines a scenario has."""
        return 1 if scenario.is_kept and scenario.is_tls and not self.ends_tls else len(scenario.paths)

    def requests(self, scenario: Scenario, side: str) -> int:
        """How many requests Bandmeter must count for the scenario's zone."""
        is_there = scenario.has_user and scenario.name not in self.garbled
        if side == "target":
            is_there = is_there and scenario.reaches
            return self.target_requests.get(scenario.name, self.transactions(scenario) if is_there else 0)
        return self.transactions(scenario) if is_there else 0

    def off(self, scenario: Scenario, side: str) -> Off:
        """By how much its log may be off."""
        rows = {
            name: row for row in (self.target if side == "target" else self.client) for name in row.scenarios.split()
        }
        others = rows.get(OTHERS_TLS if scenario.is_tls else OTHERS, Off(scenario.name))
        return rows.get(scenario.name, others)
