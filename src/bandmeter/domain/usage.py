"""What is counted: sides, counters, dimensions, and how usage adds up.

Law 1: folding is commutative and associative with a zero; cutting a batch anywhere changes nothing.
Law 7: bytes are integers.

A request has up to two **sides**: what the proxy exchanged with the *target*, and with the *client*. Each side has the
same four counters. A **dimension** is a property of traffic that answers can be split by; a bucket's dimensions are
packed into one small integer, so that a row stays small and a key stays fast.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from typing import NamedTuple

BYTES_MAX = 2**50  # of one record and side: no proxy passes a pebibyte in one request; a larger number is damage
REQUESTS_MAX = 10**9  # of one record; a pre-summed record may carry many


class Side(enum.StrEnum):
    """Which exchange a number speaks of."""

    TARGET = "target"
    CLIENT = "client"


class Measure(enum.StrEnum):
    """What a series counts."""

    BYTES = "bytes"  # up and down together
    REQUESTS = "requests"


class Counters(NamedTuple):
    """One side's sums. `successes` are the requests answered with 2xx or 404."""

    requests: int = 0
    successes: int = 0
    bytes_up: int = 0
    bytes_down: int = 0

    def plus(self, other: Counters) -> Counters:
        """The sum, counter by counter."""
        return Counters(*(a + b for a, b in zip(self, other, strict=True)))


ZERO = Counters()


class Row(NamedTuple):
    """One row of an answer: a bucket's traffic on one side, with its packed dimensions.

    `bucket` is the Unix second at which the bucket starts.
    """

    bucket: int
    dimensions: int
    requests: int
    successes: int
    bytes_up: int
    bytes_down: int


class Columns(NamedTuple):
    """Rows, column by column, ordered by bucket, then dimensions: as a store reads them fastest."""

    bucket: Sequence[int] = ()
    dimensions: Sequence[int] = ()
    requests: Sequence[int] = ()
    successes: Sequence[int] = ()
    bytes_up: Sequence[int] = ()
    bytes_down: Sequence[int] = ()

    @property
    def rows(self) -> list[Row]:
        """The same, row by row."""
        return list(map(Row._make, zip(*self, strict=True)))


class HostRow(NamedTuple):
    """What went to one host on one UTC day, on one side; `day` is the Unix second at which it starts."""

    day: int
    host: str
    requests: int
    successes: int
    bytes_up: int
    bytes_down: int


# A stored row, flat: these columns in this order. Rows travel as one flat sequence of integers, never as objects.
ROW = (
    "zone",
    "bucket",
    "dimensions",
    "target_requests",
    "target_successes",
    "target_bytes_up",
    "target_bytes_down",
    "client_requests",
    "client_successes",
    "client_bytes_up",
    "client_bytes_down",
)
ROW_KEY = ROW[:3]
HOST_ROW = ("zone", "day", *ROW[3:])  # beside a host's name
ROW_COUNTERS = ROW[3:]
SIDE_COLUMNS = {Side.TARGET: ROW[3:7], Side.CLIENT: ROW[7:11]}


class Dimension(NamedTuple):
    """A property of traffic: its values by code, and where the code sits in the packed integer."""

    name: str
    shift: int
    bits: int
    values: tuple[str, ...]

    def pack(self, value: str) -> int:
        """The bits of `value`; ValueError when it is no value of this dimension."""
        return self.values.index(value) << self.shift

    def code(self, packed: int) -> int:
        """The code of this dimension in a packed integer."""
        return (packed >> self.shift) & ((1 << self.bits) - 1)

    def value(self, packed: int) -> str:
        """The value of this dimension in a packed integer."""
        return self.values[self.code(packed)]


UNKNOWN = "unknown"
# The codes are stored: append values, never reorder them. Frequent values have small codes, so that rows stay small.
SCHEME = Dimension("scheme", 0, 2, ("other", "http", "https"))
IP_VERSION = Dimension("ip_version", 2, 2, (UNKNOWN, "4", "6"))
NETWORK = Dimension(
    "network",
    4,
    4,
    (UNKNOWN, "dc", "isp", "res", "mobile", "unlocker", "serp", "browser", "cdn"),
)
ACCESS = Dimension("access", 8, 2, ("api", "lpm", "bext", "cloud_lpm"))
POOL = Dimension("pool", 10, 1, ("default", "extra"))
DIMENSIONS = {d.name: d for d in (SCHEME, IP_VERSION, NETWORK, ACCESS, POOL)}
DIMENSION_BITS = POOL.shift + POOL.bits  # of all of them packed
NETWORKS = NETWORK.values[1:]


def pack(**values: str) -> int:
    """Pack dimension values given by name; what is not named has code 0."""
    return sum(DIMENSIONS[name].pack(value) for name, value in values.items())


class Selection(NamedTuple):
    """Which number, of the rows whose `dimensions & mask == bits`."""

    measure: Measure
    mask: int = 0
    bits: int = 0


def select(measure: Measure, where: Iterable[tuple[str, str]] = ()) -> Selection:
    """Of the traffic that has each (dimension, value) of `where`; ValueError for a value that is none."""
    named = [(DIMENSIONS[name], value) for name, value in where]
    mask = sum(((1 << dimension.bits) - 1) << dimension.shift for dimension, _ in named)
    return Selection(measure, mask, sum(dimension.pack(value) for dimension, value in named))


def unpack(packed: int) -> dict[str, str]:
    """Every dimension's value by name."""
    return {name: dimension.value(packed) for name, dimension in DIMENSIONS.items()}


class Outcomes(NamedTuple):
    """What became of the records that came in.

    Law 2: received = counted + duplicate + no_target + unattributed + rejected.
    """

    received: int = 0
    counted: int = 0
    duplicate: int = 0
    no_target: int = 0
    unattributed: int = 0
    rejected: int = 0

    def plus(self, other: Outcomes) -> Outcomes:
        """The sum, counter by counter."""
        return Outcomes(*(a + b for a, b in zip(self, other, strict=True)))

    def minus(self, other: Outcomes) -> Outcomes:
        """The difference, counter by counter."""
        return Outcomes(*(a - b for a, b in zip(self, other, strict=True)))

    @property
    def is_all_rejected(self) -> bool:
        """Whether there was something, and all of it was rejected, however often it came."""
        return 0 < self.rejected == self.received - self.duplicate

    @property
    def adds_up(self) -> bool:
        """Law 2."""
        return self.received == sum(self[1:])


NOBODY = "-"  # the identity of records that name none
OTHERS = "(beyond the daily bound)"  # the identity that new unattributed ones share once a day's bound is reached
# Identities that are nobody's own, and what they are.
SHARED = {NOBODY: "all traffic that names no identity", OTHERS: "all traffic of the identities that were too many"}
UNSIDED, SIDED = "", "sided"  # whether unattributed records said which side their bytes speak of


def claimed(row: tuple[int, ...], side: str, zone: int, zone_side: Side, network: str) -> tuple[int, ...]:
    """A stored row (`ROW`) of an unattributed identity, as a row of the zone that claims it.

    Traffic of unknown network gets the zone's; bytes that did not say their side become the zone's billed side.
    """
    _, bucket, dimensions, *counters = row
    if NETWORK.code(dimensions) == 0:
        dimensions |= NETWORK.pack(network)
    if side == UNSIDED and zone_side is Side.CLIENT:
        counters = counters[4:] + counters[:4]
    return (zone, bucket, dimensions, *counters)
