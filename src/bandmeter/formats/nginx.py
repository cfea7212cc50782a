"""nginx as a CDN edge or reverse proxy: `log_format meter escape=json`, a JSON object a line.

The domain is the identity. `$request_length` and `$bytes_sent` are the client's side; the upstream's are lists, since
a request may try several. An upstream that was never reached leaves only zeros, and a cache hit leaves nothing.
"""

from __future__ import annotations

from bandmeter.domain.contracts import Format, Layout
from bandmeter.domain.usage import Side

NGINX = Format(
    name="nginx",
    split="json",
    side=Side.CLIENT,
    example='{"t":1795307654.781,"dur":0.046,"zone":"edge.test","user":"","host":"shop.test","cip":"127.0.0.1",'
    '"proto":"HTTP/1.1","tls":"","m":"GET","uri":"/bytes/1000","st":200,"cli_in":102,"cli_out":1188,"cli_body":1000,'
    '"up_addr":"127.0.0.1:18080","up_st":"200","up_out":"96","up_in":"1159","up_len":"1000","up_rt":"0.044",'
    '"cache":"MISS","done":"OK","conn":5,"creq":1,"saddr":"127.0.0.1"}',
    layouts=(
        Layout(
            columns=("t", "dur", "host", "cip", "tls", "st", "cli_in", "cli_out", "up_addr", "up_out", "up_in"),
            fields={
                "time_ms": "seconds_ms(t)",
                "duration_ms": "seconds_ms(dur)",
                "identity": "domain_of(host)",
                "host": "host",
                "has_target_bytes": "given(up_addr) IS NOT NULL AND "
                "(up_out IS NULL OR up_in IS NULL OR coalesce(sum_of(up_out) + sum_of(up_in), 1) <> 0)",
                "target_bytes_up": "sum_of(up_out)",
                "target_bytes_down": "sum_of(up_in)",
                "client_bytes_up": "whole(cli_in)",
                "client_bytes_down": "whole(cli_out)",
                "status": "status_of(st)",
                "scheme": "CASE WHEN given(tls) IS NULL THEN 'http' ELSE 'https' END",
                "ip_version": "ip_version_of(cip)",
            },
        ),
    ),
)
