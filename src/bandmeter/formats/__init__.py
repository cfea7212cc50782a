"""Log formats: bytes of a log → the fields of a record. To add one: one file, and one line in `FORMATS`.

A format is a value (`contracts.Format`): an example line, the columns in their order, and an SQL expression for each
field of the record. Every column is text, or NULL where it holds one of `nulls` or its key is absent; `line` is the
whole line of a JSON format. The expressions are DuckDB's SQL with
a few functions of our own (`FUNCTIONS`), and may yield these fields:

| field | type | absent means |
|---|---|---|
| `time_ms` | BIGINT, Unix ms of the request's end | must be there |
| `identity`, or `account` and `zone` | VARCHAR | NULL: the identity `-` |
| `target_bytes_up`, `target_bytes_down` | BIGINT | this side is unknown |
| `client_bytes_up`, `client_bytes_down` | BIGINT | this side is unknown |
| `bytes_up`, `bytes_down` | BIGINT, the side that the zone bills | the sides by name say it all |
| `has_target_bytes`, `has_client_bytes`, `has_bytes` | BOOLEAN: whether the line speaks of that side | TRUE |
| `reached_target` | BOOLEAN: whether `bytes_up` and `bytes_down` may be a target's | TRUE |
| `requests` | BIGINT | 1 |
| `duration_ms` | BIGINT: how long before its end the request began | 0 |
| `host` | VARCHAR, the target's domain or address, in any case, also with its port | NULL: in no breakdown |
| `status` | BIGINT | unknown, and not successful |
| `scheme`, `ip_version`, `network`, `access`, `pool` | VARCHAR, a value of that dimension | its first value |

Whatever is NULL, negative or too large where it must not be makes the line a reject. A function cuts, never rounds.
"""

from __future__ import annotations

import re

from bandmeter.domain import errors
from bandmeter.domain.contracts import Format
from bandmeter.domain.errors import BandmeterError
from bandmeter.formats.cloudevents import CLOUDEVENTS
from bandmeter.formats.combined import COMBINED
from bandmeter.formats.envoy import ENVOY
from bandmeter.formats.haproxy import HAPROXY
from bandmeter.formats.jsonl import JSONL
from bandmeter.formats.nginx import NGINX
from bandmeter.formats.squid import SQUID
from bandmeter.formats.squid_native import SQUID_NATIVE
from bandmeter.formats.trafficserver import TRAFFICSERVER
from bandmeter.formats.tsv import TSV
from bandmeter.formats.varnish import VARNISH

FORMATS = {
    f.name: f
    for f in (
        *(JSONL, CLOUDEVENTS, TSV),
        *(SQUID, NGINX, HAPROXY, TRAFFICSERVER, VARNISH, ENVOY),
        *(SQUID_NATIVE, COMBINED),
    )
}

NUMBERS = (
    "target_bytes_up",
    "target_bytes_down",
    "client_bytes_up",
    "client_bytes_down",
    "bytes_up",
    "bytes_down",
)
TEXTS = ("identity", "account", "zone", "host", "scheme", "ip_version", "network", "access", "pool")
FLAGS = ("has_target_bytes", "has_client_bytes", "has_bytes", "reached_target")
FIELDS = frozenset({"time_ms", "duration_ms", "requests", "status", *NUMBERS, *TEXTS, *FLAGS})
COLUMN = re.compile(r"[a-z][a-z0-9_]*")
COLUMNS_MAX = 200  # of a line: the longest known layout has 30

# Name(parameters) → SQL. What the field expressions may use beyond DuckDB's own functions.
FUNCTIONS = {
    # a whole number in its plain decimal form, else NULL: a bare cast would also take 1.5, 1e3, 0x10 and 1_000
    "whole(x)": "CASE WHEN CAST(TRY_CAST(x AS BIGINT) AS VARCHAR) = x THEN TRY_CAST(x AS BIGINT) END",
    # Unix seconds with any fraction → ms, cut. The first case is the usual form, ten digits and three, and fast
    "seconds_ms(x)": """CASE WHEN strlen(x) = 14 AND strpos(x, '.') = 11
        THEN CAST(TRY_CAST(x AS DECIMAL(13, 3)) * 1000 AS BIGINT)
        WHEN contains(x, '.') THEN whole(split_part(x, '.', 1)) * 1000
            + whole('1' || left(rpad(split_part(x, '.', 2), 3, '0'), 3)) - 1000
            + 0 * whole('1' || left(split_part(x, '.', 2), 15))
        ELSE whole(x) * 1000 END""",
    # RFC 3339 with its offset → ms, cut; without an offset a time is ambiguous, and NULL
    "rfc3339_ms(x)": r"""CASE WHEN
        regexp_full_match(x, '\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]([01]\d|2[0-3]):[0-5]\d)')
        THEN epoch_ms(TRY_CAST(regexp_replace(upper(x), '(\.\d{3})\d+', '\1') AS TIMESTAMPTZ)) END""",
    # a JSON number as it was written: the JSON reader goes through a double, which rounds 1795132800.9999999 up
    "as_written(line, key, x)": r"""CASE WHEN ends_with(x, '.0')
        AND TRY_CAST(regexp_extract(line, concat('"', key, '"\s*:\s*([0-9.]+)'), 1) AS DOUBLE) = TRY_CAST(x AS DOUBLE)
        THEN regexp_extract(line, concat('"', key, '"\s*:\s*([0-9.]+)'), 1) ELSE x END""",
    # either of the two
    "time_ms_of(x)": "CASE WHEN substr(x, 5, 1) = '-' THEN rfc3339_ms(x) ELSE seconds_ms(x) END",
    # NULL for what logs write when there is nothing
    "given(x)": "nullif(nullif(x, '-'), '')",
    # an HTTP status, NULL where there was no answer
    "status_of(x)": "CASE WHEN x IS NULL OR x IN ('-', '', '0', '000') THEN NULL ELSE coalesce(whole(x), -1) END",
    "ip_version_of(x)": "CASE WHEN contains(x, ':') THEN '6' WHEN contains(x, '.') THEN '4' END",
    # the host of a Host header or authority, without its port, in lower case
    "domain_of(x)": r"""given(lower(CASE WHEN starts_with(x, '[') THEN split_part(x, ']', 1) || ']'
        ELSE rtrim(split_part(x, ':', 1), '.') END))""",
    # the user of a Basic Proxy-Authorization header; the password is never looked at
    "user_of_basic(x)": r"""given(split_part(
        TRY(decode(from_base64(CASE WHEN lower(left(x, 6)) = 'basic ' THEN trim(substr(x, 7)) END))), ':', 1))""",
    # numbers separated by commas or colons, as nginx writes several upstreams; '-' counts nothing
    "sum_of(x)": r"""coalesce(whole(x), CASE WHEN x IN ('', '-') THEN 0
        WHEN regexp_full_match(x, '(\d{1,18}|-)((, | : )(\d{1,18}|-))*')
        THEN CAST(list_sum(CAST(regexp_extract_all(x, '\d+') AS BIGINT[])) AS BIGINT) END)""",
}


def find(name: str, registered: tuple[Format, ...] = ()) -> Format:
    """The format of that name, the user's own first; `input_invalid` names those that there are."""
    known = FORMATS | {f.name: f for f in registered}
    if name not in known:
        raise BandmeterError(
            errors.INPUT_INVALID,
            f"There is no format {name[:80]!r}; take one of {', '.join(sorted(known))}.",
        )
    return known[name]


def check(log_format: Format) -> None:
    """Raise `input_invalid` when a format that a user registered cannot work, naming what is wrong."""
    for layout in log_format.layouts:
        wrong = [c for c in layout.columns if not COLUMN.fullmatch(c)]
        unknown = sorted(set(layout.fields) - FIELDS)
        sentence = (
            (not layout.columns and "it has no columns")
            or (len(layout.columns) > COLUMNS_MAX and f"it has over {COLUMNS_MAX} columns")
            or (wrong and f"the column {wrong[0][:80]!r} is no name of lower case letters, digits and '_'")
            or (len(set(layout.columns)) < len(layout.columns) and "two columns have one name")
            or (unknown and f"there is no field {unknown[0][:80]!r}; fields are {', '.join(sorted(FIELDS))}")
            or ("time_ms" not in layout.fields and "it lacks the field time_ms")
            or (not set(NUMBERS) & set(layout.fields) and f"it has none of {', '.join(NUMBERS)}")
        )
        if sentence:
            raise BandmeterError(errors.INPUT_INVALID, f"The format {log_format.name!r} cannot be used: {sentence}.")
    if log_format.split not in ("tab", "json", "pattern"):
        raise BandmeterError(
            errors.INPUT_INVALID,
            f"The format {log_format.name!r} cannot be used: split is tab, json or pattern.",
        )
