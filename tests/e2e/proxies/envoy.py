"""Envoy: a forward proxy that asks for credentials, an edge in the clear and with TLS, and a gateway by SNI."""

from __future__ import annotations

import base64
import hashlib
import shutil
import sys
import textwrap
from pathlib import Path

from proxies import document, scenarios
from proxies.clients import edge, forward
from proxies.contracts import OTHERS_TLS, Off, Proxy, Started, World
from proxies.running import Place

LOG = "access_meter.log"
PROGRAM = next((Path(sys.prefix) / "clients").glob("lib/python3*/site-packages/envoy/_bin/envoy"), Path("envoy"))
MANAGER = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
FORWARD = """
static_resources:
  listeners:
  - address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": {manager}
          stat_prefix: proxy
{access_log}
          http_filters:
{authentication}
          - name: envoy.filters.http.dynamic_forward_proxy
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.dynamic_forward_proxy.v3.FilterConfig
              dns_cache_config: &names
                name: names
                dns_lookup_family: V4_PREFERRED
                typed_dns_resolver_config:
                  name: envoy.network.dns_resolver.cares
                  typed_config:
                    "@type": type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig
                    resolvers: [{{socket_address: {{address: {name_server}, port_value: 53}}}}]
          - name: envoy.filters.http.router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
          upgrade_configs: [{{upgrade_type: CONNECT}}]
          route_config:
            virtual_hosts:
            - name: denied
              domains: ["denied.*", "tlsdenied.*"]
              routes:
              - match: {{connect_matcher: {{}}}}
                direct_response: {{status: 403}}
              - match: {{prefix: /}}
                direct_response: {{status: 403}}
            - name: others
              domains: ["*"]
              routes:
              - match: {{connect_matcher: {{}}}}
                route: {{cluster: any, upgrade_configs: [{{upgrade_type: CONNECT, connect_config: {{}}}}]}}
              - match: {{prefix: /}}
                route: {{cluster: any, timeout: 0s}}
  clusters:
  - name: any
    lb_policy: CLUSTER_PROVIDED
    cluster_type:
      name: envoy.clusters.dynamic_forward_proxy
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig
        dns_cache_config: *names
"""
EDGE = """
static_resources:
  listeners:
  - address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    additional_addresses: [{{address: {{socket_address: {{address: "::1", port_value: {port}}}}}}}]
    filter_chains:
    - filters: &filters
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": {manager}
          stat_prefix: edge
{access_log}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - {{match: {{prefix: /denied/}}, direct_response: {{status: 403}}}}
              - {{match: {{prefix: /refused}}, route: {{cluster: nobody}}}}
              - {{match: {{prefix: /}}, route: {{cluster: origin, timeout: 0s}}}}
  - address: {{socket_address: {{address: 127.0.0.1, port_value: {tls_port}}}}}
    filter_chains:
    - transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context:
            alpn_protocols: [h2, http/1.1]
            tls_certificates: [{{certificate_chain: {{filename: edge.pem}}, private_key: {{filename: edge.pem}}}}]
      filters: *filters
  clusters:
  - name: origin
    load_assignment:
      cluster_name: origin
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {next}}}}}}}}}]}}]
  - name: nobody
    load_assignment:
      cluster_name: nobody
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 1}}}}}}}}]}}]
"""
GATEWAY = """
static_resources:
  listeners:
  - address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
{inspector}
    filter_chains:
    - filters:
      - name: envoy.filters.network.tcp_proxy
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: gateway
          cluster: origin
          access_log_options: {{access_log_flush_interval: 0.05s}}
{access_log}
  clusters:
  - name: origin
    load_assignment:
      cluster_name: origin
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {next}}}}}}}}}]}}]
"""


def _indented(text: str, columns: int) -> str:
    return textwrap.indent(text.rstrip(), " " * columns)


def _run(place: Place, text: str, port: int) -> str:
    """Start it; the command that reopens its logs."""
    place.write("envoy.yaml", text)
    program = shutil.copy(PROGRAM, place.folder / "envoy")  # a folder that is open to whoever runs it
    Path(program).chmod(0o755)
    place.hand_over()
    options = ("--file-flush-interval-msec", "100", "--disable-hot-restart", "--concurrency", "1", "-l", "warn")
    running = place.start(program, "-c", "envoy.yaml", *options)
    place.wait_for_port(port)
    return f"kill -USR1 {running.pid}"


def _users(proxy: Proxy) -> str:
    digest = base64.b64encode(hashlib.sha1(b"pw", usedforsecurity=False).digest()).decode()
    names = [f"cust-{proxy.name}-zone-{s.name}-session-454710-country-us" for s in proxy.scenarios]
    return "".join(f"{name}:{{SHA}}{digest}\n" for name in names)


def start_forward(place: Place, world: World) -> Started:
    port = place.free_port()
    place.write("users.htpasswd", _users(ENVOY))
    text = FORWARD.format(
        port=port,
        manager=MANAGER,
        name_server=world.names.address,
        authentication=_indented(document.directive("envoy", 0), 10),
        access_log=_indented(document.directive("envoy", 1), 10),
    )
    reopen = _run(place, text, port)
    return Started(lambda _: port, reopen)


def start_edge(place: Place, world: World) -> Started:
    port, tls_port = place.free_port(), place.free_port()
    place.write("edge.pem", world.origin.certificate_file.read_text())
    access_log = _indented(document.directive("envoy", 2), 10)
    text = EDGE.format(port=port, tls_port=tls_port, manager=MANAGER, next=world.origin.port, access_log=access_log)
    reopen = _run(place, text, port)
    return Started(lambda s: tls_port if s.is_tls else port, reopen)


def start_gateway(place: Place, world: World) -> Started:
    port = place.free_port()
    inspector, access_log = _indented(document.directive("envoy", 3), 4), _indented(document.directive("envoy", 4), 10)
    text = GATEWAY.format(port=port, next=world.origin.tls_port, inspector=inspector, access_log=access_log)
    reopen = _run(place, text, port)
    return Started(lambda _: port, reopen)


FAREWELL = Off("tlsreset", up=(-24, 0), why="The client's farewell in TLS, which nobody reads")
ENVOY = Proxy(
    name="envoy",
    title="Envoy, forward proxy",
    format="envoy",
    programs=(str(PROGRAM),),
    way=forward,
    scenarios=scenarios.FORWARD,
    start=start_forward,
    logs=(LOG,),
    client=(FAREWELL,),
)
ENVOY_EDGE = Proxy(
    name="envoy-edge",
    title="Envoy, edge",
    format="envoy",
    programs=(str(PROGRAM),),
    way=edge,
    scenarios=scenarios.EDGE,
    start=start_edge,
    logs=(LOG,),
    client=(Off(OTHERS_TLS, up=(-2_000, -100), down=(-4_000, -100), why="TLS, most of it the handshake"),),
    ends_tls=True,
)
ENVOY_GATEWAY = Proxy(
    name="envoy-gateway",
    title="Envoy, by SNI",
    format="envoy",
    programs=(str(PROGRAM),),
    way=edge,
    scenarios=scenarios.TLS,
    start=start_gateway,
    logs=(LOG,),
    client=(FAREWELL,),
)
