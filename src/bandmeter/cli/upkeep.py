"""`migrate`, `backup` and `restore`: the data folder as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from bandmeter import service
from bandmeter.cli import output, progress
from bandmeter.cli.session import Json, configure, opened
from bandmeter.upkeep import backup as backups
from bandmeter.upkeep import databases
from bandmeter.upkeep import restore as restores


def migrate(context: typer.Context, as_json: Json = False) -> None:
    """Bring the databases to this release's schemas. Every other command does the same when it opens them."""
    folder = configure(context).data
    before = [databases.schema(folder / file) for file in databases.FILES]
    with opened(context):
        pass
    if as_json:
        rows = [{"file": one.file, "from": one.stored or None, "to": one.known[-1]} for one in before]
        output.print_json({"databases": rows})
        return
    for one in before:
        if one.is_current:
            output.say(f"{one.file}: schema {one.stored}, nothing to do.")
        else:
            output.say(f"{one.file}: schema {one.stored or 'none'} → {one.known[-1]}.")


def backup(
    context: typer.Context,
    to: Annotated[str, typer.Argument(metavar="TO", help="A folder that is not there yet.")],
    as_json: Json = False,
) -> None:
    """Copy both databases as they are at one moment, while others read and write them, and check the copy."""
    with progress.bytes_shown() as step:
        manifest = backups.back_up(configure(context).data, Path(to), service.clock_s(), step)
    if as_json:
        output.print_json({"path": to, **msgspec.to_builtins(manifest)})
        return
    files = ", ".join(f"{name} {output.human(file.bytes)}" for name, file in manifest.files.items())
    output.say(f"Backed up to {to}: {files}.")


def restore(
    context: typer.Context,
    source: Annotated[str, typer.Argument(metavar="FROM", help="A folder that `bandmeter backup` made.")],
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Also where there are databases: they are set aside.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Put a backup into the data folder, which nothing else may use meanwhile."""
    folder = configure(context).data
    with progress.bytes_shown() as step:
        done = restores.restore(Path(source), folder, service.clock_s(), step, overwrite=overwrite)
    if as_json:
        replaced = str(done.replaced) if done.replaced else None
        output.print_json({"path": str(folder), "replaced": replaced, **msgspec.to_builtins(done.manifest)})
        return
    output.say(f"Restored the backup of {done.manifest.created} into {folder}.")
    if done.replaced:
        output.say(f"What was there before is in {done.replaced}: delete it once you are sure.")
    if done.kept_settings:
        output.say(f"The folder's own settings were kept: those of the backup are in {source}.")
