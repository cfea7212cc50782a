"""Lines/s of the whole `bandmeter ingest`, against bare DuckDB on the same file, and GoAccess where it is installed.

Also the bytes on disk per 5-minute row that the ingest leaves.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

from bench import bare, measure, traffic

LINES = 2_000_000
BANDMETER = str(Path(sys.executable).parent / "bandmeter")
DATA = Path(__file__).parent / "data"
# GoAccess in its own words for Squid's format.
SQUID_FORMAT = ["--log-format=%x.%^ %~%L %h %^/%s %b %m %U %e %^", "--datetime-format=%s"]


def logs() -> Path:
    """The folder with the generated logs, made once."""
    if not (DATA / "truth_zone.tsv").exists():
        DATA.mkdir(exist_ok=True)
        traffic.write(DATA, LINES)
    return DATA


def catalog(folder: Path) -> Path:
    """A catalog with the generated zones."""
    zones: dict[str, list[str]] = {}
    for line in (folder / "truth_zone.tsv").read_text().splitlines():
        name = line.split("\t")[0]
        if name != "-":
            account, zone = name.removeprefix("cust-").split("-zone-")
            zones.setdefault(account, []).append(zone)
    document = {"accounts": [{"id": a, "zones": [{"name": z} for z in names]} for a, names in zones.items()]}
    path = folder / "catalog.json"
    path.write_text(json.dumps(document))
    return path


def main() -> None:
    folder = logs()
    document = catalog(folder)
    commands = {
        "bandmeter ingest": [BANDMETER, "ingest", "--format", "tsv", "--columns", ",".join(bare.COLUMNS)],
        "bare DuckDB": [sys.executable, str(Path(__file__).parent / "bare.py")],
    }
    if shutil.which("goaccess"):
        commands["GoAccess"] = ["goaccess", "--no-global-config", *SQUID_FORMAT, "-o", "/dev/null.json"]
    runs: dict[str, list[measure.Run]] = {name: [] for name in commands}
    size_bytes = rows_5m = 0
    for _ in range(measure.RUNS):
        for name, command in commands.items():
            with tempfile.TemporaryDirectory(prefix="bench-", dir=folder) as data:
                env = {"BANDMETER_DATA": data, "BANDMETER_NOW": "2026-11-23T00:00:00Z"}
                file = folder / ("access.log" if name == "GoAccess" else "access_ext.tsv")
                if name == "bandmeter ingest":
                    subprocess.run(
                        [BANDMETER, "--data", data, "apply", str(document)],
                        check=True,
                        stdout=subprocess.DEVNULL,
                    )
                if name == "GoAccess":
                    command = [*command[:-1], f"{data}/report.json"]  # noqa: PLW2901
                runs[name].append(measure.timed([*command, str(file)], env))
                if name == "bandmeter ingest":
                    size_bytes, rows_5m = _disk(Path(data) / "usage.db")
    ours = measure.median([r.wall_s for r in runs["bandmeter ingest"]])
    measure.report(
        "ingest",
        [
            {
                "command": name,
                "lines/s": int(LINES / measure.median([r.wall_s for r in done])),
                "seconds": measure.median([r.wall_s for r in done]),
                "cpu seconds": measure.median([r.cpu_s for r in done]),
                "peak MB": int(measure.median([r.peak_mb for r in done])),
                "bandmeter is": f"{measure.median([r.wall_s for r in done]) / ours:.2f} times as fast",
            }
            for name, done in runs.items()
        ],
    )
    measure.report("disk", [{"5-minute rows": rows_5m, "bytes": size_bytes, "bytes a row": size_bytes / rows_5m}])


def _disk(path: Path) -> tuple[int, int]:
    db = sqlite3.connect(path)
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    (rows,) = db.execute("SELECT count(*) FROM usage_5m").fetchone()
    db.close()
    return path.stat().st_size, rows


if __name__ == "__main__":
    main()
