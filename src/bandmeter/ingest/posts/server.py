"""The process that ingests: it counts what workers hand over and what its sources write, so that there is one writer.

A thread counts bodies, as many together as wait; another follows files; the event loop only moves bytes. What is held
in memory is bounded before it is read (law 9): whoever comes when the bound is reached is told to come back.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bandmeter.domain import errors
from bandmeter.domain.errors import BandmeterError
from bandmeter.ingest.batch.attribute import Caller
from bandmeter.ingest.posts import wire
from bandmeter.ingest.posts.poster import OutOfOrderError, Post, Poster

if TYPE_CHECKING:
    from bandmeter.domain.contracts import Format

HELD_BYTES_MAX = 67_108_864  # of bodies that wait or are being counted: two of the largest, or a second's worth
HELD_POSTS_MAX = 1_024  # each waits for some 0.2 ms of work: a fifth of a second
TOGETHER_MAX = 256  # bodies that share a commit
SMALL_BYTES = 262_144  # up to here a body shares its commit, and waits for one larger one at most: they take turns
TOGETHER_BYTES_MAX = 4_194_304  # of such bodies: more gains nothing, and the first one waits for the last
DRAIN_SECONDS = 10.0  # at the end, for what is being counted; half of what the parent waits
RETRY_SECONDS = 1.0  # between two looks whether the store takes something again
STREAM_BYTES = 1 << 20  # that the loop reads ahead of one connection
BACKLOG = 1_024  # connections that wait for the loop: beyond it they are refused, and not late


class _Waiting(NamedTuple):
    """A body, and whom to tell what became of it."""

    post: Post
    tell: Callable[[wire.Answer], None]


class Counter:
    """Counts bodies on a thread of its own, small ones that wait together in one commit."""

    def __init__(self, poster: Poster, name: str = "post") -> None:
        self.fault = ""  # why nothing can be counted now; it goes away by itself, also when nothing is sent
        self._poster = poster
        self._small: deque[_Waiting] = deque()
        self._large: deque[_Waiting] = deque()
        self._is_turn_of_large = False
        self._is_stopping = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=name)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Count what waits, and end."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify()
        self._thread.join()

    def put(self, post: Post, tell: Callable[[wire.Answer], None]) -> None:
        """Count a body; `tell` is called on the counter's thread."""
        with self._changed:
            (self._small if len(post.content) <= SMALL_BYTES else self._large).append(_Waiting(post, tell))
            self._changed.notify()

    def _run(self) -> None:
        self._look()
        while together := self._take():
            for waiting, answer in zip(together, self._count([w.post for w in together]), strict=True):
                waiting.tell(answer)

    def _take(self) -> list[_Waiting]:
        """What is counted together next: small bodies up to the bound, or a large one, in turn; [] at the end."""
        while not self._wait():
            self._look()
        with self._changed:
            self._is_turn_of_large = bool(self._large) and (self._is_turn_of_large or not self._small)
            waiting, most = (self._large, 1) if self._is_turn_of_large else (self._small, TOGETHER_MAX)
            self._is_turn_of_large = not self._is_turn_of_large
            together: list[_Waiting] = []
            size = 0
            while waiting and len(together) < most and size < TOGETHER_BYTES_MAX:
                together.append(waiting.popleft())
                size += len(together[-1].post.content)
            return together

    def _wait(self) -> bool:
        """Wait for a body, or the end; False when it is time to look whether a fault is over."""
        with self._changed:
            return self._changed.wait_for(
                lambda: bool(self._small or self._large or self._is_stopping), RETRY_SECONDS if self.fault else None
            )

    def _look(self) -> None:
        try:
            self._poster.try_store()
        except Exception as error:  # noqa: BLE001 - whatever it is, nothing can be counted
            name = type(error).__name__
            self.fault = error.sentence if isinstance(error, BandmeterError) else f"Nothing can be stored ({name})."
        else:
            self.fault = ""

    def _count(self, posts: list[Post]) -> list[wire.Answer]:
        answers = self._poster.count(posts)
        faults = [a.sentence for a in answers if isinstance(a, BandmeterError) and a.code == errors.UNAVAILABLE]
        if faults or not all(isinstance(a, BandmeterError) for a in answers):
            self.fault = faults[0] if faults else ""
        return [_refusal(a) if isinstance(a, BandmeterError) else wire.Answer(body=a) for a in answers]


def _refusal(error: BandmeterError) -> wire.Answer:
    expected = error.expected if isinstance(error, OutOfOrderError) else None
    return wire.Answer(code=error.code, sentence=error.sentence, expected=expected)


class Server:
    """Takes bodies from workers over a Unix socket. `find_format` raises `input_invalid`; `status` says how it goes."""

    def __init__(
        self, counter: Counter, find_format: Callable[[str], Format], status: Callable[[], dict[str, Any]]
    ) -> None:
        self._counter, self._find_format, self._status = counter, find_format, status
        self._held_bytes = self._held_posts = 0
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self._server: asyncio.Server | None = None

    async def start(self, path: Path) -> None:
        """Listen; the folder of `path` must be ours alone."""
        self._server = await asyncio.start_unix_server(self._serve, path, limit=STREAM_BYTES, backlog=BACKLOG)

    async def stop(self) -> None:
        """Take no more, and tell those who wait what became of their bodies."""
        if self._server:
            self._server.close()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._is_idle.wait(), DRAIN_SECONDS)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                lengths = wire.decode_lengths(await reader.readexactly(wire.REQUEST_PREFIX_BYTES))
                answer = await self._answer(reader, *lengths)
                writer.write(wire.encode_answer(answer))
                await writer.drain()
        writer.close()

    async def _answer(self, reader: asyncio.StreamReader, head_bytes: int, content_bytes: int) -> wire.Answer:
        head = wire.decode_head(await reader.readexactly(head_bytes))
        if not head.format:
            return wire.Answer(body=self._status())
        if self._held_posts >= HELD_POSTS_MAX or self._held_bytes + content_bytes > HELD_BYTES_MAX:
            await _skip(reader, content_bytes)
            return wire.Answer(
                code=errors.OVERLOADED, sentence="More is sent than can be counted: send it again later."
            )
        self._held_bytes += content_bytes
        self._held_posts += 1
        self._is_idle.clear()
        try:
            return await self._count(head, await reader.readexactly(content_bytes))
        finally:
            self._held_bytes -= content_bytes
            self._held_posts -= 1
            if not self._held_posts:
                self._is_idle.set()

    async def _count(self, head: wire.Head, content: bytes) -> wire.Answer:
        try:
            log_format = self._find_format(head.format)
        except BandmeterError as error:
            return _refusal(error)
        loop = asyncio.get_running_loop()
        told: asyncio.Future[wire.Answer] = loop.create_future()
        caller = Caller(head.account, is_restricted=head.is_restricted)
        post = Post(log_format, content, caller, head.source, head.seq, head.key, head.columns, head.header_lines)

        def tell(answer: wire.Answer) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended, and nobody waits
                loop.call_soon_threadsafe(_set, told, answer)

        self._counter.put(post, tell)
        return await told


def _set(told: asyncio.Future[wire.Answer], answer: wire.Answer) -> None:
    if not told.done():  # as it is when the worker has gone
        told.set_result(answer)


async def _skip(reader: asyncio.StreamReader, size: int) -> None:
    while size:
        chunk = await reader.read(min(size, STREAM_BYTES))
        if not chunk:
            raise asyncio.IncompleteReadError(chunk, size)
        size -= len(chunk)
