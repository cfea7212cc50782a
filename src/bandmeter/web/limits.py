"""Rate limits: so many requests of a key in a minute of the clock.

A window is a minute as the clock shows it, :00 to :59, so that all workers and machines agree on it without talking.
The workers of one machine count in a file that they share; several machines count in a Valkey or Redis. A limit that
cannot be counted refuses nobody: it is logged, `/readyz` warns, and requests pass unlimited.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import mmap
import os
import struct
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import structlog

from bandmeter.domain.contracts import Limit

WINDOW_SECONDS = 60
LOG_SECONDS = 60  # between two log lines about the same trouble
PAUSE_SECONDS = 1.0  # how long a server that failed is left alone: else every request would wait for it
TIMEOUT_SECONDS = 0.25  # of one count; a server in the same network takes under a millisecond
CONNECTIONS_MAX = 32  # of one worker to the server; whoever finds none free waits for TIMEOUT_SECONDS
# 65,536 keys may be counted in one minute. A group is locked as a whole, so more groups mean less waiting.
GROUPS = 1_024
SLOTS_PER_GROUP = 64
_SLOT = struct.Struct("<16sII")  # the counted name's digest, the minute, the requests in it
_GROUP_BYTES = SLOTS_PER_GROUP * _SLOT.size
_log = structlog.get_logger(__name__)


class Rule(NamedTuple):
    """What holds for a request: whose counter, and how many a minute."""

    name: str
    most: int


class Standing(NamedTuple):
    """A counted request: where its key stands, and whether it is one too many."""

    limit: Limit
    is_over: bool


class Rules:
    """Which limit holds: the key's own over all dialects together, else the dialect's; 0 is none."""

    def __init__(self, dialects: Mapping[str, int], keys: Mapping[str, int]) -> None:
        self._dialects = dict(dialects)
        self._keys = dict(keys)

    def find(self, dialect: str, key: str) -> Rule | None:
        """The rule for a dialect's name and a key's id; None: unlimited."""
        own = self._keys.get(key)
        if own is not None:
            return Rule(key, own) if own else None
        most = self._dialects.get(dialect, 0)
        return Rule(f"{dialect}:{key}", most) if most else None


class CountError(Exception):
    """A request could not be counted; the text says why."""


class Counting(Protocol):
    """Where requests are counted."""

    async def count(self, rule: Rule, minute: int) -> int:
        """Count one request; how many there are in that minute with it. Raises `CountError`."""

    async def check(self) -> None:
        """Raise `CountError` when nothing can be counted now."""


# ---------------------------------------------------------------- one machine


class SharedFile:
    """Counts of all processes on this machine, in a memory-mapped file: 2 µs a count.

    A record lock of the kernel holds other processes off a group of slots, and ends with the process that took it,
    however it ends; the threads of this process hold each other off with an ordinary lock. A process opens one only.
    """

    def __init__(self, path: Path) -> None:
        """Open or make the file. Raises OSError."""
        size = GROUPS * _GROUP_BYTES
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(self._file, 0, size)  # a hole that the disk has no room for would kill the process
            self._memory = mmap.mmap(self._file, size)
        except OSError:
            os.close(self._file)
            raise
        self._threads = threading.Lock()

    async def count(self, rule: Rule, minute: int) -> int:
        """Count one request; beyond one too many nothing is counted any more."""
        start, digest = _place(rule.name)
        with self._threads:
            fcntl.lockf(self._file, fcntl.LOCK_EX, _GROUP_BYTES, start)
            try:
                return self._count(start, digest, minute, rule.most)
            finally:
                fcntl.lockf(self._file, fcntl.LOCK_UN, _GROUP_BYTES, start)

    def _count(self, start: int, digest: bytes, minute: int, most: int) -> int:
        at = self._memory.find(digest, start, start + _GROUP_BYTES)
        if at < 0:
            at = self._free(start, minute)
            window, count = minute, 0
        else:
            _, window, count = _SLOT.unpack_from(self._memory, at)
            # A request that read the clock just before the minute turned belongs to the minute that others began.
            # Any other minute is over, or from before the clock was set.
            if window not in (minute, minute + 1):
                window, count = minute, 0
        if count <= most:
            count += 1
            _SLOT.pack_into(self._memory, at, digest, window, count)
        return count

    async def check(self) -> None:
        """Nothing to check: the memory is there."""

    def close(self) -> None:
        """Release the file."""
        self._memory.close()
        os.close(self._file)

    def _free(self, start: int, minute: int) -> int:
        """A slot whose minute is over."""
        for at in range(start, start + _GROUP_BYTES, _SLOT.size):
            if _SLOT.unpack_from(self._memory, at)[1] not in (minute, minute + 1):
                return at
        raise CountError("more keys are in use than the file has room for")


@functools.lru_cache(maxsize=GROUPS * SLOTS_PER_GROUP)
def _place(name: str) -> tuple[int, bytes]:
    """Where a name's group begins, and the digest by which it is found there."""
    digest = hashlib.blake2b(name.encode(), digest_size=16).digest()
    return int.from_bytes(digest[:4], "little") % GROUPS * _GROUP_BYTES, digest


# ---------------------------------------------------------------- several machines


class SharedServer:
    """Counts of all machines, in a Valkey or Redis. Of one event loop."""

    def __init__(self, url: str) -> None:
        """Connects when first used. `url`: redis://, rediss:// or valkey://, valkeys://. Raises ValueError."""
        # Heavy, and of use only to those who have such a server.
        import redis.asyncio  # noqa: PLC0415
        from limits.aio.storage import RedisStorage  # noqa: PLC0415
        from redis.asyncio.retry import Retry  # noqa: PLC0415
        from redis.backoff import NoBackoff  # noqa: PLC0415

        url = url.replace("valkey", "redis", 1) if url.startswith("valkey") else url  # they speak the same
        self._pool = redis.asyncio.BlockingConnectionPool.from_url(
            url,
            max_connections=CONNECTIONS_MAX,
            timeout=TIMEOUT_SECONDS,
            socket_timeout=TIMEOUT_SECONDS,
            socket_connect_timeout=TIMEOUT_SECONDS,
            retry=Retry(NoBackoff(), 1),  # once: the server may have closed a connection that was idle
        )
        options: Any = {"connection_pool": self._pool}  # which its annotation forgets
        self._storage = RedisStorage("async+redis://", implementation="redispy", key_prefix="bandmeter", **options)
        self._failures = (redis.asyncio.RedisError, OSError, TimeoutError)

    async def count(self, rule: Rule, minute: int) -> int:
        """Count one request, in one round trip."""
        try:
            # Each minute has a counter of its own, which goes away by itself a window after it began.
            return await self._storage.incr(f"{rule.name}:{minute}", WINDOW_SECONDS)
        except self._failures as error:
            raise CountError(f"the server gave {type(error).__name__}") from error

    async def check(self) -> None:
        """Ask the server whether it is there."""
        try:
            is_there = await self._storage.check()
        except self._failures as error:
            raise CountError(f"the server gave {type(error).__name__}") from error
        if not is_there:
            raise CountError("the server does not answer")

    async def close(self) -> None:
        """Close the connections."""
        await self._pool.disconnect()


# ---------------------------------------------------------------- the limiter


class Limiter:
    """Counts requests, and lets all pass when it cannot. `uptime_s`: seconds that never stand still, for its pauses."""

    def __init__(self, rules: Rules, counting: Counting, uptime_s: Callable[[], float]) -> None:
        self.find = rules.find
        self._counting = counting
        self._uptime_s = uptime_s
        self._trouble = ""
        self._asleep_until = self._quiet_until = float("-inf")

    async def hit(self, rule: Rule, now_ms: int) -> Standing | None:
        """Count a request under its rule; None when it cannot be counted now."""
        if self._is_asleep():
            return None
        minute, passed_ms = divmod(now_ms, WINDOW_SECONDS * 1000)
        try:
            count = await self._counting.count(rule, minute)
        except CountError as error:
            self._note(error)
            return None
        self._trouble = ""
        reset_s = -(-(WINDOW_SECONDS * 1000 - passed_ms) // 1000)
        return Standing(Limit(rule.most, max(0, rule.most - count), reset_s), count > rule.most)

    async def warnings(self) -> list[str]:
        """A sentence for `/readyz` when requests pass unlimited; else none."""
        if not self._is_asleep():
            try:
                await self._counting.check()
            except CountError as error:
                self._note(error)
            else:
                self._trouble = ""
        return [f"Requests are not limited: {self._trouble}."] if self._trouble else []

    def _is_asleep(self) -> bool:
        return bool(self._trouble) and self._uptime_s() < self._asleep_until

    def _note(self, error: CountError) -> None:
        now = self._uptime_s()
        self._trouble = str(error)
        self._asleep_until = now + PAUSE_SECONDS
        if now >= self._quiet_until:
            self._quiet_until = now + LOG_SECONDS
            _log.error("requests are not limited", reason=self._trouble)


class Broken:
    """Counts nothing, and says why: what stands in where the means to count could not be opened."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    async def count(self, _rule: Rule, _minute: int) -> int:
        """Raise `CountError`."""
        raise CountError(self._reason)

    async def check(self) -> None:
        """Raise `CountError`."""
        raise CountError(self._reason)


def open_limiter(rules: Rules, server: str, file: Path, uptime_s: Callable[[], float]) -> Limiter:
    """A limiter that counts in `server`, or in `file` when that is empty. Raises ValueError for an unusable address."""
    counting: Counting
    if server:
        counting = SharedServer(server)
    else:
        try:
            counting = SharedFile(file)
        except OSError as error:
            counting = Broken(f"{file} cannot be opened ({error.strerror})")
    return Limiter(rules, counting, uptime_s)
