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
WITHOUT_HOSTS = "  without target hosts"
OURS = ("bandmeter ingest", WITHOUT_HOSTS)
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
    ours = [BANDMETER, "ingest", "--format", "tsv", "--columns", ",".join(bare.COLUMNS)]
    commands = {
        "bandmeter ingest": ours,
        WITHOUT_HOSTS: ours,
        "bare DuckDB": [sys.executable, str(Path(__file__).parent / "bare.py")],
    }
    if shutil.which("goaccess"):
        commands["GoAccess"] = ["goaccess", "--no-global-config", "--no-progress", *SQUID_FORMAT, "-o"]
    runs: dict[str, list[measure.Run]] = {name: [] for name in commands}
    disk = {}
    for _ in range(measure.RUNS):
        for name, command in commands.items():
            with tempfile.TemporaryDirectory(prefix="bench-", dir=folder) as data:
                env = {"BANDMETER_DATA": data, "BANDMETER_NOW": "2026-11-23T00:00:00Z"}
                file = folder / "access_ext.tsv"
                if name == "GoAccess":
                    file = folder / "access.log"
                    command = [*command, f"{data}/report.json"]  # noqa: PLW2901
                if command == ours:
                    if name == WITHOUT_HOSTS:
                        (Path(data) / "bandmeter.toml").write_text("[ingest]\nhosts_per_day = 0\n")
                    apply = [BANDMETER, "--data", data, "apply", str(document)]
                    subprocess.run(apply, check=True, stdout=subprocess.DEVNULL)
                runs[name].append(measure.timed([*command, str(file)], env))
                if command == ours:
                    disk[name] = _disk(Path(data) / "usage.db")
    wall_s = {name: measure.median([r.wall_s for r in done]) for name, done in runs.items()}
    measure.report(
        "ingest",
        [
            {
                "command": name,
                "lines/s": int(LINES / wall_s[name]),
                "seconds": wall_s[name],
                "cpu seconds": measure.median([r.cpu_s for r in done]),
                "peak MB": int(measure.median([r.peak_mb for r in done])),
                **{f"of {peer}": f"{wall_s[peer] / wall_s[name]:.2f}" for peer in wall_s if peer not in OURS},
            }
            for name, done in runs.items()
        ],
    )
    rows = [{"": name, "5-minute rows": n, "bytes": b, "bytes a row": b / n} for name, (b, n) in disk.items()]
    measure.report("disk", rows)


def _disk(path: Path) -> tuple[int, int]:
    db = sqlite3.connect(path)
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    (rows,) = db.execute("SELECT count(*) FROM usage_5m").fetchone()
    db.close()
    return path.stat().st_size, rows


if __name__ == "__main__":
    main()
