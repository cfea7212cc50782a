"""The servers that are measured, each on a free port, and the processor time that they take."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

BIN = Path(sys.executable).parent
ROOT = Path(__file__).parent.parent
TICKS = os.sysconf("SC_CLK_TCK")
SERVER_CPU, GENERATOR_CPU = 0, 1


class Server(NamedTuple):
    """A running server: one process that started the workers, which are its children."""

    port: int
    pid: int

    def cpu_s(self) -> float:
        """Seconds of processor that the workers have had."""
        return sum(map(_cpu_s, _children(self.pid)))


def _children(pid: int) -> list[str]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [child for task in tasks for child in (task / "children").read_text().split()]


def _cpu_s(pid: str) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS  # utime and stime


def pin_generator() -> None:
    """Put this process, which generates the load, on a processor of its own where there are two."""
    if (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(0, {GENERATOR_CPU})


def _pinned(command: list[str], *, everywhere: bool = False) -> list[str]:
    """The command on the server's processor, or on all; by itself it would run on the generator's."""
    cores = os.cpu_count() or 1
    where = f"0-{cores - 1}" if everywhere else str(SERVER_CPU)
    return ["taskset", "-c", where, *command] if cores > 1 else command


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def empty() -> Iterator[Server]:
    """The limit: an empty Starlette answer on the same granian, with one worker, on one processor."""
    port = _free_port()
    options = ["--interface", "asgi", "--port", str(port), "--no-ws", "--log-level", "warning"]
    command = [str(BIN / "granian"), *options, "bench.empty:app"]
    with subprocess.Popen(_pinned(command), cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}) as process:
        try:
            while True:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
            yield Server(port, process.pid)
        finally:
            process.terminate()
            process.wait()


@contextlib.contextmanager
def bandmeter(
    folder: Path, now: str, *, workers: int = 1, keeps: bool = True, is_pinned: bool = True
) -> Iterator[Server]:
    """`bandmeter serve`, with kept replies or without; pinned to the processor that the empty answer has."""
    port = _free_port()
    env = os.environ | {"BANDMETER_DATA": str(folder), "BANDMETER_NOW": now}
    if not keeps:
        env["BANDMETER_SERVER_KEPT_BYTES"] = "0"
    command = [str(BIN / "bandmeter"), "serve", "--port", str(port), "--workers", str(workers)]
    with subprocess.Popen(
        _pinned(command, everywhere=not is_pinned), env=env, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()  # Listening on …
            yield Server(port, process.pid)
        finally:
            process.terminate()
            process.wait()
