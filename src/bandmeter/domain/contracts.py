"""The shapes that the plugs have, together on one page.

Law 8: a dialect, a format, a price is pure: no I/O, no clock (`now` is an argument), no async.
"""

from __future__ import annotations

import dataclasses
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from decimal import Decimal
from typing import Any, Literal, NamedTuple, Protocol

from bandmeter.domain.errors import BandmeterError
from bandmeter.domain.grid import Resolution, Span
from bandmeter.domain.questions import Question
from bandmeter.domain.tenancy import Account, Key, Scope, Zone
from bandmeter.domain.usage import Columns, Counters, HostRow, Outcomes, Selection, Side

# ---------------------------------------------------------------- formats


class Layout(NamedTuple):
    """How a line falls into columns, and how columns become the fields of a record.

    `columns`: names in the order of the line (tab-separated), JSON keys, or groups of a regular expression.
    `fields`: record field → SQL expression over the columns, all of which are text or NULL.
    """

    columns: tuple[str, ...]
    fields: Mapping[str, str]


@dataclasses.dataclass(frozen=True, slots=True)
class Format:
    """A log format, as a value. The pieces are explained in `formats/__init__.py`."""

    name: str
    split: str  # "tab", "json" or "pattern"
    layouts: tuple[Layout, ...]  # told apart by their number of columns; JSON and patterns have one
    example: str  # a real line, so that a reader can lay it beside the columns
    side: Side = Side.TARGET  # by which an identity that no zone claims yet is judged
    pattern: str = ""
    prefix: str = ""  # where in a line's JSON object the columns are, such as "data."
    nulls: tuple[str, ...] = ()  # what stands for nothing in a tab-separated column: read as NULL
    partial: bool = False  # the log lacks counters: usage is a lower bound
    has_header: bool = False  # the first line names the columns
    unmeterable: str = ""  # SQL: a line that shows that the whole source cannot be metered
    unmeterable_reason: str = ""
    secret: str = ""  # regular expression for what must not be kept of a rejected line; group 1 stays


# ---------------------------------------------------------------- store


class Reject(NamedTuple):
    """A record that could not be read. `line` counts from 1, `byte` from 0, both in the decompressed source."""

    line: int
    byte: int
    field: str
    reason: str
    detail: str
    text: bytes


class SourceState(NamedTuple):
    """What is known of a source: its content's beginning, how far it was counted, and what became of it.

    `number` 0: not stored yet. `position` and `lines` are in decompressed bytes and lines. `head` is the first
    4 KiB that were counted (fewer while there are fewer), `check` a digest of the bytes just before `position`.
    """

    number: int
    name: str
    format: str
    path: str
    head: bytes
    position: int
    check: bytes
    lines: int
    columns: str  # of a format with a header: its header line
    outcomes: Outcomes
    newest_ms: int | None
    committed_ms: int | None
    note: str  # what an operator should know: "partial", "unmeterable", …


def overlaps(head: bytes, other: bytes) -> bool:
    """Whether two sources' heads could be the same content, seen at different lengths."""
    return head.startswith(other) or other.startswith(head)


POSTED = b"\0post"  # what the head of a source of posted bodies begins with: no log does
REMEMBERED_SECONDS = 35 * 86_400  # of a receipt without a number: longer than any queue of a shipper keeps a batch
STRETCHES_MAX = 1_000  # of one source's coverage: a gap an hour for six weeks; older ones are forgotten
Rejects = Literal[
    "kept", "counted", "mended"
]  # "counted" by now: as they came; "mended": those that were, as they count


class Receipt(NamedTuple):
    """What a sender is told again when it sends a batch again: `key` finds it, `body` is a digest of what was sent.

    `expires_s`: when it may be forgotten, by the clock of `ingest.receipts`; None: when one of the same key comes.
    """

    key: bytes
    body: bytes
    expires_s: int | None
    answer: bytes


class Hosts(NamedTuple):
    """A batch's traffic by target host: names, and beside each a row as in `usage.HOST_ROW`, flat; keys may repeat."""

    names: Sequence[str]
    rows: array[int]

    def plus(self, other: Hosts) -> Hosts:
        """Both."""
        return Hosts([*self.names, *other.names], self.rows + other.rows) if other.names else self


NO_HOSTS = Hosts((), array("q"))


class Batch(NamedTuple):
    """Everything that one transaction writes. `before` → `after` is the source's step. `newest_ms`: zone number → ms.

    `rows`: as in `usage.ROW`, flat, 5-minute buckets as Unix seconds, any order, keys may repeat.
    `considered`: the highest number among the sources known when it was decided that this one is new; a newer one with
    the same head means that another process has begun the same file, and the batch is not written.
    """

    before: SourceState
    after: SourceState
    rows: array[int]
    newest_ms: Mapping[int, int]
    rejects: Sequence[Reject]
    committed_ms: int
    considered: int = 0
    receipts: Sequence[Receipt] = ()
    hosts: Hosts = NO_HOSTS
    retried: Mapping[int, bytes] = {}  # rejects that it counts, all or none: line → what was read instead, b"": itself


class Unattributed(NamedTuple):
    """Traffic of an identity that no zone has claimed. `side` "": its records did not say which side they speak of."""

    number: int
    identity: str
    side: str
    target: Counters
    client: Counters
    newest_ms: int | None


class Freshness(NamedTuple):
    """Up to where the usage of some zones goes.

    `version`: how often it was changed. It never goes back, so the same version of the same zones is the same usage.
    `newest_ms`: time of their newest counted traffic. `committed_ms`: when usage was last committed, of any zone.
    """

    version: int
    newest_ms: int | None
    committed_ms: int | None


class Store(Protocol):
    """Batches in, rollups out. Every implementation obeys the laws 1 to 5 and is tested against `memory`."""

    def find_sources(self, name: str, head: bytes) -> list[SourceState]:
        """The sources of that name whose content begins like `head`, as far as both go."""

    def has_path(self, name: str, path: str) -> bool:
        """Whether a source of that name was last seen at `path`."""

    def sources_of_head(self, head: bytes) -> list[SourceState]:
        """The same, of any name."""

    def write(self, batch: Batch) -> int:
        """Write the batch durably; its source's number, or 0 and nothing when that is not where the batch begins."""

    def write_together(self, batches: Sequence[Batch]) -> list[int]:
        """Write batches of different sources in one transaction; their numbers, or [] and nothing as in `write`."""

    def receipt(self, key: bytes) -> Receipt | None:
        """What was said of the batch with this key, if it is still remembered."""

    def last_expiry_s(self) -> int | None:
        """The latest `expires_s` of all receipts that have one; writing one forgets those made long before it."""

    def cover(self, heard_ms: Mapping[str, int], gap_ms: int) -> None:
        """Note that sources (by name) reported all they had up to a moment; after more than `gap_ms` there is a gap.

        A stretch that began after that moment was seen by a clock that was ahead, and is forgotten.
        """

    def coverage(self, start_ms: int, end_ms: int) -> dict[str, list[tuple[int, int]]]:
        """When each source reported: stretches (ms, both ends inside) that touch the time asked, in order."""

    def touch(self) -> None:
        """Write something that changes nothing, durably; raises `unavailable` when nothing can be written now."""

    def note_duplicates(self, source: int, lines: int) -> None:
        """Add lines that were seen again and not counted to a source's outcomes."""

    def note_path(self, source: int, name: str, path: str) -> None:
        """Note where a source's content was seen, and what it is called; the last of a name takes its coverage."""

    def number_identities(self, wanted: Sequence[tuple[str, str]], day: int) -> dict[tuple[str, str], int]:
        """The numbers of unattributed (identity, side); beyond the bound of new ones in `day` they share one."""

    def read(self, zones: Sequence[int], side: Side, resolution: Resolution, span: Span) -> dict[int, Columns]:
        """The rows of each zone that has any, by zone number, ordered by bucket and dimensions."""

    def read_series(
        self, zones: Sequence[int], side: Side, resolution: Resolution, span: Span, selection: Selection
    ) -> dict[int, tuple[list[int], list[int]]]:
        """Buckets, and a number beside each, of each zone that has any: less than `read`, and faster.

        Ordered by bucket, once for each of its rows; a number may be 0. Zones may share a list: do not change it.
        """

    def read_hosts(self, zones: Sequence[int], side: Side, span: Span, limit: int) -> dict[int, list[HostRow]]:
        """The hosts kept of each zone that has any, by zone number, for the days that start in `span`, by day and name.

        A day keeps as many as its bound, those that came first. Of all rows the first `limit` are read.
        """

    def total(self, zone: int, side: Side, span: Span) -> Counters:
        """The sum over a span on 5-minute edges."""

    def freshness(self, zones: Sequence[int]) -> Freshness:
        """Up to where the usage of these zones goes, each named once: all three figures of one moment."""

    def committed_ms(self) -> int | None:
        """When usage was last committed."""

    def sources(self) -> list[SourceState]:
        """All sources, in the order in which they were first seen."""

    def rejects(self, source: int, limit: int, after: int = 0, which: Rejects = "kept") -> list[Reject]:
        """A source's rejects in order of line, at most `limit`, after one; those that count by now are told apart."""

    def count_rejects(self, source: int, lines: int) -> int:
        """How many of a source's first so many lines are kept as rejects."""

    def sources_with_rejects(self, name: str) -> list[SourceState]:
        """The sources of that name that have rejects, or had some that count by now."""

    def unattributed(self) -> list[Unattributed]:
        """What waits to be claimed, most bytes first."""

    def claim(self, identity: str, zone: Zone) -> Counters:
        """Move an identity's history into a zone, in one transaction; what moved, on the zone's side."""

    def release(self, identity: str) -> None:
        """Let what comes of an identity from now on wait again; what a claim has moved stays where it is."""

    def number_ends(self) -> tuple[int, int] | None:
        """The lowest and the highest number that has usage: zones are above 0, identities below. Quick."""

    def highest_number(self) -> int:
        """The highest number of a zone that has usage, or was given an identity's; 0 without one."""

    def numbers(self, at_most: int = ...) -> Iterator[int]:
        """The numbers that have usage, the highest first; each is found quickly."""

    def extent(self, number: int) -> Span | None:
        """The whole days in which a zone or identity has usage, from the first to the last; None without any."""

    def check(self) -> list[str]:
        """What is wrong with the store, a sentence each: broken pages, resolutions that disagree (law 5)."""

    def check_day(self, number: int, day: int) -> list[str]:
        """Where the resolutions of a zone's day (its start, Unix seconds) disagree; in about a millisecond."""

    def at_one_moment(self) -> AbstractContextManager[None]:
        """Let this thread read, until the end of the block, what was committed when it began, whoever writes."""

    def close(self) -> None:
        """Release files and connections."""


# ---------------------------------------------------------------- prices


@dataclasses.dataclass(frozen=True, slots=True)
class Price:
    """A kind of price plan. `parse` checks the plan's JSON, or raises `input_invalid` naming the field.

    `cost` gives the exact cost of usage under a parsed plan; `is_summable`: costs of parts add up to the whole's.
    """

    name: str
    unit: str  # what it bills: "bytes" or "requests"
    fields: Mapping[str, str]  # field → what it takes, for the docs and error sentences
    parse: Callable[[Mapping[str, Any]], Any]
    cost: Callable[[Any, Counters], Decimal]
    is_summable: bool = True


# ---------------------------------------------------------------- dialects


class Parameter(NamedTuple):
    """A request parameter, as the endpoint's table and its OpenAPI both use it. `schema` is JSON Schema."""

    name: str
    schema: Mapping[str, Any]
    description: str
    required: bool = False
    where: str = "query"  # or "path", or "header"


class Limit(NamedTuple):
    """What a key has left: `remaining` of `limit` requests; in `reset_s` seconds it has them all again."""

    limit: int
    remaining: int
    reset_s: int


EVERY_ACCOUNT = Account("")  # for whom an operator's key asks, where an endpoint lets it; no real account has this id


class Call(NamedTuple):
    """One authenticated request, without HTTP: who asks, with what, and when.

    `limit` None: the key has none, or nobody can count now. `accept`: the Accept header. `key`: the key that was sent.
    """

    account: Account
    parameters: Mapping[str, str]
    now_ms: int
    client_ip: str = ""
    body: bytes = b""
    limit: Limit | None = None
    accept: str = ""
    key: Key | None = None


class Reply(NamedTuple):
    """What goes back over the wire."""

    body: bytes
    status: int = 200
    content_type: str = "application/json"
    headers: Mapping[str, str] = {}


@dataclasses.dataclass(frozen=True, slots=True)
class Endpoint:
    """One row of a dialect's table. `parse` may return None when nothing need be asked."""

    name: str
    paths: tuple[str, ...]
    summary: str
    parse: Callable[[Call], Question | None]
    render: Callable[[Call, Question | None, Any], Reply]
    schema: Mapping[str, Any]  # JSON Schema of a 200's body
    parameters: tuple[Parameter, ...] = ()
    body: Mapping[str, Any] | None = None  # JSON Schema of the small JSON body that `parse` reads; None: none is read
    # That `stream` takes: media type → schema.
    bodies: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    stream: Callable[[Call, Any, Any], Any] | None = None  # async (call, headers, receive) → Reply, instead of the two
    method: str = "GET"
    scope: Scope = Scope.READ
    errors: tuple[str, ...] = ()  # codes beyond those that every endpoint can give
    is_heavy: bool = False  # reads many zones: answered off the event loop
    light_zones: int = 0  # of a heavy one: with no more zones than this it is quicker than the way off and back
    media_types: tuple[str, ...] = ("application/json",)  # of a 200; the caller chooses among several
    is_for_operators: bool = False  # an operator's key may ask too, for EVERY_ACCOUNT
    # In a step of the clock of this length (from 1970 on) the same call has the same reply while usage and the catalog
    # are the same, so it may be kept; 0: it may not. It must come of the call and of `UsageAnswer`s or `SeriesAnswer`s.
    steady_s: int = 0
    # Of a kept reply that shows when usage was last committed: the same with another such time (reply, shown, now).
    restamp: Callable[[Reply, int | None, int | None], Reply] | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Dialect:
    """A vendor's wire format. `render_error` gives each error code the vendor's own status, type and body.

    `sign` adds what every reply of the dialect carries, errors too: headers that depend on the endpoint (None where
    none fits) and on what the key has left (None before the key is known).
    """

    name: str
    title: str
    endpoints: tuple[Endpoint, ...]
    credentials: tuple[tuple[str, str], ...]  # ("header" or "query", name), tried in order; "bearer" strips the word
    render_error: Callable[[BandmeterError], Reply]
    prefixes: tuple[str, ...] = ()  # paths that belong to this dialect also where no endpoint fits
    sign: Callable[[Reply, Endpoint | None, Limit | None], Reply] | None = None
    is_strict: bool = False  # refuses a parameter that the endpoint does not know; vendors ignore it
