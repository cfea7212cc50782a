"""Varnish 7.1: two `varnishncsa`, one for client lines (`c`) and one for backend lines (`b`), tab-separated.

Each line speaks of one side of a request, so no join is needed: the two sides add up on their own. The third column
is the duration in µs, the line stamps the start in ms. The domain of the Host header is the identity.
"""

from __future__ import annotations

from bandmeter.domain.contracts import Format, Layout
from bandmeter.domain.usage import Side

_COLUMNS = (
    "kind start_ms duration_us client vxid parent_vxid zone method host url status bytes_in bytes_out header_in "
    "body_in header_out body_out pipe handling version"
).split()

VARNISH = Format(
    name="varnish",
    split="tab",
    nulls=("-",),
    side=Side.CLIENT,
    example="c	1795307957625	47892	127.0.0.1	32773	32772	shop.test"
    "	GET	shop.test:17181	/bytes/1000	200	102	1263"
    "	102	0	263	1000	-	miss	HTTP/1.1",
    layouts=(
        Layout(
            columns=tuple(_COLUMNS),
            fields={
                "time_ms": "CASE WHEN kind IN ('b', 'c') THEN whole(start_ms) + whole(duration_us) // 1000 END",
                "duration_ms": "whole(duration_us) // 1000",
                "identity": "domain_of(host)",
                "host": "host",
                "has_client_bytes": "kind = 'c'",
                "has_target_bytes": "kind = 'b'",
                "target_bytes_up": "whole(bytes_in)",
                "target_bytes_down": "whole(bytes_out)",
                "client_bytes_up": "whole(bytes_in)",
                "client_bytes_down": "whole(bytes_out)",
                "status": "status_of(status)",
                "scheme": "'http'",
                "ip_version": "CASE WHEN kind = 'c' THEN ip_version_of(client) END",
            },
        ),
    ),
)
