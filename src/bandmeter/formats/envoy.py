"""Envoy 1.36 and later, as a forward proxy, an edge, or a gateway by SNI: `json_format`, a JSON object a line.

The identity is `user`, which a forward proxy has from its authentication, or else the domain in `site`. The line stamps
the start, so the duration is added. An upstream is named as soon as it was chosen: it was reached when a byte passed.
Envoy can also write lines of what is still under way (`type`), with counters since the start: the line at the end has
the same bytes again, so those before it count nothing.
"""

from __future__ import annotations

from bandmeter.domain.contracts import Format, Layout

_COLUMNS = (
    "start duration_ms type user site method host status upstream upstream_sent upstream_received downstream_received "
    "downstream_sent tls client"
).split()
_IS_END = "coalesce(type IN ('DownstreamEnd', 'TcpConnectionEnd', 'NotSet'), TRUE)"


def _at_end(column: str) -> str:
    return f"CASE WHEN {_IS_END} THEN whole({column}) ELSE 0 END"


ENVOY = Format(
    name="envoy",
    split="json",
    example='{"client":"127.0.0.1","downstream_received":247,"downstream_sent":100275,"duration_ms":12,'
    '"host":"shop.test:443","method":"CONNECT","start":"1795307953.729","status":200,"tls":null,'
    '"type":"DownstreamEnd","upstream":"127.0.0.1:19101","upstream_received":100204,"upstream_sent":80,'
    '"user":"cust-acme-zone-res2-session-454710-country-us"}',
    layouts=(
        Layout(
            columns=tuple(_COLUMNS),
            fields={
                "time_ms": "CASE WHEN duration_ms IS NULL THEN seconds_ms(start) "
                "WHEN whole(duration_ms) >= 0 THEN seconds_ms(start) + whole(duration_ms) END",
                "duration_ms": "CASE WHEN duration_ms IS NULL THEN 0 ELSE whole(duration_ms) END",
                "identity": "coalesce(given(user), domain_of(site))",
                "requests": f"CASE WHEN {_IS_END} THEN 1 ELSE 0 END",
                "has_target_bytes": "given(upstream) IS NOT NULL "
                "AND coalesce(upstream_sent <> '0' OR upstream_received <> '0', TRUE)",
                "target_bytes_up": _at_end("upstream_sent"),
                "target_bytes_down": _at_end("upstream_received"),
                "client_bytes_up": _at_end("downstream_received"),
                "client_bytes_down": _at_end("downstream_sent"),
                "host": "given(host)",
                "status": "status_of(status)",
                "scheme": "CASE WHEN method = 'CONNECT' OR given(tls) IS NOT NULL THEN 'https' "
                "WHEN given(method) IS NOT NULL THEN 'http' WHEN given(host) IS NOT NULL THEN 'https' ELSE 'other' END",
                # An upstream's address has a port, and an IPv6 one brackets; it may also be a path.
                "ip_version": "CASE WHEN given(site) IS NOT NULL THEN ip_version_of(client) "
                "WHEN starts_with(upstream, '[') THEN '6' "
                "WHEN regexp_full_match(upstream, '[0-9.]+:[0-9]+') THEN '4' END",
            },
        ),
    ),
)
