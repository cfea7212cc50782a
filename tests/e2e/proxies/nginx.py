"""nginx, an edge with a cache, in the clear and with TLS."""

from __future__ import annotations

from proxies import document, scenarios
from proxies.clients import edge
from proxies.contracts import OTHERS_TLS, Off, Proxy, Started, World
from proxies.running import Place

CONFIGURATION = """
daemon off;
worker_processes 1;
pid nginx.pid;
error_log error.log warn;
events {{ worker_connections 512; }}
http {{
{directive}
    proxy_cache_path cache keys_zone=cache:1m;
    proxy_temp_path temp; client_body_temp_path body; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;
    client_max_body_size 10m;
    upstream origin {{ server 127.0.0.1:{origin}; keepalive 8; }}
    proxy_http_version 1.1;
    proxy_set_header Host $host;
    proxy_set_header Connection "";
    server {{
        listen 127.0.0.1:{port};
        listen [::1]:{port};
        listen 127.0.0.1:{tls_port} ssl http2;
        server_name shop.test;
        ssl_certificate {certificate};
        ssl_certificate_key {certificate};
        location / {{ proxy_pass http://origin; proxy_cache cache; proxy_cache_key $host$uri; }}
        location ~ ^/\\w+/stall/ {{ proxy_pass http://origin; proxy_buffering off; }}
        location /uphangup/ {{ proxy_pass http://origin; proxy_request_buffering off; }}
        location /denied/ {{ return 403; }}
        location ~ ^/refused {{ proxy_pass http://127.0.0.1:1; }}
    }}
}}
"""


def start(place: Place, world: World) -> Started:
    port, tls_port = place.free_port(), place.free_port()
    certificate = place.write("edge.pem", world.origin.certificate_file.read_text())
    text = CONFIGURATION.format(
        directive=document.directive("nginx"),
        origin=world.origin.port,
        port=port,
        tls_port=tls_port,
        certificate=certificate,
    )
    place.write("nginx.conf", text)
    place.hand_over()
    program = place.start("nginx", "-p", str(place.folder), "-c", "nginx.conf", "-e", "error.log")
    place.wait_for_port(port)
    return Started(lambda s: tls_port if s.is_tls else port, f"kill -USR1 {program.pid}")


NGINX = Proxy(
    name="nginx",
    title="nginx",
    format="nginx",
    programs=("nginx",),
    way=edge,
    scenarios=scenarios.EDGE,
    start=start,
    logs=("access_meter.log",),
    target=(Off("head", down=(-5_000, 0), why="It asks for the whole, to cache it, and reads only the beginning"),),
    client=(Off(OTHERS_TLS, up=(-2_000, -100), down=(-4_000, -100), why="TLS, most of it the handshake"),),
    target_requests={"cached": 1},
    ends_tls=True,
)
