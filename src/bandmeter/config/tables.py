"""What a file registers in any number: sources of logs, and formats."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from bandmeter.domain import errors
from bandmeter.domain.contracts import Format, Layout
from bandmeter.domain.errors import BandmeterError
from bandmeter.domain.usage import Side

LIST_MAX = 1_000  # sources, or formats
RULES_MAX = 10_000  # identities that one source gives to zones
HEADER_ADJUST_BYTES_MAX = 10_000  # either way; headers are shorter
FORMAT_KEYS = {"name", "split", "columns", "fields", "side", "pattern", "example"}
SPREADS = ("end", "even")
BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
    """A source of logs, as `[[source]]` registers it: `path` may hold `*`; relative ones start at the data folder.

    `account` and `zone`: for records that name none. `zones`: identity → `ACCOUNT/ZONE`, which holds for this source
    and above what zones have registered. `side`: the only side of the log that counts, "" for all that it has.
    `spread`: "even" for long tunnels. `header_adjust`: bytes, added to the target's bytes up of each plain HTTP
    request. `columns`: comma-separated, of a table without a header.
    """

    name: str
    format: str
    path: str
    account: str = ""
    zone: str = ""
    zones: Mapping[str, str] = dataclasses.field(default_factory=dict)
    side: str = ""
    spread: str = "end"
    header_adjust: int = 0
    columns: str = ""


def refuse(key: str, where: str, sentence: str) -> NoReturn:
    """Raise `input_invalid`, naming the key and where it stands."""
    raise BandmeterError(errors.INPUT_INVALID, f"{where}: {key}: {sentence}.")


def listed(document: Mapping[str, Any], name: str, file: str) -> list[tuple[dict[str, Any], str]]:
    """The tables of that name, each with what to call it in an error."""
    tables = document.get(name, [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        refuse(name, file, f"write each as [[{name}]]")
    if len(tables) > LIST_MAX:
        refuse(name, file, f"there can be {LIST_MAX} at most")
    return [(table, f"{name}[{n}]") for n, table in enumerate(tables)]


def _text(table: Mapping[str, Any], key: str, path: str, file: str, default: str | None = None) -> str:
    value = table.get(key, default)
    if not isinstance(value, str) or (not value and default is None):
        refuse(f"{path}.{key}", file, "is missing" if value is None else f"takes text, not {value!r}")
    return str(value)


def read_source(table: dict[str, Any], path: str, file: str) -> Source:
    """A source; raises `input_invalid`."""
    keys = [field.name for field in dataclasses.fields(Source)]
    for key in table:
        if key not in keys:
            refuse(f"{path}.{key}", file, f"there is no such setting; there are {', '.join(keys)}")
    texts: dict[str, Any] = {key: _text(table, key, path, file) for key in ("name", "format", "path")}
    texts |= {key: _text(table, key, path, file, default="") for key in ("account", "zone", "side", "columns")}
    texts["spread"] = _text(table, "spread", path, file, default="end")
    others = {"header_adjust": table.get("header_adjust", 0), "zones": table.get("zones", {})}
    source = Source(**texts, **others)
    if bool(source.account) != bool(source.zone):
        refuse(f"{path}.account", file, "account and zone belong together: give both, or neither")
    if source.side not in {"", *Side}:
        refuse(f"{path}.side", file, f"takes target or client, not {source.side!r}")
    if source.spread not in SPREADS:
        refuse(f"{path}.spread", file, f"takes {' or '.join(SPREADS)}, not {source.spread!r}")
    if type(source.header_adjust) is not int or abs(source.header_adjust) > HEADER_ADJUST_BYTES_MAX:
        refuse(f"{path}.header_adjust", file, f"takes a whole number of bytes up to {HEADER_ADJUST_BYTES_MAX}")
    _check_rules(source.zones, f"{path}.zones", file)
    return source


def _check_rules(rules: Any, path: str, file: str) -> None:
    if not isinstance(rules, dict) or len(rules) > RULES_MAX:
        refuse(path, file, f"takes a table of at most {RULES_MAX} identities, such as {{alice = 'acme/dc1'}}")
    for identity, zone in rules.items():
        if not isinstance(zone, str) or not all(zone.partition("/")):
            refuse(f"{path}.{_key(identity)}", file, f"takes ACCOUNT/ZONE, not {zone!r}")


def read_format(table: dict[str, Any], path: str, file: str) -> Format:
    """A format; raises `input_invalid`."""
    for key in table:
        if key not in FORMAT_KEYS:
            refuse(f"{path}.{key}", file, f"there is no such setting; there are {', '.join(sorted(FORMAT_KEYS))}")
    columns, fields = table.get("columns"), table.get("fields")
    if not isinstance(columns, list) or not all(isinstance(column, str) for column in columns):
        refuse(f"{path}.columns", file, "takes a list of the columns' names")
    if not isinstance(fields, dict) or not all(isinstance(sql, str) for sql in fields.values()):
        refuse(f"{path}.fields", file, "takes a table of SQL expressions, such as {bytes_up = 'whole(sent)'}")
    side = _text(table, "side", path, file, default=Side.TARGET)
    if side not in set(Side):
        refuse(f"{path}.side", file, f"takes target or client, not {side!r}")
    return Format(
        name=_text(table, "name", path, file),
        split=_text(table, "split", path, file),
        layouts=(Layout(tuple(columns), dict(fields)),),
        example=_text(table, "example", path, file, default=""),
        side=Side(side),
        pattern=_text(table, "pattern", path, file, default=""),
    )


def check_names(kind: str, entries: Sequence[Source | Format], file: str) -> None:
    """Raise `input_invalid` when two sources, or two formats, have one name."""
    seen = set()
    for n, entry in enumerate(entries):
        if entry.name in seen:
            refuse(f"{kind}[{n}].name", file, f"a {kind} of the name {entry.name!r} stands above already")
        seen.add(entry.name)


def source_lines(source: Source) -> list[str]:
    """A source as TOML; what is as it is by default is left out."""
    defaults = {f.name: f.default for f in dataclasses.fields(Source)} | {"zones": {}}
    given = {key: value for key, value in dataclasses.asdict(source).items() if value != defaults[key]}
    rules = given.pop("zones", {})
    lines = [f"{key} = {toml(value)}" for key, value in given.items()]
    return lines + [f"zones.{_key(identity)} = {toml(zone)}" for identity, zone in rules.items()]


def format_lines(log_format: Format) -> list[str]:
    """A format as TOML."""
    layout = log_format.layouts[0]
    columns = ", ".join(toml(column) for column in layout.columns)
    lines = [
        f"{key} = {toml(str(getattr(log_format, key)))}" for key in ("name", "split", "side", "pattern", "example")
    ]
    lines.append(f"columns = [{columns}]")
    lines += [f"fields.{_key(name)} = {toml(sql)}" for name, sql in layout.fields.items()]
    return lines


def _key(name: str) -> str:
    return name if BARE_KEY.fullmatch(name) else toml(name)


def toml(value: str | int) -> str:
    """A value as TOML."""
    # A JSON string is a TOML basic string, but for DEL, which TOML wants escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
