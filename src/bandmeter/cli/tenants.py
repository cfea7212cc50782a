"""`account`, `zone` and `apply`: who owns traffic."""

from __future__ import annotations

import shlex
from collections.abc import Collection
from typing import Annotated, Any, NoReturn

import typer

from bandmeter import service
from bandmeter.cli import output, waiting
from bandmeter.cli.session import Json, need_account, need_zone, opened, read_json, read_time
from bandmeter.domain import errors, grid
from bandmeter.domain.errors import BandmeterError
from bandmeter.domain.tenancy import Account, Zone, ZoneStatus
from bandmeter.domain.usage import SHARED, SIDED, ZERO, Counters, Side
from bandmeter.service import Parts

ACCOUNT = typer.Typer(no_args_is_help=True, help="Customers.")
ZONE = typer.Typer(no_args_is_help=True, help="Zones: what a customer's traffic is counted under.")
AccountId = Annotated[str, typer.Argument(metavar="ACCOUNT", help="The account's id.")]
ZoneName = Annotated[str, typer.Argument(metavar="ZONE", help="The zone's name.")]


def _account_row(account: Account) -> dict[str, Any]:
    return {
        "id": account.id,
        "name": account.name,
        "kind": account.kind,
        "email": account.email,
        "email_verified": account.email_verified,
        "proxy_username": account.proxy_username,
        "currency": account.currency,
        "prepayment": account.prepayment,
        "trial_until": output.time(account.trial_until_s),
        "status": account.status,
        "created": output.time(account.created_s),
    }


def _zone_row(zone: Zone) -> dict[str, Any]:
    return {
        "account": zone.account,
        "name": zone.name,
        "network": zone.network,
        "product": zone.product,
        "side": zone.side,
        "status": zone.status,
        "identities": zone.identities,
        "created": output.time(zone.created_s),
    }


@ACCOUNT.command("add")
def add_account(
    context: typer.Context,
    account: Annotated[str, typer.Option("--id", help="Up to 64 letters, digits, '_', '.' or '-'.")],
    *,
    name: Annotated[str, typer.Option(help="The customer's name.")] = "",
    kind: Annotated[str, typer.Option(help="personal or team.")] = "personal",
    email: Annotated[str, typer.Option(help="An e-mail address.")] = "",
    email_verified: Annotated[bool, typer.Option("--email-verified", help="The address has been verified.")] = False,
    proxy_username: Annotated[str, typer.Option(help="The account's user name at the proxy.")] = "",
    currency: Annotated[str, typer.Option(help="Three letters.")] = "USD",
    prepayment: Annotated[str, typer.Option(help="What has been paid in advance.")] = "0",
    trial_until: Annotated[str | None, typer.Option(metavar="TIME", help="Traffic until then is free.")] = None,
) -> None:
    """Add an account."""
    new = Account(
        id=account,
        name=name,
        kind=kind,
        email=email,
        email_verified=email_verified,
        proxy_username=proxy_username,
        currency=currency,
        trial_until_s=read_time(trial_until, "--trial-until"),
        prepayment=prepayment,
        created_s=service.clock_s(),
    )
    with opened(context, create=True) as parts:
        parts.catalog.add_account(new)
    output.say(f"Account {account} added.")


@ACCOUNT.command("list")
def list_accounts(context: typer.Context, as_json: Json = False) -> None:
    """List all accounts."""
    with opened(context) as parts:
        rows = [_account_row(account) for account in parts.catalog.accounts()]
    output.records(rows, "accounts", ("id", "name", "kind", "currency", "status", "created"), as_json=as_json)


@ACCOUNT.command("show")
def show_account(context: typer.Context, account: AccountId, as_json: Json = False) -> None:
    """Show an account with its zones and the price plans in force."""
    month = grid.month_name(service.clock_s())
    with opened(context) as parts:
        shown = _account_row(need_account(parts, account))
        zones = parts.catalog.zones(account)
        plans = [parts.catalog.plan(zone, month) for zone in zones]
    rows = [
        _zone_row(zone) | {"plan": {"plan": plan[0], **plan[1]} if plan else None}
        for zone, plan in zip(zones, plans, strict=True)
    ]
    if as_json:
        output.print_json(shown | {"zones": rows})
        return
    output.print_table(("account", account), [(key, value) for key, value in shown.items() if key != "id"])
    output.say("")
    told = [{**row, "plan": row["plan"]["plan"] if row["plan"] else None} for row in rows]
    output.records(told, "zones", ("name", "network", "product", "side", "status", "plan", "identities"), as_json=False)


@ACCOUNT.command("suspend")
def suspend_account(context: typer.Context, account: AccountId) -> None:
    """Suspend an account: its usage stays and is answered, its proxies should not serve it."""
    with opened(context) as parts:
        parts.catalog.suspend_account(account)
    output.say(f"Account {account} suspended.")


@ACCOUNT.command("resume")
def resume_account(context: typer.Context, account: AccountId) -> None:
    """Undo a suspension."""
    with opened(context) as parts:
        parts.catalog.resume_account(account)
    output.say(f"Account {account} resumed.")


@ZONE.command("add")
def add_zone(
    context: typer.Context,
    account: AccountId,
    name: ZoneName,
    *,
    network: Annotated[str, typer.Option(help="dc, isp, res, mobile, unlocker, serp, browser or cdn.")] = "dc",
    product: Annotated[str, typer.Option(help="rp, rpc, sdc or mp.")] = "",
    identity: Annotated[list[str] | None, typer.Option(help="A user name or domain; as often as you like.")] = None,
    side: Annotated[Side | None, typer.Option(help="The side that is billed; client for cdn, else target.")] = None,
) -> None:
    """Add a zone to an account."""
    for shared in SHARED.keys() & set(identity or ()):
        sentence = f"{shared} is {SHARED[shared]}: give it to a zone with `bandmeter zone claim … --shared`."
        raise BandmeterError(errors.INPUT_INVALID, sentence)
    with opened(context) as parts:
        _check_free(parts, identity or (), (account, name))
        added = parts.catalog.add_zone(
            account, name, network, product, tuple(identity or ()), side=side, now_s=service.clock_s()
        )
        output.say(f"Zone {account}/{name} added.")
        _tell_waiting(parts, {(added.account, added.name)})


def _check_free(parts: Parts, identities: Collection[str], owner: tuple[str, str]) -> None:
    """Raise `conflict` with the zone that has one of the identities: the catalog names none, whoever asks."""
    for zone in parts.catalog.zones() if identities else ():
        taken = next((one for one in identities if one in zone.identities), None)
        if taken is not None and (zone.account, zone.name) != owner:
            command = f"bandmeter zone release {zone.account} {zone.name} {shlex.quote(taken)}"
            sentence = f"The identity {taken[:80]!r} belongs to another zone already, {zone.account}/{zone.name}:"
            raise BandmeterError(errors.CONFLICT, f"{sentence} `{command}` takes it from there.")


def _tell_waiting(parts: Parts, only: Collection[tuple[str, str]] | None = None) -> None:
    """Tell of traffic that waits though there is a zone for it by now; `only` of these zones."""
    for zone, identities in waiting.by_zone(parts).items():
        if only is None or (zone.account, zone.name) in only:
            count = output.count(len(identities), "identity has", "identities have")
            command = f"`bandmeter zone claim {zone.account} {zone.name}` moves it there."
            output.say(f"{count} traffic from before that waits for {zone.account}/{zone.name}: {command}")


@ZONE.command("list")
def list_zones(
    context: typer.Context,
    account: Annotated[str | None, typer.Argument(metavar="[ACCOUNT]", help="Only this account's.")] = None,
    as_json: Json = False,
) -> None:
    """List zones, whatever their status."""
    with opened(context) as parts:
        if account is not None:
            need_account(parts, account)
        rows = [_zone_row(zone) for zone in parts.catalog.zones(account)]
    columns = ("account", "name", "network", "product", "side", "status", "identities")
    output.records(rows, "zones", columns, as_json=as_json)


def _set_status(context: typer.Context, account: str, name: str, status: ZoneStatus) -> None:
    with opened(context) as parts:
        parts.catalog.set_zone_status(account, name, status)
    output.say(f"Zone {account}/{name} is {status}.")


@ZONE.command("suspend")
def suspend_zone(context: typer.Context, account: AccountId, name: ZoneName) -> None:
    """Suspend a zone; what it still carries is counted."""
    _set_status(context, account, name, ZoneStatus.SUSPENDED)


@ZONE.command("resume")
def resume_zone(context: typer.Context, account: AccountId, name: ZoneName) -> None:
    """Make a suspended or deleted zone active again."""
    _set_status(context, account, name, ZoneStatus.ACTIVE)


@ZONE.command("delete")
def delete_zone(context: typer.Context, account: AccountId, name: ZoneName) -> None:
    """Delete a zone; its history stays, and so does its claim on its name and identities."""
    _set_status(context, account, name, ZoneStatus.DELETED)


@ZONE.command("claim")
def claim(
    context: typer.Context,
    account: AccountId,
    name: ZoneName,
    identity: Annotated[
        str | None, typer.Argument(help="As `bandmeter sources` lists it. None: all that reach the zone by now.")
    ] = None,
    *,
    shared: Annotated[
        bool, typer.Option("--shared", help="Also an identity that is nobody's own, such as - of traffic without any.")
    ] = False,
) -> None:
    """Give an identity to a zone, and move the traffic that was counted under it there, for good."""
    with opened(context) as parts:
        zone = need_zone(parts, account, name)
        if identity is None:
            _claim_waiting(parts, zone)
            return
        if identity in SHARED and not shared:
            _refuse_shared(parts, identity, zone)
        _check_free(parts, [identity], (account, name))
        parts.catalog.add_identity(account, name, identity)  # first, so that nothing new arrives unattributed
        moved = parts.store.claim(identity, zone)
    output.say(f"{identity} belongs to {account}/{name}; moved {_size(moved)}.")
    if moved == ZERO and identity not in SHARED:
        command = f"`bandmeter zone release {account} {name} {shlex.quote(identity)}`"
        output.say(
            f"Nothing waited under that name, as of one that is new; a misspelt one is taken back with {command}."
        )


def _claim_waiting(parts: Parts, zone: Zone) -> None:
    identities = waiting.by_zone(parts).get(zone, [])
    for identity in identities:
        moved = parts.store.claim(identity, zone)
        parts.store.release(identity)  # it is the catalog that says where it goes: this holds when that changes
        output.say(f"{identity}: moved {_size(moved)}.")
    if not identities:
        output.say(f"Nothing waits that would reach {zone.account}/{zone.name}.")


@ZONE.command("release")
def release(
    context: typer.Context,
    account: AccountId,
    name: ZoneName,
    identity: Annotated[str, typer.Argument(help="As `bandmeter zone list` shows it.")],
) -> None:
    """Take an identity from a zone: what comes of it from now on is not the zone's; what was counted stays there."""
    with opened(context) as parts:
        if identity in need_zone(parts, account, name).identities:
            parts.store.release(identity)  # first: when it stops here, the zone has it still
        parts.catalog.remove_identity(account, name, identity)
    output.say(f"{identity} does not belong to {account}/{name} any more; what was counted stays.")


def _refuse_shared(parts: Parts, identity: str, zone: Zone) -> NoReturn:
    waiting = ZERO
    for one in parts.store.unattributed():
        if one.identity == identity:
            waiting = waiting.plus(one.client if one.side == SIDED and zone.side is Side.CLIENT else one.target)
    sentence = (
        f"{identity} is {SHARED[identity]}, whosever it is: {_size(waiting)} so far, and all to come."
        f" To give it to {zone.account}/{zone.name} for good, add --shared."
    )
    raise BandmeterError(errors.INPUT_INVALID, sentence)


def _size(moved: Counters) -> str:
    size = moved.bytes_up + moved.bytes_down
    return f"{output.count(moved.requests, 'request')}, {output.count(size, 'byte')}"


def apply(
    context: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE.json", help="A whole catalog; - for standard input.")],
) -> None:
    """Make the catalog hold what a file says. Removes nothing; a second time changes nothing."""
    document = read_json(file)
    with opened(context, create=True) as parts:
        changed = parts.catalog.apply(document, service.clock_s(), service.check_plan)
        output.say("\n".join(changed) if changed else "Nothing to change.")
        _tell_waiting(parts)
