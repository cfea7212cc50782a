"""A copy of both databases, made while others read and write them.

Both are copied as they were at one moment, in a read transaction each, the usage store's first: whatever zone it names,
a catalog of the same moment or later knows. Nobody waits for the copy.

A backup is whole or not there: it grows in a folder beside it, whose name ends in `.partial`, and gets its own name
last, when every file is checked and on the disk, and `backup.json` says what belongs to it, with digests.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from bandmeter import __version__
from bandmeter.config import FILE_NAME
from bandmeter.domain import errors
from bandmeter.domain.errors import BandmeterError
from bandmeter.upkeep import databases
from bandmeter.upkeep.databases import FILES

MANIFEST = "backup.json"
MANIFEST_BYTES_MAX = 65_536  # three files are named in it
PARTIAL = ".partial"
COPIED_PAGES = 2_560  # at a time: 10 MiB, so that progress shows several times a second
READ_BYTES = 1 << 20
ROOM_BYTES = 16 * 2**20  # that must be free beside the copies themselves

# Called with what is being done, and how many bytes of how many are.
Progress = Callable[[str, int, int], None]


class File(msgspec.Struct, frozen=True):
    """A file of a backup; `schema` "" where it has none."""

    bytes: int
    sha256: str
    schema: str = ""


class Manifest(msgspec.Struct, frozen=True):
    """What a backup holds: by which release, as of when (ISO 8601, UTC), and its files by name."""

    bandmeter: str
    created: str
    files: dict[str, File]


class _Snapshot(NamedTuple):
    """A database, open at one moment."""

    file: str
    db: sqlite3.Connection
    size: int


def back_up(folder: Path, target: Path, now_s: int, progress: Progress) -> Manifest:
    """Copy the databases of a data folder, and its settings, into the new folder `target`.

    Raises `input_invalid` when there is nothing to copy or `target` cannot be made, `unavailable` when the disk does
    not do what is asked of it, `failure` when a database is damaged. Then nothing is left behind.
    """
    databases.check_finished(folder)
    for file in FILES:
        if not (folder / file).exists():
            sentence = f"There is no {folder / file}: name the data folder with --data or BANDMETER_DATA."
            raise BandmeterError(errors.INPUT_INVALID, sentence)
    with _told(target), _snapshots(folder) as snapshots:
        _check_target(target)
        check_room(target.parent, sum(snapshot.size for snapshot in snapshots))
        partial = Path(tempfile.mkdtemp(prefix=f"{target.name}.", suffix=PARTIAL, dir=target.parent))
        try:
            files = {snapshot.file: _copy(snapshot, partial / snapshot.file, progress) for snapshot in snapshots}
            if (folder / FILE_NAME).exists():
                shutil.copyfile(folder / FILE_NAME, partial / FILE_NAME)
                (partial / FILE_NAME).chmod(0o600)
                files[FILE_NAME] = _describe(partial / FILE_NAME, "", progress)
            created = dt.datetime.fromtimestamp(now_s, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            manifest = Manifest(__version__, created, files)
            (partial / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest)) + b"\n")
            (partial / MANIFEST).chmod(0o600)
            sync(partial / MANIFEST)
            sync(partial)
            partial.rename(target)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        sync(target.parent)
    return manifest


def read_manifest(source: Path) -> Manifest:
    """What a backup says it holds; raises `input_invalid` for no whole one, and for a newer release's."""
    try:
        with (source / MANIFEST).open("rb") as stream:
            manifest = msgspec.json.decode(stream.read(MANIFEST_BYTES_MAX), type=Manifest)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        sentence = f"{source} is no backup, or not a whole one: its {MANIFEST} cannot be read."
        raise BandmeterError(errors.INPUT_INVALID, sentence) from error
    if not set(FILES) <= set(manifest.files) <= {*FILES, FILE_NAME}:
        raise BandmeterError(errors.INPUT_INVALID, f"{source / MANIFEST} does not name the files of a backup.")
    for file in FILES:
        databases.check_known(source / file, manifest.files[file].schema)
    return manifest


def _check_target(target: Path) -> None:
    if target.is_dir() and not any(target.iterdir()):
        return
    if target.exists() or target.is_symlink():
        sentence = f"{target} exists: a backup gets a folder of its own, so name a new one."
        raise BandmeterError(errors.INPUT_INVALID, sentence)
    if not target.absolute().parent.is_dir():  # not made: it may be a disk that is not mounted
        raise BandmeterError(errors.INPUT_INVALID, f"There is no folder {target.absolute().parent}: make it first.")


@contextlib.contextmanager
def _told(target: Path) -> Iterator[None]:
    """Tell what the disk or SQLite says in a sentence."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        is_passing = isinstance(error, sqlite3.OperationalError)  # locked, full, unreadable; else it is damaged
        code = errors.UNAVAILABLE if is_passing else errors.FAILURE
        raise BandmeterError(code, f"No backup was made ({error}): look with `bandmeter doctor`.") from error
    except OSError as error:
        sentence = f"No backup was made in {target} ({error.strerror or error}): check its disk and permissions."
        raise BandmeterError(errors.UNAVAILABLE, sentence) from error


@contextlib.contextmanager
def _snapshots(folder: Path) -> Iterator[list[_Snapshot]]:
    """Both databases, each in a read transaction, in the order of `databases.FILES`."""
    with contextlib.ExitStack() as opened:
        snapshots = []
        for file in FILES:
            address = f"{(folder / file).absolute().as_uri()}?mode=rw"  # the last to close it tidies its journal away
            db = opened.enter_context(contextlib.closing(sqlite3.connect(address, uri=True, isolation_level=None)))
            db.execute("BEGIN")
            (pages,) = db.execute("PRAGMA page_count").fetchone()  # reads, and so holds the moment
            (page_bytes,) = db.execute("PRAGMA page_size").fetchone()
            snapshots.append(_Snapshot(file, db, pages * page_bytes))
        yield snapshots


def _copy(snapshot: _Snapshot, path: Path, progress: Progress) -> File:
    """Copy one database, and check the copy."""
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))

    def step(_: int, remaining: int, total: int) -> None:
        progress(f"Copying {snapshot.file}", (total - remaining) * snapshot.size // max(total, 1), snapshot.size)

    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as copy:
        copy.execute("PRAGMA synchronous = OFF")  # one sync at the end is enough: until then it is no backup
        copy.execute("PRAGMA journal_mode = OFF")
        snapshot.db.backup(copy, pages=COPIED_PAGES, progress=step)
        copy.execute(
            "PRAGMA journal_mode = DELETE"
        )  # so that it is one file, and may be read where none can be written
        progress(f"Checking {snapshot.file}", 0, snapshot.size)
        faults = [fault for (fault,) in copy.execute("PRAGMA integrity_check(1)") if fault != "ok"]
        if faults:
            sentence = f"{snapshot.file} is damaged ({faults[0]}), so no backup was made: restore it from an older one."
            raise BandmeterError(errors.FAILURE, sentence)
    sync(path)
    return _describe(path, databases.schema(path).stored, progress)


def _describe(path: Path, schema: str, progress: Progress) -> File:
    size = path.stat().st_size
    with path.open("rb") as stream:
        digest = hashlib.sha256()
        while part := stream.read(READ_BYTES):
            digest.update(part)
            progress(f"Checking {path.name}", stream.tell(), size)
    return File(size, digest.hexdigest(), schema)


def check_room(folder: Path, size: int) -> None:
    """Raise `unavailable` when so many bytes do not fit on the folder's disk."""
    free = shutil.disk_usage(folder).free
    if free < size + ROOM_BYTES:
        sentence = f"{folder} has {free / 10**9:.2f} GB free, and {(size + ROOM_BYTES) / 10**9:.2f} GB are needed."
        raise BandmeterError(errors.UNAVAILABLE, sentence)


def sync(path: Path) -> None:
    """Have a file, or a folder's entries, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
