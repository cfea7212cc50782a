"""Whether the stored numbers are right: looked at from within, and counted again from the logs.

`sample` needs the store only and ends when it is told to, so a server may run it beside its work. `recount` reads the
logs that are still there.
"""

from __future__ import annotations

from bandmeter.verify.findings import Findings
from bandmeter.verify.recount import Candidate, Recount
from bandmeter.verify.sample import DAYS, check_days, check_sources, check_zones

__all__ = ["DAYS", "Candidate", "Findings", "Recount", "check_days", "check_sources", "check_zones"]
