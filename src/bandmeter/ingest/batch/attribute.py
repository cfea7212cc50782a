"""Identities become zones.

A record reaches its zone by the first rule that fits: `account` and `zone`; an identity that a zone has registered;
an identity of the form `[<prefix>-]cust[omer]-<account>-zone-<zone>[-<parameters>]`. What fits nothing is kept as
unattributed until it is claimed.

A user name carries parameters (`…-session-445837-country-us`), so they are cut off in SQL, per batch, before folding;
what is left is few, and is resolved here, once each.
"""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, NamedTuple

from bandmeter.domain.tenancy import ZONE_MARK, Zone
from bandmeter.domain.usage import NOBODY

if TYPE_CHECKING:
    from collections.abc import Iterable

REMEMBERED_MAX = 65_536  # owners that were looked up, 100 bytes each
SEPARATOR = "\x01"  # between account and zone in an owner's text: no line that is decoded holds it
_CUSTOMER_MARK = re.compile(r"(?:^|-)cust(?:omer)?-")


class Owner(NamedTuple):
    """What records are attributed by: `text` is an account and zone in one when `is_named`, else an identity."""

    text: str | None
    is_named: bool


class Caller(NamedTuple):
    """Who brings the records: `account` and `zone` are for those that name none.

    `is_restricted`: only zones of `account` may get traffic, and only they are known; all else is refused.
    """

    account: str = ""
    zone: str = ""
    is_restricted: bool = False


NO_CALLER = Caller()


class Attribution:
    """The catalog's zones at one moment, arranged for look-up."""

    def __init__(self, zones: Iterable[Zone]) -> None:
        self._found: dict[tuple[Owner, Caller], Zone | str | None] = {}
        self._by_name: dict[tuple[str, str], Zone] = {}
        self._by_identity: dict[str, Zone] = {}
        # What CDN zones and wildcards register are domains, which are the same in any case; user names are not.
        self._by_domain: dict[str, Zone] = {}
        self._of_account: dict[str, list[Zone]] = {}
        self._own: dict[str, Attribution] = {}
        named: dict[str, list[Zone]] = {}
        for zone in zones:
            self._of_account.setdefault(zone.account, []).append(zone)
            self._by_name[zone.account, zone.name] = zone
            if zone.network == "cdn":
                named.setdefault(zone.name.lower(), []).append(zone)
            for identity in zone.identities:
                self._by_identity[identity] = zone
                if zone.network == "cdn" or identity.startswith("*."):
                    self._by_domain[identity.lower()] = zone
        # A CDN zone is named after its domain; where two accounts have one of that name, it must be registered.
        for domain, owners in named.items():
            if len(owners) == 1:
                self._by_domain.setdefault(domain, owners[0])
        names = [name for account, name in self._by_name if "-" in name]
        # Zone names with a '-' in them: the only ones for which more than one word after the mark may matter.
        self.dashed_names = frozenset(names)
        self._dashes = sorted({name.count("-") for name in names}, reverse=True)
        # Registered identities that the cut would shorten: they must be looked up whole.
        self.whole_identities = frozenset(i for i in self._by_identity if ZONE_MARK in i)

    def cut_sql(self, identity: str) -> str:
        """SQL for `identity` without its parameters. It may keep more than needed, never less.

        It refers to the tables `whole_identities(name)` and `dashed_names(name)` only when there are any.
        """
        cases = []
        if self.whole_identities:
            cases.append(f"WHEN {identity} IN (SELECT name FROM whole_identities) THEN {identity}")
        for dashes in self._dashes:
            # What follows the first mark, NULL without one; a zone's name may hold the mark again.
            rest = f"substr({identity}, nullif(strpos({identity}, '{ZONE_MARK}'), 0) + {len(ZONE_MARK)})"
            head = f"array_to_string(string_split({rest}, '-')[1:{dashes + 1}], '-')"
            cases.append(
                f"WHEN {head} IN (SELECT name FROM dashed_names) "
                f"THEN split_part({identity}, '{ZONE_MARK}', 1) || '{ZONE_MARK}' || {head}",
            )
        mark = f"strpos({identity}, '{ZONE_MARK}') + {len(ZONE_MARK)}"  # behind the first one
        first_word = f"left({identity}, {mark} - 2 + strpos(substr({identity}, {mark}), '-'))"
        cases.append(f"WHEN {identity} LIKE '%{ZONE_MARK}%-%' THEN {first_word}")
        return f"CASE {' '.join(cases)} ELSE {identity} END"

    def cut(self, identities: Iterable[str | None]) -> list[str | None]:
        """The same of identities, to the letter: which way a record was read must not decide whose it is."""
        whole, cut = self.whole_identities, self._cut_dashed if self.dashed_names else unclaimed_name
        return [i if not i or i in whole else cut(i) for i in identities]

    def _cut_dashed(self, identity: str) -> str:
        head, mark, rest = identity.partition(ZONE_MARK)
        words = rest.split("-")
        names = ("-".join(words[: dashes + 1]) for dashes in self._dashes)
        return head + mark + next((name for name in names if mark and name in self.dashed_names), words[0])

    def find(self, owner: Owner, caller: Caller = NO_CALLER) -> Zone | str | None:
        """The zone of an owner, or the name under which its traffic waits; None for a zone that must be and is not."""
        key = (owner, caller)
        if key not in self._found:
            if len(self._found) >= REMEMBERED_MAX:
                self._found.clear()
            self._found[key] = self._find(owner, caller)
        return self._found[key]

    def _find(self, owner: Owner, caller: Caller) -> Zone | str | None:
        found: Zone | str | None
        if caller.is_restricted:
            found = self._of(caller.account)._find(owner, caller._replace(is_restricted=False))  # noqa: SLF001 - ours
            return found if isinstance(found, Zone) else None
        if owner.is_named:
            account, _, name = (f"{SEPARATOR}{caller.zone}" if owner.text is None else owner.text).partition(SEPARATOR)
            found = self._by_name.get((account or caller.account, name))
        else:
            identity = NOBODY if owner.text is None else owner.text
            found = self._find_identity(identity) or unclaimed_name(identity)
        return found

    def seen_by(self, caller: Caller) -> Attribution:
        """What a caller's identities must be cut for: for one who is restricted, as if there were no other account."""
        return self._of(caller.account) if caller.is_restricted else self

    def _of(self, account: str) -> Attribution:
        """The same as if there were no other account: what others have registered changes nothing and shows nowhere."""
        if account not in self._own:
            self._own[account] = Attribution(self._of_account.get(account, ()))
        return self._own[account]

    def _find_identity(self, identity: str) -> Zone | None:
        if zone := self._by_identity.get(identity):
            return zone
        named = self._find_customer(identity)
        if named and "-" in named.name:  # says more than the one word that is left of a registered identity
            return named
        return self._by_identity.get(unclaimed_name(identity)) or self._find_domain(identity) or named

    def _find_domain(self, identity: str) -> Zone | None:
        """`*.example.com` takes every name below it, the closest first; it does not take example.com itself."""
        domain = identity.lower()
        zone = self._by_domain.get(domain)
        while zone is None and "." in domain:
            domain = domain.partition(".")[2]
            zone = self._by_domain.get("*." + domain)
        return zone

    def _find_customer(self, identity: str) -> Zone | None:
        for mark in _CUSTOMER_MARK.finditer(identity):
            account, found, rest = identity[mark.end() :].partition(ZONE_MARK)
            words = rest.split("-")
            for count in range(len(words), 0, -1) if found else ():
                zone = self._by_name.get((account, "-".join(words[:count])))
                if zone is not None:
                    return zone
        return None


def unclaimed_name(identity: str) -> str:
    """The identity under which traffic waits to be claimed: without parameters."""
    head, mark, rest = identity.partition(ZONE_MARK)
    return head + mark + rest.partition("-")[0] if mark else identity


def with_rules(zones: list[Zone], rules: Iterable[tuple[str, str, str]]) -> list[Zone]:
    """The zones, with identities that a source gives to them, and takes from whoever has registered them."""
    given: dict[tuple[str, str], list[str]] = {}
    for identity, account, zone in rules:
        given.setdefault((account, zone), []).append(identity)
    if not given:
        return zones
    taken = {identity for identities in given.values() for identity in identities}
    return [
        dataclasses.replace(
            zone,
            identities=(
                *(identity for identity in zone.identities if identity not in taken),
                *given.get((zone.account, zone.name), ()),
            ),
        )
        for zone in zones
    ]
