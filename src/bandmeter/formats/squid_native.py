"""Squid's own `squid` format: one byte counter, what was sent to the client, and no request bytes.

Usage from it is a lower bound, and the source is marked `partial`; docs/formats.md has the directive that is better.
"""

from __future__ import annotations

from bandmeter.domain.contracts import Format, Layout

_COLUMNS = "ended duration_ms client result status bytes_sent method url user hierarchy peer content_type".split()

SQUID_NATIVE = Format(
    name="squid-native",
    split="pattern",
    partial=True,
    pattern=r"^\s*(?P<ended>\S+)\s+(?P<duration_ms>\S+)\s+(?P<client>\S+)\s+(?P<result>[^\s/]+)/(?P<status>\S+)\s+"
    r"(?P<bytes_sent>\S+)\s+(?P<method>\S+)\s+(?P<url>\S+)\s+(?P<user>\S+)\s+(?P<hierarchy>[^\s/]+)/(?P<peer>\S+)\s+"
    r"(?P<content_type>\S+)\s*$",
    example="1795132800.401     35 10.0.17.18 TCP_TUNNEL/200 29547 CONNECT shop.site00021.io:443 "
    "cust-wayne-zone-isp62-session-445837 HIER_DIRECT/2a00:25f9:599a::b939 -",
    layouts=(
        Layout(
            columns=tuple(_COLUMNS),
            fields={
                "time_ms": "seconds_ms(ended)",
                "identity": "given(user)",
                "has_target_bytes": "given(peer) IS NOT NULL AND (method <> 'CONNECT' OR status = '200')",
                "target_bytes_up": "0",
                "target_bytes_down": "whole(bytes_sent)",
                "client_bytes_up": "0",
                "client_bytes_down": "whole(bytes_sent)",
                "status": "status_of(status)",
                "duration_ms": "whole(duration_ms)",
                "host": r"CASE WHEN NOT starts_with(url, 'error:') THEN "
                r"regexp_extract(url, '^(?:[a-z]+://)?(?:[^/@]*@)?([^/?#]*)', 1) END",
                "scheme": "CASE WHEN method = 'CONNECT' OR starts_with(url, 'https:') THEN 'https' ELSE 'http' END",
                "ip_version": "ip_version_of(peer)",
            },
        ),
    ),
)
