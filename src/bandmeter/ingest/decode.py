"""Bytes of a log become folded records: one SQL query a batch, in DuckDB.

Law 1: folding is commutative and associative; cutting a batch anywhere changes nothing, since a line is decoded from
nothing but itself.

A batch goes the fast way: split, judged and folded in one query. What the splitter could misread (NUL, a lone CR,
broken UTF-8, a line that is too long) is taken out before, in `clean.py`; and the number of rows that came out of the
query must be the number of lines that went in, or the batch is not counted at all.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import duckdb

from bandmeter.domain.usage import BYTES_MAX, DIMENSIONS, REQUESTS_MAX
from bandmeter.formats import FUNCTIONS
from bandmeter.ingest.clean import LINE_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bandmeter.domain.contracts import Format, Layout
    from bandmeter.ingest.attribute import Attribution, Key

FUTURE_MS_MAX = 10 * 60_000  # a record further ahead of the clock than this is damage or a wrong clock
IDENTITY_LENGTH_MAX = 512
MEMORY_LIMIT = "256MB"  # of DuckDB, beside the batch itself
SEPARATOR = "\x01"  # splits nothing: lines that hold it are taken out before
NEVER = "\x02\x02"  # stands for NULL in columns where every text is a value
PAIRS = {
    "has_target_bytes": ("target_bytes_up", "target_bytes_down"),
    "has_client_bytes": ("client_bytes_up", "client_bytes_down"),
    "has_bytes": ("bytes_up", "bytes_down"),
}
# A folded group says which of its sums mean something.
FLAG_TARGET, FLAG_CLIENT, FLAG_PLAIN, FLAG_NO_TARGET = 1, 2, 4, 8
FLAGS = {"has_target_bytes": FLAG_TARGET, "has_client_bytes": FLAG_CLIENT, "has_bytes": FLAG_PLAIN}
_WORD = re.compile(r"'[^']*'|\b[a-z_][a-z0-9_]*\b(?!\s*\()")


class Decoder:
    """Decodes batches of one format on one DuckDB connection."""

    def __init__(self, log_format: Format, account: str | None = None, zone: str | None = None) -> None:
        self.format = log_format
        self._override = (account, zone)
        self._attribution: Attribution | None = None
        self._db = duckdb.connect()
        self._db.execute(f"SET memory_limit = '{MEMORY_LIMIT}'")
        self._db.execute("SET enable_external_file_cache = false")  # the scratch file changes under one name
        self._db.execute("SET autoinstall_known_extensions = false")
        self._db.execute("SET autoload_known_extensions = false")
        self._db.execute("SET TimeZone = 'UTC'")
        for signature, body in FUNCTIONS.items():
            self._db.execute(f"CREATE MACRO {signature} AS ({body})")

    def attribute_with(self, attribution: Attribution) -> None:
        """Cut identities for this catalog from now on."""
        if attribution is not self._attribution:
            self._attribution = attribution
            self._fill("whole_identities", attribution.whole_identities)
            self._fill("dashed_names", attribution.dashed_names)

    def _fill(self, table: str, names: Iterable[str]) -> None:
        self._db.execute(f"CREATE OR REPLACE TEMP TABLE {table} AS SELECT unnest(?::VARCHAR[]) AS name", [list(names)])

    def fold(self, path: str, now_ms: int) -> tuple[int, int, list[tuple[str | None, str | None, str | None]]]:
        """Decode and fold the file into the table `folded`: lines read, lines rejected, and the keys found.

        Raises duckdb.Error when the splitter fails; `clean` then finds the lines that made it fail.
        """
        self._db.execute(
            f"""CREATE OR REPLACE TEMP TABLE folded AS
            SELECT {self._owner_sql()}, CASE WHEN NOT is_bad THEN {_flags_sql()} END AS flags,
                time_ms // 300000 * 300 AS bucket, dimensions, count(*) AS records,
                TRY_CAST(sum(requests) AS BIGINT) AS requests,
                TRY_CAST(sum(CASE WHEN status BETWEEN 200 AND 299 OR status = 404 THEN requests ELSE 0 END) AS BIGINT)
                    AS successes, {self._sums_sql()}, max(time_ms) AS newest_ms
            FROM ({self._judged_sql(path, now_ms)}) GROUP BY ALL""",
        )
        counts = self._one(
            "SELECT coalesce(sum(records), 0)::BIGINT, "
            "coalesce(sum(records) FILTER (flags IS NULL), 0)::BIGINT FROM folded"
        )
        keys = self._db.execute("SELECT DISTINCT account, zone, identity FROM folded WHERE flags IS NOT NULL")
        return counts[0], counts[1], keys.fetchall()

    def newest_ms(self, path: str, now_ms: int) -> int | None:
        """The newest time of the file's records; None when none can be read."""
        try:
            row = self._db.execute(
                f"SELECT max(time_ms) FROM ({self._judged_sql(path, now_ms)}) WHERE NOT is_bad",
            ).fetchone()
        except duckdb.Error:
            return None
        return row[0] if row else None

    def place(self, numbers: dict[Key, int]) -> dict[str, Any]:
        """The folded groups of these keys, as columns of 64-bit integers, with their key's number."""
        columns = [list(column) for column in zip(*((*key, n) for key, n in numbers.items()), strict=True)]
        if not columns:
            columns = [[], [], [], []]
        names = ", ".join(field for pair in PAIRS.values() for field in pair)
        return self._db.execute(
            f"""WITH keys AS (SELECT unnest(?::VARCHAR[]) AS account, unnest(?::VARCHAR[]) AS zone,
                unnest(?::VARCHAR[]) AS identity, unnest(?::BIGINT[]) AS number)
            SELECT number, flags::BIGINT AS flags, bucket, dimensions::BIGINT AS dimensions, records, requests,
                successes, {names}, newest_ms
            FROM folded JOIN keys ON folded.account IS NOT DISTINCT FROM keys.account
                AND folded.zone IS NOT DISTINCT FROM keys.zone AND folded.identity IS NOT DISTINCT FROM keys.identity
            WHERE flags IS NOT NULL""",
            columns,
        ).fetchnumpy()

    def rejected(self, path: str, now_ms: int, unknown: list[tuple[str, str]]) -> list[dict[str, Any]]:
        """The records that were rejected, or name one of the unknown (account, zone)s: every field and column.

        `row` counts from 0 in the order of the lines.
        """
        accounts, zones = zip(*unknown, strict=True) if unknown else ((), ())
        cursor = self._db.execute(
            f"""WITH unknown AS (SELECT unnest(?::VARCHAR[]) AS account, unnest(?::VARCHAR[]) AS zone)
            SELECT j.*, u.account IS NOT NULL AS is_unknown
            FROM (SELECT row_number() OVER () - 1 AS row, * FROM ({self._judged_sql(path, now_ms, explains=True)})) j
            LEFT JOIN unknown u ON j.account = u.account AND j.zone = u.zone
            WHERE is_bad OR u.account IS NOT NULL ORDER BY row""",
            [list(accounts), list(zones)],
        )
        names = [column[0] for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def _one(self, sql: str) -> tuple[int, int]:
        row = self._db.execute(sql).fetchone()
        return (int(row[0]), int(row[1])) if row else (0, 0)

    def _owner_sql(self) -> str:
        """What a record is attributed by. What the format does not have is a constant, which folds for nothing."""
        cut = self._attribution.cut_sql("identity") if self._attribution else "identity"
        if not any(self._override) and not self._has("account"):
            return f"NULL::VARCHAR AS account, NULL::VARCHAR AS zone, {cut} AS identity"
        return f"account, zone, CASE WHEN account IS NULL THEN {cut} END AS identity"

    def _sums_sql(self) -> str:
        return ", ".join(
            f"TRY_CAST(sum(CASE WHEN {has} THEN {field} ELSE 0 END) AS BIGINT) AS {field}"
            if self._has(field)
            else f"0::BIGINT AS {field}"
            for has, pair in PAIRS.items()
            for field in pair
        )

    def _has(self, field: str) -> bool:
        return any(field in layout.fields for layout in self.format.layouts)

    # ------------------------------------------------------------ the query, from the inside out

    def _judged_sql(self, path: str, now_ms: int, *, explains: bool = False) -> str:
        """Every line's fields, its columns as `raw_…`, and `is_bad`.

        `explains`: `width` also tells a line that is no JSON object from one that lacks a field.
        """
        layouts = self.format.layouts
        widths = [len(layout.columns) for layout in layouts]
        fields = {field: self._field_sql(field) for field in _field_names()}
        columns = ", ".join(f"p{i} AS raw_{i}" for i in range(max(widths)))
        account, zone = (f"'{name}'" if name else None for name in self._override)
        if account and zone:
            is_named = f"{fields['account']} IS NOT NULL OR {fields['zone']} IS NOT NULL"
            fields["account"] = f"CASE WHEN {is_named} THEN {fields['account']} ELSE {account} END"
            fields["zone"] = f"CASE WHEN {is_named} THEN {fields['zone']} ELSE {zone} END"
        selected = ", ".join(f"{sql} AS {field}" for field, sql in fields.items())
        dimensions = " + ".join(_code_sql(name) for name in DIMENSIONS)
        return f"""SELECT *, {self._bad_sql(now_ms)} AS is_bad FROM (
            SELECT *, {dimensions} AS dimensions FROM (
                SELECT {selected}, {self._width_sql(widths, explains=explains)} AS width,
                    {self._unmeterable_sql()} AS is_unmeterable, {columns} FROM ({self._raw_sql(path)})))"""

    def _raw_sql(self, path: str) -> str:
        """The lines, split into the text columns p0, p1 and so on."""
        columns = self.format.layouts[0].columns
        if self.format.split == "tab":
            count = max(len(layout.columns) for layout in self.format.layouts)
            columns_read = [f"p{i}" for i in range(count)]
            if len(self.format.layouts) == 1:
                return f"SELECT * FROM {_csv_sql(path, chr(9), columns_read, self.format.nulls)}"
            # What a short line lacks is NULL, and must not be taken for a column that holds nothing.
            nulls = ", ".join(f"'{text}'" for text in self.format.nulls)
            picked = ", ".join(
                f"CASE WHEN {p} NOT IN ({nulls}) THEN {p} END AS {p}, {p} AS whole_{p}" for p in columns_read
            )
            return f"SELECT {picked} FROM {_csv_sql(path, chr(9), columns_read, pads=True)}"
        whole_lines = _csv_sql(path, SEPARATOR, ["line"])
        if self.format.split == "json":
            keys = ", ".join(f"'$.{column}'" for column in columns)
            parts = f"TRY(json_extract_string(line, [{keys}]))"
            picked = ", ".join(f"part[{i + 1}] AS p{i}" for i in range(len(columns)))
        else:
            names = ", ".join(f"'{column}'" for column in columns)
            pattern = re.sub(r"\(\?P<\w+>", "(", self.format.pattern).replace("'", "''")
            parts = f"regexp_extract(line, '{pattern}', [{names}])"
            picked = ", ".join(f"part.{column} AS p{i}" for i, column in enumerate(columns))
        return f"SELECT line, {picked} FROM (SELECT line, {parts} AS part FROM {whole_lines})"

    def _width_sql(self, widths: list[int], *, explains: bool = False) -> str:
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

    def _field_sql(self, field: str) -> str:
        """One field over p0, p1, …, by the layout that fits."""
        by_layout = [_substituted(layout, field) for layout in self.format.layouts]
        if len(set(by_layout)) == 1:
            return by_layout[0]
        widths = [len(layout.columns) for layout in self.format.layouts]
        cases = " ".join(f"WHEN {w} THEN {sql}" for w, sql in zip(widths, by_layout, strict=True))
        return f"CASE {self._width_sql(widths)} {cases} END"

    def _unmeterable_sql(self) -> str:
        if not self.format.unmeterable:
            return "false"
        by_layout = [_substitute(layout, self.format.unmeterable) for layout in self.format.layouts]
        return " OR ".join(f"coalesce({sql}, false)" for sql in by_layout)

    @staticmethod
    def _bad_sql(now_ms: int) -> str:
        pairs = " OR ".join(
            f"({has} AND NOT coalesce({up} BETWEEN 0 AND {BYTES_MAX} AND {down} BETWEEN 0 AND {BYTES_MAX}, false))"
            for has, (up, down) in PAIRS.items()
        )
        return f"""(width IS NULL OR is_unmeterable OR dimensions IS NULL
            OR NOT coalesce(time_ms BETWEEN 0 AND {now_ms + FUTURE_MS_MAX}, false)
            OR {pairs} OR NOT ({" OR ".join(PAIRS)})
            OR NOT coalesce(requests BETWEEN 0 AND {REQUESTS_MAX}, false)
            OR NOT coalesce(status BETWEEN 100 AND 599, true)
            OR (account IS NULL) <> (zone IS NULL)
            OR coalesce(length(identity) > {IDENTITY_LENGTH_MAX}, false))"""


def _field_names() -> list[str]:
    pairs = [field for pair in PAIRS.values() for field in pair]
    return [
        "time_ms",
        "account",
        "zone",
        "identity",
        *pairs,
        *PAIRS,
        "reached_target",
        "requests",
        "status",
        *DIMENSIONS,
    ]


def _substituted(layout: Layout, field: str) -> str:
    """The SQL of a layout's field over p0, p1, …; what the layout does not have has a constant."""
    if field in layout.fields:
        sql = _substitute(layout, layout.fields[field])
        return f"coalesce({sql}, false)" if field in PAIRS else sql
    if field in PAIRS:
        return "true" if PAIRS[field][0] in layout.fields else "false"
    if field == "reached_target":
        return "true"
    if field == "requests":
        return "1::BIGINT"
    return "NULL::VARCHAR" if field in ("account", "zone", "identity", *DIMENSIONS) else "NULL::BIGINT"


def _substitute(layout: Layout, sql: str) -> str:
    """`sql` with the layout's column names replaced by positions; text in quotes and functions stay.

    What overflows, or cannot be cast, is NULL: one line must not stop its batch.
    """
    positions = {name: f"p{i}" for i, name in enumerate(layout.columns)}
    return "TRY(" + _WORD.sub(lambda match: positions.get(match[0], match[0]), sql) + ")"


def _code_sql(dimension: str) -> str:
    """The packed code of a dimension's value; NULL, hence bad, when it is no value."""
    values = DIMENSIONS[dimension].values
    shift = DIMENSIONS[dimension].shift
    cases = " ".join(f"WHEN '{value}' THEN {code << shift}" for code, value in enumerate(values))
    return f"CASE WHEN {dimension} IS NULL THEN 0 ELSE CASE {dimension} {cases} END END"


def _flags_sql() -> str:
    flags = " + ".join(f"CASE WHEN {has} THEN {flag} ELSE 0 END" for has, flag in FLAGS.items())
    return f"{flags} + CASE WHEN coalesce(reached_target, true) THEN 0 ELSE {FLAG_NO_TARGET} END"


def _csv_sql(path: str, separator: str, columns: list[str], nulls: tuple[str, ...] = (), *, pads: bool = False) -> str:
    names = ", ".join(f"'{name}': 'VARCHAR'" for name in columns)
    null_texts = ", ".join(f"'{text}'" for text in nulls or (NEVER,))
    return (
        f"read_csv('{path}', delim = '{separator}', header = false, quote = '', escape = '', comment = '', "
        f"auto_detect = false, new_line = '\\n', null_padding = {pads}, strict_mode = true, nullstr = [{null_texts}], "
        f"max_line_size = {LINE_BYTES_MAX + 1}, columns = {{{names}}})"
    )
