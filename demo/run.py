"""The demo: captured logs of six proxies become usage and cost, and are answered for on 127.0.0.1 until Ctrl-C.

It does what a user would type, and shows it: every step but the first is a `bandmeter` command. That first step moves
the logs' times, by one constant for each log, so that the newest was written a minute ago and the others on the six
days before: then an answer about "this month" has numbers in it on any date.

DEMO_PORT chooses the port (8080). BANDMETER_NOW stands the clock still here too.
"""

from __future__ import annotations

import datetime as dt
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent
LOGS = Path("demo/logs")
DATA = Path("demo-data")
HOST, PORT, PORTS_TRIED = "127.0.0.1", 8080, 50
DAY_SECONDS = 86_400
MARGIN_SECONDS = 60  # the newest line is as old as this: requests of a log end a little after its last time stamp
STOP_SECONDS = 15
# Unix seconds at the start of a column or value, followed by their milliseconds, with or without a point.
STAMP = re.compile(rb'(?:^|(?<=\t)|(?<="t":)|(?<="start":"))1[0-9]{9}(?=\.[0-9]{3}|[0-9]{3}\t)', re.MULTILINE)


# Files of one run of a proxy each, in the order of the days: the first is the oldest. demo/bandmeter.toml has their
# formats.
CAPTURED = (
    ("envoy/forward.log", "envoy/edge.log", "envoy/gateway.log"),
    ("varnish/client.log", "varnish/backend.log"),
    ("haproxy/tcp_sni.log",),
    ("nginx/access_meter.log",),
    ("haproxy/http_front_of_squid.log",),
    ("trafficserver/access_meter.log",),
    ("squid/access_meter.log",),
)
REJECTS = """
Eleven lines were rejected, and this is as it should be. Seven of HAProxy's were written when a transfer began, without
its bytes (`option logasap`): to count them as zero would look well and be wrong. Four of Traffic Server's are broken
bytes. All are kept, with their reason: see `bandmeter rejects`. The lines around them count."""


def say(text: str = "") -> None:
    """A line that is there at once, also in a pipe."""
    print(text, flush=True)


def fail(sentence: str) -> NoReturn:
    """Stop with one sentence."""
    sys.stderr.write(f"demo: {sentence}\n")
    sys.exit(3)


def now_seconds() -> int:
    """Unix seconds: the machine's, or where BANDMETER_NOW stands."""
    stands = os.environ.get("BANDMETER_NOW")
    return int(dt.datetime.fromisoformat(stands).timestamp()) if stands else int(time.time())


# ---------------------------------------------------------------- the logs, moved


def later(text: bytes, seconds: int) -> bytes:
    """A log with every time stamp moved by `seconds`."""
    return STAMP.sub(lambda match: b"%d" % (int(match[0]) + seconds), text)


def move_logs(folder: Path) -> None:
    """Copy every log into `folder` with its times moved."""
    folder.parent.mkdir(mode=0o700, parents=True)  # as `bandmeter` itself makes a data folder
    newest = now_seconds() - MARGIN_SECONDS
    for days, names in zip(range(len(CAPTURED) - 1, -1, -1), CAPTURED, strict=True):
        texts = [(ROOT / LOGS / name).read_bytes() for name in names]
        last = max(int(stamp) for text in texts for stamp in STAMP.findall(text))
        for name, text in zip(names, texts, strict=True):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(later(text, newest - days * DAY_SECONDS - last))


# ---------------------------------------------------------------- the command


class Bandmeter:
    """The installed command, run in the root on one data folder."""

    def __init__(self, data: Path) -> None:
        self.path = Path(sys.executable).with_name("bandmeter")
        if not self.path.exists():
            fail("The command is not installed: run `make demo`, or `make install` first.")
        # Nothing but what this demo says: a user's own settings stay out of it.
        kept = {k: v for k, v in os.environ.items() if not k.startswith("BANDMETER_") or k == "BANDMETER_NOW"}
        self.environment = kept | {"BANDMETER_DATA": str(data)}

    def show(self, *arguments: str) -> None:
        """Say what is run, as it can be typed."""
        path = self.path.relative_to(ROOT) if self.path.is_relative_to(ROOT) else self.path
        say(f"\n$ {shlex.join([str(path), *arguments])}")

    def run(self, *arguments: str, status: int = 0) -> str:
        """Run a command that must end with `status`; its output is shown, or returned where it is a secret."""
        is_secret = arguments[0] == "key"
        self.show(*arguments)
        done = subprocess.run(
            [self.path, *arguments],
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE if is_secret else None,
            check=False,
        )
        if done.returncode != status:
            fail(f"`bandmeter {shlex.join(arguments)}` ended with {done.returncode}, not with {status}.")
        return done.stdout.decode().strip() if is_secret else ""

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command that goes on."""
        self.show(*arguments)
        return subprocess.Popen(
            [self.path, *arguments], cwd=ROOT, env=self.environment, stdout=subprocess.PIPE, text=True
        )


# ---------------------------------------------------------------- serving


def choose_port() -> int:
    """DEMO_PORT or 8080, or else the next one that is free."""
    wanted = os.environ.get("DEMO_PORT") or str(PORT)
    if not wanted.isdecimal() or not 0 < int(wanted) <= 65_535:  # noqa: PLR2004 - the ports that there are
        fail(f"DEMO_PORT={wanted} is no port: give a number from 1 to 65535.")
    for port in range(int(wanted), min(int(wanted) + PORTS_TRIED, 65_536)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                say(f"Port {port} is taken.")
            else:
                return port
    fail("No free port was found: name one with DEMO_PORT.")


def tell(url: str, key: str, data: Path) -> None:
    """The address, the key, and what to paste into another terminal."""
    say(f"\nAddress: {url}   (what can be asked: {url}/docs)")
    say(f"Key:     {key}   (reads account acme)\n")
    say("Paste into another terminal:\n")
    for path in ("/zone/bw?zone=res2", "/customer/bw", "/zone/cost?zone=res2"):
        say(f'  curl -s -H "Authorization: Bearer {key}" "{url}{path}"')
    say("\nThe same numbers from the command line, in this folder:\n")
    say(f"  BANDMETER_DATA={data} .venv/bin/bandmeter usage acme --group-by zone\n")
    say("Ctrl-C stops it.")


def serve(bandmeter: Bandmeter, port: int, data: Path) -> int:
    """Serve, and go on until SIGINT or SIGTERM; the exit status."""
    key = bandmeter.run("key", "add", "acme")
    server = bandmeter.start("serve", "--host", HOST, "--port", str(port))
    try:
        for line in server.stdout or ():
            if line.startswith("Listening on "):
                tell(line.removeprefix("Listening on ").strip(), key, data)
            else:
                say(line.rstrip())
        return server.wait() or 3  # it ended by itself: its own words say why
    except KeyboardInterrupt:
        say(f"\nStopped. The data stays in {data} until the next demo.")
        return 0
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C does not hurry the stop
        server.terminate()
        server.wait(STOP_SECONDS)


def main() -> int:
    """Run the demo; the exit status."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a shell in the background had it ignored
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    port = choose_port()
    data = DATA / str(port)  # two demos at a time do not share a folder, since they do not share a port
    shutil.rmtree(ROOT / data, ignore_errors=True)
    bandmeter = Bandmeter(data)
    say(f"Six proxies' captured logs, their times moved to the last {len(CAPTURED)} days, are in {data}/logs.")
    move_logs(ROOT / data / "logs")
    shutil.copy(ROOT / "demo" / "bandmeter.toml", ROOT / data)
    bandmeter.run("apply", "demo/catalog.json")
    bandmeter.run("ingest", status=1)  # before `serve` follows the same logs
    say(REJECTS)
    return serve(bandmeter, port, data)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
