"""Settings: a frozen dataclass per component, read from `bandmeter.toml` and from BANDMETER_* variables.

From weakest to strongest: the default, the file, the environment, the command line. The file is `bandmeter.toml` in
the data folder, or the one that BANDMETER_CONFIG names. A section's key `[server] port` is BANDMETER_SERVER_PORT in
the environment. A misspelt name is an error, never ignored; in the environment, which is not ours alone, one that
begins with a section's name.
"""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bandmeter.config.tables import (
    Source,
    check_names,
    format_lines,
    listed,
    read_format,
    read_source,
    refuse,
    source_lines,
    toml,
)
from bandmeter.domain import errors
from bandmeter.domain.contracts import Format
from bandmeter.domain.errors import BandmeterError

FILE_NAME = "bandmeter.toml"
FILE_BYTES_MAX = 2**20  # a thousand formats; a larger file is not a configuration
DATA_DEFAULT = "bandmeter-data"
PER_MINUTE_MAX = 1_000_000_000  # requests; a limit above what any machine can answer is none
SERVER_SCHEMES = ("redis", "rediss", "valkey", "valkeys")
KEY_ID = re.compile(r"[0-9a-f]{12}")
DEFAULT = "default"
TYPE_NAMES = {int: "a whole number", str: "text"}


def _number(default: int, least: int, most: int) -> Any:
    return dataclasses.field(default=default, metadata={"least": least, "most": most})


@dataclasses.dataclass(frozen=True, slots=True)
class Server:
    """Where `serve` listens, and with how many processes.

    `kept_bytes`: how much memory each may take for replies that are still right (`web/kept.py`); 0 keeps none. The
    default has room for 60 days of 10,000 zones; SQLite may take as much beside it.
    """

    host: str = "127.0.0.1"
    port: int = _number(8080, 1, 65_535)
    workers: int = _number(1, 1, 256)
    kept_bytes: int = _number(64 * 2**20, 0, 2**40)


@dataclasses.dataclass(frozen=True, slots=True)
class Ingest:
    """How logs are read. `unattributed_per_day` bounds the new identities without a zone that a day may bring.

    `hosts_per_day`: of how many target hosts a zone's day keeps the usage apart; 0 keeps none, and costs nothing.
    """

    batch_bytes: int = _number(32 * 2**20, 4_096, 2**30)
    unattributed_per_day: int = _number(10_000, 1, 10_000_000)
    hosts_per_day: int = _number(100, 0, 1_000_000)


@dataclasses.dataclass(frozen=True, slots=True)
class Dialects:
    """What a dialect lets an operator choose. `baishan_timezone` cuts that dialect's days."""

    baishan_timezone: str = "Asia/Shanghai"


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """Requests a minute of one key, by dialect; 0 is no limit. 300 is what BaishanCloud's own documentation gives.

    `server`: a Valkey or Redis (redis://host:6379/0) in which several machines count together; without one, each
    machine counts by itself. A key's own limit, over all dialects, is `[limits.keys]` in the file: key id → number.
    """

    brightdata: int = _number(0, 0, PER_MINUTE_MAX)
    evomi: int = _number(0, 0, PER_MINUTE_MAX)
    baishan: int = _number(300, 0, PER_MINUTE_MAX)
    native: int = _number(0, 0, PER_MINUTE_MAX)
    server: str = ""

    @property
    def dialects(self) -> dict[str, int]:
        """The limits by the dialect's name."""
        return {"brightdata": self.brightdata, "evomi": self.evomi, "baishan": self.baishan, "native": self.native}


@dataclasses.dataclass(frozen=True, slots=True)
class Config:
    """All settings. `origins`: "section.key" → where its value came from; `key_limits`: key id → requests a minute."""

    data: Path
    file: Path | None = None
    server: Server = Server()
    ingest: Ingest = Ingest()
    dialects: Dialects = Dialects()
    limits: Limits = Limits()
    key_limits: Mapping[str, int] = dataclasses.field(default_factory=dict)
    sources: tuple[Source, ...] = ()
    formats: tuple[Format, ...] = ()
    origins: Mapping[str, str] = dataclasses.field(default_factory=dict)


SECTIONS: dict[str, type] = {"server": Server, "ingest": Ingest, "dialects": Dialects, "limits": Limits}


class _Value(NamedTuple):
    """A setting as somebody gave it."""

    value: Any
    origin: str


def load(environment: Mapping[str, str], data: str | None = None, options: Mapping[str, Any] | None = None) -> Config:
    """Read the settings. `data`: the folder from the command line; `options`: "section.key" → value, None if not given.

    Raises `input_invalid` naming the key and the file or variable that is wrong.
    """
    folder = Path(data or environment.get("BANDMETER_DATA") or DATA_DEFAULT)
    file = _find_file(environment, folder)
    document = _read_file(file) if file else {}
    for name in document:
        if name not in {*SECTIONS, "source", "format"}:
            refuse(name, str(file), f"there is no such section; there are {', '.join(SECTIONS)}, source and format")
    origins = {"data": "option --data" if data else "BANDMETER_DATA" if environment.get("BANDMETER_DATA") else DEFAULT}
    given = _from_environment(environment)
    given |= {
        key: _Value(value, f"option --{key.partition('.')[2]}")
        for key, value in (options or {}).items()
        if value is not None
    }
    key_limits = _take_key_limits(document, str(file))
    sections: dict[str, Any] = {}
    for name in SECTIONS:
        sections[name], found = _section(name, document.get(name, {}), str(file), given)
        origins |= found
    sources = tuple(read_source(*entry, str(file)) for entry in listed(document, "source", str(file)))
    formats = tuple(read_format(*entry, str(file)) for entry in listed(document, "format", str(file)))
    check_names("source", sources, str(file))
    check_names("format", formats, str(file))
    if not _is_address(sections["limits"].server):  # not shown: it may hold a password
        refuse("limits.server", origins["limits.server"], "takes an address such as redis://host:6379/0")
    return Config(folder, file, **sections, key_limits=key_limits, sources=sources, formats=formats, origins=origins)


def _find_file(environment: Mapping[str, str], folder: Path) -> Path | None:
    named = environment.get("BANDMETER_CONFIG")
    if named:
        return Path(named)
    usual = folder / FILE_NAME
    return usual if usual.exists() else None


def _read_file(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            text = stream.read(FILE_BYTES_MAX + 1)
        if len(text) > FILE_BYTES_MAX:
            raise BandmeterError(errors.INPUT_INVALID, f"{file}: is larger than {FILE_BYTES_MAX >> 20} MiB.")
        return tomllib.loads(text.decode())
    except OSError as error:
        raise BandmeterError(errors.INPUT_INVALID, f"{file}: cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:  # not UTF-8, or not TOML: that one names line and column
        raise BandmeterError(errors.INPUT_INVALID, f"{file}: is not TOML: {error}.") from error


def _from_environment(environment: Mapping[str, str]) -> dict[str, _Value]:
    found = {}
    for variable, text in environment.items():
        for name, section in SECTIONS.items():
            prefix = f"BANDMETER_{name.upper()}_"
            if not variable.startswith(prefix):
                continue
            key = variable.removeprefix(prefix).lower()
            field = next((f for f in dataclasses.fields(section) if f.name == key), None)
            if field is None:
                known = ", ".join(prefix + f.name.upper() for f in dataclasses.fields(section))
                refuse(variable, "environment", f"there is no such setting; there are {known}")
            is_number = isinstance(getattr(section(), key), int)
            digits = is_number and text.isascii() and text.isdigit() and len(text) < 20  # noqa: PLR2004 - 64 bits
            found[f"{name}.{key}"] = _Value(int(text) if digits else text, variable)
    return found


def _section(name: str, table: Any, file: str, given: Mapping[str, _Value]) -> tuple[Any, dict[str, str]]:
    """One section's dataclass, and where each of its values came from."""
    section, origins = SECTIONS[name], {}
    if not isinstance(table, dict):
        refuse(name, file, f"write it as a section, [{name}]")
    fields = {field.name: field for field in dataclasses.fields(section)}
    for key in table:
        if key not in fields:
            refuse(f"{name}.{key}", file, f"there is no such setting; there are {', '.join(fields)}")
    values = {}
    for key, field in fields.items():
        path = f"{name}.{key}"
        stated = _Value(table[key], file) if key in table else _Value(field.default, DEFAULT)
        stated = given.get(path, stated)
        values[key] = _checked(stated, field, path)
        origins[path] = stated.origin
    return section(**values), origins


def _checked(stated: _Value, field: dataclasses.Field[Any], path: str) -> Any:
    value, kind = stated.value, type(field.default)
    where = path if not stated.origin.startswith("BANDMETER_") else stated.origin
    origin = "environment" if stated.origin.startswith("BANDMETER_") else stated.origin
    if type(value) is not kind:
        refuse(where, origin, f"takes {TYPE_NAMES[kind]}, not {value!r}")
    limits = field.metadata
    if limits and not limits["least"] <= value <= limits["most"]:
        refuse(where, origin, f"takes a number from {limits['least']} to {limits['most']}, not {value}")
    return value


def _is_address(server: str) -> bool:
    """Whether it names a Valkey or Redis, or nothing."""
    try:
        parts = urllib.parse.urlsplit(server)
        return not server or (parts.scheme in SERVER_SCHEMES and bool(parts.hostname) and parts.port != 0)
    except ValueError:  # of a port or an IPv6 address
        return False


def _take_key_limits(document: Mapping[str, Any], file: str) -> dict[str, int]:
    """Take `[limits.keys]` out of the section, whose other settings are single values."""
    section = document.get("limits", {})
    table = section.pop("keys", {}) if isinstance(section, dict) else {}
    if not isinstance(table, dict):
        refuse("limits.keys", file, "write it as a section, [limits.keys]")
    for key, most in table.items():
        if not KEY_ID.fullmatch(key):  # not shown: it may be a whole key
            refuse("limits.keys", file, "name each key by its id, as `bandmeter key list` shows it")
        if type(most) is not int or not 0 <= most <= PER_MINUTE_MAX:
            refuse(f"limits.keys.{key}", file, f"takes a number from 0 to {PER_MINUTE_MAX}, not {most!r}")
    return dict(table)


def dump(config: Config) -> str:
    """The settings in force as TOML that can be read back, each with where its value came from."""
    lines = [f"# data = {json.dumps(str(config.data))}  # {config.origins['data']}"]
    for name in SECTIONS:
        lines += ["", f"[{name}]"]
        section = getattr(config, name)
        for field in dataclasses.fields(section):
            origin = config.origins[f"{name}.{field.name}"]
            lines.append(f"{field.name} = {toml(getattr(section, field.name))}  # {origin}")
    if config.key_limits:
        lines += ["", "[limits.keys]", *(f"{toml(key)} = {most}" for key, most in config.key_limits.items())]
    for source in config.sources:
        lines += ["", "[[source]]", *source_lines(source)]
    for log_format in config.formats:
        lines += ["", "[[format]]", *format_lines(log_format)]
    return "\n".join(lines) + "\n"
