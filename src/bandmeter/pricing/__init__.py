"""Prices: usage of a month → Decimal. To add one: one file that makes a `contracts.Price`, and one line here."""

from __future__ import annotations

from bandmeter.pricing.per_gb import PER_GB

PRICES = {price.name: price for price in (PER_GB,)}
