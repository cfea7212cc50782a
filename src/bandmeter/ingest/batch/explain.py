"""Why a record was rejected: the field, the reason out of a closed set, and a sentence for whoever mends it."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Any, NamedTuple

from bandmeter.domain.tenancy import ACCOUNT_ID, ZONE_NAME
from bandmeter.domain.usage import BYTES_MAX, DIMENSIONS, REQUESTS_MAX
from bandmeter.ingest.batch.query import FUTURE_MS_MAX, IDENTITY_LENGTH_MAX, PAIRS

if TYPE_CHECKING:
    from bandmeter.domain.contracts import Format, Layout

REASONS = (
    "not_json",
    "torn_line",
    "missing_field",
    "bad_time",
    "in_future",
    "bad_number",
    "negative",
    "too_large",
    "unknown_value",
    "unknown_zone",
    "corrupt",
)
SHOWN_LENGTH_MAX = 60  # of a value in a sentence
FINER = {"milliseconds": 10**3, "microseconds": 10**6}  # than seconds, for which a time was taken
FINER_MS_MIN = 10**12  # September 2001: no log is older, and no clock shows a time a thousand times as late


class Explanation(NamedTuple):
    """`reason` is one of REASONS."""

    field: str
    reason: str
    detail: str


def explain(log_format: Format, record: dict[str, Any], now_ms: int) -> Explanation:
    """Explain one row of `Decoder.rejected`."""
    if record["width"] is None:
        return _explain_shape(log_format)
    if record["is_unmeterable"]:
        return Explanation("bytes_down", "bad_number", f"{log_format.unmeterable_reason}.")
    layout = next(x for x in log_format.layouts if len(x.columns) == record["width"])
    return (
        _explain_time(layout, record, now_ms)
        or _explain_bytes(layout, record)
        or _explain_rest(layout, record)
        or _explain_zone(record)
        or Explanation("", "corrupt", "the line cannot be read")
    )


def _explain_shape(log_format: Format) -> Explanation:
    if log_format.split == "json":
        return Explanation("", "not_json", "the line is no JSON object")
    return Explanation("", "torn_line", f"the line does not have the form of {log_format.name}")


def _explain_time(layout: Layout, record: dict[str, Any], now_ms: int) -> Explanation | None:
    time_ms = record["time_ms"]
    if time_ms is None or time_ms < 0:
        texts = _sources(layout, "time_ms", record)
        if all(text is None or text == "" for text in texts.values()):
            return Explanation("time", "missing_field", "there is no time")
        shown = ", ".join(f"{name} is {_shown(text)}" for name, text in texts.items())
        return Explanation("time", "bad_time", f"{shown}; a time is Unix seconds, or RFC 3339 with its offset")
    if time_ms > now_ms + FUTURE_MS_MAX:
        ahead = f"the time is {(time_ms - now_ms) // 1000} s ahead of this machine's clock"
        for unit, count in FINER.items():
            if FINER_MS_MIN <= time_ms // count <= now_ms + FUTURE_MS_MAX:
                return Explanation("time", "in_future", f"{ahead}: it looks like {unit}, and is read as seconds")
        return Explanation("time", "in_future", ahead)
    return None


def _explain_bytes(layout: Layout, record: dict[str, Any]) -> Explanation | None:
    for has, pair in PAIRS.items():
        for field in pair if record[has] else ():
            found = _explain_number(layout, field, record, BYTES_MAX)
            if found:
                return found
    if not any(record[has] for has in PAIRS):
        return Explanation("bytes_up", "missing_field", "there are no bytes of either side")
    return None


def _explain_rest(layout: Layout, record: dict[str, Any]) -> Explanation | None:
    found = _explain_number(layout, "requests", record, REQUESTS_MAX)
    if found:
        return found
    for name, dimension in DIMENSIONS.items():
        if record[name] is not None and record[name] not in dimension.values:
            values = ", ".join(dimension.values)
            return Explanation(name, "unknown_value", f"{name} is {_shown(record[name])}; it takes {values}")
    status = record["status"]
    if status is not None and not 100 <= status <= 599:  # noqa: PLR2004 - RFC 9110 has no others
        texts = ", ".join(_shown(text) for text in _sources(layout, "status", record).values())
        return Explanation("status", "corrupt", f"the status is {texts}; it is 100 to 599")
    if record["identity"] is not None and len(record["identity"]) > IDENTITY_LENGTH_MAX:
        return Explanation("identity", "too_large", f"the identity has over {IDENTITY_LENGTH_MAX} characters")
    return None


def _explain_zone(record: dict[str, Any]) -> Explanation | None:
    if record["is_unknown"]:
        return _explain_owner(record["account"], record["zone"], record["identity"])
    for field, other in (("account", "zone"), ("zone", "account")):
        if record[field] is None and record[other] is not None:
            return Explanation(field, "missing_field", f"the record names its {other} and not its {field}")
    return None


def _explain_owner(account: str | None, zone: str | None, identity: str | None) -> Explanation:
    """What names no zone, and must; only a sender who may speak for one account has to name one of its zones.

    Such a sender is told the same of another account's zone as of none.
    """
    if account is not None and zone is not None:
        named = _shown(f"{account}/{zone}")
        return Explanation("zone", "unknown_zone", f"there is no zone {named}: {_mend_zone(account, zone)}")
    if zone is not None:
        sentence = f"the key's account has no zone {_shown(zone)}: {_mend_zone('ACCOUNT', zone)}"
        return Explanation("zone", "unknown_zone", sentence)
    if identity is not None:
        sentence = f"the identity {_shown(identity)} belongs to no zone of the key's account"
        return Explanation("identity", "unknown_zone", f"{sentence}: give it to one with `bandmeter zone claim`")
    sentence = "the record names neither a zone nor an identity, and with the key of an account it takes one"
    return Explanation("identity", "missing_field", sentence)


def _mend_zone(account: str, zone: str) -> str:
    """The command that adds a zone, where there can be one of that name."""
    if ACCOUNT_ID.fullmatch(account) and ZONE_NAME.fullmatch(zone):
        return f"add it with `bandmeter zone add {account} {shlex.quote(zone)}`, or mend the record"
    return "mend the record"


def _explain_number(layout: Layout, field: str, record: dict[str, Any], limit: int) -> Explanation | None:
    value = record[field]
    if value is None:
        return _explain_no_number(field, _numbers(layout, field, record), limit)
    if value < 0:
        return Explanation(field, "negative", f"{field} is {value}")
    if value > limit:
        return Explanation(field, "too_large", f"{field} is {value}; at most {limit}")
    return None


def _explain_no_number(field: str, columns: dict[str, str | None], limit: int) -> Explanation:
    wrong = {
        name: text
        for name, text in columns.items()
        if not re.fullmatch(r"0|[1-9][0-9]*", text or "") or _is_over(text or "", limit)
    } or columns
    given = [text for text in wrong.values() if text not in {None, "", "-"}]
    shown = ", ".join(f"{name} is {_shown(text)}" for name, text in wrong.items())
    if not given:
        return Explanation(field, "missing_field", f"there is no {' or '.join(wrong) or field}")
    if any(re.fullmatch(r"-[0-9]+", text or "") for text in given):
        return Explanation(field, "negative", shown)
    if all(re.fullmatch(r"[0-9]+", text or "") for text in given) and any(
        _is_over(text or "", limit) for text in given
    ):
        return Explanation(field, "too_large", f"{shown}; at most {limit}")
    return Explanation(field, "bad_number", f"{shown}; it takes a whole number")


def _numbers(layout: Layout, field: str, record: dict[str, Any]) -> dict[str, str | None]:
    """The columns that a field's expression reads as numbers, and their text; all of its columns if there are none."""
    columns = _sources(layout, field, record)
    read = re.findall(r"\b(?:whole|sum_of)\((\w+)\)", layout.fields.get(field, ""))
    return {name: text for name, text in columns.items() if name in read} or columns


def _is_over(digits: str, limit: int) -> bool:
    significant = digits.lstrip("0")
    return len(significant) > len(str(limit)) or int(significant or "0") > limit


def _sources(layout: Layout, field: str, record: dict[str, Any]) -> dict[str, Any]:
    """The columns that a field's expression reads, and their text."""
    words = set(re.findall(r"\b[a-z_][a-z0-9_]*\b(?!\s*\()", re.sub(r"'[^']*'", "", layout.fields.get(field, ""))))
    return {name: record[f"raw_{i}"] for i, name in enumerate(layout.columns) if name in words}


def _shown(text: str | None) -> str:
    if text is None:
        return "absent"
    return repr(text if len(text) <= SHOWN_LENGTH_MAX else text[:SHOWN_LENGTH_MAX] + "…")
