"""Accounts, zones, identities, keys and price plans: what the operator says, kept in SQLite or PostgreSQL."""

from __future__ import annotations

from bandmeter.catalog.catalog import Caller, Catalog
from bandmeter.catalog.documents import DOCUMENT_BYTES_MAX, load_document, split_plan

__all__ = ["DOCUMENT_BYTES_MAX", "Caller", "Catalog", "load_document", "split_plan"]
