"""`price` and `cost`: what traffic costs."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any

import typer

from bandmeter import service
from bandmeter.catalog import split_plan
from bandmeter.cli import output
from bandmeter.cli.session import Json, Target, need_target, opened, read_json, split_target
from bandmeter.cli.spans import From, To, read_span
from bandmeter.domain import errors, grid, money
from bandmeter.domain.errors import BandmeterError
from bandmeter.domain.grid import Resolution, Span
from bandmeter.domain.questions import Cost, CostAnswer, CostQuestion

PRICE = typer.Typer(no_args_is_help=True, help="Price plans.")
PLACES = 4  # of an amount that leaves; it is rounded here, once
BEGINNING = "0000-00"
UNPRICED_SHOWN = 5  # zones that a sentence names


@PRICE.command("set")
def set_price(
    context: typer.Context,
    target: Target,
    plan: Annotated[
        str,
        typer.Argument(
            metavar="PLAN.json", help='A file with {"plan": "per_gb", "price": "0.42"}; - for standard input.'
        ),
    ],
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="YYYY-MM",
            help="The first month it counts for; this one, or the beginning where nothing had a price.",
        ),
    ] = None,
) -> None:
    """Put a price plan in force for an account or a zone. A month that is past keeps its price.

    A zone's own plan stands above its account's. docs/prices.md has the plans, and what they cost.
    """
    document = read_json(plan)
    if not isinstance(document, dict):
        raise BandmeterError(errors.INPUT_INVALID, f'{plan} holds no plan: write {{"plan": "per_gb", …}}.')
    kind, fields = split_plan(document)
    service.check_plan(kind, fields)
    account, zone = split_target(target)
    with opened(context) as parts:
        since = parts.catalog.set_plan(account, zone, kind, fields, start, now_s=service.clock_s())
    if not since:
        output.say(f"{target} has this plan already.")
    else:
        output.say(f"{target}: plan {kind} from {'the beginning' if since == BEGINNING else since}.")


@PRICE.command("list")
def list_prices(
    context: typer.Context,
    account: Annotated[str, typer.Argument(help="The account's id.")],
    as_json: Json = False,
) -> None:
    """List the plans of an account and its zones, also those that are yet to come and those of past months."""
    with opened(context) as parts:
        found = parts.catalog.price_plans(account)
    rows = [
        {
            "zone": zone,
            "from": "" if plan.start == BEGINNING else plan.start,
            "plan": plan.kind,
            **({"fields": dict(plan.fields)} if as_json else {"fields": _shown_fields(plan.fields)}),
        }
        for zone, plan in found
    ]
    if not as_json:
        for row in rows:
            row["zone"] = row["zone"] or "(all others)"
            row["from"] = row["from"] or "the beginning"
    output.records(rows, "prices", ("zone", "from", "plan", "fields"), as_json=as_json)


def _shown_fields(fields: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in fields.items())


def cost(context: typer.Context, target: Target, start: From = None, end: To = None, as_json: Json = False) -> None:
    """Bytes and cost, by zone and calendar month.

    --from and --to widen to whole days, UTC. A month in which no plan prices a zone has the cost -, and counts as 0.
    """
    span = read_span(start, end, Resolution.DAY)
    with opened(context) as parts:
        account, zones = need_target(parts, target)
        months = tuple(grid.months_in(span))
        answer = parts.reports.answer(CostQuestion(account, months, zones))
    lines = _lines(answer, months)
    rows = [_row(*line) for line in lines]
    if as_json:
        output.print_json({"currency": answer.currency, "rows": rows})
    else:
        amount = functools.reduce(money.add, (cost.amount for _, _, cost in lines), money.NOTHING)
        _print_table(answer.currency, rows, amount)
    _warn_of_unpriced(account, rows)


def _print_table(currency: str, rows: list[dict[str, Any]], amount: Decimal) -> None:
    requests, size = (sum(row[name] for row in rows) for name in ("requests", "bytes"))
    output.print_table(
        ("zone", "from", "to", "requests", "bytes", "", f"cost {currency}"),
        [(*_left(row), row["requests"], row["bytes"], output.human(row["bytes"]), _shown_cost(row)) for row in rows],
        ("total", "", "", requests, size, output.human(size), _amount(amount)),
    )


def _warn_of_unpriced(account: str, rows: list[dict[str, Any]]) -> None:
    """Name the zones whose traffic costs nothing because nobody has said what it costs."""
    names = list(dict.fromkeys(row["zone"] for row in rows if row["requests"] + row["bytes"] and not row["priced"]))
    if names:
        shown = ", ".join(f"{account}/{name}" for name in names[:UNPRICED_SHOWN])
        more = f" and {len(names) - UNPRICED_SHOWN} more" if len(names) > UNPRICED_SHOWN else ""
        output.complain(
            f"No price for traffic of {shown}{more}, so it costs nothing: see `bandmeter price set --help`."
        )


def _lines(answer: CostAnswer, months: tuple[Span, ...]) -> list[tuple[str, Span, Cost]]:
    return [
        (line.zone.name, month, cost) for line in answer.zones for month, cost in zip(months, line.costs, strict=True)
    ]


def _left(row: dict[str, Any]) -> tuple[str, str, str]:
    return row["zone"], row["from"][:10], row["to"][:10]


def _shown_cost(row: dict[str, Any]) -> str | None:
    return row["cost"] if row["priced"] else None


def _amount(amount: Decimal) -> str:
    return f"{money.rounded(amount, PLACES):.{PLACES}f}"


def _row(zone: str, month: Span, cost: Cost) -> dict[str, Any]:
    return {
        "zone": zone,
        "from": grid.format_time(month.start),
        "to": grid.format_time(month.end),
        "requests": cost.requests,
        "bytes": cost.bytes,
        "cost": _amount(cost.amount),
        "unit": cost.unit,
        "priced": bool(cost.unit),
    }
