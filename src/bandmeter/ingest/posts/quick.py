"""Records in their plainest form, read without a query: for bodies of a few, where planning one takes most of the time.

Only what is beyond doubt is read here: JSON lines whose fields have the types and the ranges of docs/records.md. A body
with anything else in it (an odd number, a time with more than milliseconds, a value that would be rejected) is not read
at all, and goes through the query that says what is wrong. A test holds that both ways read the same.
"""

from __future__ import annotations

import operator
import re
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from bandmeter.domain.usage import BYTES_MAX, DIMENSION_BITS, DIMENSIONS, REQUESTS_MAX
from bandmeter.formats.jsonl import JSONL
from bandmeter.ingest.batch.attribute import SEPARATOR, Owner
from bandmeter.ingest.batch.decode import Groups
from bandmeter.ingest.batch.hosts import hosts_of
from bandmeter.ingest.batch.query import (
    BUCKET_MS,
    BUCKET_SHIFT,
    BUCKETS_A_DAY,
    FLAGS,
    FUTURE_MS_MAX,
    IDENTITY_LENGTH_MAX,
    NAMED_SHIFT,
    PAIRS,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bandmeter.domain.contracts import Format
    from bandmeter.ingest.batch.attribute import Attribution

SECONDS_MAX = 10**10  # in the year 2286; below it a double holds milliseconds
# What two readers of JSON could read in two ways: minus zero, a letter in disguise, a fraction of a millisecond, also
# one that an exponent hides.
_MINUS_ZERO = re.compile(rb"[: \t]-0")
_FINE_TIME = re.compile(rb'"time"\s*:\s*[0-9]+(?:\.[0-9]{4}|[.0-9]*[eE])')
_RFC3339 = re.compile(r"(?:[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{3})?Z\n)+")


class _Record(msgspec.Struct, gc=False):
    """A record; `int | float` where the other readers take a number that is none of ours, to see that it is not."""

    time: int | float | str
    account: str | None = None
    zone: str | None = None
    identity: str | None = None
    bytes_up: int | float | None = None
    bytes_down: int | float | None = None
    target_bytes_up: int | float | None = None
    target_bytes_down: int | float | None = None
    client_bytes_up: int | float | None = None
    client_bytes_down: int | float | None = None
    requests: int | float | None = None
    status: int | float | None = None
    scheme: str | None = None
    ip_version: int | str | None = None
    network: str | None = None
    access: str | None = None
    pool: str | None = None
    host: str | None = None


class _Event(msgspec.Struct, gc=False):
    """A CloudEvent around a record."""

    data: msgspec.Raw


_DECODE = msgspec.json.Decoder(_Record).decode
_DECODE_EVENT = msgspec.json.Decoder(_Event).decode


def can_read(log_format: Format) -> bool:
    """Whether the format is the record's own."""
    return log_format.split == "json" and log_format.layouts[0].columns == JSONL.layouts[0].columns


def read(
    log_format: Format, content: bytes, attribution: Attribution, now_ms: int, *, has_default_account: bool
) -> Groups | None:
    """A body's records, each a group of its own; None when there is any doubt about one of them."""
    if (b"-0" in content and _MINUS_ZERO.search(content)) or b"\\u" in content or _FINE_TIME.search(content):
        return None
    if b"\r" in content and content.count(b"\r") > content.count(b"\r\n"):  # inside a line, where no log may have one
        return None
    lines = content[:-1].split(b"\n")
    try:
        if not content.isascii():
            content.decode()  # what the record does not have is skipped below, and not looked at
        if log_format.prefix:
            if content.count(b'"data"') > len(lines):
                return None
            lines = [bytes(event.data) for event in map(_DECODE_EVENT, lines)]
            content = b"\n".join(lines)
        records = list(map(_DECODE, lines))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    columns = _Columns(records)
    if columns.may_repeat(content):
        return None
    return columns.groups(attribution, now_ms, has_default_account=has_default_account)


class _Columns:
    """Records column by column."""

    def __init__(self, records: Sequence[_Record]) -> None:
        self.records = records
        self.is_fine = True
        self._columns: dict[str, list[Any]] = {}

    def may_repeat(self, content: bytes) -> bool:
        """Whether a record may have a key twice: the decoder takes the last one, and the first is what counts."""
        given: dict[str, int] = {}
        quotes = 0
        for name in _Record.__struct_fields__:
            values = self._column(name)
            given[name] = len(values) - values.count(None)
            texts = list(map(type, values)).count(str) if name in _MIXED else given[name] * (name in _TEXTS)
            quotes += 2 * (given[name] + texts)
        if content.count(b'"') == quotes:  # every key and text is one of those that were read
            return False
        return any(content.count(b'"%b"' % name.encode()) != count for name, count in given.items())

    def groups(self, attribution: Attribution, now_ms: int, *, has_default_account: bool) -> Groups | None:
        time_ms = self._times()
        flags, sums = self._sums()
        requests, _ = self._numbers("requests", 1, REQUESTS_MAX)
        status, has_status = self._numbers("status", 0, 599)
        dimensions = self._dimensions()
        owners, owner, is_named = self._owners(attribution, has_default_account=has_default_account)
        is_fine = (
            self.is_fine
            and bool(((time_ms >= 0) & (time_ms <= now_ms + FUTURE_MS_MAX)).all())
            and bool((flags > 0).all())
            and bool((status[has_status] >= 100).all())  # noqa: PLR2004 - RFC 9110 has none below
        )
        if not is_fine:
            return None
        key = ((time_ms // BUCKET_MS) << BUCKET_SHIFT) + (is_named << NAMED_SHIFT) + (flags << DIMENSION_BITS)
        is_success = ((status >= 200) & (status <= 299)) | (status == 404)  # noqa: PLR2004
        ones = np.ones(len(self.records), dtype=np.int64)
        groups = Groups(
            owners=owners,
            owner=owner,
            key=key + dimensions,
            records=ones,
            requests=requests,
            successes=np.where(is_success, requests, 0),
            sums=sums,
            newest_ms=time_ms,
            body=ones * 0,
            rejected=0,
        )
        return groups._replace(hosts=self._hosts(groups, key))

    def _hosts(self, groups: Groups, key: Any) -> Groups | None:
        texts = self._column("host")
        if texts.count(None) == len(texts):
            return None
        buckets = key >> BUCKET_SHIFT
        days = buckets - buckets % BUCKETS_A_DAY
        return groups._replace(key=key - ((buckets - days) << BUCKET_SHIFT)).with_hosts(hosts_of(texts))

    def _column(self, name: str) -> list[Any]:
        if name not in self._columns:
            self._columns[name] = list(map(operator.attrgetter(name), self.records))
        return self._columns[name]

    def _times(self) -> Any:
        values = self._column("time")
        kinds = set(map(type, values))
        if kinds == {str}:
            return self._stamps(values)
        seconds = np.array(values) if str not in kinds else np.array(["?"])
        if seconds.dtype == np.int64 and int(seconds.max()) < SECONDS_MAX and int(seconds.min()) >= 0:
            return seconds * 1000
        if seconds.dtype == np.float64 and float(seconds.max()) < SECONDS_MAX:
            return np.rint(seconds * 1000).astype(np.int64)  # no more than three decimals: a double has room for them
        return self._doubt()

    def _stamps(self, values: list[str]) -> Any:
        if not _RFC3339.fullmatch("\n".join([*values, ""])):
            return self._doubt()
        try:
            return np.array([value[:-1] for value in values], dtype="datetime64[ms]").astype(np.int64)
        except ValueError:  # no day of the calendar
            return self._doubt()

    def _doubt(self) -> Any:
        self.is_fine = False
        return np.zeros(len(self.records), dtype=np.int64)

    def _numbers(self, name: str, absent: int, most: int) -> tuple[Any, Any]:
        """A column of whole numbers from 0 to `most`, `absent` where there is none; and where there is one."""
        values = self._column(name)
        kinds = set(map(type, values))
        nothing = np.zeros(len(values), dtype=bool)
        if kinds == {type(None)}:
            return np.full(len(values), absent, dtype=np.int64), nothing
        if not kinds <= {int, type(None)}:
            return self._doubt(), nothing
        is_given = np.array([value is not None for value in values]) if type(None) in kinds else ~nothing
        try:
            numbers = np.array([0 if value is None else value for value in values], dtype=np.int64)
        except OverflowError:
            return self._doubt(), nothing
        if int(numbers.min()) < 0 or int(numbers.max()) > most:
            return self._doubt(), nothing
        return np.where(is_given, numbers, absent), is_given

    def _sums(self) -> tuple[Any, dict[str, Any]]:
        """Which pairs each record has, and all counters."""
        flags = np.zeros(len(self.records), dtype=np.int64)
        sums: dict[str, Any] = {}
        for has, pair in PAIRS.items():
            (up, has_up), (down, has_down) = (self._numbers(field, 0, BYTES_MAX) for field in pair)
            self.is_fine = self.is_fine and bool((has_up == has_down).all())
            sums |= {pair[0]: up, pair[1]: down}
            flags += np.where(has_up, FLAGS[has], 0)
        return flags, sums

    def _dimensions(self) -> Any:
        packed = np.zeros(len(self.records), dtype=np.int64)
        for name in DIMENSIONS:
            codes = _CODES[name]
            try:
                values = self._column(name)
                if values.count(None) < len(values):
                    packed += np.array([codes[value] for value in values], dtype=np.int64)
            except KeyError:
                return self._doubt()
        return packed

    def _owners(self, attribution: Attribution, *, has_default_account: bool) -> tuple[list[Owner], Any, Any]:
        """The distinct owners, the place of each record's among them, and whether it is named."""
        accounts, zones, identities = map(self._column, ("account", "zone", "identity"))
        is_short = all(identity is None or len(identity) <= IDENTITY_LENGTH_MAX for identity in identities)
        texts = [text or None for text in attribution.cut(identities)]
        is_named = np.zeros(len(texts), dtype=np.int64)
        if zones.count(None) < len(zones):
            is_named = np.array([int(zone is not None) for zone in zones], dtype=np.int64)
            named = [f"{account or ''}{SEPARATOR}{zone}" for account, zone in zip(accounts, zones, strict=True)]
            texts = [name if has_zone else text for name, has_zone, text in zip(named, is_named, texts, strict=True)]
        has_account = np.array([account is not None for account in accounts])
        has_default = has_default_account & (is_named == 1)
        self.is_fine = self.is_fine and is_short and bool(((has_account == (is_named == 1)) | has_default).all())
        # A text alone tells an identity from a name: no identity that is read here holds the separator.
        places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
        owners = [Owner(text, text is not None and SEPARATOR in text) for text in places]
        return owners, np.array([places[text] for text in texts], dtype=np.int64), is_named


_MIXED = frozenset({"time", "ip_version"})  # a text or a number
_TEXTS = frozenset({"account", "zone", "identity", "host", "scheme", "network", "access", "pool"})
# The packed code of each value that a field may have in JSON; nothing is the first.
_CODES: dict[str, dict[Any, int]] = {
    name: {value: code << one.shift for code, value in enumerate(one.values)} | {None: 0}
    for name, one in DIMENSIONS.items()
}
_CODES["ip_version"] |= {int(value): code for value, code in _CODES["ip_version"].items() if str(value).isdigit()}
