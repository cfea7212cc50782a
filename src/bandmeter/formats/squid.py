"""Squid 5 and 6, a forward proxy: `logformat meter`, tab-separated.

Squid counts at its client; the target's bytes follow from it: inside a tunnel exactly, otherwise within a few per cent
of the headers (docs/accuracy.md). A target was there when the next hop answered, or was connected to and sent the
request, whatever the status says: a refused CONNECT is `NONE_NONE/503` in Squid 5 and `TCP_TUNNEL/503` in 6. Of a next
hop that gave no answer, what was sent down is Squid's own error page, and not the target's.
"""

from __future__ import annotations

from bandmeter.domain.contracts import Format, Layout

_COLUMNS = (
    "ended start response_ms client user method scheme host port url result client_status server_status server_ip "
    "server_port received received_header sent sent_header body stream_size server_ms hierarchy error version "
    "client_port local_port"
).split()

SQUID = Format(
    name="squid",
    split="tab",
    nulls=("-",),
    example="1795307202.616	1795307202.615	1	127.0.0.1	cust-acme-zone-res2-session-454710-country-us"
    "	GET	http	cdn.test"
    "	18080	http://cdn.test:18080/bytes/1000	TCP_MISS	200"
    "	200	127.0.0.1	18080	245	245	1292	292	1000	1000	0"
    "	HIER_DIRECT	-/-	1.1	57178	42596",
    layouts=(
        Layout(
            columns=tuple(_COLUMNS),
            fields={
                "time_ms": "seconds_ms(ended)",
                "identity": "user",
                "has_target_bytes": "CASE WHEN method = 'CONNECT' THEN client_status = '200' "
                "ELSE coalesce(server_status <> '000', coalesce(local_port, '0') <> '0') END",
                "target_bytes_up": "CASE WHEN method = 'CONNECT' THEN whole(received) - whole(received_header) "
                "ELSE whole(received) END",
                "target_bytes_down": "CASE WHEN method = 'CONNECT' THEN whole(sent) - whole(sent_header) "
                "WHEN server_status IS NULL THEN 0 "
                "ELSE whole(sent_header) + coalesce(whole(body), CASE WHEN body IS NULL THEN 0 END) END",
                "client_bytes_up": "whole(received)",
                "client_bytes_down": "whole(sent)",
                "status": "status_of(client_status)",
                "duration_ms": "whole(response_ms)",
                "host": "host",
                "scheme": "CASE WHEN method = 'CONNECT' OR scheme = 'https' THEN 'https' ELSE 'http' END",
                "ip_version": "ip_version_of(server_ip)",
            },
        ),
    ),
)
