"""Real proxies, from Debian and PyPI, and all that a test of them needs; `PROXIES` is the table of them."""

from __future__ import annotations

from proxies.envoy import ENVOY, ENVOY_EDGE, ENVOY_GATEWAY
from proxies.haproxy import HAPROXY_EDGE, HAPROXY_GATEWAY, HAPROXY_POOL
from proxies.nginx import NGINX
from proxies.squid import SQUID
from proxies.trafficserver import TRAFFICSERVER
from proxies.varnish import VARNISH

PROXIES = (
    SQUID,
    TRAFFICSERVER,
    HAPROXY_POOL,
    HAPROXY_GATEWAY,
    HAPROXY_EDGE,
    NGINX,
    VARNISH,
    ENVOY,
    ENVOY_EDGE,
    ENVOY_GATEWAY,
)
