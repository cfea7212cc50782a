"""Traffic that waits for a zone, and the zone that it would reach by now."""

from __future__ import annotations

from collections.abc import Iterator

from bandmeter.domain.contracts import Unattributed
from bandmeter.domain.tenancy import Zone
from bandmeter.ingest.batch.attribute import Attribution, Owner
from bandmeter.service import Parts


def find(parts: Parts) -> Iterator[tuple[Unattributed, Zone | None]]:
    """What waits, most bytes first, and beside each the zone to which what comes of it goes from now on, if any."""
    attribution = Attribution(parts.catalog.zones())
    for waiting in parts.store.unattributed():
        if any(waiting.target) or any(waiting.client):
            found = attribution.find(Owner(waiting.identity, is_named=False))
            yield waiting, found if isinstance(found, Zone) else None


def by_zone(parts: Parts) -> dict[Zone, list[str]]:
    """The identities that wait, by the zone that each would reach."""
    found: dict[Zone, dict[str, None]] = {}
    for waiting, zone in find(parts):
        if zone:
            found.setdefault(zone, {})[waiting.identity] = None
    return {zone: list(identities) for zone, identities in found.items()}
