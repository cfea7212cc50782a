"""Harms a service from inside: Python imports a module of this name first, and tests put it there.

The file that CRASH_AT names holds the name of a point. The process that ingests deletes the file when it comes by that
point, and dies at once; the one that takes its place lives. The file that CRASH_CLOCK names holds by how many seconds
the clock of all processes is wrong.
"""

from __future__ import annotations

import contextlib
import functools
import os
import resource
import signal
import sqlite3
import sys
import time
from pathlib import Path

FRAME_BYTES = 4_096 + 24  # of SQLite's journal: a page and its head
HEADER_BYTES = 32
INDEX_FRAMES = slice(16, 20)  # where the journal's index has the number of its frames


def is_point(name):
    """Whether this is the point, and whoever asks the first to come by."""
    file = Path(os.environ["CRASH_AT"])
    with contextlib.suppress(OSError):
        if file.read_text() == name:
            file.unlink()
            return True
    return False


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def reach(point):
    """Die, if this is the point."""
    if is_point(point):
        die()


def around(owner, name, before="", after=""):
    """Two points: when a function is called, and when it has done its work."""
    function = getattr(owner, name)

    @functools.wraps(function)
    def watched(*arguments, **named):
        reach(before)
        found = function(*arguments, **named)
        reach(after)
        return found

    setattr(owner, name, watched)


class Connection(sqlite3.Connection):
    """A connection with points around its commits, and one in the middle of writing the journal."""

    def execute(self, sql, *arguments):
        if sql != "COMMIT":
            return super().execute(sql, *arguments)
        reach("before the commit")
        is_half = is_point("half a page")
        if is_half:
            self._limit_journal()
        done = super().execute(sql, *arguments)
        if is_half:  # there was room in the journal
            die()
        reach("after the commit")
        return done

    def _limit_journal(self):
        """From now on the kernel ends a process that writes behind the middle of the journal's next page."""
        database = super().execute("PRAGMA database_list").fetchone()[2]
        frames = int.from_bytes(Path(f"{database}-shm").read_bytes()[INDEX_FRAMES], sys.byteorder)
        size = HEADER_BYTES + frames * FRAME_BYTES + FRAME_BYTES // 2
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def set_clock():
    from bandmeter import service  # noqa: PLC0415

    file = Path(os.environ["CRASH_CLOCK"])
    service.clock_ms = lambda: time.time_ns() // 1_000_000 + int(file.read_text()) * 1_000


def prepare_feeder():
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # which Python ignores
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sqlite3.connect = functools.partial(sqlite3.connect, factory=Connection)

    from bandmeter.ingest.batch.decode import Decoder  # noqa: PLC0415
    from bandmeter.ingest.posts import quick, wire  # noqa: PLC0415
    from bandmeter.store.sqlite import writing  # noqa: PLC0415

    around(quick, "read", after="read without a query")
    around(Decoder, "fold", before="before the query", after="after the query")
    around(writing, "add_rows", before="the position has moved", after="the rows are added")
    around(wire, "encode_answer", before="before the answer")


if "CRASH_CLOCK" in os.environ:
    set_clock()
if "CRASH_AT" in os.environ:
    if any("feeding.run" in argument for argument in sys.orig_argv):
        prepare_feeder()
    elif "serve" in sys.orig_argv:
        from bandmeter.service import feeding

        feeding.PAUSES_SECONDS = (0.05,)  # many die here, one after another
