"""Real proxies, set up as docs/formats.md says, and what Bandmeter says of them against the bytes on the wire.

Each proxy runs once: curl drives it, an origin and a relay count at their sockets, logrotate rotates its logs, and
Bandmeter reads them all the while. Then the tests below look at what came out.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from pathlib import Path

import pytest

from proxies import PROXIES, document, table
from proxies.clients import Client, edge
from proxies.contracts import OTHERS, OTHERS_TLS, SIDES, Proxy
from proxies.measure import Measured, measure
from proxies.meter import Meter, Usage
from proxies.origin import Origin
from proxies.running import FailedError
from proxies.scenarios import EDGE
from proxies.wire import Bytes, Tally

ACCURACY = Path(__file__).resolve().parents[3] / "docs" / "accuracy.md"
PROGRAMS = ("curl", "logrotate")
# Whose logs `bandmeter ingest` reads, over and over; those of the others are followed by the server.
READ_BY_INGEST = {"squid", "haproxy-gateway"}


def lacking(proxy) -> str:
    """Why a proxy cannot run here."""
    missing = [program for program in (*PROGRAMS, *proxy.programs) if not shutil.which(program)]
    if missing:
        return f"not installed: {', '.join(missing)}; as root on Debian, `make test` installs it"
    return "" if os.geteuid() == 0 else "needs root: to be a name server, and to run proxies as nobody"


@pytest.fixture(scope="module")
def measured(make_command, serve_folder):
    """What came out of a proxy's run, which is made when it is first asked for."""
    outcomes, meters = {}, {}

    def meter_that(*, follows: bool) -> tuple[Meter, Path]:
        if follows not in meters:
            # Proxies run as nobody, and pytest's own folder is closed to everybody else.
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bandmeter-")))
            folder.chmod(0o755)
            command = make_command(folder / "data")
            meter = Meter(command, PROXIES, folder, follows=follows)
            sources = {} if follows else {"BANDMETER_CONFIG": str(folder / "nothing.toml")}
            (folder / "nothing.toml").touch()
            served = stack.enter_context(serve_folder(command.data, folder / "serve.log", 1, **sources))
            meter.url = served.url
            meters[follows] = meter, folder
        return meters[follows]

    def get(proxy) -> Measured:
        if proxy.name not in outcomes:
            try:
                outcomes[proxy.name] = measure(proxy, *meter_that(follows=proxy.name not in READ_BY_INGEST))
            except (AssertionError, FailedError, OSError) as failure:
                outcomes[proxy.name] = failure
        if isinstance(outcomes[proxy.name], Exception):
            raise outcomes[proxy.name]
        return outcomes[proxy.name]

    with contextlib.ExitStack() as stack:
        yield get


@pytest.fixture(params=PROXIES, ids=lambda proxy: proxy.name)
def run(request, measured):
    reason = lacking(request.param)
    if reason:
        pytest.skip(reason)
    return measured(request.param)


def test_origin_and_relay_count_the_same_where_no_proxy_is_between(tmp_path):
    """What all the rest relies on: both see each byte of a socket once, also of TLS and of what is broken off."""
    if not shutil.which("curl"):
        pytest.skip("not installed: curl")
    asked = tuple(s for s in EDGE if s.status != "50." and s.reaches and not s.is_full)
    origin = Origin(tmp_path, "nothing.test")
    nothing = Proxy("nothing", "", "", (), edge, asked, lambda *_: None, ())
    client = Client(nothing, origin, lambda s: origin.tls_port if s.is_tls else origin.port, tmp_path, Tally())
    for scenario in asked:
        client.run(scenario)
    origin.close()
    counted = {s.name: client.wire.of(s.name) for s in asked if s.name != "tlsreset"}  # the client may say farewell
    assert {name: origin.tally.of(name) for name in counted} == counted
    assert all(passed.up > 50 and passed.down > 0 for name, passed in counted.items() if name != "uphangup")


@pytest.mark.parametrize("side", SIDES)
def test_usage_is_as_near_to_the_wire_as_the_documents_say(run, side):
    """By kind of request, up and down; and exact wherever docs/accuracy.md names no difference."""
    other = "client" if side == "target" else "target"
    wrong = []
    for scenario in run.proxy.scenarios:
        requests = run.proxy.requests(scenario, side)
        off = run.proxy.off(scenario, side)
        says = run.usage[side].get(scenario.name, Usage())
        wire = run.wire[side][scenario.name] if requests or side == "target" else Bytes()
        if not off.allows(
            scenario, Bytes(says.bytes_up, says.bytes_down), wire, run.wire[other][scenario.name], requests
        ):
            wrong.append((scenario.name, says, wire, off))
    assert not wrong


@pytest.mark.parametrize("side", SIDES)
def test_each_request_is_counted_once(run, side):
    """Though the logs were read again and again, and from under three names."""
    expected = {s.name: n for s in run.proxy.scenarios if (n := run.proxy.requests(s, side))}
    assert {zone: usage.requests for zone, usage in run.usage[side].items()} == expected


def test_each_line_becomes_something(run):
    """And none is a reject, but those that Traffic Server garbles; whoever reads them again counts nothing."""
    garbled = sum(run.proxy.transactions(s) for s in run.proxy.scenarios if s.name in run.proxy.garbled)
    assert sum(run.outcomes.values()) == run.lines
    assert run.outcomes["rejected"] == garbled
    assert run.again["received"] == run.again["duplicate"] == run.lines


def test_a_log_says_by_what_it_went(run):
    """The scheme, and the IP version: of the target through a proxy, of the visitor at a site."""
    if run.proxy.format != "haproxy":  # its address is the pool's or the origin's, and it logs no scheme
        versions = {(row["zone"].endswith("ipv6"), row["ip_version"]) for row in run.rows["client"] if row["requests"]}
        known = {pair for pair in versions if pair[1] != "unknown"}
        asked = {s.name.endswith("ipv6") for s in run.proxy.scenarios}
        assert known == {(is_6, "6" if is_6 else "4") for is_6 in asked}
    if run.proxy.name not in ("haproxy-edge", "varnish"):
        tls = {s.name for s in run.proxy.scenarios if s.is_tls}
        assert {(row["zone"] in tls, row["scheme"]) for row in run.rows["client"]} <= {(True, "https"), (False, "http")}


def test_the_documents_have_the_bounds_that_are_held():
    found = re.search(r"<!-- bounds -->\n(.*?)\n<!-- /bounds -->", ACCURACY.read_text(), re.DOTALL)
    assert found
    assert found[1] == table.render(PROXIES)


def test_every_directive_of_the_documents_is_run():
    """Each block in the section of a proxy is in the configuration that one of them runs with."""
    used = {"squid": 1, "nginx": 1, "haproxy": 3, "trafficserver": 1, "varnish": 2, "envoy": 5}
    assert {proxy.format for proxy in PROXIES} == set(used)
    assert {name: len(document.directives(name)) for name in used} == used


def test_bounds_name_what_is_run():
    for proxy in PROXIES:
        for side in (proxy.target, proxy.client):
            named = [name for off in side for name in off.scenarios.split()]
            assert len(named) == len(set(named)), proxy.name
            assert set(named) - {OTHERS, OTHERS_TLS} <= {scenario.name for scenario in proxy.scenarios}, proxy.name
