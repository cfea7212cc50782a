"""Bodies of records that were sent to us: each counted once, and many small ones in one query and one commit.

Law 3: what says that a body was counted (its number, or its receipt) is written in the transaction that counts it, so
a body that is sent again, also after a crash, is a duplicate and gets the answer that it got first.
"""

from __future__ import annotations

import hashlib
import time
from array import array
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import structlog

from bandmeter import telemetry
from bandmeter.domain import errors
from bandmeter.domain.contracts import NO_HOSTS, POSTED, Batch, Receipt, Reject, SourceState
from bandmeter.domain.errors import BandmeterError
from bandmeter.domain.usage import Outcomes
from bandmeter.formats.jsonl import JSONL
from bandmeter.ingest.batch import clean, place
from bandmeter.ingest.batch.decode import SMALL_BYTES, joined
from bandmeter.ingest.batch.job import Job
from bandmeter.ingest.batch.query import Reading
from bandmeter.ingest.batch.records import Records
from bandmeter.ingest.posts import PATH, PATH_OF_ACCOUNT, quick
from bandmeter.ingest.posts.receipts import ReceiptClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from bandmeter.domain.contracts import Format
    from bandmeter.ingest.batch.attribute import Caller
    from bandmeter.ingest.batch.decode import Groups
    from bandmeter.ingest.batch.tools import Tools

SOURCES_MAX = 1_000  # of one account: more machines than that send for several
QUICK_BYTES_MAX = 1_048_576  # of a body that is read without a query: beyond, the query's engine is faster
ERRORS_SHOWN_MAX = 100  # of one body; all are kept
REJECTS_MAX = 10_000  # that are explained at once, each some 2 KB
TRIES_MAX = 10  # of a commit that another process was faster with
_log = structlog.get_logger(__name__)


class Post(NamedTuple):
    """One body. `content`: its lines, each with its newline; `header_lines`: how many were cut off before them.

    `source` and `seq`: which of a numbered source's bodies it is; without `seq` it is counted under the source's name
    and told from others by `key` alone. `key`: what makes it the same body as another ("" nothing does).
    """

    format: Format
    content: bytes
    caller: Caller
    source: str
    seq: int | None = None
    key: str = ""
    columns: tuple[str, ...] = ()
    header_lines: int = 0

    @property
    def digest(self) -> bytes:
        """Of what was sent: the lines, and what their columns are called."""
        columns = hashlib.blake2b("\t".join(self.columns).encode(), digest_size=16) if self.columns else None
        return hashlib.blake2b(self.content, digest_size=16, key=columns.digest() if columns else b"").digest()


class _Source(NamedTuple):
    """Whose bodies are counted one after another."""

    account: str
    name: str
    is_numbered: bool

    @property
    def path(self) -> str:
        """What stands for a file's path."""
        return PATH_OF_ACCOUNT + self.account if self.account else PATH

    @property
    def head(self) -> bytes:
        """What stands for the beginning of a file's content."""
        named = f"{self.account}/{self.name}/{self.is_numbered}"
        return POSTED + hashlib.blake2b(named.encode(), digest_size=59).digest()


class Read(NamedTuple):
    """One body's records. `placed` is theirs alone, or, of bodies that were read together, the first one's has all."""

    outcomes: Outcomes
    newest_ms: int | None = None
    placed: place.Placed = place.NOTHING
    rejects: Sequence[Reject] = ()
    unmeterable: int = 0


Answer = dict[str, Any]


class Poster:
    """Counts bodies. Of one thread."""

    def __init__(self, tools: Tools, uptime_s: Callable[[], float] = time.monotonic) -> None:
        self._tools = tools
        self._receipts = ReceiptClock(tools.store, tools.clock_ms() // 1000, uptime_s)
        self._sources: Counter[str] | None = None  # how many there are of each path

    def count(self, posts: Sequence[Post]) -> list[Answer | BandmeterError]:
        """Count the bodies, durably; what became of each, in their order.

        Of several bodies of one numbered source, or with one key, each is counted after the one before it.
        """
        answers: dict[int, Answer | BandmeterError] = {}
        waiting = list(range(len(posts)))
        while waiting:
            now, later = _first_of_each(posts, waiting)
            answers |= zip(now, self._count_each([posts[n] for n in now]), strict=True)
            waiting = later
        return [answers[n] for n in range(len(posts))]

    def try_store(self) -> None:
        """Raise `unavailable` when nothing can be counted now."""
        self._tools.store.touch()

    def _count_each(self, posts: Sequence[Post]) -> list[Answer | BandmeterError]:
        """As `_count_apart`; when a body makes that fail, one after the other, so that none harms its neighbours.

        Nothing of what failed is counted: the bodies share one transaction.
        """
        try:
            return self._count_apart(posts)
        except BandmeterError as error:
            if len(posts) == 1 or error.code == errors.UNAVAILABLE:
                return [error] * len(posts)
        except Exception as error:  # noqa: BLE001 - whatever it is, the senders are told and the process goes on
            if len(posts) == 1:
                _log.error("a body could not be counted", error=type(error).__name__, frames=telemetry.frames(error))
                return [BandmeterError(errors.FAILURE, "The server failed.")]
        return [answer for post in posts for answer in self._count_each([post])]

    def _count_apart(self, posts: Sequence[Post]) -> list[Answer | BandmeterError]:
        """Count bodies of which none has another's number or key."""
        for _ in range(TRIES_MAX):
            states = {source: self._state(source) for source in map(_source, posts)}
            answers = [self._known(post, states[_source(post)]) or self._excess(post, states) for post in posts]
            new = [n for n, answer in enumerate(answers) if answer is None]
            read = dict(zip(new, self._read([posts[n] for n in new], states), strict=True))
            told = [answer or _answer(read[n]) for n, answer in enumerate(answers)]
            batches = self._batches([(posts[n], one) for n, one in read.items() if isinstance(one, Read)], states)
            if not batches or self._tools.store.write_together(batches):
                self._note_new(batches)
                return told
        raise BandmeterError(errors.UNAVAILABLE, "Another process counts the same sources all the time.")

    # ------------------------------------------------------------ what is known already

    def _state(self, source: _Source) -> SourceState:
        found = [s for s in self._tools.store.find_sources(source.name, source.head) if s.head == source.head]
        new = SourceState(0, source.name, "", source.path, source.head, 0, b"", 0, "", Outcomes(), None, None, "")
        return found[0] if found else new

    def _excess(self, post: Post, states: Mapping[_Source, SourceState]) -> BandmeterError | None:
        """The answer to a body with which an account would have too many sources."""
        source = _source(post)
        if states[source].number or not post.caller.is_restricted:
            return None
        if self._sources is None:  # asked once: nobody else makes such sources
            self._sources = Counter(state.path for state in self._tools.store.sources() if PATH in state.path)
        new = sum(one.path == source.path and not state.number for one, state in states.items())
        if self._sources[source.path] + new <= SOURCES_MAX:
            return None
        sentence = f"The account has {SOURCES_MAX} sources: send under the name of one of them."
        return BandmeterError(errors.PARAMETER_INVALID, sentence)

    def _note_new(self, batches: Sequence[Batch]) -> None:
        if self._sources is not None:
            self._sources.update(batch.after.path for batch in batches if not batch.before.number)

    def _known(self, post: Post, state: SourceState) -> Answer | BandmeterError | None:
        """The answer to a body that is counted already, or may not be counted now; None for a new one."""
        key = _key(post)
        receipt = self._tools.store.receipt(key) if key else None
        if receipt and self._receipts.has_expired(receipt):
            receipt = None
        if post.seq is None:
            if receipt and receipt.body != post.digest:
                sentence = "This Idempotency-Key was used with another body: give each body a key of its own."
                return BandmeterError(errors.KEY_REUSED, sentence)
            return self._again(post, state, receipt) if receipt else None
        if state.number and post.seq <= state.position:
            is_last = post.seq == state.position and receipt is not None
            if is_last and receipt and receipt.body != post.digest:
                sentence = f"Number {post.seq} of source {post.source} was another body: number each body once."
                return BandmeterError(errors.KEY_REUSED, sentence)
            return self._again(post, state, receipt if is_last else None)
        if state.number and post.seq != state.position + 1:
            sentence = f"The next body of source {post.source} is number {state.position + 1}, and not {post.seq}."
            return OutOfOrderError(sentence, state.position + 1)
        return None

    def _again(self, post: Post, state: SourceState, receipt: Receipt | None) -> Answer:
        """A duplicate: nothing is counted; with the answer that the body got when it was, where that is remembered."""
        lines = post.content.count(b"\n")
        first = msgspec.json.decode(receipt.answer) if receipt else None
        if first:
            lines = first["received"]
        if state.number and lines:
            self._tools.store.note_duplicates(state.number, lines)
        again = Outcomes(received=lines, duplicate=lines)._asdict() | {"errors": []}
        return again | ({"first": first} if first else {})

    # ------------------------------------------------------------ reading

    def _read(self, posts: Sequence[Post], states: dict[_Source, SourceState]) -> list[Read | BandmeterError]:
        """Read bodies: the plain and small ones together, the others each by a query."""
        read: dict[int, Read | BandmeterError] = {}
        by_caller: dict[Caller, dict[int, Groups]] = {}
        for n, post in enumerate(posts):
            groups = self._read_quickly(post)
            if groups:
                by_caller.setdefault(post.caller, {})[n] = groups
        for caller, plain in by_caller.items():
            read |= self._place_together(plain, caller)
        for n, post in enumerate(posts):
            if n not in read:
                try:
                    read[n] = self._read_alone(post, states[_source(post)])
                except BandmeterError as error:
                    read[n] = error
        return [read[n] for n in range(len(posts))]

    def _read_quickly(self, post: Post) -> Groups | None:
        if not 0 < len(post.content) <= QUICK_BYTES_MAX or not quick.can_read(post.format):
            return None
        attribution, now_ms = self._tools.attribution(), self._tools.clock_ms()
        has_default_account = bool(post.caller.account)
        seen = attribution.seen_by(post.caller)
        groups = quick.read(post.format, post.content, seen, now_ms, has_default_account=has_default_account)
        if groups and any(attribution.find(owner, post.caller) is None for owner in groups.owners):
            return None  # a reject
        return groups

    def _place_together(self, groups: dict[int, Groups], caller: Caller) -> dict[int, Read | BandmeterError]:
        """Rows of several bodies; the first has them all."""
        together = joined(groups)
        placed = self._tools.place(together, self._tools.clock_ms(), Job(JSONL), caller)
        found = {n: Read(placed.outcomes[n], placed.newest_of.get(n)) for n in groups}
        first = next(iter(found))
        return {**found, first: found[first]._replace(placed=placed)}

    def _read_alone(self, post: Post, state: SourceState) -> Read:
        """One body, in parts when there are so many rejects that explaining them at once takes much memory."""
        parts, start = [post.content], state._replace(lines=post.header_lines, position=0)
        whole = Read(Outcomes())
        while parts:
            content = parts.pop(0)
            found = self._read_part(post, content, start)
            if found is None:
                middle = content.find(b"\n", len(content) // 2) + 1
                parts[:0] = [content[:middle], content[middle:]] if middle < len(content) else _halves(content)
                continue
            start = start._replace(lines=start.lines + content.count(b"\n"), position=start.position + len(content))
            whole = _joined(whole, found)
        return whole

    def _read_part(self, post: Post, content: bytes, start: SourceState) -> Read | None:
        tools = self._tools
        tools.scratch.hold(content)
        newlines, has_long_line = clean.count(tools.scratch)
        is_small = len(content) <= SMALL_BYTES
        decoder = tools.decoder(_job(post), _reading(post), post.columns, post.caller, is_small=is_small)
        records = Records(
            decoder,
            lambda groups, now_ms: tools.place(groups, now_ms, _job(post), post.caller),
            tools.scratch,
            tools.clock_ms(),
            newlines,
            is_suspect=has_long_line,
        )
        rejects = records.read(start, REJECTS_MAX if newlines > 1 else newlines)
        if rejects is None:
            return None
        outcomes = records.placed.total.plus(Outcomes(len(rejects), rejected=len(rejects)))
        return Read(outcomes, records.placed.newest, records.placed, rejects, records.unmeterable)

    # ------------------------------------------------------------ writing

    def _batches(self, read: Sequence[tuple[Post, Read]], states: dict[_Source, SourceState]) -> list[Batch]:
        """One batch of each source, with all of its bodies."""
        by_source: dict[_Source, list[tuple[Post, Read]]] = {}
        for one in read:
            by_source.setdefault(_source(one[0]), []).append(one)
        return [self._batch(states[source], bodies) for source, bodies in by_source.items()]

    def _batch(self, before: SourceState, bodies: Sequence[tuple[Post, Read]]) -> Batch:
        now_ms = self._tools.clock_ms()
        rows, newest_ms, rejects, receipts = array("q"), dict[int, int](), list[Reject](), list[Receipt]()
        newest, hosts = [before.newest_ms], NO_HOSTS
        after = before
        for post, read in bodies:
            rows.extend(read.placed.rows)
            hosts = hosts.plus(read.placed.hosts)
            newest.append(read.newest_ms)
            newest_ms |= {zone: max(ms, newest_ms.get(zone, ms)) for zone, ms in read.placed.newest_ms.items()}
            # In the source's count of lines, so that no two of its rejects have one number.
            rejects += [reject._replace(line=after.lines + reject.line) for reject in read.rejects]
            after = after._replace(
                format=post.format.name,
                position=post.seq or after.position + 1,
                lines=after.lines + post.header_lines + post.content.count(b"\n"),
                outcomes=after.outcomes.plus(read.outcomes),
                note="unmeterable" if read.unmeterable else after.note or ("partial" if post.format.partial else ""),
            )
            key = _key(post)
            if key:
                expires_s = self._receipts.expiry_s() if post.seq is None else None
                receipts.append(Receipt(key, post.digest, expires_s, msgspec.json.encode(_counted(read))))
        after = after._replace(newest_ms=max(filter(None, newest), default=None))
        return Batch(before, after, rows, newest_ms, rejects, now_ms, 0, receipts, hosts)


class OutOfOrderError(BandmeterError):
    """A body whose number is beyond the next one; `expected` is that."""

    def __init__(self, sentence: str, expected: int) -> None:
        super().__init__(errors.OUT_OF_ORDER, sentence)
        self.expected = expected


def _source(post: Post) -> _Source:
    return _Source(post.caller.account, post.source, post.seq is not None)


def _key(post: Post) -> bytes:
    """Under which a body's receipt is kept; b"" when nothing says that it is the same as another."""
    if post.seq is None and not post.key:
        return b""
    source = _source(post)
    named = source.head if post.seq is not None else f"{source.account}\0{source.name}\0{post.key}".encode()
    return hashlib.blake2b(named, digest_size=16).digest()


def _first_of_each(posts: Sequence[Post], waiting: Iterable[int]) -> tuple[list[int], list[int]]:
    """Those that share no number or key with one before them, and the rest."""
    seen: set[bytes] = set()
    now: list[int] = []
    later: list[int] = []
    for n in waiting:
        key = _key(posts[n])
        (later if key and key in seen else now).append(n)
        seen.add(key)
    return now, later


def _halves(content: bytes) -> list[bytes]:
    middle = content.find(b"\n") + 1
    return [content[:middle], content[middle:]]


def _job(post: Post) -> Job:
    return Job(post.format)


def _reading(post: Post) -> Reading:
    return Reading(has_default_account=bool(post.caller.account))


def _joined(first: Read, second: Read) -> Read:
    newest_ms = dict(first.placed.newest_ms)
    for zone, ms in second.placed.newest_ms.items():
        newest_ms[zone] = max(ms, newest_ms.get(zone, ms))
    return Read(
        first.outcomes.plus(second.outcomes),
        max(filter(None, (first.newest_ms, second.newest_ms)), default=None),
        place.Placed(
            first.placed.rows + second.placed.rows,
            newest_ms,
            {},
            (),
            hosts=first.placed.hosts.plus(second.placed.hosts),
        ),
        [*first.rejects, *second.rejects],
        first.unmeterable + second.unmeterable,
    )


def _answer(read: Read | BandmeterError) -> Answer | BandmeterError:
    return read if isinstance(read, BandmeterError) else _counted(read)


def _counted(read: Read) -> Answer:
    shown = [
        {"line": reject.line, "field": reject.field, "reason": reject.reason, "detail": reject.detail}
        for reject in read.rejects[:ERRORS_SHOWN_MAX]
    ]
    return read.outcomes._asdict() | {"errors": shown}
