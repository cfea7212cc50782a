"""Rotation as Debian's logrotate does it, with the proxy's own command to reopen its logs."""

from __future__ import annotations

import subprocess
from pathlib import Path

from proxies.running import Place

RULES = """
{logs} {{
    rotate 9
    size 1
    missingok
    compress
    delaycompress
    {how}
}}
"""
REOPEN = """sharedscripts
    postrotate
        {command}
    endscript"""


class Rotation:
    """Renames logs to `….1`, and what had that name before to `….2.gz`."""

    def __init__(self, place: Place, logs: tuple[str, ...], reopen: str, folder: Path) -> None:
        self._place = place
        self._logs = [place.folder / log for log in logs]
        self.is_renaming = bool(reopen)
        # In a folder of its own: logrotate heeds no rules that others than its own user could have written.
        self._rules, self._state = folder / "logrotate.conf", folder / "logrotate.state"
        how = REOPEN.format(command=reopen) if reopen else "copytruncate"
        self._rules.write_text(RULES.format(logs=" ".join(map(str, self._logs)), how=how))

    def rotate(self) -> None:
        subprocess.run(["logrotate", "--state", self._state, self._rules], check=True, capture_output=True)

    def wait_until_reopened(self) -> None:
        """The renamed file is finished when the next one has a line."""
        if self.is_renaming:
            self._place.wait_for(
                lambda: all(log.exists() and log.stat().st_size for log in self._logs), "the next log's first line"
            )
