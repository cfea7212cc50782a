"""The table of commands."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer
from typer.main import get_command

from bandmeter import __version__
from bandmeter.cli import keys, logs, money, output, rejects, run, tenants, upkeep, usage, verify

APP = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Meters what proxies and CDN edges carry: traffic logs in, exact usage and cost out.",
)


# What help shows of the type of an option: words for it, not the program's own.
TYPES = {"<str>": "TEXT", "<list[str]>": "TEXT", "<int>": "NUMBER", "<bool>": ""}


def _show_version(is_asked: bool) -> None:
    if is_asked:
        output.say(f"bandmeter {__version__}")
        raise typer.Exit


@APP.callback()
def _main(
    context: typer.Context,
    data: Annotated[
        str | None, typer.Option(metavar="DIR", help="The data folder; BANDMETER_DATA, or ./bandmeter-data.")
    ] = None,
    version: Annotated[  # noqa: ARG001 - its callback answers
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    context.obj = data


APP.add_typer(tenants.ACCOUNT, name="account")
APP.add_typer(tenants.ZONE, name="zone")
APP.command("apply")(tenants.apply)
APP.add_typer(keys.KEY, name="key")
APP.add_typer(keys.OPERATOR_KEY, name="operator-key")
APP.add_typer(money.PRICE, name="price")
APP.command("ingest")(logs.ingest)
APP.command("serve")(run.serve)
APP.command("usage")(usage.usage)
APP.command("cost")(money.cost)
APP.command("sources")(logs.sources)
APP.command("rejects")(rejects.rejects)
APP.command("doctor")(run.doctor)
APP.command("config")(run.show_config)
APP.command("verify")(verify.verify)
APP.command("migrate")(upkeep.migrate)
APP.command("backup")(upkeep.backup)
APP.command("restore")(upkeep.restore)


def build() -> Any:
    """The whole command, to be called with its arguments."""
    whole = get_command(APP)
    for command in _commands(whole):
        context = command.context_class(command)
        for parameter in command.get_params(context):
            if parameter.param_type_name == "argument":
                parameter.display_type_rich = lambda ctx: None  # noqa: ARG005 - its name says what it takes
            elif parameter.metavar is None:
                parameter.metavar = TYPES.get(parameter.display_type(context))
    return whole


def _commands(command: Any) -> Iterator[Any]:
    yield command
    for one in getattr(command, "commands", {}).values():
        yield from _commands(one)
