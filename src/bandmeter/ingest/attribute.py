"""Identities become zones.

A record reaches its zone by the first rule that fits: `account` and `zone`; an identity that a zone has registered;
an identity of the form `[<prefix>-]cust[omer]-<account>-zone-<zone>[-<parameters>]`. What fits nothing is kept as
unattributed until it is claimed.

A user name carries parameters (`…-session-445837-country-us`), so they are cut off in SQL, per batch, before folding;
what is left is few, and is resolved here, once each.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from bandmeter.domain.tenancy import ZONE_MARK

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bandmeter.domain.tenancy import Zone

NOBODY = "-"  # the identity of records that name none
_CUSTOMER_MARK = re.compile(r"(?:^|-)cust(?:omer)?-")


class Key(NamedTuple):
    """What a batch's records are folded by: the zone named, or the identity without its parameters."""

    account: str | None
    zone: str | None
    identity: str | None


class Attribution:
    """The catalog's zones at one moment, arranged for look-up."""

    def __init__(self, zones: Iterable[Zone]) -> None:
        self._by_name: dict[tuple[str, str], Zone] = {}
        self._by_identity: dict[str, Zone] = {}
        # What CDN zones and wildcards register are domains, which are the same in any case; user names are not.
        self._by_domain: dict[str, Zone] = {}
        named: dict[str, list[Zone]] = {}
        for zone in zones:
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
        # Registered identities that the cut would shorten: they must be looked up whole.
        self.whole_identities = frozenset(i for i in self._by_identity if ZONE_MARK in i)

    def cut_sql(self, identity: str) -> str:
        """SQL for `identity` without its parameters. It may keep more than needed, never less.

        It refers to the tables `whole_identities(name)` and `dashed_names(name)` only when there are any.
        """
        cases = []
        if self.whole_identities:
            cases.append(f"WHEN {identity} IN (SELECT name FROM whole_identities) THEN {identity}")
        for dashes in sorted({name.count("-") for name in self.dashed_names}, reverse=True):
            # What follows the first mark, NULL without one; a zone's name may hold the mark again.
            rest = f"substr({identity}, nullif(strpos({identity}, '{ZONE_MARK}'), 0) + {len(ZONE_MARK)})"
            head = f"array_to_string(string_split({rest}, '-')[1:{dashes + 1}], '-')"
            cases.append(
                f"WHEN {head} IN (SELECT name FROM dashed_names) "
                f"THEN split_part({identity}, '{ZONE_MARK}', 1) || '{ZONE_MARK}' || {head}",
            )
        first_word = f"regexp_extract({identity}, '(?s)^.*?{ZONE_MARK}[^-]*|^.*')"
        return f"CASE {' '.join(cases)} ELSE {first_word} END" if cases else first_word

    def find(self, key: Key) -> Zone | None:
        """The zone of a key, or None."""
        if key.account is not None and key.zone is not None:
            return self._by_name.get((key.account, key.zone))
        if key.identity is None:
            return self._by_identity.get(NOBODY)
        return self._find_identity(key.identity)

    def _find_identity(self, identity: str) -> Zone | None:
        if zone := self._by_identity.get(identity):
            return zone
        named = self._find_customer(identity)
        if named and "-" in named.name:  # says more than the one word that is left of a registered identity
            return named
        return self._by_identity.get(self.unclaimed_name(identity)) or self._find_domain(identity) or named

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

    @staticmethod
    def unclaimed_name(identity: str | None) -> str:
        """The identity under which traffic waits to be claimed: without parameters, `-` when there is none."""
        head, mark, rest = (identity or NOBODY).partition(ZONE_MARK)
        return head + mark + rest.partition("-")[0]
