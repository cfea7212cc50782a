"""`serve`, `doctor` and `config`: the program itself."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import Annotated

import typer

from bandmeter import config as configuration
from bandmeter import service
from bandmeter.cli import output
from bandmeter.cli.session import Json, configure
from bandmeter.service import doctor as doctor_of

UNWELL = 1  # the exit status


def serve(
    context: typer.Context,
    host: Annotated[str | None, typer.Option(help="The address to listen on; 127.0.0.1 by default.")] = None,
    port: Annotated[int | None, typer.Option(help="The port to listen on; 8080 by default.")] = None,
    workers: Annotated[int | None, typer.Option(help="How many processes answer; 1 by default.")] = None,
) -> None:
    """Answer over HTTP until Ctrl-C."""
    options = {"server.host": host, "server.port": port, "server.workers": workers}
    service.serve(configure(context, options), _announce)


def _announce(url: str) -> None:
    """Tell whoever started us that the server answers: in words, and systemd by sd_notify(3), where it waits for it."""
    print(f"Listening on {url}", flush=True)  # noqa: T201
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor, contextlib.suppress(OSError):
            supervisor.sendto(b"READY=1", "\0" + address[1:] if address.startswith("@") else address)


def doctor(context: typer.Context, as_json: Json = False) -> None:
    """Look for what may be wrong on this machine, and say what to do about it."""
    checks = doctor_of.examine(configure(context))
    if as_json:
        output.print_json({"checks": [check._asdict() | {"ok": not check.problem} for check in checks]})
    for check in () if as_json else checks:
        output.say(f"{'✗' if check.problem else '✓'} {check.name}: {check.problem or check.seen}")
    if any(check.problem for check in checks):
        raise typer.Exit(UNWELL)


def show_config(
    context: typer.Context,
    dump: Annotated[bool, typer.Option("--dump", help="Print every setting with where it came from.")] = False,
) -> None:
    """Show where the settings are read from, or all of them as TOML."""
    config = configure(context)
    if dump:
        output.say(configuration.dump(config).rstrip("\n"))
    else:
        output.say(f"data: {config.data}\nfile: {config.file or 'none'}")
