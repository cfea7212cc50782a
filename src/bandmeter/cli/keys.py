"""`key` and `operator-key`: who may ask. A key is printed once, alone on standard output, and never again."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import Annotated, Any

import typer

from bandmeter import service
from bandmeter.cli import output
from bandmeter.cli.session import Json, need_account, opened, read_time
from bandmeter.domain import errors
from bandmeter.domain.errors import BandmeterError
from bandmeter.domain.tenancy import Key, Scope
from bandmeter.service import Parts

KEY = typer.Typer(no_args_is_help=True, help="An account's API keys.")
OPERATOR_KEY = typer.Typer(no_args_is_help=True, help="Keys above accounts.")
SameBodyOnce = Annotated[
    bool, typer.Option("--same-body-once", help="A body that it sends again, byte for byte, is the same batch.")
]
Expires = Annotated[str | None, typer.Option(metavar="TIME", help="When it ends; never, when not given.")]


@KEY.command("add")
def add_key(
    context: typer.Context,
    account: Annotated[str, typer.Argument(help="The account that it speaks for.")],
    scope: Annotated[Scope, typer.Option(help="What it may do.")] = Scope.READ,
    expires: Expires = None,
    same_body_once: SameBodyOnce = False,
) -> None:
    """Make a key and print it: it cannot be shown again."""
    _add(context, account, scope, expires, same_body_once=same_body_once)


class OperatorScope(enum.StrEnum):
    """What a key above accounts may do; for reading alone there are accounts' keys."""

    INGEST = Scope.INGEST
    ADMIN = Scope.ADMIN


@OPERATOR_KEY.command("add")
def add_operator_key(
    context: typer.Context,
    scope: Annotated[OperatorScope, typer.Option(help="Send for all accounts, or everything.")] = OperatorScope.INGEST,
    expires: Expires = None,
    same_body_once: SameBodyOnce = False,
) -> None:
    """Make a key above accounts and print it: it cannot be shown again."""
    _add(context, None, Scope(scope), expires, same_body_once=same_body_once)


def _add(
    context: typer.Context, account: str | None, scope: Scope, expires: str | None, *, same_body_once: bool
) -> None:
    if same_body_once and scope is Scope.READ:
        raise BandmeterError(errors.INPUT_INVALID, "--same-body-once is for keys that send: give --scope ingest.")
    end = read_time(expires, "--expires")
    with opened(context, create=account is None) as parts:
        output.say(parts.catalog.add_key(account, scope, end, service.clock_s(), same_body_once=same_body_once))


def _row(key: Key, now_s: int) -> dict[str, Any]:
    is_past = key.expires_s is not None and key.expires_s <= now_s
    return {
        "id": key.id,
        "account": key.account,
        "scope": key.scope,
        "status": "revoked" if key.revoked else "expired" if is_past else "active",
        "expires": output.time(key.expires_s),
        "created": output.time(key.created_s),
    }


@KEY.command("list")
def list_keys(
    context: typer.Context,
    account: Annotated[str | None, typer.Argument(help="Only this account's; else all, and the operator's.")] = None,
    as_json: Json = False,
) -> None:
    """List keys by their public ids."""
    with opened(context) as parts:
        owners = [None, *(a.id for a in parts.catalog.accounts())]
        if account is not None:
            owners = [need_account(parts, account).id]
        _list(parts, owners, as_json=as_json)


@OPERATOR_KEY.command("list")
def list_operator_keys(context: typer.Context, as_json: Json = False) -> None:
    """List the keys above accounts by their public ids."""
    with opened(context) as parts:
        _list(parts, [None], as_json=as_json)


def _list(parts: Parts, owners: Iterable[str | None], *, as_json: bool) -> None:
    rows = [_row(key, service.clock_s()) for owner in owners for key in parts.catalog.keys(owner)]
    output.records(rows, "keys", ("id", "account", "scope", "status", "expires", "created"), as_json=as_json)


@OPERATOR_KEY.command("revoke")
@KEY.command("revoke")
def revoke_key(
    context: typer.Context,
    key: Annotated[str, typer.Argument(metavar="ID", help="The id, as `bandmeter key list` shows it.")],
) -> None:
    """Revoke a key, an account's or an operator's, at once and for good."""
    with opened(context) as parts:
        parts.catalog.revoke_key(key)
    output.say(f"Key {key} revoked.")
