"""Varnish, an edge with a cache; two `varnishncsa` write its logs, one for each side."""

from __future__ import annotations

import socket
from pathlib import Path

from proxies import document, scenarios
from proxies.clients import edge
from proxies.contracts import Off, Proxy, Started, World
from proxies.running import Place

LANGUAGE = """
vcl 4.1;
{directive_import}
backend default {{ .host = "127.0.0.1"; .port = "{origin}"; }}
backend nobody {{ .host = "127.0.0.1"; .port = "1"; }}
sub vcl_recv {{
{directive}
    if (req.url ~ "^/denied/") {{ return (synth(403)); }}
    if (req.url ~ "^/refused") {{ set req.backend_hint = nobody; }}
    if (req.method != "GET" && req.method != "HEAD") {{ return (pass); }}
}}
"""
LOGS = ("client.log", "backend.log")


def asked(port: int) -> bool:
    """Ask for something, and read the answer."""
    with socket.create_connection(("127.0.0.1", port)) as probe:
        probe.sendall(b"GET /probe/bytes/1 HTTP/1.1\r\nHost: probe\r\nConnection: close\r\n\r\n")
        while probe.recv(4096):
            pass
    return True


def has_content(log: Path) -> bool:
    return log.exists() and log.stat().st_size > 0


def start(place: Place, world: World) -> Started:
    port = place.free_port()
    directive = document.directive("varnish", 1)
    imports, _, rest = directive.partition("\n")
    place.write("edge.vcl", LANGUAGE.format(directive_import=imports, directive=rest, origin=world.origin.port))
    place.hand_over()
    work = str(place.folder / "work")
    place.start(
        "varnishd",
        "-F",
        "-n",
        work,
        "-f",
        str(place.folder / "edge.vcl"),
        "-s",
        "malloc,32m",
        "-a",
        f"127.0.0.1:{port}",
        "-a",
        f"[::1]:{port}",
        "-p",
        "vcc_allow_inline_c=off",
    )
    place.wait_for_port(port)
    writers = []
    commands = document.directive("varnish", 0).splitlines()
    formats = [line for line in commands if not line.startswith("varnishncsa ")]
    for line in commands[len(formats) :]:
        pid_file = place.folder / f"writer{len(writers)}.pid"
        here = line.replace("/var/log/varnish/", f"{place.folder}/")
        here = here.replace("varnishncsa ", f"varnishncsa -n {work} -P {pid_file} ", 1)
        writers.append(place.start_daemon("\n".join([*formats, here]), pid_file))
    place.wait_for(
        lambda: asked(port) and all(has_content(place.folder / log) for log in LOGS), "the writers of the logs"
    )
    return Started(lambda _: port, "kill -HUP " + " ".join(map(str, writers)))


VARNISH = Proxy(
    name="varnish",
    title="Varnish",
    format="varnish",
    programs=("varnishd", "varnishncsa"),
    way=edge,
    scenarios=scenarios.PLAIN,
    start=start,
    logs=LOGS,
    target=(
        Off("chunked", down=(-40, 0), why="Chunks without the frames of some"),
        Off("head", down=(-5_000, 0), why="It asks for the whole, to cache it, and reads only the beginning"),
        Off("uphangup", down=(-200, 0), why="It ends the upload as if it were whole, and reads no answer"),
    ),
    client=(
        Off("chunked", down=(-120, 0), why="Chunks without the frames of some"),
        Off("postchunked", up=(-100, 0), why="Chunks without their frames"),
        Off("uphangup", up=(-100, 0), down=(0, 700), why="The same; and an error page that nobody receives"),
    ),
    # a backend that refuses has a line of 0 bytes
    target_requests={"cached": 1, "refused": 2},
)
