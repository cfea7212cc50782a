"""`price` and `cost`: what traffic costs."""

from __future__ import annotations

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


@PRICE.command("set")
def set_price(
    context: typer.Context,
    target: Target,
    plan: Annotated[str, typer.Argument(metavar="PLAN.json", help='Such as {"plan": "per_gb", "price": "0.42"}.')],
    start: Annotated[
        str | None, typer.Option("--from", metavar="YYYY-MM", help="The first month it counts for.")
    ] = None,
) -> None:
    """Put a price plan in force for an account or a zone. A month that is past keeps its price."""
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


def cost(context: typer.Context, target: Target, start: From = None, end: To = None, as_json: Json = False) -> None:
    """Bytes and cost, by zone and calendar month; from the first of the previous month, unless told otherwise.

    --from and --to widen to whole days, UTC.
    """
    span = read_span(start, end, Resolution.DAY)
    with opened(context) as parts:
        account, zones = need_target(parts, target)
        months = tuple(grid.months_in(span))
        answer = parts.reports.answer(CostQuestion(account, months, zones))
    if as_json:
        output.print_json({"currency": answer.currency, "rows": [_row(*line) for line in _lines(answer, months)]})
        return
    rows = [_row(*line) for line in _lines(answer, months)]
    amount = Decimal(0)
    for _, _, one in _lines(answer, months):
        amount = money.add(amount, one.amount)
    size = sum(row["bytes"] for row in rows)
    requests = sum(row["requests"] for row in rows)
    output.print_table(
        ("zone", "from", "to", "requests", "bytes", "", f"cost {answer.currency}"),
        [(*_left(row), row["requests"], row["bytes"], output.human(row["bytes"]), row["cost"]) for row in rows],
        ("total", "", "", requests, size, output.human(size), _amount(amount)),
    )


def _lines(answer: CostAnswer, months: tuple[Span, ...]) -> list[tuple[str, Span, Cost]]:
    return [
        (line.zone.name, month, cost) for line in answer.zones for month, cost in zip(months, line.costs, strict=True)
    ]


def _left(row: dict[str, Any]) -> tuple[str, str, str]:
    return row["zone"], row["from"][:10], row["to"][:10]


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
    }
