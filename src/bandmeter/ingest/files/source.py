"""Where a file's content begins and how far it was counted.

A source is its content, not its path or inode: the first 4 KiB that were counted, and at the position a check of the
bytes just before it, both on decompressed bytes. So a renamed, linked or copied file and the `.gz` that a rotation
left are the source that they were before; a truncated or replaced one fails the check and is a new source.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import re
import stat
import sys
import tempfile
import zlib
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import zstandard

from bandmeter.domain import errors
from bandmeter.domain.contracts import SourceState
from bandmeter.domain.errors import BandmeterError
from bandmeter.domain.usage import Outcomes
from bandmeter.formats import FORMATS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence
    from pathlib import Path

    from bandmeter.domain.contracts import Store
    from bandmeter.ingest.batch.job import Job

HEAD_BYTES = 4_096  # of the fingerprint: a log's first lines hold times to the ms, so two logs differ within it
CHECK_BYTES = 4_096  # just before the position
STDIN = "-"
REPEATS = "rejects"  # the note of a file of nothing but lines that were rejected elsewhere, and count there
_READ_BYTES = 1 << 20
# Of every format: a file may be given with the wrong one.
_SECRETS = [re.compile(log_format.secret.encode()) for log_format in FORMATS.values() if log_format.secret]
_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}


class Content:
    """The decompressed bytes of a file, read from the beginning to the end once.

    A compressed file that ends in the middle is content up to there, and `is_torn`.
    """

    def __init__(self, raw: IO[bytes], path: str) -> None:
        self.path = path
        self.is_torn = False
        self.offset = 0
        self._raw = raw
        self._pushed_back = b""
        magic = os.pread(raw.fileno(), 4, 0)
        self._compression = next((name for start, name in _MAGIC.items() if magic.startswith(start)), "")
        if self._compression == "gzip":
            self._stream: Any = gzip.GzipFile(fileobj=raw)
        elif self._compression == "zstd":
            self._stream = zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True)
        else:
            self._stream = raw

    def read_into(self, view: memoryview) -> int:
        """Fill a part of `view`; 0 at the end."""
        if self._pushed_back:
            part, self._pushed_back = self._pushed_back[: len(view)], self._pushed_back[len(view) :]
            view[: len(part)] = part
            self.offset += len(part)
            return len(part)
        if self.is_torn:
            return 0
        try:
            # readinto1 of gzip gives what it has; readinto would throw that away when the file then ends in the middle
            got = self._stream.readinto1(view) if self._compression == "gzip" else self._stream.readinto(view)
        except EOFError:
            got, self.is_torn = 0, True
        except (OSError, zlib.error, zstandard.ZstdError) as error:
            raise BandmeterError(
                errors.INPUT_INVALID,
                f"{self.path} cannot be read at byte {self.offset} of its content: {error}.",
            ) from error
        self.offset += got or 0
        return got or 0

    def push_back(self, tail: bytes) -> None:
        """Give back the last bytes read: the next read begins with them."""
        self._pushed_back = tail + self._pushed_back
        self.offset -= len(tail)

    def read(self, size: int) -> bytes:
        """Up to `size` bytes; fewer only at the end."""
        buffer = bytearray(size)
        length = 0
        while length < size:
            got = self.read_into(memoryview(buffer)[length:])
            if not got:
                break
            length += got
        return bytes(buffer[:length])

    def skip_to(self, position: int) -> bool:
        """Go forward to `position`; False when the content ends before it."""
        if not self._compression:
            self.offset = min(position, self.size)
            self._raw.seek(self.offset)
        while self.offset < position:
            if not self.read(min(_READ_BYTES, position - self.offset)):
                return False
        return True

    def has(self, expected: bytes, offset: int) -> bool:
        """Whether the file itself has these bytes there, now; of a compressed one that is not asked."""
        return self.is_compressed or os.pread(self.fileno, len(expected), offset) == expected

    def return_to(self, position: int, tail: bytes) -> bool:
        """Go back to `position` of an uncompressed file; whether the bytes before it are still `tail`."""
        if not self.has(tail, position - len(tail)) or self.size < position:
            return False
        self._raw.seek(position)
        self.offset, self._pushed_back = position, b""
        return True

    @property
    def fileno(self) -> int:
        """The open file's descriptor."""
        return self._raw.fileno()

    @property
    def size(self) -> int:
        """Of the file itself, now."""
        return os.fstat(self.fileno).st_size

    @property
    def is_compressed(self) -> bool:
        """Whether the content is something else than the file's own bytes."""
        return bool(self._compression)

    def close(self) -> None:
        """Close the file."""
        self._raw.close()

    @property
    def progress_bytes(self) -> int:
        """How much of the file itself has been read."""
        return self._raw.tell()


def open_content(path: str) -> Content:
    """Open a file; `input_invalid` when that cannot be done."""
    try:
        raw = open(path, "rb", buffering=0)  # noqa: PTH123, SIM115 - closed with the content
    except OSError as error:
        raise BandmeterError(errors.INPUT_INVALID, f"{path} cannot be opened: {error.strerror}.") from error
    return Content(raw, path)


def opened(path: str) -> contextlib.closing[Content]:
    """The same, for a `with` statement."""
    return contextlib.closing(open_content(path))


@contextlib.contextmanager
def seekable(path: str, folder: Path) -> Iterator[str]:
    """A path whose content can be read twice: what comes through a pipe is first written to `folder`."""
    real = "/dev/stdin" if path == STDIN else path
    with contextlib.ExitStack() as stack:
        if path == STDIN and sys.stdin is None:
            raise BandmeterError(errors.INPUT_INVALID, "There is no standard input to read: name a file.")
        if _is_pipe(real):
            # A path that is a pipe is what <(…) of a shell gives.
            pipe = sys.stdin.buffer if path == STDIN else stack.enter_context(open(real, "rb"))  # noqa: PTH123
            spool = stack.enter_context(tempfile.NamedTemporaryFile(prefix="stdin-", dir=folder))
            while chunk := pipe.read(_READ_BYTES):
                spool.write(chunk)
            spool.flush()
            real = spool.name
        yield real


def _is_pipe(path: str) -> bool:
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 - beside open()
    except OSError:
        return False  # `opened` says what is wrong
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode) or stat.S_ISSOCK(mode)


REPLACED = "it was truncated or replaced: counted as a new file"
REJECTED = "its lines were rejected when they came before: what can be counted by now is, where it is kept"
STILL_REJECTED = "its lines were rejected when they came before: `bandmeter rejects` says which still are, and why"
UNMETERABLE = "CANNOT BE METERED"
WAITING = "the last line has no newline yet: it waits"
BOTH_TWICE = "what both have is counted twice. Keep copies where no source looks"
TAKEN_OVER = "counted before as source {}, which no [[source]] is called: it goes on from there"
TWICE = "its first lines are those of a log that source"
OLDER_COPY = "shorter than what was counted of it: an older copy, nothing was added"


class Found(NamedTuple):
    """A content's source: its state so far (number 0: new), what else was known, and what to tell the operator."""

    state: SourceState
    considered: int
    note: str = ""
    is_shorter: bool = False  # than what was counted of `state`, and the same as far as can be told
    head: bytes = b""
    is_taken_over: bool = False  # from another name, which is still the stored one


def new(name: str, log_format: str, path: str) -> SourceState:
    """A source of which nothing is counted yet."""
    return SourceState(0, name, log_format, path, b"", 0, b"", 0, "", Outcomes(), None, None, "")


def in_format(state: SourceState, job: Job) -> SourceState:
    """The state, in the job's format while nothing was counted in another: that was a mistake."""
    if state.format != job.format.name and state.outcomes.is_all_rejected:
        return state._replace(format=job.format.name, columns="")
    return state


def find(store: Store, name: str, log_format: str, path: str, others: Collection[str] | None = None) -> Found:
    """Find the source that a file's content belongs to, and how far it was counted.

    `others`: names that are taken; a content that is known under none of them, nor under `name`, but under another,
    is that source, which is called `name` from now on. None: only `name` is looked at.
    """
    fresh = new(name, log_format, path)
    with opened(path) as content:
        head = without_secrets(content.read(HEAD_BYTES))
        if not head:
            return Found(fresh, 0)
        known = store.find_sources(name, head)
        nobodys = [] if others is None else _nobodys(store, head, others)
        considered = max((state.number for state in known), default=0)
        fits, longer = _fitting(content, head, known)
        other, longer = _fitting(content, head, nobodys) if not (fits or longer) else (None, longer)
    if fits:
        return Found(fits, considered, head=head)
    if other:
        note = TAKEN_OVER.format(other.name)
        return Found(other._replace(name=name), considered, note, head=head, is_taken_over=True)
    if longer:
        longer = longer._replace(name=name)
        return Found(longer, considered, is_shorter=True, head=head)
    return Found(fresh, considered, replaced(name, head, known) if known else "", head=head)


def _fitting(
    content: Content, head: bytes, states: Iterable[SourceState]
) -> tuple[SourceState | None, SourceState | None]:
    """The furthest state that the content goes on from, and the furthest of which it may be the beginning.

    A file that repeats rejects may be a log's beginning; then the log says what it is.
    """
    fits = repeats = longer = None
    for state in sorted(states, key=lambda s: s.position):
        size, check = _look_at(content, state) if head.startswith(state.head) else (len(head), b"")
        if size == state.position and check == state.check:
            fits, repeats = (fits, state) if state.note == REPEATS else (state, repeats)
        elif size < state.position:
            longer = state
    return fits or (None if longer else repeats), longer


def _nobodys(store: Store, head: bytes, others: Collection[str]) -> list[SourceState]:
    """Sources that the content may belong to, and whose name nobody has."""
    return [s for s in store.sources_of_head(head) if s.name not in others]


def replaced(name: str, head: bytes, known: Sequence[SourceState]) -> str:
    """What to tell of a file that begins as known logs of its source do, and goes on as none of them."""
    if _tells(head) and any(state.head == head for state in known):
        return f"{TWICE} {name} counted, and it goes on differently: {BOTH_TWICE}"
    return REPLACED


def twins(store: Store, name: str, head: bytes) -> list[str]:
    """A note when a log has begun as this one does under another name, and was counted there: then both are."""
    lines = head.count(b"\n")
    for other in store.sources_of_head(head) if _tells(head) else ():
        is_counted = not lines or store.count_rejects(other.number, lines) < lines
        if other.name != name and other.head == head and is_counted:
            return [f"{TWICE} {other.name} counted: if it is the same log, it is counted twice"]
    return []


def _tells(head: bytes) -> bool:
    """Whether no two logs begin with this: it is long, and not the hole that a truncation left."""
    return len(head) == HEAD_BYTES and any(head)


def _look_at(content: Content, state: SourceState) -> tuple[int, bytes]:
    """How far the content goes towards the state's position, and the check of the bytes before that."""
    start = max(0, state.position - CHECK_BYTES)
    if content.offset > start:
        with opened(content.path) as again:
            return _look_at(again, state)
    content.skip_to(start)
    tail = content.read(state.position - content.offset) if content.offset == start else b""
    return content.offset, check_of(tail)


def without_secrets(head: bytes) -> bytes:
    """A head as it may be stored: credentials blanked, byte for byte, so that a shorter head stays its beginning."""
    for secret in _SECRETS:
        head = secret.sub(lambda match: match[1] + b"*" * len(match[2]), head)
    return head


def check_of(tail: bytes) -> bytes:
    """The check of the bytes before a position, of which the last `CHECK_BYTES` count."""
    return hashlib.blake2b(tail[-CHECK_BYTES:], digest_size=16).digest()
