"""Which files there are for a source, and which source counts each: one that two counted would be counted twice.

A file is told from others by device and inode, as the system does, so it does not matter by which path it is found.
"""

from __future__ import annotations

import contextlib
import glob
import os
import stat
from typing import NamedTuple

from bandmeter.domain.usage import Side


class Identity(NamedTuple):
    """What tells a file from all others that there are at the same time."""

    device: int
    inode: int


class _Counter(NamedTuple):
    source: str
    side: Side | None


class Shares:
    """Which sources count each file. Two may where one counts the target's side and the other the client's."""

    def __init__(self) -> None:
        self._counters: dict[Identity, list[_Counter]] = {}

    def take(self, source: str, side: Side | None, identity: Identity) -> str:
        """Give the file to a source; the name of the one that has it already, and then keeps it, else ""."""
        counters = self._counters.setdefault(identity, [])
        if all(source != other.source for other in counters):
            for other in counters:
                if not (side and other.side) or side == other.side:
                    return other.source
            counters.append(_Counter(source, side))
        return ""


def regular_files(pattern: str) -> list[tuple[str, Identity]]:
    """The regular files that fit, the one that was changed longest ago first."""
    found = []
    for path in glob.glob(pattern, recursive=True):  # noqa: PTH207 - may be absolute
        with contextlib.suppress(OSError):
            status = os.stat(path)  # noqa: PTH116 - as glob gave it
            if stat.S_ISREG(status.st_mode):
                found.append((status.st_mtime_ns, path, identity_of(status)))
    return [(path, identity) for _, path, identity in sorted(found)]


def identity_of(status: os.stat_result) -> Identity:
    """The identity of what was looked at."""
    return Identity(status.st_dev, status.st_ino)
