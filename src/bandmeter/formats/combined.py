"""The `combined` (and `common`) format of Apache, nginx and many others: one byte counter, no request bytes.

The counter is the bytes sent to the client, on some servers without the headers: usage from it is a lower bound, and
the source is marked `partial`. The user is the identity; for a file of one zone say so with `--account` and `--zone`.
"""

from __future__ import annotations

from bandmeter.domain.contracts import Format, Layout

COMBINED = Format(
    name="combined",
    split="pattern",
    partial=True,
    pattern=r'^(?P<client>\S+) \S+ (?P<user>.*?) \[(?P<ended>[^\]]+)\] "(?P<request>(?:[^"\\]|\\.)*)" (?P<status>\S+) '
    r"(?P<bytes_sent>\S+)(?: .*)?$",
    example='203.0.113.9 - cust-acme-zone-web1 [20/Nov/2026:06:00:00 +0000] "GET /index.html HTTP/1.1" 200 5120 "-" '
    '"curl/8.5.0"',
    layouts=(
        Layout(
            columns=("client", "user", "ended", "request", "status", "bytes_sent"),
            fields={
                "time_ms": "epoch_ms(TRY(strptime(ended, '%d/%b/%Y:%H:%M:%S %z')))",
                "identity": "given(user)",
                "bytes_up": "0",
                "bytes_down": "CASE WHEN bytes_sent = '-' THEN 0 ELSE whole(bytes_sent) END",
                "status": "status_of(status)",
                "scheme": "CASE WHEN starts_with(request, 'CONNECT ') THEN 'https' ELSE 'http' END",
                "ip_version": "ip_version_of(client)",
            },
        ),
    ),
)
