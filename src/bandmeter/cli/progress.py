"""How far a long command is: a bar with its speed and the time left, on a terminal only; and Ctrl-C between batches."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from bandmeter.domain.errors import printable

if TYPE_CHECKING:
    from bandmeter.ingest import Progress as Step


class Shown:
    """Shows progress on standard error while it is entered. The first Ctrl-C asks to stop, a second one insists."""

    def __init__(self) -> None:
        self._is_stopping = False
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[lines]:,} lines"),
            TextColumn("{task.fields[rate]:,.0f} lines/s"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
            disable=not sys.stderr.isatty(),
        )

    def __enter__(self) -> Self:
        self._before = {s: signal.signal(s, self._ask_to_stop) for s in (signal.SIGINT, signal.SIGTERM)}
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask_to_stop(self, number: int, _: Any) -> None:
        self._is_stopping = True
        signal.signal(number, self._before[signal.Signals(number)])

    def of(self, path: str) -> Step:
        """What to call after each batch of a file; False once somebody asked to stop."""
        task = self._bar.add_task(printable(path).rpartition("/")[2], total=None, lines=0, rate=0.0)
        already: list[int] = []

        def step(read_bytes: int, size: int, lines: int) -> bool:
            elapsed_s = self._bar.tasks[task].elapsed or 0
            already.append(lines)
            rate = (lines - already[0]) / elapsed_s if elapsed_s else 0.0
            self._bar.update(task, completed=read_bytes, total=max(size, read_bytes), lines=lines, rate=rate)
            return not self._is_stopping

        return step


@contextlib.contextmanager
def bytes_shown() -> Iterator[Callable[[str, int, int], None]]:
    """Show one task after another: what is called with the task, and how many bytes of how many are done."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )
    tasks: dict[str, Any] = {}

    def step(what: str, done: int, total: int) -> None:
        if what not in tasks:
            tasks[what] = bar.add_task(what)
        bar.update(tasks[what], completed=done, total=total)

    with bar:
        yield step
