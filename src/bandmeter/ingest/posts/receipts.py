"""When a receipt may be forgotten: by a clock that nobody can set.

The machine's clock may be set forward by a month and back again, or stand in 1970 until the network tells the time. A
receipt that expired by it would let a body be counted twice. So receipts grow old only while a process runs that could
take the body again: they are kept for 35 days of that, and for longer by every hour in which there was none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bandmeter.domain.contracts import REMEMBERED_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from bandmeter.domain.contracts import Receipt, Store


class ReceiptClock:
    """Begins where the newest receipt was made, or at `now_s` when there is none; then only `uptime_s` moves it on."""

    def __init__(self, store: Store, now_s: int, uptime_s: Callable[[], float]) -> None:
        last_s = store.last_expiry_s()
        self._start_s = now_s if last_s is None else last_s - REMEMBERED_SECONDS
        self._uptime_s, self._started_s = uptime_s, uptime_s()

    def now_s(self) -> int:
        """Seconds by this clock."""
        return self._start_s + int(self._uptime_s() - self._started_s)

    def expiry_s(self) -> int:
        """The `expires_s` of a receipt that is made now."""
        return self.now_s() + REMEMBERED_SECONDS

    def has_expired(self, receipt: Receipt) -> bool:
        """Whether it may be forgotten."""
        return receipt.expires_s is not None and receipt.expires_s < self.now_s()
