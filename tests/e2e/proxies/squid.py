"""Squid, a forward proxy that asks for credentials, and one that does not, for HAProxy to stand in front of."""

from __future__ import annotations

from proxies import document, scenarios
from proxies.clients import forward
from proxies.contracts import OTHERS, Off, Proxy, Started, World
from proxies.running import Place

CONFIGURATION = """
http_port 127.0.0.1:{port}
visible_hostname squid.test
pid_filename {name}.pid
cache_log {name}-cache.log
netdb_filename none
pinger_enable off
coredump_dir {folder}
cache_mem 16 MB
dns_nameservers {name_server}
shutdown_lifetime 0 seconds
logfile_rotate 0
"""
ASKS_FOR_CREDENTIALS = """
auth_param basic program /usr/lib/squid/basic_fake_auth
auth_param basic realm meter
acl known proxy_auth REQUIRED
acl denied dstdom_regex denied
http_access deny !known
http_access deny denied
http_access allow all
"""
ASKS_NOTHING = """
http_access allow all
access_log none
cache deny all
"""


def _run(place: Place, world: World, name: str, more: str):
    port = place.free_port()
    known = CONFIGURATION.format(port=port, name=name, folder=place.folder, name_server=world.names.address)
    place.write(f"{name}.conf", known + more)
    place.hand_over()
    program = place.start("squid", "-N", "-f", f"{name}.conf")
    place.wait_for_port(port)
    return port, program


def start(place: Place, world: World) -> Started:
    port, program = _run(place, world, "squid", ASKS_FOR_CREDENTIALS + document.directive("squid"))
    # what `squid -k rotate` sends; with `logfile_rotate 0`, Squid renames nothing itself
    return Started(lambda _: port, f"kill -USR1 {program.pid}")


def start_pool(place: Place, world: World) -> int:
    """A proxy that lets everybody through; its port."""
    return _run(place, world, "pool", ASKS_NOTHING)[0]


SQUID = Proxy(
    name="squid",
    title="Squid",
    format="squid",
    programs=("squid",),
    way=forward,
    scenarios=scenarios.FORWARD,
    start=start,
    logs=("access_meter.log",),
    target=(
        Off("silent silentpost", up=(20, 80), why="As below; its own error page is not the target's"),
        Off("postchunked", up=(-1_000, 80), down=(90, 180), why="As below; chunks without their frames, made anew"),
        Off("uphangup", up=(-1_000, 80), why="The same"),
        Off(
            OTHERS,
            up=(20, 80),
            down=(90, 180),
            why="It counts at its client: credentials and absolute URL, and the lines that it adds to an answer",
        ),
    ),
    client=(
        Off("postchunked uphangup", up=(-100, 0), why="Chunks without their frames"),
        Off("expect", down=(-60, -40), why="The interim `100 Continue`"),
        Off("tlsreset", up=(-24, 0), why="The client's farewell in TLS, which nobody reads"),
        Off("tlsrefused tlsnowhere", down=(-5_000, -1_000), why="The error page of a tunnel is not logged"),
    ),
    target_requests={"cached": 1},
)
