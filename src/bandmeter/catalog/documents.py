"""What an operator writes about accounts and zones, checked: the document that `apply` takes, and single values.

Every error names the path of what is wrong, e.g. `accounts[0].zones[2].netwrok`. A value that is not given stays out
of `values`, so that `apply` can tell "unchanged" from "set to the default".
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, NamedTuple, NoReturn

from bandmeter.catalog import plans
from bandmeter.domain import errors, grid, tenancy, usage

DOCUMENT_BYTES_MAX = 64 * 2**20  # about 300,000 zones; a larger one is a mistake, and would be held in memory
ZONES_MAX = 200_000  # of one document
IDENTITIES_MAX = 500_000  # of one document
TEXT_LENGTH_MAX = 512
PLAN_BYTES_MAX = 64 * 2**10  # of one plan as JSON: a thousand tiers
MONEY = re.compile(r"[0-9]{1,15}(\.[0-9]{1,9})?")
CURRENCY = re.compile(r"[A-Z]{3}")  # ISO 4217
UNPRINTABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")

TYPE_NAMES = {str: "text", bool: "true or false", list: "a list", dict: "an object"}
CheckPlan = Callable[[str, Mapping[str, Any]], object]  # raises `input_invalid` naming the kind or the field


class ZoneEntry(NamedTuple):
    """A zone of a document: `values` by column, only those given."""

    path: str
    name: str
    values: dict[str, Any]
    identities: tuple[str, ...]
    plan: tuple[str, dict[str, Any]] | None


class AccountEntry(NamedTuple):
    """An account of a document."""

    path: str
    id: str
    values: dict[str, Any]
    zones: tuple[ZoneEntry, ...]


def refuse(path: str, sentence: str) -> NoReturn:
    """Raise `input_invalid` about the value at `path`."""
    raise errors.BandmeterError(errors.INPUT_INVALID, f"{path}: {sentence}")


def load_document(text: bytes) -> Any:
    """Parse JSON; numbers with a point stay exact, as Decimal. Raises `input_invalid` when it is none or too large."""
    if len(text) > DOCUMENT_BYTES_MAX:
        raise errors.BandmeterError(
            errors.INPUT_INVALID,
            f"The file is larger than {DOCUMENT_BYTES_MAX >> 20} MiB: split it by account and apply the parts.",
        )
    try:
        return json.loads(text, parse_float=Decimal, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise errors.BandmeterError(errors.INPUT_INVALID, f"The file is not JSON: {error}.") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        sentence = f"The key {twice[:80]!r} stands twice in one object: leave the one that is meant."
        raise errors.BandmeterError(errors.INPUT_INVALID, sentence)
    return found


# ---------------------------------------------------------------- single values: (value, path) → what is stored


def _typed(value: Any, kind: type, path: str) -> Any:
    if type(value) is not kind:
        refuse(path, f"takes {TYPE_NAMES[kind]}, not {json.dumps(value, default=str)[:80]}.")
    return value


def check_text(value: Any, path: str) -> str:
    """Any printable text up to the limit."""
    text: str = _typed(value, str, path)
    if len(text) > TEXT_LENGTH_MAX or UNPRINTABLE.search(text):  # surrogates cannot be stored
        refuse(path, f"takes up to {TEXT_LENGTH_MAX} printable characters.")
    return text


def check_identity(value: Any, path: str) -> str:
    """A user name or a domain: what a log line is attributed by."""
    text = check_text(value, path)
    if not text or text != text.strip() or len(text) > tenancy.IDENTITY_LENGTH_MAX:
        refuse(path, f"{text[:80]!r} is no identity: write a user name or a domain, without spaces around it.")
    if "://" in text:
        refuse(path, f"{text[:80]!r} is a URL, which no log has for an identity: write its domain alone.")
    return text


def check_money(value: Any, path: str) -> str:
    """A decimal amount from 0, as JSON number or text; stored as text, exactly as written."""
    text = value if isinstance(value, str) else str(value)
    if isinstance(value, bool) or not MONEY.fullmatch(text):
        refuse(path, f'takes an amount of 0 or more, such as "19.99", not {text[:80]!r}.')
    return text


def check_time(value: Any, path: str) -> int | None:
    """ISO 8601, or null for never; stored as Unix seconds."""
    if value is None:
        return None
    try:
        return grid.parse_time(_typed(value, str, path))
    except (ValueError, OverflowError):
        refuse(path, f"{str(value)[:80]!r} is no time: write it as 2026-11-30 or 2026-11-30T12:00:00Z.")


def _check_boolean(value: Any, path: str) -> bool:
    return bool(_typed(value, bool, path))


def _check_currency(value: Any, path: str) -> str:
    if not isinstance(value, str) or not CURRENCY.fullmatch(value):
        refuse(path, f"takes a currency's three capital letters, such as USD, not {str(value)[:80]!r}.")
    return value


def _choice(*allowed: str) -> Callable[[Any, str], str]:
    def check(value: Any, path: str) -> str:
        if value not in allowed:
            refuse(path, f"{str(value)[:80]!r} is not one of {', '.join(a or repr(a) for a in allowed)}.")
        return str(value)

    return check


# Key of the document → the column, and what checks it.
ACCOUNT_FIELDS: dict[str, tuple[str, Callable[[Any, str], Any]]] = {
    "name": ("name", check_text),
    "kind": ("kind", _choice("personal", "team")),
    "email": ("email", check_text),
    "email_verified": ("email_verified", _check_boolean),
    "proxy_username": ("proxy_username", check_text),
    "currency": ("currency", _check_currency),
    "prepayment": ("prepayment", check_money),
    "trial_until": ("trial_until_s", check_time),
}
ZONE_FIELDS: dict[str, tuple[str, Callable[[Any, str], Any]]] = {
    "network": ("network", _choice(*usage.NETWORKS)),
    "product": ("product", _choice(*tenancy.PRODUCTS, "")),
    "side": ("side", _choice(*usage.Side)),
    "status": ("status", _choice(*tenancy.ZoneStatus)),
}


def check_values(
    given: Mapping[str, Any], fields: Mapping[str, tuple[str, Callable[[Any, str], Any]]], path: str = ""
) -> dict[str, Any]:
    """The columns of the fields that are given. `path` stands before each name in an error, with its dot."""
    return {column: check(given[name], path + name) for name, (column, check) in fields.items() if name in given}


# ---------------------------------------------------------------- the whole document


def parse(document: Any, check_plan: CheckPlan) -> tuple[AccountEntry, ...]:
    """The accounts of a document. Raises `input_invalid` naming the path of the first thing that is wrong."""
    if not isinstance(document, dict):
        refuse("the document", 'takes an object: {"accounts": […]}.')
    _check_keys(document, {"accounts"}, "")
    listed = _typed(document.get("accounts", []), list, "accounts")
    entries = tuple(_account(value, f"accounts[{n}]", check_plan) for n, value in enumerate(listed))
    zones = [zone for entry in entries for zone in entry.zones]
    if len(zones) > ZONES_MAX or sum(len(z.identities) for z in zones) > IDENTITIES_MAX:
        refuse("accounts", f"more than {ZONES_MAX} zones or {IDENTITIES_MAX} identities: split the file by account.")
    _check_once(((entry.id, f"{entry.path}.id") for entry in entries), "account")
    _check_once(((i, f"{z.path}.identities") for z in zones for i in z.identities), "identity")
    return entries


def _account(value: Any, path: str, check_plan: CheckPlan) -> AccountEntry:
    given = _typed(value, dict, path)
    _check_keys(given, {"id", "zones", *ACCOUNT_FIELDS}, f"{path}.")
    account = _name(given, "id", path, tenancy.check_account_id)
    listed = _typed(given.get("zones", []), list, f"{path}.zones")
    zones = tuple(_zone(zone, f"{path}.zones[{n}]", check_plan) for n, zone in enumerate(listed))
    _check_once(((zone.name, f"{zone.path}.name") for zone in zones), "zone")
    return AccountEntry(path, account, check_values(given, ACCOUNT_FIELDS, f"{path}."), zones)


def _zone(value: Any, path: str, check_plan: CheckPlan) -> ZoneEntry:
    given = _typed(value, dict, path)
    _check_keys(given, {"name", "identities", "plan", *ZONE_FIELDS}, f"{path}.")
    name = _name(given, "name", path, tenancy.check_zone_name)
    listed = _typed(given.get("identities", []), list, f"{path}.identities")
    identities = tuple(dict.fromkeys(check_identity(i, f"{path}.identities[{n}]") for n, i in enumerate(listed)))
    plan = _plan(given["plan"], f"{path}.plan", check_plan) if given.get("plan") else None
    return ZoneEntry(path, name, check_values(given, ZONE_FIELDS, f"{path}."), identities, plan)


def _plan(value: Any, path: str, check_plan: CheckPlan) -> tuple[str, dict[str, Any]]:
    try:
        kind, fields = split_plan(_typed(value, dict, path))
        check_plan(kind, fields)
    except errors.BandmeterError as error:
        if error.sentence.startswith(path):
            raise
        refuse(path, error.sentence)
    return kind, fields


def split_plan(plan: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """(kind, fields) of a plan's JSON, `{"plan": "per_gb", …}` or "kind"; fractions as text: none becomes a float.

    Raises `input_invalid` when it names no kind, or is too large. The fields are the price's to check.
    """
    kind = plan.get("plan", plan.get("kind"))
    if {"plan", "kind"} <= plan.keys():
        raise errors.BandmeterError(errors.INPUT_INVALID, "A plan names its kind once: by plan, or by kind.")
    if not isinstance(kind, str) or len(kind) > TEXT_LENGTH_MAX:
        raise errors.BandmeterError(errors.INPUT_INVALID, 'A plan names its kind: {"plan": "per_gb", …}.')
    fields = json.loads(dump_fields({name: value for name, value in plan.items() if name not in {"plan", "kind"}}))
    return kind, fields


def dump_fields(fields: Mapping[str, Any]) -> str:
    """A plan's fields as they are stored: JSON in one order."""
    text = json.dumps(_exact(fields), sort_keys=True, ensure_ascii=False)
    if len(text) > PLAN_BYTES_MAX:
        raise errors.BandmeterError(errors.INPUT_INVALID, f"A plan takes up to {PLAN_BYTES_MAX} characters of JSON.")
    return text


def _exact(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _exact(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_exact(part) for part in value]
    return str(value) if isinstance(value, float | Decimal) else value


def stored_plan(start: str, kind: str, text: str) -> plans.Plan:
    """A plan as it was stored."""
    return plans.Plan(start, kind, json.loads(text))


def _check_keys(given: Mapping[str, Any], allowed: set[str], path: str) -> None:
    for name in given:
        if name not in allowed:
            refuse(f"{path}{name[:80]}", f"no such key here; the keys are {', '.join(sorted(allowed))}.")


def _check_once(named: Any, what: str) -> None:
    seen: dict[str, str] = {}
    for name, path in named:
        if seen.setdefault(name, path) is not path:
            refuse(path, f"the {what} {name[:80]!r} stands at {seen[name]} already.")


def _name(given: Mapping[str, Any], key: str, path: str, check: Callable[[str], str]) -> str:
    if key not in given:
        refuse(f"{path}.{key}", "is missing.")
    try:
        return check(_typed(given[key], str, f"{path}.{key}"))
    except errors.BandmeterError as error:
        if error.sentence.startswith(path):
            raise
        refuse(f"{path}.{key}", error.sentence)
