"""The two databases of a data folder, and with which schemas they are."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence, Sized
from pathlib import Path
from typing import NamedTuple

from bandmeter.catalog import connect
from bandmeter.domain import errors
from bandmeter.domain.errors import BandmeterError
from bandmeter.store.sqlite import migrations

CATALOG_FILE = "catalog.db"
USAGE_FILE = "usage.db"
# Usage first: it names zones by their numbers, so what is read of the catalog must be as late, or later.
FILES = (USAGE_FILE, CATALOG_FILE)
STAGING = "restore.unfinished"  # a folder in the data folder, while a restore has not finished


class Schema(NamedTuple):
    """A database's file, the schema that it is in ("": there is none), and those that this release knows, in order."""

    file: str
    stored: str
    known: Sequence[str]

    @property
    def is_current(self) -> bool:
        """Whether there is nothing to bring up to date."""
        return self.stored == self.known[-1]


def check_finished(folder: Path) -> None:
    """Raise `input_invalid` for a data folder in which a restore was stopped in the middle, or still runs."""
    if (folder / STAGING).exists():
        sentence = f"A restore into {folder} has not finished: give the same `bandmeter restore` once more."
        raise BandmeterError(errors.INPUT_INVALID, sentence)


def check_not_lost(folder: Path, accounts: Callable[[], Sized]) -> None:
    """Refuse a folder whose usage is gone while its catalog has accounts: a new one would answer 0 for all of it.

    Raises `input_invalid`. Both are made by the same command, the usage before the first account.
    """
    path = folder / USAGE_FILE
    if not path.exists() and (count := len(accounts())):
        sentence = (
            f"{path} is gone, and {CATALOG_FILE} beside it has {count} account{'s' if count > 1 else ''}: bring"
            f" it back, from a backup with `bandmeter restore`, or begin with no usage by `touch {path}`."
        )
        raise BandmeterError(errors.INPUT_INVALID, sentence)


def check_pair(used: int, known: int) -> None:
    """Refuse a catalog that is older than the usage: it would give a number out again, and with it another's traffic.

    `used`: the highest number of a zone in the usage; `known`: the highest that a zone of the catalog has.
    Raises `input_invalid`.
    """
    if used > known:
        sentence = (
            f"{USAGE_FILE} knows of zone number {used}, and {CATALOG_FILE} knows numbers up to {known}: they"
            " are not of one backup. Restore both from the same one."
        )
        raise BandmeterError(errors.INPUT_INVALID, sentence)


def schema(path: Path) -> Schema:
    """The schema of a database, which is not changed.

    Raises `input_invalid` for one of a newer release, `unavailable` when it cannot be read.
    """
    stored_of, known = _READERS[path.name]
    try:
        found = Schema(path.name, stored_of(path), known())
    except (OSError, sqlite3.Error) as error:
        raise BandmeterError(errors.UNAVAILABLE, f"{path} is no database of ours ({error}).") from error
    if found.stored:
        check_known(path, found.stored)
    return found


def check_known(path: Path, stored: str) -> None:
    """Raise `input_invalid` for a schema that this release does not know: a newer one made it."""
    known = _READERS[path.name][1]()
    if stored not in known:
        sentence = f"{path} has schema {stored[:40]}, newer than {known[-1]}: use the newer release."
        raise BandmeterError(errors.INPUT_INVALID, sentence)


def _usage_version(path: Path) -> str:
    return str(migrations.version_of(path) or "")


def _usage_versions() -> list[str]:
    return [str(number) for number in range(migrations.FIRST, migrations.newest() + 1)]


_READERS: dict[str, tuple[Callable[[Path], str], Callable[[], list[str]]]] = {
    USAGE_FILE: (_usage_version, _usage_versions),
    CATALOG_FILE: (connect.revision_of, connect.revisions),
}
