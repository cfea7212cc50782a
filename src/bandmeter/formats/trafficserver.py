"""Traffic Server 9.2 as a forward proxy: format `meter` of `logging.yaml`, tab-separated.

The line stamps the start. A CONNECT counts only with status 200 to the client, and when a byte passed: a tunnel to a
port that refuses has that status, too. Anything else counts when the server answered, or was sent the request and did
not: its header, of which there is none, then has 17 bytes in the log, and what was passed on of a body that the client
broke off is only in the client's counter. Lines of CONNECTs that were denied, or whose name is not found, are corrupt
(numbers of 19 digits, shifted columns, broken UTF-8): they become rejects. The log holds whole Proxy-Authorization
headers, so a rejected line is kept without the password.
"""

from __future__ import annotations

from bandmeter.domain.contracts import Format, Layout

_COLUMNS = (
    "start duration_ms client client_port authorization method scheme host_header host url result client_status "
    "server_status server_ip server_port cqhl cqcl pqhl pqcl sshl sscl pshl pscl client_finish proxy_finish "
    "client_version server_version hierarchy server_name url_again"
).split()

TRAFFICSERVER = Format(
    name="trafficserver",
    split="tab",
    nulls=("-",),
    secret=r"(?i)\b(basic\s+)(\S+)",
    example="1795307821.245	29	127.0.0.1	45818	Basic Y3VzdC1hY21lLXpvbmUtcmVzMjpwdw=="
    "	GET	http	cdn.test:18080	cdn.test"
    "	http://cdn.test:18080/bytes/1000	TCP_MISS	200	200	127.0.0.1"
    "	18080	245	0	247	0	159	1000	199	1000	FIN	FIN"
    "	http/1.1	http/1.1	DIRECT	-	http://cdn.test:18080/bytes/1000",
    layouts=(
        Layout(
            columns=tuple(_COLUMNS),
            fields={
                "time_ms": "seconds_ms(start) + whole(duration_ms)",
                "identity": "user_of_basic(authorization)",
                "has_target_bytes": "CASE WHEN method = 'CONNECT' "
                "THEN client_status = '200' AND coalesce(pqcl <> '0' OR pscl <> pshl, TRUE) "
                "ELSE server_status <> '000' OR sshl <> '0' END",
                "target_bytes_up": "CASE WHEN method = 'CONNECT' THEN whole(pqcl) "
                "ELSE whole(pqhl) + whole(pqcl) "
                "+ CASE WHEN server_status = '000' THEN greatest(0, whole(cqcl) - whole(pqcl)) ELSE 0 END END",
                "target_bytes_down": "CASE WHEN method = 'CONNECT' THEN whole(pscl) - whole(pshl) "
                "WHEN server_status = '000' THEN 0 ELSE whole(sshl) + whole(sscl) END",
                "client_bytes_up": "whole(cqhl) + whole(cqcl) "
                "+ CASE WHEN method = 'CONNECT' THEN greatest(0, whole(pqcl) - whole(cqcl)) ELSE 0 END",
                "client_bytes_down": "CASE WHEN method = 'CONNECT' THEN whole(pscl) ELSE whole(pshl) + whole(pscl) END",
                "status": "status_of(client_status)",
                "duration_ms": "whole(duration_ms)",
                "host": "host",
                "scheme": "CASE WHEN method = 'CONNECT' OR scheme = 'https' THEN 'https' ELSE 'http' END",
                "ip_version": "ip_version_of(server_ip)",
            },
        ),
    ),
)
