"""Batches are committed in order: at once, or on a thread of its own while the next ones are read and folded."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, Self

from bandmeter.domain.usage import Outcomes

if TYPE_CHECKING:
    from bandmeter.domain.contracts import Batch, Store

QUEUED_BATCHES_MAX = 2  # decoded and waiting for their commit


class Moved(Exception):  # noqa: N818 - a signal, not an error
    """Another process counted this source further meanwhile."""


class Direct:
    """Writes each batch at once."""

    def __init__(self, store: Store, number: int) -> None:
        self.number = number
        self.done = Outcomes()  # what was committed
        self._store = store

    def put(self, batch: Batch) -> None:
        """Write a batch; raises `Moved`."""
        number = self._store.write(batch._replace(before=batch.before._replace(number=self.number)))
        if not number:
            raise Moved
        self.number = number
        self.done = self.done.plus(batch.after.outcomes.minus(batch.before.outcomes))


class Committer(Direct):
    """Writes batches on a thread of its own, in order. Leaving it waits for those that were put, also on Ctrl-C."""

    def __init__(self, store: Store, number: int) -> None:
        super().__init__(store, number)
        self._queue: queue.Queue[Batch | None] = queue.Queue(QUEUED_BATCHES_MAX)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="commit")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    def put(self, batch: Batch) -> None:
        """Hand over a batch; raises what a batch before it failed with."""
        self._raise()
        self._queue.put(batch)

    def finish(self) -> None:
        """Wait until all is committed."""
        self._queue.put(None)
        self._thread.join()
        self._raise()

    def _raise(self) -> None:
        if self._error:
            raise self._error

    def _run(self) -> None:
        while (batch := self._queue.get()) is not None:
            if self._error is None:
                try:
                    super().put(batch)
                except BaseException as error:  # noqa: BLE001 - raised again where the pipeline waits
                    self._error = error
