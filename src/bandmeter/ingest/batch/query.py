"""The SQL that turns the lines of a batch into folded groups. Nothing here runs it.

From the inside out: lines are split into text columns; the format's expressions give the fields of a record; what a
record is folded by is packed into one number, its `key`, which is NULL when the record cannot be counted; and records
of one owner and key add up. A line is read from nothing but itself: cutting a batch anywhere changes nothing (law 1).
"""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING

from bandmeter.domain.usage import BYTES_MAX, DIMENSION_BITS, DIMENSIONS, REQUESTS_MAX, Side
from bandmeter.ingest.batch.attribute import SEPARATOR
from bandmeter.ingest.batch.clean import LINE_BYTES_MAX

if TYPE_CHECKING:
    from bandmeter.domain.contracts import Format, Layout

FUTURE_MS_MAX = 10 * 60_000  # a record further ahead of the clock than this is damage or a wrong clock
IDENTITY_LENGTH_MAX = 512
DURATION_MS_MAX = 366 * 86_400_000  # of a record that is spread; no tunnel stays open for a year
SPREAD_BUCKETS_MAX = 8_928  # 31 days: what is older in a longer tunnel goes into the first of them
NEVER = "\x02\x02"  # stands for NULL in columns where every text is a value
PAIRS = {
    "has_target_bytes": ("target_bytes_up", "target_bytes_down"),
    "has_client_bytes": ("client_bytes_up", "client_bytes_down"),
    "has_bytes": ("bytes_up", "bytes_down"),
}
SUMS = tuple(field for pair in PAIRS.values() for field in pair)

# A key, from the highest bits: the bucket (5 minutes since 1970), whether the owner is an account and zone, which of
# the group's sums mean something, and the dimensions.
FLAG_TARGET, FLAG_CLIENT, FLAG_PLAIN, FLAG_NO_TARGET = 1, 2, 4, 8
FLAGS = {"has_target_bytes": FLAG_TARGET, "has_client_bytes": FLAG_CLIENT, "has_bytes": FLAG_PLAIN}
FLAG_BITS = 4
NAMED_SHIFT = DIMENSION_BITS + FLAG_BITS
BUCKET_SHIFT = NAMED_SHIFT + 1
BUCKET_MS = 300_000
BUCKETS_A_DAY = 86_400_000 // BUCKET_MS
_WORD = re.compile(r"'[^']*'|\b[a-z_][a-z0-9_]*\b(?!\s*\()")


@dataclasses.dataclass(frozen=True, slots=True)
class Reading:
    """How a source's lines are read, beside their format.

    `side`: the only side that counts, where another source has the other; None: all that a line has.
    `spread`: a long record lies evenly over its 5-minute buckets, and not in its last.
    `header_adjust_bytes` is added to the target's bytes up of each plain HTTP request.
    `by_host`: groups of each owner, day and target host are told besides.
    `has_default_zone`: what names no zone is the caller's; `has_default_account`: a zone alone is of his account.
    """

    side: Side | None = None
    spread: bool = False
    header_adjust_bytes: int = 0
    by_host: bool = False
    has_default_zone: bool = False
    has_default_account: bool = False


class Query:
    """The SQL of one format, read in one way from one file. `cut`: SQL for `identity` without its parameters."""

    def __init__(self, log_format: Format, reading: Reading, path: str, cut: str = "identity") -> None:
        self.format, self.reading, self._path, self._cut = log_format, reading, path, cut
        self._present = {"identity"} | {field for layout in log_format.layouts for field in layout.fields}
        if self._present & {"account", "zone"}:  # a table may lack either
            self._present |= {"account", "zone"}
        self.reading = dataclasses.replace(
            reading,
            spread=reading.spread and "duration_ms" in self._present,
            by_host=reading.by_host and "host" in self._present,
        )

    @property
    def sums(self) -> tuple[str, ...]:
        """The counters that the format has; the others are 0."""
        return tuple(field for field in SUMS if field in self._present)

    @property
    def counts_requests(self) -> bool:
        """Whether a record may carry many requests."""
        return "requests" in self._present

    def records(self, now: str) -> str:
        """A row for each record, with what folding needs; `now`: SQL for ms."""
        sums = "".join(f", {self._counted(field)} AS {field}" for field in self.sums)
        is_success = "status BETWEEN 200 AND 299 OR status = 404" if "status" in self._present else "false"
        columns = f"owner, key, time_ms, {is_success} AS is_success{sums}"
        if self.counts_requests:
            columns += ", requests"
        if self.reading.by_host:
            columns += ", host"
        if self.reading.spread:
            columns += f", {_PIECES} AS pieces"
        return f"SELECT {columns} FROM ({self._judged(now)})"

    def pieces(self, records: str) -> str:
        """A row for each 5-minute bucket that a record lies in; the last has what cannot be divided, and is the record.

        Of records that are not spread: the same.
        """
        if not self.reading.spread:
            return records
        parts = ", ".join(
            f"{field} // pieces + CASE WHEN is_last THEN {field} % pieces ELSE 0 END AS {field}" for field in self.sums
        )
        # In two steps: 2,048 rows go through a step at once, and all that come out of them are held in memory.
        hundreds = f"SELECT *, unnest(range(0, pieces, 100)) AS hundred FROM {records}"
        return f"""(SELECT * EXCLUDE (key) REPLACE ({parts}), key - (pieces - 1 - piece) * {1 << BUCKET_SHIFT} AS key
            FROM (SELECT *, piece = pieces - 1 AS is_last FROM (
                SELECT *, unnest(range(hundred, least(hundred + 100, pieces))) AS piece FROM ({hundreds}))))"""

    def most_groups(self, records: str) -> str:
        """How many groups all pieces fold into at most: as if each group had its kind of traffic in every bucket."""
        last, first = f"(key >> {BUCKET_SHIFT})", f"((key >> {BUCKET_SHIFT}) - pieces + 1)"
        rest = f"key & {(1 << BUCKET_SHIFT) - 1}"
        counts = [f"SELECT max({last}) - min({first}) + 1 AS most FROM {records} GROUP BY owner, {rest}"]
        if self.reading.by_host:
            days = f"max({last} // {BUCKETS_A_DAY}) - min({first} // {BUCKETS_A_DAY}) + 1"
            counts.append(f"SELECT {days} AS most FROM {records} GROUP BY owner, {rest}, host")
        return f"SELECT coalesce(sum(most), 0)::BIGINT FROM ({' UNION ALL '.join(counts)})"

    def by_key(self, records: str) -> str:
        """Groups of one owner and key. Records without a key are groups too."""
        return f"SELECT owner, key, {self._counters()}, max(time_ms) AS newest_ms FROM {records} GROUP BY ALL"

    def by_host(self, records: str) -> str:
        """Groups of one owner, day and host, of the records that have a key and a host.

        The day stands in the place of the key: one whose bucket is the day's first and whose dimensions are 0.
        """
        return f"""SELECT owner, {_DAY} AS key, host, {self._counters()} FROM {records}
            WHERE key IS NOT NULL AND host IS NOT NULL GROUP BY ALL"""

    def _counters(self) -> str:
        last, success = "", "is_success"
        if self.reading.spread:
            last, success = " FILTER (is_last)", "is_success AND is_last"
        requests = successes = ""
        if self.counts_requests:
            requests = f", TRY_CAST(coalesce(sum(requests){last}, 0) AS BIGINT) AS requests"
            successes = f"TRY_CAST(coalesce(sum(requests) FILTER ({success}), 0) AS BIGINT)"
        sums = "".join(f", TRY_CAST(sum({field}) AS BIGINT) AS {field}" for field in self.sums)
        successes = successes or f"count(*) FILTER ({success})"
        return f"count(*){last} AS records{requests}, {successes} AS successes{sums}"

    def rejected(self, now: str) -> str:
        """Every field and column of the records without a key, or of an owner in the table `unknown(owner, named)`.

        `row` counts from 0 in the order of the lines.
        """
        return f"""SELECT j.*, u.named IS NOT NULL AS is_unknown
            FROM (SELECT row_number() OVER () - 1 AS row, * FROM ({self._judged(now, explains=True)})) j
            LEFT JOIN unknown u ON j.owner IS NOT DISTINCT FROM u.owner
                AND (j.key >> {NAMED_SHIFT}) & 1 = u.named
            WHERE key IS NULL OR u.named IS NOT NULL ORDER BY row"""

    def newest(self, now: str) -> str:
        """The newest time of the records that can be counted."""
        return f"SELECT max(time_ms) FROM ({self._judged(now)}) WHERE key IS NOT NULL"

    # ------------------------------------------------------------ from the inside out

    def _judged(self, now: str, *, explains: bool = False) -> str:
        """Every record's fields, its owner and its key.

        `explains`: also the fields that the format lacks, the columns as `raw_…`, and in `width` the number of columns
        of the layout that fits, which then also tells a line that is no JSON object from one that lacks a field.
        """
        widths = [len(layout.columns) for layout in self.format.layouts]
        fields = {f: self._field(f) for f in (_FIELDS if explains else [f for f in _FIELDS if self._needs(f)])}
        columns = [f"{sql} AS {field}" for field, sql in fields.items()]
        columns.append(f"{self._width(widths, explains=explains)} AS width")
        columns.append(f"{self._unmeterable()} AS is_unmeterable")
        if explains:
            columns += [f"p{i} AS raw_{i}" for i in range(max(widths))]
        dimensions = " + ".join(_code(name) for name in DIMENSIONS if name in self._present) or "0"
        return f"""SELECT *, {self._owner()} AS owner, CASE WHEN {self._is_good(now, len(set(widths)))}
            THEN {self._key()} END AS key FROM (
                SELECT *, {dimensions} AS dimensions FROM (SELECT {", ".join(columns)} FROM ({self._raw()})))"""

    def _owner(self) -> str:
        """What a record is attributed by: account and zone in one, or the identity; NULL when it names nothing."""
        if "account" not in self._present:
            return "NULL::VARCHAR" if self.reading.has_default_zone else self._cut
        named = f"concat(account, '{SEPARATOR}', zone)"
        rest = "NULL" if self.reading.has_default_zone else self._cut
        return f"CASE WHEN zone IS NULL THEN {rest} ELSE {named} END"

    def _key(self) -> str:
        named = f"CASE WHEN zone IS NULL THEN 0 ELSE {1 << NAMED_SHIFT} END" if "account" in self._present else "0"
        if self.reading.has_default_zone:
            named = str(1 << NAMED_SHIFT)
        flags = [self._flag(has, flag) for has, flag in FLAGS.items() if self._counts(has)]
        if "reached_target" in self._present:
            flags.append(f"CASE WHEN coalesce(reached_target, true) THEN 0 ELSE {FLAG_NO_TARGET << DIMENSION_BITS} END")
        return f"(time_ms // {BUCKET_MS}) * {1 << BUCKET_SHIFT} + {named} + {' + '.join(flags) or '0'} + dimensions"

    def _flag(self, has: str, flag: int) -> str:
        return f"CASE WHEN {has} THEN {flag << DIMENSION_BITS} ELSE 0 END"

    def _counts(self, has: str) -> bool:
        """Whether the format has this pair of counters, and the source is read for it."""
        other = {Side.TARGET: "has_client_bytes", Side.CLIENT: "has_target_bytes"}
        return PAIRS[has][0] in self._present and not (self.reading.side and other[self.reading.side] == has)

    def _counted(self, field: str) -> str:
        has = next(has for has, pair in PAIRS.items() if field in pair)
        return f"CASE WHEN {has} THEN {field} ELSE 0 END" if self._counts(has) else "0::BIGINT"

    def _is_good(self, now: str, layouts: int) -> str:
        """Whether a record can be counted; what is NULL where it must not be makes it NULL, which is no."""
        conditions = [f"time_ms BETWEEN 0 AND {now} + {FUTURE_MS_MAX}", "dimensions IS NOT NULL"]
        if self.format.split == "pattern" or layouts > 1:
            conditions.append("width IS NOT NULL")
        if self.format.unmeterable:
            conditions.append("NOT is_unmeterable")
        pairs = [has for has, pair in PAIRS.items() if pair[0] in self._present]
        conditions += [
            f"(NOT {has} OR ({up} BETWEEN 0 AND {BYTES_MAX} AND {down} BETWEEN 0 AND {BYTES_MAX}))"
            for has, (up, down) in ((has, PAIRS[has]) for has in pairs)
        ]
        conditions.append(f"({' OR '.join(pairs)})")
        if "requests" in self._present:
            conditions.append(f"requests BETWEEN 0 AND {REQUESTS_MAX}")
        if "status" in self._present:
            conditions.append("coalesce(status BETWEEN 100 AND 599, true)")
        if "account" in self._present:
            conditions.append(
                "(account IS NULL OR zone IS NOT NULL)"
                if self.reading.has_default_account
                else "(account IS NULL) = (zone IS NULL)"
            )
        if "identity" in self._present:
            conditions.append(f"coalesce(length(identity) <= {IDENTITY_LENGTH_MAX}, true)")
        if self.reading.spread:
            conditions.append(f"duration_ms BETWEEN 0 AND {DURATION_MS_MAX}")
        return " AND ".join(conditions)

    def _raw(self) -> str:
        """The lines, split into the text columns p0, p1 and so on."""
        columns = self.format.layouts[0].columns
        if self.format.split == "tab":
            count = max(len(layout.columns) for layout in self.format.layouts)
            names = [f"p{i}" for i in range(count)]
            if len(self.format.layouts) == 1:
                return f"SELECT * FROM {self._csv(chr(9), names, self.format.nulls)}"
            # What a short line lacks is NULL, and must not be taken for a column that holds nothing.
            nulls = ", ".join(f"'{text}'" for text in self.format.nulls)
            picked = ", ".join(f"CASE WHEN {p} NOT IN ({nulls}) THEN {p} END AS {p}, {p} AS whole_{p}" for p in names)
            return f"SELECT {picked} FROM {self._csv(chr(9), names, pads=True)}"
        lines = self._csv(SEPARATOR, ["line"])  # which splits nothing: a line that holds it was taken out
        if self.format.split == "json":
            keys = ", ".join(f"'$.{self.format.prefix}{column}'" for column in columns)
            parts = f"TRY(json_extract_string(line, [{keys}]))"
            picked = ", ".join(f"part[{i + 1}] AS p{i}" for i in range(len(columns)))
        else:
            names_sql = ", ".join(f"'{column}'" for column in columns)
            pattern = re.sub(r"\(\?P<\w+>", "(", self.format.pattern).replace("'", "''")
            parts = f"regexp_extract(line, '{pattern}', [{names_sql}])"
            picked = ", ".join(f"part.{column} AS p{i}" for i, column in enumerate(columns))
        return f"SELECT line, {picked} FROM (SELECT line, {parts} AS part FROM {lines})"

    def _csv(self, separator: str, columns: list[str], nulls: tuple[str, ...] = (), *, pads: bool = False) -> str:
        names = ", ".join(f"'{name}': 'VARCHAR'" for name in columns)
        null_texts = ", ".join(f"'{text}'" for text in nulls or (NEVER,))
        return (
            f"read_csv('{self._path}', delim = '{separator}', header = false, quote = '', escape = '', comment = '', "
            f"auto_detect = false, new_line = '\\n', null_padding = {pads}, strict_mode = true, "
            f"nullstr = [{null_texts}], max_line_size = {LINE_BYTES_MAX + 1}, buffer_size = {BUFFER_BYTES}, "
            f"columns = {{{names}}})"
        )

    def _width(self, widths: list[int], *, explains: bool = False) -> str:
        """The number of columns of the layout that fits the line; NULL when none does."""
        if self.format.split == "json" and explains:
            return f"CASE WHEN json_valid(line) AND json_type(line) = 'OBJECT' THEN {widths[0]} END"
        if self.format.split == "pattern":
            # a required group is empty when the pattern did not match
            return f"CASE WHEN p0 <> '' THEN {widths[0]} END"
        if len(widths) == 1:
            return str(widths[0])  # the splitter refuses a line of any other width; in JSON all fields are NULL then
        cases = "".join(
            f" WHEN whole_p{w - 1} IS NOT NULL{f' AND whole_p{w} IS NULL' if w < max(widths) else ''} THEN {w}"
            for w in widths
        )
        return f"CASE{cases} END"

    # ------------------------------------------------------------ fields

    def _needs(self, field: str) -> bool:
        """Whether the fold looks at a field: one that no layout gives is a constant that nobody asks for."""
        if field in ("duration_ms", "host"):
            return {"duration_ms": self.reading.spread, "host": self.reading.by_host}[field]
        return field in self._present or (field in PAIRS and PAIRS[field][0] in self._present)

    def _field(self, field: str) -> str:
        """One field over p0, p1, …, by the layout that fits."""
        by_layout = [_substituted(layout, field) for layout in self.format.layouts]
        sql = by_layout[0]
        if len(set(by_layout)) > 1:
            widths = [len(layout.columns) for layout in self.format.layouts]
            cases = " ".join(f"WHEN {w} THEN {one}" for w, one in zip(widths, by_layout, strict=True))
            sql = f"CASE {self._width(widths)} {cases} END"
        if field == "target_bytes_up" and self.reading.header_adjust_bytes and "scheme" in self._present:
            requests = f" * {self._field('requests')}" if self.counts_requests else ""
            adjusted = f"TRY(greatest({sql} + {self.reading.header_adjust_bytes}{requests}, 0))"
            return f"CASE WHEN {self._field('scheme')} = 'http' AND {sql} >= 0 THEN {adjusted} ELSE {sql} END"
        return sql

    def _unmeterable(self) -> str:
        if not self.format.unmeterable:
            return "false"
        by_layout = [_substitute(layout, self.format.unmeterable) for layout in self.format.layouts]
        return " OR ".join(f"coalesce({sql}, false)" for sql in by_layout)


_IS_OF_OWNER = f"g.owner IS NOT DISTINCT FROM o.owner AND (g.key >> {NAMED_SHIFT}) & 1 = o.named"
# Over the groups by key, in the table `key_group`, and the owners, in `numbered_owner`.
OWNERS = f"""SELECT *, row_number() OVER () - 1 AS number FROM (
    SELECT DISTINCT owner, (key >> {NAMED_SHIFT}) & 1 AS named FROM key_group WHERE key IS NOT NULL)"""
REJECTED = "SELECT coalesce(sum(records), 0)::BIGINT FROM key_group WHERE key IS NULL"
NUMBERED_GROUPS = f"SELECT g.* REPLACE (o.number AS owner) FROM key_group g JOIN numbered_owner o ON {_IS_OF_OWNER}"


def numbered_hosts(table: str) -> str:
    """The distinct hosts of a table, numbered."""
    return f"SELECT host, row_number() OVER () - 1 AS number FROM (SELECT DISTINCT host FROM {table})"


def numbered_host_groups(groups: str) -> str:
    """Groups by host, with numbers for owners and hosts, from the tables `numbered_owner` and `numbered_host`."""
    return f"""SELECT g.* REPLACE (o.number AS owner, h.number AS host) FROM {groups} g
        JOIN numbered_owner o ON {_IS_OF_OWNER} JOIN numbered_host h ON g.host = h.host"""


BUFFER_BYTES = 4_194_304  # that the splitter hands to one thread
_FIELDS = (
    *("time_ms", "duration_ms", "account", "zone", "identity", "host"),
    *SUMS,
    *PAIRS,
    *("reached_target", "requests", "status", *DIMENSIONS),
)
_TEXTS = frozenset({"account", "zone", "identity", "host", *DIMENSIONS})
# The 5-minute buckets of a record that is spread.
_PIECES = f"""CASE WHEN key IS NULL THEN 1 ELSE least(
    time_ms // {BUCKET_MS} - greatest((time_ms - duration_ms) // {BUCKET_MS}, 0) + 1, {SPREAD_BUCKETS_MAX}) END"""
_DAY = (
    f"(key >> {BUCKET_SHIFT}) // {BUCKETS_A_DAY} * {BUCKETS_A_DAY << BUCKET_SHIFT} "
    f"+ ((key >> {DIMENSION_BITS}) & {(1 << (FLAG_BITS + 1)) - 1}) * {1 << DIMENSION_BITS}"
)


def _substituted(layout: Layout, field: str) -> str:
    """The SQL of a layout's field over p0, p1, …; what the layout does not have has a constant."""
    if field in layout.fields:
        sql = _substitute(layout, layout.fields[field])
        return f"coalesce({sql}, false)" if field in PAIRS else sql
    if field in PAIRS:
        return "true" if PAIRS[field][0] in layout.fields else "false"
    constants = {"reached_target": "true", "requests": "1::BIGINT", "duration_ms": "0::BIGINT"}
    return constants.get(field) or ("NULL::VARCHAR" if field in _TEXTS else "NULL::BIGINT")


def _substitute(layout: Layout, sql: str) -> str:
    """`sql` with the layout's column names replaced by positions; text in quotes and functions stay.

    What overflows, or cannot be cast, is NULL: one line must not stop its batch.
    """
    positions = {name: f"p{i}" for i, name in enumerate(layout.columns)}
    return "TRY(" + _WORD.sub(lambda match: positions.get(match[0], match[0]), sql) + ")"


def _code(dimension: str) -> str:
    """The packed code of a dimension's value; NULL, hence bad, when it is no value."""
    values = DIMENSIONS[dimension].values
    shift = DIMENSIONS[dimension].shift
    cases = " ".join(f"WHEN '{value}' THEN {code << shift}" for code, value in enumerate(values))
    return f"CASE WHEN {dimension} IS NULL THEN 0 ELSE CASE {dimension} {cases} END END"
