"""Who owns traffic: accounts, zones, keys, and the names they may have."""

from __future__ import annotations

import dataclasses
import enum
import re

from bandmeter.domain import errors, usage

ACCOUNT_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
ZONE_NAME = re.compile(r"[A-Za-z0-9_*][A-Za-z0-9_.*-]{0,252}")  # 253: the longest domain name (RFC 1035)
IDENTITY_LENGTH_MAX = 512  # characters; a user name with parameters, or a domain
PRODUCTS = ("rp", "rpc", "sdc", "mp")
ZONE_MARK = "-zone-"  # separates account and zone in an identity, so no account id may hold it


class ZoneStatus(enum.StrEnum):
    """A zone that is suspended or deleted keeps its history."""

    ACTIVE = "active"
    SUSPENDED = "suspended"
    DELETED = "deleted"


class AccountStatus(enum.StrEnum):
    """A suspended account answers, but its proxies should not serve it."""

    ACTIVE = "active"
    SUSPENDED = "suspended"


class Scope(enum.StrEnum):
    """What a key may do."""

    READ = "read"
    INGEST = "ingest"
    ADMIN = "admin"


@dataclasses.dataclass(frozen=True, slots=True)
class Account:
    """A customer. `trial_until_s` and `created_s` are Unix seconds; money is a decimal string in `currency`."""

    id: str
    name: str = ""
    kind: str = "personal"  # or "team"
    email: str = ""
    email_verified: bool = False
    proxy_username: str = ""
    currency: str = "USD"
    trial_until_s: int | None = None
    prepayment: str = "0"
    status: AccountStatus = AccountStatus.ACTIVE
    created_s: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Zone:
    """A zone of an account. `number` is its key in the usage store and never changes or returns."""

    number: int
    account: str
    name: str
    network: str = "dc"
    product: str = ""
    side: usage.Side = usage.Side.TARGET
    status: ZoneStatus = ZoneStatus.ACTIVE
    identities: tuple[str, ...] = ()
    created_s: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Key:
    """A key as the catalog knows it: the secret itself is stored nowhere. `account` None: an operator's key.

    `same_body_once`: a body of records that is sent again, byte for byte, is the same batch.
    """

    id: str
    account: str | None
    scope: Scope
    expires_s: int | None = None
    revoked: bool = False
    created_s: int = 0
    same_body_once: bool = False


def default_side(network: str) -> usage.Side:
    """The side that a new zone bills: the client's for a CDN, whose cache hits have no target; else the target's."""
    return usage.Side.CLIENT if network == "cdn" else usage.Side.TARGET


def check_account_id(account: str) -> str:
    """Return `account`, or raise `input_invalid`."""
    if not ACCOUNT_ID.fullmatch(account) or ZONE_MARK in account:
        raise errors.BandmeterError(
            errors.INPUT_INVALID,
            f"{account[:80]!r} is no account id: use up to 64 letters, digits, '_', '.' or '-', without '{ZONE_MARK}'.",
        )
    return account


def check_zone_name(name: str) -> str:
    """Return `name`, or raise `input_invalid`."""
    if not ZONE_NAME.fullmatch(name):
        raise errors.BandmeterError(
            errors.INPUT_INVALID,
            f"{name[:80]!r} is no zone name: use up to 253 letters, digits, '_', '.' or '-'.",
        )
    return name
