"""`migrate`: the data folder as a whole."""

from __future__ import annotations

import typer

from bandmeter import service
from bandmeter.cli import output
from bandmeter.cli.session import Json, configure


def migrate(context: typer.Context, as_json: Json = False) -> None:
    """Bring the databases to this release's schemas. Every other command does the same when it opens them."""
    before = service.migrate(configure(context))
    if as_json:
        rows = [{"file": one.file, "from": one.stored or None, "to": one.known[-1]} for one in before]
        output.print_json({"databases": rows})
        return
    for one in before:
        if one.is_current:
            output.say(f"{one.file}: schema {one.stored}, nothing to do.")
        else:
            output.say(f"{one.file}: schema {one.stored or 'none'} → {one.known[-1]}.")
