"""A running demo, as `make demo` starts it, in a copy of its folder."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS_MAX = 120  # a demo that takes longer hangs


class Demo(NamedTuple):
    """A demo that serves; `shown` is what it has printed so far, `data` its data folder."""

    process: subprocess.Popen[str]
    root: Path
    port: int
    key: str
    shown: str

    @property
    def data(self) -> Path:
        return self.root / "demo-data" / str(self.port)

    def stop(self) -> int:
        """Ctrl-C; the exit status."""
        self.process.send_signal(signal.SIGINT)
        self.process.communicate(timeout=START_SECONDS_MAX)
        return self.process.returncode


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def read_until_ready(process: subprocess.Popen[str]) -> str:
    """What a starting demo prints, to its last line."""
    guard = threading.Timer(START_SECONDS_MAX, process.kill)
    guard.start()
    lines = []
    for line in process.stdout or ():
        lines.append(line)
        if line.startswith("Ctrl-C stops it"):
            break
    guard.cancel()
    return "".join(lines)


@contextlib.contextmanager
def serving(root: Path, port: int, now: str | None) -> Iterator[Demo]:
    """Start a demo on the copy in `root`, and make sure that it is gone afterwards."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("BANDMETER_")} | {"DEMO_PORT": str(port)}
    process = subprocess.Popen(
        [sys.executable, "demo/run.py"],
        cwd=root,
        env=environment | ({"BANDMETER_NOW": now} if now else {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        shown = read_until_ready(process)
        found = re.search(r"^Address: http://127\.0\.0\.1:(\d+) .*\nKey: +(\S+)", shown, re.MULTILINE)
        assert found, f"the demo did not start:\n{shown}"
        yield Demo(process, root, int(found[1]), found[2], shown)
    finally:
        process.terminate()
        process.communicate(timeout=START_SECONDS_MAX)


@pytest.fixture(scope="session")
def demo_copy(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """Make a fresh folder that holds nothing of the project but `demo/`."""

    def make() -> Path:
        root = tmp_path_factory.mktemp("demo")
        shutil.copytree(ROOT / "demo", root / "demo", ignore=shutil.ignore_patterns("__pycache__"))
        return root

    return make


@pytest.fixture(scope="session")
def serve_demo(demo_copy: Callable[[], Path]) -> Callable[..., contextlib.AbstractContextManager[Demo]]:
    """Start a demo: `with serve_demo(now=…, port=…) as demo`."""

    def start(now: str | None = None, port: int | None = None) -> contextlib.AbstractContextManager[Demo]:
        return serving(demo_copy(), port or free_port(), now)

    return start


class Served(NamedTuple):
    """A running `bandmeter serve`; `log` is its standard error, a file."""

    process: subprocess.Popen[str]
    url: str
    log: Path

    def workers(self) -> list[int]:
        """The processes that answer: all that were started but the one that ingests."""
        tasks = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        children = sorted(int(child) for task in tasks for child in task.read_text().split())
        return [child for child in children if b"feeding.run" not in Path(f"/proc/{child}/cmdline").read_bytes()]


@contextlib.contextmanager
def serving_folder(data: Path, log: Path, workers: int, **environment: str) -> Iterator[Served]:
    """`bandmeter serve` on a free port, and gone afterwards."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("BANDMETER_", "PROMETHEUS_"))}
    options = ["--port", str(free_port()), "--workers", str(workers)]
    with log.open("w") as errors:
        process = subprocess.Popen(
            [Path(sys.executable).parent / "bandmeter", "--data", data, "serve", *options],
            env=clean | environment,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        guard = threading.Timer(START_SECONDS_MAX, process.kill)
        guard.start()
        try:
            line = (process.stdout or io.StringIO()).readline()
            guard.cancel()
            assert line.startswith("Listening on "), log.read_text()
            yield Served(process, line.split()[-1], log)
        finally:
            guard.cancel()
            process.terminate()
            process.communicate(timeout=START_SECONDS_MAX)


@pytest.fixture(scope="session")
def serve_folder() -> Callable[..., contextlib.AbstractContextManager[Served]]:
    """Serve a data folder: `with serve_folder(data, log, workers, BANDMETER_NOW=…) as served`."""
    return serving_folder
