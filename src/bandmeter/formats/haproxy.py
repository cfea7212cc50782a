"""HAProxy 2.4 and later, `mode http` in front of a proxy pool (20 columns) and `mode tcp` (15), tab-separated.

Both may be lines of one file. The line stamps the start, so the duration is added. HAProxy ends no CONNECT and has
one pair of counters: what it read from the client and sent to it, which is also what passed to the next hop.
With `option logasap` it writes a line when a transfer starts, `+` before its counters, and never another: such a
source cannot be metered.
"""

from __future__ import annotations

from bandmeter.domain.contracts import Format, Layout

_HTTP_COLUMNS = (
    "logged start active_ms total_ms client client_port user method host url status bytes_read bytes_sent server_ip "
    "server_port local_port state server retries version"
).split()
_TCP_COLUMNS = (
    "logged start total_ms client client_port frontend sni bytes_read bytes_sent server_ip server_port local_port "
    "state server retries"
).split()

_FIELDS = {
    "time_ms": "seconds_ms(start) + whole(total_ms)",
    "duration_ms": "whole(total_ms)",
    "has_target_bytes": "NOT contains(server, '<NOSRV>') AND left(state, 2) <> 'SC' AND server_port IS NOT NULL",
    "target_bytes_up": "whole(bytes_read)",
    "target_bytes_down": "whole(bytes_sent)",
    "client_bytes_up": "whole(bytes_read)",
    "client_bytes_down": "whole(bytes_sent)",
    "ip_version": "ip_version_of(server_ip)",
}

HAPROXY = Format(
    name="haproxy",
    split="tab",
    nulls=("-",),
    example='1795307459248	1795307459.247	1	1	127.0.0.1	35130	"cust-acme-zone-res2-session-454710-country-us"'
    "	GET"
    '	"cdn.test:18080"	http://cdn.test:18080/bytes/1000	200'
    "	240	1251	127.0.0.1	13128	58028	----	pool/squid1	0"
    "	HTTP/1.1",
    unmeterable="left(bytes_sent, 1) = '+'",
    unmeterable_reason="HAProxy wrote it when the transfer started, and writes no line when it ends: "
    "remove `option logasap` from the frontend",
    layouts=(
        Layout(
            columns=tuple(_HTTP_COLUMNS),
            fields=_FIELDS
            | {
                "identity": "nullif(trim(user, '\"'), '')",
                "host": "trim(host, '\"')",
                "status": "CASE WHEN status = '-1' THEN NULL ELSE status_of(status) END",
                "scheme": "CASE WHEN method = 'CONNECT' THEN 'https' ELSE 'http' END",
            },
        ),
        Layout(
            columns=tuple(_TCP_COLUMNS),
            fields=_FIELDS
            | {
                "identity": "frontend",
                "host": "trim(sni, '\"')",
                "scheme": "CASE WHEN nullif(trim(sni, '\"'), '') IS NULL THEN 'other' ELSE 'https' END",
            },
        ),
    ),
)
