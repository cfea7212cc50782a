"""Whom a question is about."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bandmeter.domain import errors
from bandmeter.domain.errors import BandmeterError
from bandmeter.domain.tenancy import Account, Zone

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bandmeter.catalog import Catalog

ZONE_NOT_FOUND = "Zone not found"  # the same whether the zone exists in another account or nowhere


def account(catalog: Catalog, name: str) -> Account:
    """The account of that id; raises `account_unknown`."""
    found = catalog.account(name)
    if found is None:
        raise BandmeterError(errors.ACCOUNT_UNKNOWN, "Account not found")
    return found


def zones(catalog: Catalog, owner: str, names: Sequence[str] | None) -> list[Zone]:
    """An account's zones of these names, None: all; raises `account_unknown` or `zone_unknown`."""
    if names is None:
        return catalog.zones(account(catalog, owner).id)
    found = [catalog.zone(owner, name) for name in names]
    if None in found:
        raise BandmeterError(errors.ZONE_UNKNOWN, ZONE_NOT_FOUND)
    return [zone for zone in found if zone is not None]
