"""What can be wrong on a machine, and what to do about it."""

from __future__ import annotations

import dataclasses
import datetime as dt
import os
import shutil
import socket
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from bandmeter import service
from bandmeter.config import Config
from bandmeter.config.tables import Source
from bandmeter.domain import errors
from bandmeter.domain.errors import BandmeterError
from bandmeter.ingest.posts import wire
from bandmeter.service import sources

SERVER_SECONDS = 2.0  # for a running server to say how it is doing
DISK_BYTES_MIN = 2**30  # free: three weeks of a busy machine's usage, and room for SQLite to work
AHEAD_MS_MAX = 600_000  # records further ahead of the clock are refused, so newer usage means the clock went back


class Check(NamedTuple):
    """One thing that `doctor` looked at, what was seen, and what is wrong with it, if anything, and what to do."""

    name: str
    seen: str
    problem: str = ""


def examine(config: Config) -> list[Check]:
    """Look at everything that can be wrong on this machine; each check says what it saw, or what to do.

    Its paths are absolute: what it says may be read elsewhere than where it was asked.
    """
    file = config.file.absolute() if config.file else None
    config = dataclasses.replace(config, data=config.data.absolute(), file=file)
    folder = config.data
    if not folder.is_dir():
        return [Check("data folder", "", f"There is no folder {folder}: name it with --data, or add an account.")]
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        return [Check("data folder", "", f"{folder} cannot be written: give it to this user with chown.")]
    checks = [Check("data folder", str(folder)), _examine_modes(folder), _examine_disk(folder)]
    try:
        with service.open_parts(config) as parts:
            count = len(parts.catalog.zones())
            checks += [Check("catalog", f"{count} zones", " ".join(parts.catalog.check())), *_examine_usage(parts)]
    except (BandmeterError, OSError, sqlite3.Error) as error:
        says_more = isinstance(error, BandmeterError) and error.code == errors.INPUT_INVALID
        more = "" if says_more else ": restore them from a backup if they are damaged."
        checks.append(Check("databases", "", str(error).rstrip(".") + (more or ".")))
    return [*checks, *_examine_sources(config)]


def _examine_modes(folder: Path) -> Check:
    files = [folder, *sorted(folder.glob("*.db*"))]
    wide = [file for file in files if file.exists() and stat.S_IMODE(file.stat().st_mode) & 0o077]
    if wide:
        return Check("file modes", "", f"Others may read {wide[0]}: run `chmod -R go-rwx {folder}`.")
    return Check("file modes", "only this user may read")


def _examine_disk(folder: Path) -> Check:
    free = shutil.disk_usage(folder).free
    seen = f"{free / 10**9:.1f} GB free"
    return Check("free disk", seen, "" if free >= DISK_BYTES_MIN else f"Only {seen}: make room, or move the folder.")


def _examine_usage(parts: service.Parts) -> Iterator[Check]:
    problems = parts.store.check()
    yield Check("usage store", "whole, and its resolutions agree", " ".join(problems))
    fresh = parts.store.freshness([zone.number for zone in parts.catalog.zones()])
    latest = max(fresh.newest_ms or 0, fresh.committed_ms or 0)
    now = dt.datetime.fromtimestamp(service.clock_s(), dt.UTC)
    if latest > service.clock_ms() + AHEAD_MS_MAX:
        then = dt.datetime.fromtimestamp(latest // 1000, dt.UTC)
        problem = f"It says {now:%F %T} UTC, and something was counted at {then:%F %T}: set the clock, if it is behind."
        yield Check("clock", "", problem)
    else:
        yield Check("clock", f"{now:%F %T} UTC")


def _examine_sources(config: Config) -> Iterator[Check]:
    files = sources.find_all(config)
    problems = _ask_server(config) | {one.second: one.sentence for one in sources.shared(config, files)}
    for source in config.sources:
        yield _examine_source(config, source, files[source.name], problems.get(source.name, ""))


def _ask_server(config: Config) -> dict[str, str]:
    """What a `serve` that runs on the folder finds wrong with its sources; nothing when none answers."""
    try:
        folder = Path((config.data / service.LOCK_FILE).read_text())
        with socket.socket(socket.AF_UNIX) as server:
            server.settimeout(SERVER_SECONDS)
            server.connect(str(folder / service.SOCKET_FILE))
            server.sendall(b"".join(wire.encode_request(wire.Head(), b"")))
            with server.makefile("rb") as stream:
                length = wire.decode_answer_length(_read(stream, wire.ANSWER_PREFIX_BYTES))
                answer = wire.decode_answer(_read(stream, length))
    except OSError:
        return {}
    return dict((answer.body or {}).get("problems", {}))


def _read(stream: BinaryIO, size: int) -> bytes:
    found = stream.read(size)
    if len(found) < size:
        raise ConnectionError
    return found


def _examine_source(config: Config, source: Source, found: list[str], problem: str) -> Check:
    name = f"source {source.name}"
    try:
        service.find_format(config, source.format)
    except BandmeterError as error:
        return Check(name, "", error.sentence)
    hidden = [path for path in found if not os.access(path, os.R_OK)]
    if not found:
        return Check(name, "", f"No file fits {sources.pattern(config, source)}: mend the path in {config.file}.")
    if hidden:
        return Check(name, "", f"{hidden[0]} cannot be read: give this user's group access to it.")
    return Check(name, f"{len(found)} file{'s' if len(found) > 1 else ''}", problem)
