"""The only place that builds concrete objects, the order in which they start and stop, and the only clock."""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import glob
import http.client
import os
import shutil
import socket
import sqlite3
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bandmeter import config as configuration
from bandmeter import formats
from bandmeter.catalog import Catalog
from bandmeter.config import Config
from bandmeter.config.tables import Source
from bandmeter.domain import errors, localtime
from bandmeter.domain.contracts import Format, Store
from bandmeter.domain.errors import BandmeterError
from bandmeter.ingest import FileReport, Job, Pipeline, Progress
from bandmeter.pricing import PRICES
from bandmeter.reports import Reports
from bandmeter.store import STORES
from bandmeter.upkeep import databases
from bandmeter.upkeep.databases import CATALOG_FILE, USAGE_FILE

LIMITS_FILE = "limits.bin"
FOLDER_MODE = 0o700  # customers' names and traffic are nobody else's business
STOP_SECONDS = 10  # for running answers to end; the slowest takes one
READY_SECONDS = 5  # for one look at whether the server answers
READY_PAUSE_SECONDS = 0.05  # between two looks
EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


class Check(NamedTuple):
    """One thing that `doctor` looked at, what was seen, and what is wrong with it, if anything, and what to do."""

    name: str
    seen: str
    problem: str = ""


class Parts(NamedTuple):
    """What a command works with."""

    config: Config
    catalog: Catalog
    store: Store
    reports: Reports


# ---------------------------------------------------------------- the clock


def clock_ms() -> int:
    """Unix time in ms: the machine's, or where BANDMETER_NOW stands still. Raises `input_invalid` for an odd one."""
    stands = os.environ.get("BANDMETER_NOW")
    return _stands_at(stands) if stands else time.time_ns() // 1_000_000


def clock_s() -> int:
    """Unix time in whole seconds."""
    return clock_ms() // 1_000


@functools.lru_cache(maxsize=1)
def _stands_at(text: str) -> int:
    try:
        return (dt.datetime.fromisoformat(text) - EPOCH) // dt.timedelta(milliseconds=1)
    except (ValueError, TypeError) as error:  # TypeError: a time without an offset
        sentence = f"BANDMETER_NOW={text[:80]} is no time: write it as 2022-11-22T11:35:32Z."
        raise BandmeterError(errors.INPUT_INVALID, sentence) from error


# ---------------------------------------------------------------- start and stop


def configure(data: str | None, options: Mapping[str, Any] | None = None) -> Config:
    """The settings in force; `data` and `options` come from the command line. Raises `input_invalid`."""
    config = configuration.load(os.environ, data, options)
    for log_format in config.formats:
        formats.check(log_format)
    if not localtime.is_timezone(config.dialects.baishan_timezone):
        sentence = "dialects.baishan_timezone takes the IANA name of a time zone, such as Asia/Shanghai."
        raise BandmeterError(errors.INPUT_INVALID, sentence)
    return config


@contextlib.contextmanager
def open_parts(config: Config, *, create: bool = False) -> Iterator[Parts]:
    """Open the catalog, the store and what reads them, and close them again. Raises as `start` does."""
    parts = start(config, create=create)
    with contextlib.closing(parts.catalog), contextlib.closing(parts.store):
        yield parts


def start(config: Config, *, create: bool = False) -> Parts:
    """Open the catalog, the store and what reads them, for as long as the process lives.

    `create`: make the data folder where there is none; else that is `input_invalid`. Raises `unavailable`.
    """
    if create:
        _make_folder(config.data)
    elif not config.data.is_dir():
        raise BandmeterError(
            errors.INPUT_INVALID,
            f"There is no data folder {config.data}: name it with --data or BANDMETER_DATA, or start one with"
            " `bandmeter account add`.",
        )
    databases.check_finished(config.data)
    with contextlib.ExitStack() as opened:
        catalog = Catalog.open(f"sqlite:///{(config.data / CATALOG_FILE).absolute()}")
        opened.callback(catalog.close)
        store = open_store(config)
        opened.callback(store.close)
        ends = store.number_ends()  # first: a zone is in the catalog before any traffic of its is counted
        databases.check_pair(ends[1] if ends else 0, catalog.highest_number())
        opened.pop_all()
    return Parts(config, catalog, store, Reports(catalog, store, PRICES))


def open_store(config: Config) -> Store:
    """The usage store of a data folder; raises `unavailable` when it cannot be opened."""
    try:
        store: Store = STORES["sqlite"](
            config.data / USAGE_FILE, config.ingest.unattributed_per_day, config.ingest.hosts_per_day
        )
    except (OSError, sqlite3.Error) as error:
        raise _unusable(config.data / USAGE_FILE, error) from error
    return store


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(folder, error) from error


def _unusable(path: Path, error: Exception) -> BandmeterError:
    cause = getattr(error, "strerror", None) or error
    sentence = f"{path} cannot be used ({cause}): check its owner and permissions, and `bandmeter doctor`."
    return BandmeterError(errors.UNAVAILABLE, sentence)


def check_plan(kind: str, fields: Mapping[str, Any]) -> None:
    """Raise `input_invalid` naming the kind or the field when a plan is none."""
    if kind not in PRICES:
        sentence = f"{kind[:80]!r} is no kind of plan; there are {', '.join(sorted(PRICES))}."
        raise BandmeterError(errors.INPUT_INVALID, sentence)
    PRICES[kind].parse(fields)


def find_format(config: Config, name: str) -> Format:
    """A format by its name, the configured ones first; raises `input_invalid`."""
    return formats.find(name, config.formats)


# ---------------------------------------------------------------- ingest


class Labels(NamedTuple):
    """What the command line says about files: whose they are, under which source they count, what their columns are."""

    account: str | None = None
    zone: str | None = None
    source: str = "files"
    columns: str | None = None


def ingest(
    parts: Parts, format_name: str, paths: Sequence[str], labels: Labels, progress: Callable[[str], Progress]
) -> Iterator[FileReport]:
    """Count files (`-`: standard input), each part of them once; a file that cannot be counted stops no other.

    `progress(path)` gives what is called after each batch of that file. Raises `input_invalid` before anything is
    counted when the format, the account or the zone is none.
    """
    columns = tuple(labels.columns.split(",")) if labels.columns else ()
    job = Job(find_format(parts.config, format_name), labels.source, labels.account, labels.zone, columns)
    if labels.account and labels.zone and not parts.catalog.zone(labels.account, labels.zone):
        sentence = f"There is no zone {labels.account}/{labels.zone}: add it, or look at `bandmeter zone list`."
        raise BandmeterError(errors.INPUT_INVALID, sentence)
    batch_bytes = parts.config.ingest.batch_bytes
    pipeline = Pipeline(
        parts.store,
        parts.catalog.zones,
        clock_ms,
        parts.config.data,
        batch_bytes,
        version=parts.catalog.version,
        by_host=parts.config.ingest.hosts_per_day > 0,
    )
    with contextlib.closing(pipeline):
        for path in paths:
            try:
                report = pipeline.ingest(path, job, progress(path))
            except BandmeterError as error:
                report = FileReport(path, error=error.sentence)
            yield report
            if report.is_stopped:
                return


# ---------------------------------------------------------------- serving


def serve(config: Config, when_ready: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM; `when_ready(url)` is called once the first answer has come.

    Raises `unavailable` when the port is taken, `failure` when the workers cannot run.
    """
    # Heavy, and needed by this command only.
    from granian import Granian  # noqa: PLC0415
    from granian.constants import Interfaces  # noqa: PLC0415
    from granian.log import LogLevels  # noqa: PLC0415

    from bandmeter import telemetry  # noqa: PLC0415
    from bandmeter.service import feeding  # noqa: PLC0415

    telemetry.set_up_logs(clock_ms)
    for source in config.sources:
        feeding.job_of(config, source)  # what is wrong with one is said here
    _check_port(config.server.host, config.server.port)
    with open_parts(config, create=True):
        pass  # schemas are made here, once, and not by each worker
    # The workers are processes of their own and read the settings as this one did.
    os.environ["BANDMETER_DATA"] = str(config.data.absolute())
    if config.file:
        os.environ["BANDMETER_CONFIG"] = str(config.file.absolute())
    server = Granian(
        "bandmeter.service:asgi",
        factory=True,
        interface=Interfaces.ASGI,
        address=config.server.host,
        port=config.server.port,
        workers=config.server.workers,
        websockets=False,
        log_level=LogLevels.warning,
        respawn_failed_workers=True,
        workers_kill_timeout=STOP_SECONDS,
    )
    threading.Thread(target=_announce, args=(config.server, when_ready), daemon=True).start()
    try:
        with feeding.only_one(config) as folder:
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder  # where the workers count together
            with feeding.running(folder):
                server.serve()
    except SystemExit as error:
        sentence = "The server stopped because its workers failed: the lines above say why."
        raise BandmeterError(errors.FAILURE, sentence) from error


def asgi() -> Any:
    """What each worker of `serve` runs: the ASGI application over this process's own catalog and store."""
    # The web framework is of no use to the other commands: importing it only here keeps them quick to start.
    from bandmeter import dialects, telemetry  # noqa: PLC0415
    from bandmeter.service import feeding  # noqa: PLC0415
    from bandmeter.web import limits, native, records  # noqa: PLC0415
    from bandmeter.web.app import build  # noqa: PLC0415
    from bandmeter.web.feed import Feed  # noqa: PLC0415

    feeding.end_with_parent()
    parts = start(configure(None))
    spoken = dialects.configure(baishan_timezone=parts.config.dialects.baishan_timezone)
    telemetry.set_up_logs(clock_ms)
    config = parts.config
    rules = limits.Rules(config.limits.dialects, config.key_limits)
    limiter = limits.open_limiter(rules, config.limits.server, config.data / LIMITS_FILE, time.monotonic)
    feed = Feed(os.environ.get(feeding.SOCKET, ""))
    taker = records.Taker(feed, functools.partial(find_format, config))
    spoken = (*spoken, native.dialect(parts.reports, parts.catalog, (records.endpoint(taker),)))
    metrics = telemetry.Metrics()
    ready = functools.partial(health, parts)
    return build(
        parts.reports,
        parts.catalog,
        spoken,
        clock_ms,
        ready,
        limiter=limiter,
        metrics=metrics,
        faults=feed.faults if os.environ.get(feeding.SOCKET) else None,
        kept_bytes=config.server.kept_bytes,
    )


def health(parts: Parts) -> list[str]:
    """Why this process cannot answer now, a sentence each; empty when it can."""
    problems = []
    for name, look in (("catalog", parts.catalog.version), ("usage store", parts.store.committed_ms)):
        try:
            look()
        except Exception as error:  # noqa: BLE001 - whatever it is, it makes us unwell
            problems.append(f"The {name} cannot be read ({type(error).__name__}).")
    return problems


def _announce(server: configuration.Server, when_ready: Callable[[str], None]) -> None:
    """Wait until an answer comes: the socket is open long before, while the workers still start."""
    local = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(server.host, server.host)  # noqa: S104 - told from it, not bound
    while True:
        connection = http.client.HTTPConnection(local, server.port, timeout=READY_SECONDS)
        try:
            connection.request("GET", "/healthz")
            connection.getresponse()
        except (OSError, http.client.HTTPException):
            time.sleep(READY_PAUSE_SECONDS)
        else:
            host = f"[{server.host}]" if ":" in server.host else server.host
            _tell_supervisor("READY=1")
            when_ready(f"http://{host}:{server.port}")
            return
        finally:
            connection.close()


def _tell_supervisor(state: str) -> None:
    """Tell systemd, where that has started us and waits for it (sd_notify(3): a datagram to NOTIFY_SOCKET)."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor, contextlib.suppress(OSError):
            supervisor.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)


def _check_port(host: str, port: int) -> None:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        sentence = f"Cannot listen on {host}:{port} ({error.strerror}): choose others with --host and --port."
        raise BandmeterError(errors.UNAVAILABLE, sentence) from error


# ---------------------------------------------------------------- doctor

DISK_BYTES_MIN = 2**30  # free: three weeks of a busy machine's usage, and room for SQLite to work
AHEAD_MS_MAX = 600_000  # records further ahead of the clock are refused, so newer usage means the clock went back


def examine(config: Config) -> list[Check]:
    """Look at everything that can be wrong on this machine; each check says what it saw, or what to do."""
    folder = config.data
    if not folder.is_dir():
        return [Check("data folder", "", f"There is no folder {folder}: name it with --data, or add an account.")]
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        return [Check("data folder", "", f"{folder} cannot be written: give it to this user with chown.")]
    checks = [Check("data folder", str(folder.absolute())), _examine_modes(folder), _examine_disk(folder)]
    try:
        with open_parts(config) as parts:
            count = len(parts.catalog.zones())
            checks += [Check("catalog", f"{count} zones"), *_examine_usage(parts)]
    except (BandmeterError, OSError, sqlite3.Error) as error:
        checks.append(
            Check("databases", "", f"{str(error).rstrip('.')}: restore them from a backup if they are damaged.")
        )
    return [*checks, *(_examine_source(config, source) for source in config.sources)]


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


def _examine_usage(parts: Parts) -> Iterator[Check]:
    problems = parts.store.check()
    yield Check("usage store", "whole, and its resolutions agree", " ".join(problems))
    fresh = parts.store.freshness([zone.number for zone in parts.catalog.zones()])
    latest = max(fresh.newest_ms or 0, fresh.committed_ms or 0)
    now = dt.datetime.fromtimestamp(clock_s(), dt.UTC)
    if latest > clock_ms() + AHEAD_MS_MAX:
        yield Check("clock", "", f"It says {now:%F %T} UTC, before the newest usage: set the clock.")
    else:
        yield Check("clock", f"{now:%F %T} UTC")


def _examine_source(config: Config, source: Source) -> Check:
    name = f"source {source.name}"
    try:
        find_format(config, source.format)
    except BandmeterError as error:
        return Check(name, "", error.sentence)
    found = source_files(config, source)
    hidden = [path for path in found if not os.access(path, os.R_OK)]
    if not found:
        return Check(name, "", f"No file fits {source.path}: mend the path in {config.file}.")
    if hidden:
        return Check(name, "", f"{hidden[0]} cannot be read: give this user's group access to it.")
    return Check(name, f"{len(found)} files")


def source_pattern(config: Config, source: Source) -> str:
    """What fits the files of a configured source; a relative pattern starts at the data folder."""
    return str(config.data.absolute() / source.path)


def source_files(config: Config, source: Source) -> list[str]:
    """The files of a configured source, by name."""
    return sorted(glob.glob(source_pattern(config, source), recursive=True))  # noqa: PTH207 - may be absolute
