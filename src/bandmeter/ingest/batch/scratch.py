"""A batch's bytes, where both Python and DuckDB can read them without a copy: a mapped file without a name."""

from __future__ import annotations

import contextlib
import mmap
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable


class Scratch:
    """One buffer of `size` bytes, filled again for each batch. `path` is what DuckDB opens."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.length = 0
        if hasattr(os, "memfd_create"):
            self._fd = os.memfd_create("bandmeter-batch")
            self.path = f"/proc/self/fd/{self._fd}"
        else:  # not Linux
            self._fd, self.path = tempfile.mkstemp(prefix="bandmeter-batch-")
        os.ftruncate(self._fd, size)
        self._map = mmap.mmap(self._fd, size)
        self._view = memoryview(self._map)

    def fill(self, read_into: Callable[[memoryview], int], limit: int) -> bool:
        """Read up to `limit` bytes, at most the buffer's size; whether the source ended before."""
        os.ftruncate(self._fd, self.size)
        self.length = 0
        while self.length < limit:
            got = read_into(self._view[self.length : limit])
            if not got:
                return True
            self.length += got
        return False

    def replace(self, content: bytes) -> None:
        """Hold this instead."""
        self.cut(len(content))  # first: nothing is mapped behind the file's end
        self._view[: len(content)] = content

    def hold(self, content: bytes) -> None:
        """Hold this, and forget what was before."""
        os.ftruncate(self._fd, self.size)
        self.replace(content)

    def cut(self, length: int) -> None:
        """Keep the first `length` bytes: the file that DuckDB sees ends there."""
        self.length = length
        os.ftruncate(self._fd, length)

    def rfind(self, byte: bytes) -> int:
        """The last position of `byte`, or -1."""
        return self._map.rfind(byte, 0, self.length)

    def holds(self, byte: bytes) -> bool:
        """Whether `byte` occurs."""
        return self._map.find(byte, 0, self.length) >= 0

    def bytes(self, start: int = 0, end: int | None = None) -> bytes:
        """A copy of a part."""
        return bytes(self._view[start : self.length if end is None else min(end, self.length)])

    @property
    def array(self) -> Any:
        """The content as unsigned bytes, not copied."""
        return np.frombuffer(self._view, dtype=np.uint8, count=self.length)

    def close(self) -> None:
        """Give the memory back."""
        with contextlib.suppress(BufferError):  # an exception on its way may still hold a part: freed together with it
            self._view.release()
            self._map.close()
        os.close(self._fd)
        if not self.path.startswith("/proc/"):
            Path(self.path).unlink()
