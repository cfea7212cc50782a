"""What reading any batch needs, made once and used by one thread: memory, decoders, and who owns what."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from typing import TYPE_CHECKING

from bandmeter.formats.tsv import with_columns
from bandmeter.ingest.batch import place
from bandmeter.ingest.batch.attribute import NO_CALLER, Attribution, Caller, with_rules
from bandmeter.ingest.batch.decode import Decoder
from bandmeter.ingest.batch.scratch import Scratch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from bandmeter.domain.contracts import Store
    from bandmeter.domain.tenancy import Zone
    from bandmeter.ingest.batch.decode import Groups
    from bandmeter.ingest.batch.job import Job
    from bandmeter.ingest.batch.query import Reading

Rules = tuple[tuple[str, str, str], ...]  # (identity, account, zone)
DECODERS_MAX = 24  # kept open at once, some MB each: more formats than anybody reads side by side


class Tools:
    """One thread's means to read batches. `version` says whether `zones` may have changed since it was last asked."""

    def __init__(
        self,
        store: Store,
        zones: Callable[[], list[Zone]],
        clock_ms: Callable[[], int],
        folder: Path,
        batch_bytes: int,
        *,
        version: Callable[[], object] = object,
        by_host: bool = True,
    ) -> None:
        self.store = store
        self.clock_ms = clock_ms
        self.by_host = by_host  # whether usage by target host is kept
        self.folder = folder  # for what must be written down to be read twice
        self.scratch = Scratch(batch_bytes)
        self._zones, self._version = zones, version
        self._known = version()
        self._attributions: dict[Rules, Attribution] = {}
        self._decoders: OrderedDict[tuple[object, ...], Decoder] = OrderedDict()

    def attribution(self, rules: Rules = ()) -> Attribution:
        """The zones as they are now, arranged for look-up; with a source's own rules."""
        version = self._version()  # before the zones: a change in between causes a look too many, never one too few
        if version != self._known:
            self._known, self._attributions = version, {}
        if rules not in self._attributions:
            self._attributions[rules] = Attribution(with_rules(self._zones(), rules))
        return self._attributions[rules]

    def decoder(
        self,
        job: Job,
        reading: Reading,
        columns: tuple[str, ...] = (),
        caller: Caller = NO_CALLER,
        *,
        is_small: bool = False,
    ) -> Decoder:
        """A decoder for what is in the scratch; `columns` of a format whose header names them."""
        log_format, reading = job.format, dataclasses.replace(reading, by_host=self.by_host)
        key = (log_format.name, columns, reading, is_small, job.rules, caller.is_restricted and caller.account)
        decoder = self._decoders.get(key)
        if decoder is None:
            if columns:
                log_format = with_columns(columns)
            decoder = self._decoders[key] = Decoder(
                log_format, reading, self.scratch.path, self.folder, is_small=is_small
            )
            if len(self._decoders) > DECODERS_MAX:
                self._decoders.popitem(last=False)[1].close()
        self._decoders.move_to_end(key)
        decoder.attribute_with(self.attribution(job.rules).seen_by(caller))
        return decoder

    def place(self, groups: Groups, now_ms: int, job: Job, caller: Caller) -> place.Placed:
        """What was decoded, as rows of zones."""
        attribution = self.attribution(job.rules)
        if not self.by_host:  # what is read without a query has them all the same
            groups = groups._replace(hosts=None)
        return place.place(
            groups,
            lambda owner: attribution.find(owner, caller),
            self.store,
            now_ms,
            judged_by=job.side or job.format.side,
            plain_side=job.side,
        )

    def close(self) -> None:
        """Give the memory back."""
        for decoder in self._decoders.values():
            decoder.close()
        self.scratch.close()
