"""Requests/s of `/zone/bw` with two workers against one, in the same run.

Two workers and the load generator want three processors. On a machine with fewer, the generator takes time from what
it measures, and more of it when the server is faster. So two figures are told. On the clock: what a client sees. By
processor time: how many requests the workers' own processor seconds pay for, times how many workers there are; that
leaves the generator out, and shows whether two workers get in each other's way (locks, caches), which is the question.
"""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

from bench import answers, load, measure

WORKERS = (1, 2)
SHAPE = (1_000, 60)  # zones, days
TICKS = os.sysconf("SC_CLK_TCK")


class Rate(NamedTuple):
    """Requests a second on the clock, and a second of the workers' processor time."""

    on_clock: float
    by_cpu: float


def main() -> None:
    """Measure alternately, so that what else the machine does meets both alike."""
    cores = os.cpu_count() or 1
    with tempfile.TemporaryDirectory(prefix="bench-") as root:
        folder = Path(root)
        folder.chmod(0o700)
        key, names = answers.fill(folder, *SHAPE)
        asked = answers.requests(key, names)
        found: dict[int, list[Rate]] = {count: [] for count in WORKERS}
        for _ in range(measure.RUNS):
            for count in WORKERS:
                found[count].append(_rate(folder, asked, count))
    clocks = {count: measure.median([rate.on_clock for rate in rates]) for count, rates in found.items()}
    paid = {count: count * measure.median([rate.by_cpu for rate in rates]) for count, rates in found.items()}
    rows = [
        {
            "workers": count,
            "requests/s": int(clocks[count]),
            "of one worker": clocks[count] / clocks[1],
            "by processor time, requests/s": int(paid[count]),
            "of one worker's": paid[count] / paid[1],
        }
        for count in WORKERS
    ]
    measure.report("workers", rows)
    if cores <= max(WORKERS):
        print(f"{cores} processors for {max(WORKERS)} workers and the load generator: the clock's figure is too low.")


def _rate(folder: Path, asked: list[bytes], workers: int) -> Rate:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = os.environ | {"BANDMETER_DATA": str(folder), "BANDMETER_NOW": answers.NOW}
    command = [str(answers.BIN / "bandmeter"), "serve", "--port", str(port), "--workers", str(workers)]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()  # Listening on …
            load.requests_per_s(port, asked, 0.5)
            before = _cpu_s(process.pid)
            rate = load.requests_per_s(port, asked, answers.SECONDS, load.CONNECTIONS * workers)
            spent = _cpu_s(process.pid) - before
        finally:
            process.terminate()
    return Rate(rate, rate * answers.SECONDS / spent)


def _cpu_s(pid: int) -> float:
    """Seconds of processor that a process' children have had."""
    children = [
        child for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]
    ticks = 0
    for child in children:
        fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])  # utime and stime
    return ticks / TICKS


if __name__ == "__main__":
    main()
