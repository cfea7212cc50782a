"""Logs as proxies write them and rotation treats them; every line is whole in the end, in one file or its copy."""

from __future__ import annotations

import gzip
import random
import shutil
import threading
from pathlib import Path

from crash import truth

LINES_MAX = 40  # of one write
ROTATED_SHARE = 0.1  # of writes that a rotation follows
PAUSE_SECONDS = 0.02  # between two writes
FORMS = {"rename": "tsv", "gz": "jsonl", "copy": "jsonl", "dated": "tsv"}
SLICES = 3  # in which a copy is made


def settings(folder: Path) -> str:
    """The sources of these logs, as bandmeter.toml names them."""
    table = '[[source]]\nname = "{style}"\nformat = "{form}"\npath = "{folder}/{style}/*.log*"\n'
    columns = f'columns = "{truth.COLUMNS}"\n'
    return "\n".join(
        table.format(style=style, form=form, folder=folder) + (columns if form == "tsv" else "")
        for style, form in FORMS.items()
    )


class Log:
    """One log. `sums`: what all of its lines add up to."""

    def __init__(self, folder: Path, clock: truth.Clock, style: str, seed: str) -> None:
        self.sums = truth.Sums()
        self._clock = clock
        self._folder, self.style = folder / style, style
        self._draw = random.Random(f"{seed} {style}")
        self._number = 0
        self._rest = b""  # of a line that was begun
        self._folder.mkdir(parents=True)
        self._path = self._folder / "access.log"
        if style == "dated":
            self._path = self._folder / "access-0.log"
        self._file = self._path.open("ab", buffering=0)

    def write(self) -> None:
        """Some lines; the last may be torn, and goes on with the next write."""
        content, sums = truth.make(self._draw, self._draw.randrange(1, LINES_MAX), FORMS[self.style], self._clock)
        self.sums.add(sums)
        content = self._rest + content
        cut = len(content) - self._draw.choice((0, 0, 1, self._draw.randrange(60)))
        self._file.write(content[:cut])
        self._rest = content[cut:]

    def finish(self) -> None:
        """The rest of a torn line."""
        self._file.write(self._rest)
        self._rest = b""

    def rotate(self) -> None:
        """As the style has it."""
        self._number += 1
        rotated = self._folder / f"access.log.{self._number}"
        if self.style == "copy":
            self.finish()
            self._copy(rotated)
            self._file.truncate(0)
            return
        if self.style == "dated":
            self._path = self._folder / f"access-{self._number}.log"
        else:
            self._path.rename(rotated)
        self.write()  # into the file that has lost its name: a proxy does so until it opens the next
        self.finish()
        self._file.close()
        self._file = self._path.open("ab", buffering=0)
        if self.style == "gz":
            self._compress(rotated)

    def _copy(self, to: Path) -> None:
        content = self._path.read_bytes()
        step = len(content) // SLICES + 1
        with to.open("wb", buffering=0) as file:
            for start in range(0, len(content), step):
                file.write(content[start : start + step])

    @staticmethod
    def _compress(path: Path) -> None:
        with path.open("rb") as plain, gzip.open(f"{path}.gz", "wb", 1) as packed:
            shutil.copyfileobj(plain, packed, 20_000)
        path.unlink()

    def clean(self) -> None:
        """Delete what was rotated away, as rotation does in the end."""
        for path in self._folder.iterdir():
            if path != self._path:
                path.unlink()

    def close(self) -> None:
        self._file.close()


class Writers:
    """All styles of logs, written by one thread while it runs."""

    def __init__(self, folder: Path, clock: truth.Clock, seed: str) -> None:
        self.logs = [Log(folder, clock, style, seed) for style in FORMS]
        self._draw = random.Random(seed)
        self._is_running = threading.Event()
        self._has_ended = threading.Event()
        self._turn = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="writers", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def resume(self) -> None:
        self._is_running.set()

    def pause(self) -> None:
        """Write no more; every line is whole."""
        self._is_running.clear()
        with self._turn:
            for log in self.logs:
                log.finish()

    def clean(self) -> None:
        for log in self.logs:
            log.clean()

    def end(self) -> None:
        self._has_ended.set()
        self._is_running.set()
        self._thread.join()
        for log in self.logs:
            log.close()

    def _run(self) -> None:
        while not self._has_ended.is_set():
            with self._turn:
                if self._is_running.is_set():
                    log = self._draw.choice(self.logs)
                    log.write()
                    if self._draw.random() < ROTATED_SHARE:
                        log.rotate()
            self._has_ended.wait(self._draw.random() * PAUSE_SECONDS)
            self._is_running.wait()
