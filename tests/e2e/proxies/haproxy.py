"""HAProxy: in front of a pool of proxies, as an edge in the clear and with TLS, and as a gateway by SNI.

It writes its log to its standard output, which goes to a file: nobody can reopen that, so it is copied and truncated.
"""

from __future__ import annotations

from proxies import document, scenarios, squid
from proxies.clients import edge, forward
from proxies.contracts import OTHERS, OTHERS_TLS, Off, Proxy, Started, World
from proxies.running import Place

LOG = "haproxy.log"
GLOBAL = """
global
    log stdout format raw local0 info
defaults
    log global
    mode {mode}
    timeout connect 2s
    timeout client 30s
    timeout server 30s
    timeout tunnel 30s
"""
POOL = """
frontend proxy
    bind 127.0.0.1:{port}
{directive}
    http-request return status 407 content-type text/plain string "Who?" unless {{ var(txn.user) -m found }}
    http-request return status 403 if {{ var(txn.host) -m beg denied tlsdenied }}
    default_backend pool
backend pool
    server squid {next}
"""
EDGE = """
frontend edge
    bind 127.0.0.1:{port}
    bind [::1]:{port}
    bind 127.0.0.1:{tls_port} ssl crt edge.pem alpn h2,http/1.1
{directive}
    http-request return status 403 if {{ var(txn.host) -m beg denied }}
    use_backend refused if {{ var(txn.host) -m beg refused }}
    default_backend origin
backend origin
    server one {next}
backend refused
    retries 0
    server none 127.0.0.1:1
"""
GATEWAY = """
frontend haproxy-gateway-{name}
    bind 127.0.0.1:{port}
{directive}
    default_backend origin_{name}
backend origin_{name}
    server one {next}
"""


def _run(place: Place, text: str, port: int) -> None:
    place.write("haproxy.cfg", text)
    place.hand_over()
    place.start("haproxy", "-db", "-f", "haproxy.cfg", output=LOG)
    place.wait_for_port(port)


def start_pool(place: Place, world: World) -> Started:
    pool, port = squid.start_pool(place, world), place.free_port()
    directive = document.directive("haproxy", 0)
    text = POOL.format(port=port, directive=directive, next=f"127.0.0.1:{pool}")
    _run(place, GLOBAL.format(mode="http") + text, port)
    return Started(lambda _: port)


def start_edge(place: Place, world: World) -> Started:
    port, tls_port = place.free_port(), place.free_port()
    place.write("edge.pem", world.origin.certificate_file.read_text())
    directive = document.directive("haproxy", 1)
    text = EDGE.format(port=port, tls_port=tls_port, directive=directive, next=f"127.0.0.1:{world.origin.port}")
    _run(place, GLOBAL.format(mode="http") + text, port)
    return Started(lambda s: tls_port if s.is_tls else port)


def start_gateway(place: Place, world: World) -> Started:
    """A frontend for each scenario, since it is the frontend that says whose the traffic is."""
    ports = {name: place.free_port() for name in ("ready", *(s.name for s in scenarios.TLS))}
    directive = document.directive("haproxy", 2)
    texts = [
        GATEWAY.format(name=name, port=port, directive=directive, next=f"127.0.0.1:{world.origin.tls_port}")
        for name, port in ports.items()
    ]
    _run(place, GLOBAL.format(mode="tcp") + "".join(texts), ports["ready"])
    return Started(lambda s: ports[s.name])


HAPROXY_POOL = Proxy(
    name="haproxy-pool",
    title="HAProxy `mode http`, in front of a pool",
    format="haproxy",
    programs=("haproxy", "squid"),
    way=forward,
    scenarios=scenarios.FORWARD,
    start=start_pool,
    logs=(LOG,),
    target=(
        Off("postchunked", up=(-1_000, 80), down=(50, 150), why="As below; chunks without their frames"),
        Off("uphangup", up=(-1_000, 80), why="The same"),
        Off("silent silentpost", up=(20, 80), down=(3_000, 4_000), why="The pool's error page"),
        Off(
            "refused nowhere tlsrefused tlsnowhere",
            up=(200, 320),
            down=(3_000, 4_000),
            why="The pool's error page, and the request for it",
        ),
        Off(OTHERS, up=(20, 80), down=(50, 150), why="One pair of counters, at its client; headers in its own form"),
        Off(OTHERS_TLS, up=(200, 300), down=(50, 60), why="The exchange of CONNECT"),
    ),
    client=(
        Off("chunked", up=(-20, 0), down=(-300, 0), why="Chunks without their frames"),
        Off("postchunked uphangup", up=(-100, 0), down=(-30, 0), why="Chunks without their frames"),
        Off(f"{OTHERS} {OTHERS_TLS}", up=(-30, 0), down=(-40, 20), why="Headers in its own form"),
    ),
    target_requests=dict.fromkeys(("refused", "nowhere", "tlsrefused", "tlsnowhere"), 2),
)
HAPROXY_GATEWAY = Proxy(
    name="haproxy-gateway",
    title="HAProxy `mode tcp`, by SNI",
    format="haproxy",
    programs=("haproxy",),
    way=edge,
    scenarios=scenarios.TLS,
    start=start_gateway,
    logs=(LOG,),
    client=(Off("tlsreset", up=(-24, 0), why="The client's farewell in TLS, which nobody reads"),),
    rotations=1,
)
HAPROXY_EDGE = Proxy(
    name="haproxy-edge",
    title="HAProxy `mode http`, edge",
    format="haproxy",
    programs=("haproxy",),
    way=edge,
    scenarios=scenarios.EDGE,
    start=start_edge,
    logs=(LOG,),
    target=(
        Off("chunked", up=(-10, 10), down=(-150, 0), why="Chunks without their frames"),
        Off("postchunked uphangup", up=(-500, 10), down=(-20, 20), why="Chunks without their frames"),
        Off("silent silentpost", up=(-10, 10), down=(100, 300), why="Its own error page"),
        Off(OTHERS, up=(-10, 10), down=(-20, 20), why="Headers in its own form"),
        Off(OTHERS_TLS, up=(10, 60), down=(-20, 20), why="Headers in the form of HTTP/2"),
    ),
    client=(
        Off("chunked", up=(-10, 10), down=(-300, 0), why="Chunks without their frames"),
        Off("postchunked uphangup", up=(-100, 10), down=(-20, 20), why="Chunks without their frames"),
        Off(OTHERS, up=(-10, 10), down=(-20, 20), why="Headers in its own form"),
        Off(OTHERS_TLS, up=(-2_000, 20), down=(-4_000, -100), why="TLS, most of it the handshake, and HTTP/2"),
    ),
    ends_tls=True,
    rotations=1,
)
