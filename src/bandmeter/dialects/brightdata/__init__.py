"""The Bright Data dialect: usage, cost, and the neighbours that clients of these need.

Sources, as the parts of this folder mark them: [seed] the vendor's own pages, [live] seen in a real account's answer
or in public client code, [ours] published by nobody.
"""

from __future__ import annotations

from bandmeter.dialects.brightdata.bandwidth import BANDWIDTH
from bandmeter.dialects.brightdata.cost import MONEY
from bandmeter.dialects.brightdata.domains import DOMAINS
from bandmeter.dialects.brightdata.exports import EXPORTS
from bandmeter.dialects.brightdata.wire import render_error
from bandmeter.dialects.brightdata.zones import NEIGHBOURS
from bandmeter.domain.contracts import Dialect

# Where this vendor answers; what is not served there is refused in its form.
_PATHS = ("/zone", "/customer", "/status", "/network_status", "/domains", "/costs")

BRIGHTDATA = Dialect(
    name="brightdata",
    title="Bright Data",
    endpoints=(*BANDWIDTH, *DOMAINS, *MONEY, *EXPORTS, *NEIGHBOURS),
    credentials=(("bearer", "authorization"),),
    render_error=render_error,
    prefixes=tuple(f"{prefix}{path}" for prefix in ("", "/api") for path in _PATHS),
)
