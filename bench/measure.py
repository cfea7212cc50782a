"""Run commands in turn, and say what their medians were."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any, NamedTuple

RUNS = int(os.environ.get("BENCH_RUNS", "5"))
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # where it is set, every command would compile all of its modules anew


class Run(NamedTuple):
    """One finished command: seconds on the clock, seconds of processor, and the peak of memory in MB."""

    wall_s: float
    cpu_s: float
    peak_mb: float


def timed(command: list[str], env: dict[str, str] | None = None) -> Run:
    """Run a command to its end; it must succeed."""
    start = time.perf_counter()
    process = subprocess.Popen(command, env=os.environ | (env or {}), stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    wall_s = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command[0]} failed with status {process.returncode}")
    return Run(wall_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def median(values: list[float]) -> float:
    """The median."""
    return statistics.median(values)


def report(name: str, rows: list[dict[str, Any]]) -> None:
    """Print a table, and keep it as JSON in bench/results."""
    columns = list(rows[0])
    cells = [[_cell(row[column]) for column in columns] for row in rows]
    widths = [max(len(c), *(len(row[i]) for row in cells)) for i, c in enumerate(columns)]
    busy = f"load average {os.getloadavg()[1]:.0f}"  # more than the benchmark's own two: others' work is in the figures
    print(f"\n{name}  ({platform.machine()}, {os.cpu_count()} cores, {busy}, medians of {RUNS})")
    for first, *others in [columns, *cells]:
        numbers = (cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))
        print("  ".join([first.ljust(widths[0]), *numbers]))
    folder = Path(__file__).parent / "results"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps({"name": name, "runs": RUNS, "rows": rows}, indent=1) + "\n")


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.3f}" if value < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
