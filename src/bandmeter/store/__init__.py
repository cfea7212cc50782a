"""Stores: batches in, rollups out. To add one: one file that implements `contracts.Store`, and one line here."""

from __future__ import annotations

from bandmeter.store.memory import MemoryStore
from bandmeter.store.sqlite import SqliteStore

STORES = {"memory": MemoryStore, "sqlite": SqliteStore}
