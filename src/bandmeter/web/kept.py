"""Replies that are still right: who asks again gets the bytes of before, while nothing that they rest on has changed.

A reply follows from the call, the step of the clock (`Endpoint.steady_s`), the catalog and the usage of some zones, and
from nothing else, because reports and dialects are pure (law 8). So it is kept with the catalog's version and the
zones' (`Basis`), both read *before* what they speak of: a change in between can only cause an answer too many, never an
old one. They are compared each time, with what the databases say then, so every worker sees every commit of every
process at once. Traffic of other zones leaves a reply as it is, but for the stamp of the last commit.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from itertools import chain
from typing import Any, NamedTuple

from bandmeter.domain.contracts import Call, Endpoint, Reply, Store
from bandmeter.domain.questions import Basis, SeriesAnswer, UsageAnswer

ENTRY_BYTES = 1_700  # what Python needs around a reply and its key, measured
REPLIES_MIN = 64  # there is room for: one that takes more of the memory is not kept, lest it push out many others
ZONES_MAX = 1_000  # of one reply: their versions are read on the event loop, in 0.3 ms

Key = tuple[str | int, ...]


def key_of(dialect: str, endpoint: Endpoint, call: Call) -> Key:
    """What a call's reply is kept under. No credential is a parameter, so none is in it."""
    step = call.now_ms // 1000 // endpoint.steady_s
    return (dialect, endpoint.name, call.account.id, step, call.accept, *chain.from_iterable(call.parameters.items()))


class _Entry(NamedTuple):
    reply: Reply
    catalog: int
    bases: tuple[Basis, ...]
    committed_ms: int | None
    size: int


class Kept:
    """The replies of one process, those asked for last. Of one thread: the event loop's."""

    def __init__(self, store: Store, bytes_max: int) -> None:
        self._store = store
        self._bytes_max = bytes_max
        self._bytes = 0
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()

    def find(self, key: Key, endpoint: Endpoint, catalog: int) -> Reply | None:
        """The reply, if it is right now; `catalog`: the catalog's version. Raises `unavailable`."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        committed_ms = entry.committed_ms
        is_right = entry.catalog == catalog
        for basis in entry.bases if is_right else ():
            version, _, committed_ms = self._store.freshness(basis.zones)
            is_right = is_right and version == basis.version
        if not is_right:
            self._drop(key)
            return None
        if endpoint.restamp is not None and committed_ms != entry.committed_ms:
            reply = endpoint.restamp(entry.reply, entry.committed_ms, committed_ms)
            entry = entry._replace(reply=reply, committed_ms=committed_ms)
            self._entries[key] = entry
        self._entries.move_to_end(key)
        return entry.reply

    def keep(self, key: Key, catalog: int, answer: Any, reply: Reply) -> None:
        """Keep a reply that was made of `answer`; `catalog`: its version before anything was read."""
        answers = answer if isinstance(answer, list) else [answer]
        if not all(isinstance(one, UsageAnswer | SeriesAnswer) for one in answers):
            return
        bases = tuple(dict.fromkeys(one.basis for one in answers))
        zones = sum(len(basis.zones) for basis in bases)
        size = ENTRY_BYTES + len(reply.body) + sum(map(sys.getsizeof, key)) + zones * 8
        if size > self._bytes_max // REPLIES_MIN or zones > ZONES_MAX:
            return
        self._drop(key)
        committed_ms = next((one.committed_ms for one in answers if isinstance(one, UsageAnswer)), None)
        self._entries[key] = _Entry(reply, catalog, bases, committed_ms, size)
        self._bytes += size
        while self._bytes > self._bytes_max:
            self._bytes -= self._entries.popitem(last=False)[1].size

    def _drop(self, key: Key) -> None:
        entry = self._entries.pop(key, None)
        self._bytes -= entry.size if entry else 0
