"""A backup becomes a data folder again.

What was there is kept until the copies are whole and checked, and afterwards, in a folder of its own. A restore that
is stopped in the middle leaves its folder `restore.unfinished` behind: while it is there nothing opens the databases,
of which one may be new and the other old, and the same command does all of it again.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import hashlib
import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from bandmeter.config import FILE_NAME
from bandmeter.domain import errors
from bandmeter.domain.errors import BandmeterError
from bandmeter.upkeep.backup import READ_BYTES, File, Manifest, Progress, check_room, read_manifest, sync
from bandmeter.upkeep.databases import FILES, STAGING

REPLACED = "replaced-"
JOURNALS = ("", "-wal", "-shm", "-journal")  # what belongs to a database's file
FOLDER_MODE = 0o700


class Restored(NamedTuple):
    """What a restore did. `replaced`: where the databases are that were there before, if any were."""

    manifest: Manifest
    replaced: Path | None
    kept_settings: bool


def restore(source: Path, folder: Path, now_s: int, progress: Progress, *, overwrite: bool = False) -> Restored:
    """Put the databases of a backup into a data folder, and its settings where there are none.

    Raises `input_invalid` for a backup that is not whole or of a newer release, `conflict` when the folder has
    databases and `overwrite` does not say to replace them, or when they are in use, `unavailable` when the disk does
    not do what is asked of it. Then the folder is as it was.
    """
    manifest = read_manifest(source)
    with _told(folder):
        folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    with _told(folder), _locked(folder):
        staging = folder / STAGING
        # A journal alone counts too: SQLite would take it for one of the database that is put beside it.
        present = [file for file in FILES if any((folder / f"{file}{journal}").exists() for journal in JOURNALS)]
        was_unfinished = staging.exists()
        if present and not overwrite and not was_unfinished:
            sentence = f"{folder} has a {present[0]} already: name another folder with --data, or say --overwrite."
            raise BandmeterError(errors.CONFLICT, sentence)
        kept_settings = FILE_NAME in manifest.files and (folder / FILE_NAME).exists()
        names = [name for name in manifest.files if name != FILE_NAME or not kept_settings]
        try:
            staging.mkdir(mode=FOLDER_MODE, exist_ok=True)
            for left in staging.iterdir():
                left.unlink()
            check_room(folder, sum(file.bytes for file in manifest.files.values()))
            sync(folder)
            for file in present:
                if (folder / file).exists():
                    _take_alone(folder / file)
            for name in names:
                _copy(source / name, staging / name, manifest.files[name], progress)
            sync(staging)
        except BaseException:
            if not was_unfinished:  # else it guards what an earlier one has left
                shutil.rmtree(staging, ignore_errors=True)
            raise
        replaced = _set_aside(folder, present, now_s) if present else None
        for name in names:
            (staging / name).rename(folder / name)
        sync(folder)
        shutil.rmtree(staging)
    return Restored(manifest, replaced, kept_settings)


@contextlib.contextmanager
def _told(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        cause = getattr(error, "strerror", None) or error
        sentence = f"Nothing was restored into {folder} ({cause}): check its disk and permissions."
        raise BandmeterError(errors.UNAVAILABLE, sentence) from error


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One restore at a time; the lock ends with the process, however that ends."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BandmeterError(errors.CONFLICT, f"Another restore into {folder} runs: wait for it.") from error
        yield
    finally:
        os.close(descriptor)


def _take_alone(path: Path) -> None:
    """Bring a database's journal into its one file; raises `conflict` while another process has it open."""
    db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=0, isolation_level=None)
    with contextlib.closing(db):
        try:
            db.execute("PRAGMA locking_mode = EXCLUSIVE")  # which no other connection may be beside, idle ones included
            db.execute("BEGIN IMMEDIATE")
            db.execute("ROLLBACK")
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
                return  # which may be why it is to be replaced: set aside as it is
            if error.sqlite_errorcode not in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
                raise
            sentence = f"{path} is in use: stop `serve` and whatever else uses it, then give the command again."
            raise BandmeterError(errors.CONFLICT, sentence) from error


def _copy(source: Path, target: Path, expected: File, progress: Progress) -> None:
    digest = hashlib.sha256()
    try:
        stream = source.open("rb")
    except OSError as error:
        raise BandmeterError(errors.INPUT_INVALID, f"{source} cannot be read ({error.strerror}).") from error
    with stream, target.open("xb") as copy:
        target.chmod(0o600)
        while part := stream.read(READ_BYTES):
            digest.update(part)
            copy.write(part)
            progress(f"Restoring {source.name}", stream.tell(), expected.bytes)
    if digest.hexdigest() != expected.sha256:
        sentence = f"{source} is not what was backed up: its digest differs. Nothing was restored: take another backup."
        raise BandmeterError(errors.INPUT_INVALID, sentence)
    sync(target)


def _set_aside(folder: Path, present: list[str], now_s: int) -> Path:
    """Move databases into a folder of their own."""
    stamp = dt.datetime.fromtimestamp(now_s, dt.UTC).strftime("%Y%m%dT%H%M%SZ")
    number, aside = 1, folder / f"{REPLACED}{stamp}"
    while aside.exists():
        number += 1
        aside = folder / f"{REPLACED}{stamp}-{number}"
    aside.mkdir(mode=FOLDER_MODE)
    for file in present:
        for journal in JOURNALS:
            path = folder / f"{file}{journal}"
            if path.exists():
                path.rename(aside / path.name)
    sync(aside)
    return aside
