"""curl, as a customer of a proxy or a visitor of a site uses it, through a relay that counts what the proxy carries."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from proxies.contracts import Proxy
from proxies.origin import Origin
from proxies.scenarios import BROKEN_OFF_BYTES, Scenario
from proxies.wire import DEADLINE_SECONDS, Relay, Tally

CURL = ("curl", "--disable", "--silent", "--show-error", "--no-buffer", "--max-time", str(DEADLINE_SECONDS))
READ_BYTES = 100_000  # of a download that is broken off while it runs
POLL_SECONDS = 0.005
CLOSED_PORTS = {"refused": 1, "tlsrefused": 1, "tlsdenied": 2}  # where nobody listens
ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}


def forward(proxy: Proxy, scenario: Scenario, relay: str, origin: Origin) -> tuple[list[str], str]:
    """Through a forward proxy, with a user name that carries parameters as customers write them."""
    user = f"cust-{proxy.name}-zone-{scenario.name}-session-454710-country-us:pw@" if scenario.has_user else ""
    port = CLOSED_PORTS.get(scenario.name, origin.tls_port if scenario.is_tls else origin.port)
    return [
        "--proxy",
        f"http://{user}{relay}",
    ], f"{scenario.scheme}://{scenario.name}.{proxy.domain}:{port}/{scenario.name}/"


def edge(proxy: Proxy, scenario: Scenario, relay: str, _: Origin) -> tuple[list[str], str]:
    """To a site whose name leads to the proxy."""
    return ["--connect-to", f"::{relay}"], f"{scenario.scheme}://{scenario.name}.{proxy.domain}/{scenario.name}/"


@dataclasses.dataclass(frozen=True, slots=True)
class Client:
    """Runs scenarios against one proxy. `port_of`: where it listens for a scenario; `wire` has the bytes there."""

    proxy: Proxy
    origin: Origin
    port_of: Callable[[Scenario], int]
    folder: Path
    wire: Tally

    def run(self, scenario: Scenario) -> None:
        """All requests of a scenario; curl must see the status that it says."""
        host = "::1" if scenario.name == "ipv6" and self.proxy.way is edge else "127.0.0.1"
        relay = Relay(self.wire, scenario.name, host, self.port_of(scenario))
        try:
            options, prefix = self.proxy.way(self.proxy, scenario, relay.address, self.origin)
            command = [*CURL, "--cacert", str(self.origin.authority_file), *options, *scenario.options]
            urls = [prefix + path for path in scenario.paths]
            if scenario.ends:
                ENDS[scenario.ends](self, scenario, [*command, *urls])
            else:
                self._ask(scenario, command, urls)
        finally:
            relay.close()
        self.wire.wait_until_idle(scenario.name)
        self.origin.tally.wait_until_idle(scenario.name)

    def _ask(self, scenario: Scenario, command: list[str], urls: list[str]) -> None:
        if scenario.upload_bytes:
            upload = self.folder / f"{scenario.name}.upload"
            upload.write_bytes(b"u" * scenario.upload_bytes)
            command += ["--data-binary", f"@{upload}"]
        command += ["--write-out", "%{http_code} %{http_connect}\n"]
        for some in [urls] if scenario.is_kept else [[url] for url in urls]:
            places = [word for url in some for word in (url, "--output", os.devnull)]
            done = subprocess.run([*command, *places], env=ENVIRONMENT, capture_output=True, text=True, check=False)
            codes = [line.split() for line in done.stdout.splitlines()]
            # a tunnel that was refused has no answer inside
            seen = [code if code != "000" else connect for code, connect in codes]
            assert len(seen) == len(some), (done.args, done.stderr)
            assert all(re.fullmatch(scenario.status, code) for code in seen), (done.args, seen, done.stderr)

    # ---------------------------------------------------------------- transfers that are broken off

    def hang_up(self, scenario: Scenario, command: list[str]) -> None:
        """The client goes when it has all that was sent so far, and nothing is under way; then the origin goes too."""
        with self._downloading(scenario, command):
            pass
        self.wire.wait_until_idle(scenario.name)
        self.origin.give_up(scenario.name)

    def hang_up_fast(self, scenario: Scenario, command: list[str]) -> None:
        """The client goes while bytes fill all buffers between it and the origin."""
        with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE) as curl:
            assert len(curl.stdout.read(READ_BYTES)) == READ_BYTES, scenario.name
            curl.kill()

    def hang_up_upload(self, scenario: Scenario, command: list[str]) -> None:
        """The client goes in the middle of its upload, when the origin has all of it so far."""
        there = self.origin.tally
        command += ["--upload-file", "-", "--request", "POST"]
        with subprocess.Popen(command, env=ENVIRONMENT, stdin=subprocess.PIPE) as curl:
            curl.stdin.write(b"u" * BROKEN_OFF_BYTES)
            curl.stdin.flush()
            there.wait_for(lambda: there.of(scenario.name).up > BROKEN_OFF_BYTES, "an upload to reach the origin")
            curl.kill()

    def reset(self, scenario: Scenario, command: list[str]) -> None:
        """The origin goes when the client has all that was sent so far."""
        with self._downloading(scenario, command) as curl:
            self.origin.reset(scenario.name)
            assert curl.wait(DEADLINE_SECONDS) != 0, scenario.name

    @contextlib.contextmanager
    def _downloading(self, scenario: Scenario, command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
        """A curl that has all that the origin sent of an answer that is not finished; killed in the end."""
        into = self.folder / f"{scenario.name}.download"
        with subprocess.Popen([*command, "--output", into], env=ENVIRONMENT, stderr=subprocess.DEVNULL) as curl:
            while not into.exists() or into.stat().st_size < BROKEN_OFF_BYTES:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    raise AssertionError(f"curl ended with {curl.wait(POLL_SECONDS)}: {command}")
            yield curl
            curl.kill()


ENDS = {
    "hangup": Client.hang_up,
    "hangup, fast": Client.hang_up_fast,
    "hangup, upload": Client.hang_up_upload,
    "reset": Client.reset,
}
