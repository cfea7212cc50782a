"""Which accounts and zones a call is about: those that its key may see, less what its filters leave out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bandmeter.domain import errors
from bandmeter.domain.contracts import EVERY_ACCOUNT, Call
from bandmeter.domain.errors import BandmeterError
from bandmeter.domain.questions import ZonesQuestion
from bandmeter.domain.tenancy import ACCOUNT_ID, ZONE_NAME, Zone
from bandmeter.web.native import parameters

if TYPE_CHECKING:
    from bandmeter.catalog import Catalog
    from bandmeter.reports import Reports

Chosen = list[tuple[str, list[Zone]]]  # accounts by id, each with its zones by name


def choose(reports: Reports, catalog: Catalog, call: Call) -> Chosen:
    """The chosen zones, whatever their status.

    Raises `account_unknown`, also for an account that the key may not see, and `zone_unknown` for a name that none of
    the chosen accounts has.
    """
    wanted = parameters.read_names(call, parameters.ZONES, ZONE_NAME)
    found = [(account, reports.answer(ZonesQuestion(account))) for account in _accounts(catalog, call)]
    if wanted is None:
        return found
    known = {zone.name for _, zones in found for zone in zones}
    for name in wanted:
        if name not in known:
            raise BandmeterError(errors.ZONE_UNKNOWN, f"There is no zone {name!r}: `GET /v1/zones` lists them.")
    names = frozenset(wanted)
    return [(account, [zone for zone in zones if zone.name in names]) for account, zones in found]


def is_one_account(call: Call) -> bool:
    """Whether the call is about one account, whatever the catalog holds."""
    wanted = parameters.read_names(call, parameters.ACCOUNTS, ACCOUNT_ID)
    return call.account is not EVERY_ACCOUNT or (wanted is not None and len(wanted) == 1)


def _accounts(catalog: Catalog, call: Call) -> list[str]:
    wanted = parameters.read_names(call, parameters.ACCOUNTS, ACCOUNT_ID)
    is_operator = call.account is EVERY_ACCOUNT
    for name in wanted or ():
        if not (catalog.account(name) if is_operator else name == call.account.id):
            raise BandmeterError(errors.ACCOUNT_UNKNOWN, f"There is no account {name!r} for this key.")
    if wanted is not None:
        return sorted(wanted)
    return sorted(account.id for account in catalog.accounts()) if is_operator else [call.account.id]
