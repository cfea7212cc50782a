"""A worker's connections to the process that ingests."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from pathlib import Path

from bandmeter.domain import errors
from bandmeter.domain.errors import BandmeterError
from bandmeter.ingest.posts import wire

CONNECTIONS_MAX = 256  # as many bodies at once; whoever comes then waits for one
ANSWER_SECONDS = 60.0  # for one body, which waits for at most 64 MiB of others
STATUS_SECONDS = 2.0
CONTENT_AT_ONCE = 65_536  # up to here head and content are one write
UNREACHABLE = "The process that ingests does not answer: it is being started anew, or the log says why not."


class Feed:
    """Sends bodies over a Unix socket, each over a connection that is free. Of one event loop."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._free: deque[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = deque()
        self._turns = asyncio.Semaphore(CONNECTIONS_MAX)

    async def send(self, head: wire.Head, content: bytes) -> wire.Answer:
        """What became of a body; raises `unavailable` when that cannot be known."""
        async with self._turns:
            return await self._send(head, content, ANSWER_SECONDS)

    async def told(self) -> tuple[list[str], list[str]]:
        """Why nothing can be counted now, and what is wrong beside that, a sentence each."""
        try:
            answer = await self._send(wire.Head(), b"", STATUS_SECONDS)
        except BandmeterError as error:
            return [error.sentence], []
        body = answer.body or {}
        return body.get("faults", []), body.get("warnings", [])

    async def _send(self, head: wire.Head, content: bytes, seconds: float) -> wire.Answer:
        try:
            async with asyncio.timeout(seconds):
                return await self._ask(head, content)
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            raise BandmeterError(errors.UNAVAILABLE, UNREACHABLE) from error

    async def _ask(self, head: wire.Head, content: bytes) -> wire.Answer:
        reader, writer = await self._connection()
        is_done = False
        try:
            first, rest = wire.encode_request(head, content)
            if len(rest) <= CONTENT_AT_ONCE:
                writer.write(first + rest)
            else:
                writer.write(first)
                writer.write(rest)
            await writer.drain()
            length = wire.decode_answer_length(await reader.readexactly(wire.ANSWER_PREFIX_BYTES))
            answer = wire.decode_answer(await reader.readexactly(length))
            is_done = True
        finally:
            if is_done:
                self._free.append((reader, writer))
            else:
                writer.close()
        return answer

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self._free:
            reader, writer = self._free.pop()
            if not reader.at_eof() and not writer.is_closing():
                return reader, writer
            with contextlib.suppress(OSError):
                writer.close()
        return await asyncio.open_unix_connection(Path(self._path))
