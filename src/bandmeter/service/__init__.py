"""The only place that builds concrete objects, the order in which they start and stop, and the only clock."""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import http.client
import os
import socket
import sqlite3
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
from bandmeter.domain.usage import Side
from bandmeter.ingest import FileReport, Job, Pipeline, Progress, Tools
from bandmeter.pricing import PRICES
from bandmeter.reports import Reports
from bandmeter.store import STORES
from bandmeter.upkeep.databases import CATALOG_FILE, USAGE_FILE, check_finished, check_not_lost, check_pair

LIMITS_FILE = "limits.bin"
LOCK_FILE = "serve.lock"
SOCKET_FILE = "ingest.sock"  # in the folder that the lock's file names
FOLDER_MODE = 0o700  # customers' names and traffic are nobody else's business
STOP_SECONDS = 10  # for running answers to end; the slowest takes one
READY_SECONDS = 5  # for one look at whether the server answers
READY_PAUSE_SECONDS = 0.05  # between two looks
EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


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
    check_finished(config.data)
    with contextlib.ExitStack() as opened:
        catalog = Catalog.open(f"sqlite:///{(config.data / CATALOG_FILE).absolute()}")
        opened.callback(catalog.close)
        check_not_lost(config.data, catalog.accounts)
        store = open_store(config)
        opened.callback(store.close)
        check_pair(store.highest_number(), catalog.highest_number())  # in this order: a zone is there before its usage
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


def job_of(config: Config, source: Source) -> Job:
    """How a configured source is read; raises `input_invalid`."""
    rules = tuple((identity, *_split(zone)) for identity, zone in source.zones.items())
    return Job(
        format=find_format(config, source.format),
        source_name=source.name,
        account=source.account or None,
        zone=source.zone or None,
        columns=tuple(source.columns.split(",")) if source.columns else (),
        side=Side(source.side) if source.side else None,
        spread=source.spread == "even",
        header_adjust_bytes=source.header_adjust,
        rules=rules,
        # Where each side of a log has a source, what is known of it does not say of which side.
        other_names=None if source.side else frozenset(other.name for other in config.sources) - {source.name},
    )


def check_zones(parts: Parts, job: Job) -> None:
    """Raise `input_invalid` when a job gives its lines to a zone that there is not: all of them would be rejects."""
    named = [(account, zone) for _, account, zone in job.rules]
    if job.account and job.zone:
        named.append((job.account, job.zone))
    for account, zone in named:
        if not parts.catalog.zone(account, zone):
            sentence = f"There is no zone {account}/{zone}: add it, or look at `bandmeter zone list`."
            raise BandmeterError(errors.INPUT_INVALID, sentence)


def _split(target: str) -> tuple[str, str]:
    account, _, zone = target.partition("/")
    return account, zone


def tools_of(parts: Parts, batch_bytes: int) -> Tools:
    """What one thread needs to read batches of so many bytes; to be closed."""
    return Tools(
        parts.store,
        parts.catalog.zones,
        clock_ms,
        parts.config.data,
        batch_bytes,
        version=parts.catalog.version,
        by_host=parts.config.ingest.hosts_per_day > 0,
    )


def ingest(parts: Parts, job: Job, paths: Sequence[str], progress: Callable[[str], Progress]) -> Iterator[FileReport]:
    """Count files (`-`: standard input), each part of them once; a file that cannot be counted stops no other.

    `progress(path)` gives what is called after each batch of that file. Raises `input_invalid` before anything is
    counted when the account or the zone is none.
    """
    check_zones(parts, job)
    with contextlib.closing(tools_of(parts, parts.config.ingest.batch_bytes)) as tools:
        pipeline = Pipeline(tools)
        for path in paths:
            try:
                report = pipeline.ingest(path, job, progress(path))
            except BandmeterError as error:
                report = FileReport(errors.printable(path), error=error.sentence)
            yield report
            if report.is_stopped:
                return


# ---------------------------------------------------------------- serving


def serve(config: Config, when_ready: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM; `when_ready(url)` is called once the first answer has come.

    Raises `unavailable` when the port is taken, `failure` when the workers cannot run.
    """
    # prometheus_client decides when it is imported, here, whether processes count together; where, is said below.
    os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", "")
    # Heavy, and needed by this command only.
    from granian import Granian  # noqa: PLC0415
    from granian.constants import Interfaces  # noqa: PLC0415
    from granian.log import LogLevels  # noqa: PLC0415
    from granian.server.mp import WorkerProcess  # noqa: PLC0415

    from bandmeter import telemetry  # noqa: PLC0415
    from bandmeter.service import feeding, sources  # noqa: PLC0415

    jobs = [job_of(config, source) for source in config.sources]  # what is wrong with one is said here
    sources.check_apart(config, sources.find_all(config))
    _check_port(config.server.host, config.server.port)
    with open_parts(config, create=True) as parts:  # schemas are made here, once, and not by each worker
        for job in jobs:
            check_zones(parts, job)
    telemetry.set_up_logs(clock_ms)
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
    WorkerProcess.is_alive = feeding.is_alive  # type: ignore[method-assign]
    os.register_at_fork(after_in_child=feeding.end_when_told)  # until a worker can finish what it answers
    threading.Thread(target=_announce, args=(config.server, when_ready), daemon=True).start()
    try:
        with feeding.only_one(config) as folder:
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder  # where the workers count together
            with feeding.running(folder):
                server.serve()
    except SystemExit as error:
        if server.interrupt_signal:  # the workers heard of it first, and have not failed
            return
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
    spoken = (
        *spoken,
        native.dialect(
            parts.reports,
            parts.catalog,
            (records.endpoint(taker),),
            followed=tuple(source.name for source in config.sources),
        ),
    )
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
        told=feed.told if os.environ.get(feeding.SOCKET) else None,
        kept_bytes=config.server.kept_bytes,
    )


def health(parts: Parts) -> list[str]:
    """Why this process cannot answer now, a sentence each; empty when it can."""
    problems = []
    for name, look in (("catalog", parts.catalog.version), ("usage store", parts.store.committed_ms)):
        try:
            look()
        except BandmeterError as error:
            problems.append(error.sentence)
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
            when_ready(f"http://{host}:{server.port}")
            return
        finally:
            connection.close()


def _check_port(host: str, port: int) -> None:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        sentence = f"Cannot listen on {host}:{port} ({error.strerror}): choose others with --host and --port."
        raise BandmeterError(errors.UNAVAILABLE, sentence) from error
