"""Traffic Server, a forward proxy."""

from __future__ import annotations

from proxies import document, scenarios
from proxies.clients import forward
from proxies.contracts import OTHERS_TLS, Off, Proxy, Started, World
from proxies.running import Place

LAYOUT = """
prefix: {folder}
exec_prefix: {folder}
bindir: /usr/bin
sbindir: /usr/sbin
sysconfdir: {folder}/etc
datadir: {folder}/cache
includedir: /usr/include
libdir: /usr/lib/trafficserver
libexecdir: /usr/lib/trafficserver/modules
localstatedir: {folder}/var
runtimedir: {folder}/run
logdir: {folder}/log
mandir: /usr/share/man
infodir: /usr/share/info
cachedir: {folder}/cache
"""
SETTINGS = """
CONFIG proxy.config.http.server_ports STRING {port}:ip-in=127.0.0.1
CONFIG proxy.config.url_remap.remap_required INT 0
CONFIG proxy.config.reverse_proxy.enabled INT 0
CONFIG proxy.config.http.connect_ports STRING {tls_origin} 1
CONFIG proxy.config.admin.user_id STRING #-1
CONFIG proxy.config.dns.nameservers STRING {name_server}
CONFIG proxy.config.dns.resolv_conf STRING NULL
CONFIG proxy.config.hostdb.host_file.path STRING NULL
CONFIG proxy.config.hostdb.ip_resolve STRING ipv4;ipv6
CONFIG proxy.config.log.max_secs_per_buffer INT 1
CONFIG proxy.config.log.periodic_tasks_interval INT 1
CONFIG proxy.config.log.rolling_enabled INT 0
CONFIG proxy.config.http.connect_attempts_max_retries INT 0
CONFIG proxy.config.http.down_server.cache_time INT 0
"""
ALLOWED = """
ip_allow: [{apply: in, ip_addrs: [127.0.0.1], action: allow, methods: ALL}]
"""
REFUSES = """
map http://denied.trafficserver.test:{origin}/ http://denied.trafficserver.test:{origin}/ @action=deny @method=get
"""


def start(place: Place, world: World) -> Started:
    port = place.free_port()
    place.write("runroot.yaml", LAYOUT.format(folder=place.folder))
    text = SETTINGS.format(port=port, tls_origin=world.origin.tls_port, name_server=world.names.address)
    place.write("etc/records.config", text)
    place.write("etc/logging.yaml", document.directive("trafficserver"))
    place.write("etc/ip_allow.yaml", ALLOWED)
    place.write("etc/remap.config", REFUSES.format(origin=world.origin.port))
    place.write("etc/storage.config", "cache 16M\n")
    for folder in ("cache", "var", "run", "log"):
        (place.folder / folder).mkdir()
    place.hand_over()
    program = place.start("traffic_server", f"--run-root={place.folder}")
    place.wait_for_port(port)
    return Started(lambda _: port, f"kill -USR2 {program.pid}")


NO_BODY = (-scenarios.BROKEN_OFF_BYTES, 100 - scenarios.BROKEN_OFF_BYTES)

TRAFFICSERVER = Proxy(
    name="trafficserver",
    title="Traffic Server",
    format="trafficserver",
    programs=("traffic_server",),
    way=forward,
    scenarios=tuple(s for s in scenarios.FORWARD if s.has_user),  # it asks nobody for credentials by itself
    start=start,
    logs=("log/meter.log",),
    target=(
        Off("chunked", down=(-40, 0), why="The end of an answer in chunks"),
        Off("expect", down=(-30, -20), why="The interim `100 Continue`"),
        Off("cached", up=(0, 60), why="The absolute URL, of a request whose answer it caches"),
        Off("hangup reset", down=NO_BODY, why="No body, when the origin closes in its middle"),
    ),
    client=(
        Off("expect", down=(-90, -70), why="The interim `100 Continue`, its own and the origin's"),
        Off("hangup reset", down=NO_BODY, why="No body, when the origin closes in its middle"),
        Off(
            "tlsrefused", up=(-800, 0), why="It says that there is a tunnel before it has one, and counts no byte of it"
        ),
        Off("tlsreset", up=(-24, 2), why="The client's farewell in TLS, which nobody reads"),
        Off(OTHERS_TLS, up=(0, 2), why="A byte of the CONNECT"),
    ),
    target_requests={"cached": 1},
    garbled=("tlsnowhere", "tlsdenied"),
)
