"""`POST /v1/records`: traffic records in. A 2xx means that they are on disk and counted, and not before.

A worker reads a body in bounded memory, makes lines of it, and hands them to the process that ingests (`ingest`), which
is the only one that writes; its answer is the caller's.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from bandmeter.domain import errors
from bandmeter.domain.contracts import EVERY_ACCOUNT, Call, Endpoint, Format, Parameter, Reply
from bandmeter.domain.errors import BandmeterError
from bandmeter.domain.tenancy import Scope
from bandmeter.domain.usage import Outcomes
from bandmeter.formats import FORMATS
from bandmeter.ingest.posts import bodies, wire
from bandmeter.ingest.posts.bodies import BODY_BYTES_MAX
from bandmeter.web import taken
from bandmeter.web.feed import Feed
from bandmeter.web.guard import VALUE_LENGTH_MAX
from bandmeter.web.native import problems

RECORDS_MAX = 250_000  # of a body: should all be rejected, their explanations take 75 MB
HELD_BYTES_MAX = 67_108_864  # of all bodies that a worker reads at once: two of the largest
ACCOUNT_BYTES_MAX = BODY_BYTES_MAX  # of those, of one account: nobody keeps the others out
PAUSE_SECONDS = 30.0  # between two parts of a body; whoever is slower holds memory for nothing
BODY_SECONDS = 300.0  # for a whole body: the largest at 1 Mbit/s
INLINE_BYTES_MAX = 262_144  # up to here making lines of a body takes 1 ms, and a thread for it gains nothing
ONCE = (b"content-type", b"content-encoding", b"idempotency-key")  # headers that must not be sent twice
NAME_LENGTH_MAX = 128  # of a source or a key
SEQ_MAX = 2**53  # where JSON's numbers stop being whole everywhere
_DEFAULT_SOURCE = "posts"
_COUNTS = list(Outcomes._fields)
_NAMES = re.compile("[!-~]([ -~]*[!-~])?")

Headers = Iterable[tuple[bytes, bytes]]
Receive = Callable[[], Any]


class Taker:
    """Takes bodies for one worker. `find_format` raises `input_invalid`."""

    def __init__(self, feed: Feed, find_format: Callable[[str], Format]) -> None:
        self._feed, self._find_format = feed, find_format
        self._held_bytes: Counter[str] = Counter()  # by account; "" is the operator

    async def take(self, call: Call, headers: Headers, receive: Receive) -> Reply:
        """Count a body; raises what `problems.render_error` renders."""
        named = _named(headers)
        asked = call.parameters.get("format")
        if "" in (asked, call.parameters.get("columns")):
            raise BandmeterError(errors.PARAMETER_INVALID, "format and columns take names, or are not sent.")
        format_name, shape = bodies.find(named.get(b"content-type", ""), asked or "")
        log_format = self._known(format_name, errors.PARAMETER_INVALID if asked else errors.MEDIA_TYPE_UNKNOWN)
        head = _head(call, named, log_format)
        is_same_body_once = bool(call.key and call.key.same_body_once)
        body = _Body(named, functools.partial(self._hold, head.account))
        try:
            content = await body.read(receive)
            prepare = functools.partial(_prepare, head, content, log_format, shape, is_same_body_once=is_same_body_once)
            if len(content) <= INLINE_BYTES_MAX:
                head, content = prepare()
            else:
                head, content = await asyncio.to_thread(prepare)
            answer = await self._feed.send(head, content)
        finally:
            self._let_go(head.account, body.held)
        return _reply(answer)

    def _hold(self, account: str, size: int) -> None:
        """Take memory for a part of a body; raises `overloaded`."""
        is_over = account and self._held_bytes[account] + size > ACCOUNT_BYTES_MAX
        if is_over or self._held_bytes.total() + size > HELD_BYTES_MAX:
            raise BandmeterError(errors.OVERLOADED, "More is sent than can be counted: send it again.")
        self._held_bytes[account] += size

    def _let_go(self, account: str, size: int) -> None:
        self._held_bytes[account] -= size
        if not self._held_bytes[account]:
            del self._held_bytes[account]

    def _known(self, name: str, code: str) -> Format:
        try:
            return self._find_format(name)
        except BandmeterError as error:
            raise BandmeterError(code, error.sentence) from error


class _Body:
    """One body on its way in; `held`: what it takes of the worker's memory, part after part, by `hold`."""

    def __init__(self, named: Mapping[bytes, str], hold: Callable[[int], None]) -> None:
        self.held = 0
        self._hold = hold
        self._decompressor = bodies.decompressor(named.get(b"content-encoding", ""))
        length = named.get(b"content-length", "")
        if length.isdigit() and int(length[:20]) > BODY_BYTES_MAX:
            raise _too_large()

    async def read(self, receive: Receive) -> bytes:
        """The whole body, decompressed."""
        parts = bytearray()
        received, is_more = 0, True
        late_at = asyncio.get_running_loop().time() + BODY_SECONDS
        while is_more:
            chunk, is_more = await self._next(receive, late_at)
            received += len(chunk)  # which may hold nothing, again and again
            part = self._decompressor.feed(chunk, BODY_BYTES_MAX - len(parts))
            if max(received, len(parts) + len(part)) > BODY_BYTES_MAX:
                raise _too_large()
            self._hold(len(part))
            self.held += len(part)
            parts += part
        if received:
            self._decompressor.finish()
        return bytes(parts)

    @staticmethod
    async def _next(receive: Receive, late_at: float) -> tuple[bytes, bool]:
        pause_seconds = min(PAUSE_SECONDS, late_at - asyncio.get_running_loop().time())
        try:
            async with asyncio.timeout(pause_seconds):
                message = await receive()
        except TimeoutError as error:
            sentence = f"Nothing came for {PAUSE_SECONDS:.0f} seconds, or not all within {BODY_SECONDS:.0f}."
            raise BandmeterError(errors.BODY_LATE, sentence) from error
        if message["type"] != "http.request":
            raise BandmeterError(errors.BODY_INVALID, "The body ended too early.")
        return message.get("body", b""), message.get("more_body", False)


def _prepare(
    head: wire.Head, content: bytes, log_format: Format, shape: str, *, is_same_body_once: bool
) -> tuple[wire.Head, bytes]:
    """What goes to the process that ingests, of a whole body."""
    content = bodies.lines(content, shape)
    records = content.count(b"\n")
    if records > RECORDS_MAX:
        raise BandmeterError(errors.BODY_TOO_LARGE, f"The body has over {RECORDS_MAX} records: send fewer.")
    key = head.key
    if is_same_body_once and not key and head.seq is None:
        key = f"body {hashlib.sha256(content).hexdigest()}"
    content, columns = bodies.take_header(content, log_format, head.columns)
    header_lines = records - content.count(b"\n")
    return msgspec.structs.replace(head, key=key, columns=columns, header_lines=header_lines), content


def _named(headers: Headers) -> dict[bytes, str]:
    """The headers by name; raises `parameter_invalid` when one that matters was sent twice."""
    sent = [name for name, _ in headers]
    for name in ONCE:
        if sent.count(name) > 1:
            sentence = f"{name.decode().title()} was sent twice: send it once."
            raise BandmeterError(errors.PARAMETER_INVALID, sentence)
    return {name: value.decode("latin-1") for name, value in headers}


def _too_large() -> BandmeterError:
    sentence = f"The body is larger than {BODY_BYTES_MAX} bytes, decompressed: send it in parts."
    return BandmeterError(errors.BODY_TOO_LARGE, sentence)


def _head(call: Call, named: Mapping[bytes, str], log_format: Format) -> wire.Head:
    source, seq, key = call.parameters.get("source"), call.parameters.get("seq"), named.get(b"idempotency-key")
    for name, text in (("source", source), ("Idempotency-Key", key)):
        if text is not None and not (len(text) <= NAME_LENGTH_MAX and _NAMES.fullmatch(text)):
            sentence = f"{name} takes 1 to {NAME_LENGTH_MAX} printable ASCII characters, no blank around them."
            raise BandmeterError(errors.PARAMETER_INVALID, sentence)
    if seq is not None and not (seq.isascii() and seq.isdigit() and len(seq) <= 16 and 1 <= int(seq) <= SEQ_MAX):  # noqa: PLR2004 - digits of SEQ_MAX
        raise BandmeterError(errors.PARAMETER_INVALID, f"seq takes a whole number from 1 to {SEQ_MAX}.")
    if seq is not None and not source:
        raise BandmeterError(errors.PARAMETER_MISSING, "seq counts the bodies of a source: name it with source.")
    columns = tuple(call.parameters["columns"].split(",")) if call.parameters.get("columns") else ()
    is_operator = call.account is EVERY_ACCOUNT
    return wire.Head(
        format=log_format.name,
        account="" if is_operator else call.account.id,
        is_restricted=not is_operator,
        source=source or _DEFAULT_SOURCE,
        seq=int(seq) if seq is not None else None,
        key=f"key {key}" if key and seq is None else "",
        columns=columns if log_format.has_header else (),
    )


def _reply(answer: wire.Answer) -> Reply:
    if answer.body is not None:
        return Reply(msgspec.json.encode(answer.body))
    reply = problems.render_error(BandmeterError(answer.code, answer.sentence))
    if answer.expected is None:
        return reply
    body = msgspec.json.decode(reply.body) | {"expected": answer.expected}
    return reply._replace(body=msgspec.json.encode(body))


# ---------------------------------------------------------------- the endpoint's row in the table

_COUNT = {"type": "integer", "minimum": 0}
_TEXT = {"type": "string"}
_ERROR = {"line": _COUNT | {"minimum": 1}, "field": _TEXT, "reason": _TEXT, "detail": _TEXT}
_RESULT: dict[str, Any] = {
    "type": "object",
    "properties": dict.fromkeys(_COUNTS, _COUNT)
    | {
        "errors": {
            "type": "array",
            "items": {"type": "object", "properties": _ERROR, "required": list(_ERROR), "additionalProperties": False},
            "description": "The first hundred records that were rejected.",
        }
    },
    "required": [*_COUNTS, "errors"],
    "additionalProperties": False,
}
_SCHEMA = _RESULT | {
    "properties": _RESULT["properties"]
    | {"first": _RESULT | {"description": "Of a duplicate: the answer that it got when it was counted."}}
}
_NAME = {"type": "string", "pattern": f"^{_NAMES.pattern}$", "minLength": 1, "maxLength": NAME_LENGTH_MAX}
PARAMETERS = (
    Parameter("source", _NAME, "Who sends: counted under this name, and numbered by `seq`."),
    Parameter(
        "seq",
        {"type": "integer", "minimum": 1, "maximum": SEQ_MAX},
        "The body's number: the source's last one and 1. Up to the last it is a duplicate.",
    ),
    Parameter(
        "format", {"type": "string", "enum": list(FORMATS)}, "The format of the body's lines; wins over Content-Type."
    ),
    Parameter(
        "columns",
        {"type": "string", "minLength": 1, "maxLength": VALUE_LENGTH_MAX},
        "Of a table without a header line: its columns, comma-separated.",
    ),
    Parameter("Idempotency-Key", _NAME, "What makes the body the same batch when it is sent again.", where="header"),
)
ERRORS = (
    errors.BODY_TOO_LARGE,
    errors.BODY_LATE,
    errors.BODY_INVALID,
    errors.MEDIA_TYPE_UNKNOWN,
    errors.OUT_OF_ORDER,
    errors.KEY_REUSED,
    errors.SUM_TOO_LARGE,
    errors.OVERLOADED,
    errors.PARAMETER_MISSING,
)


def endpoint(taker: Taker | None) -> Endpoint:
    """The row; without a taker it only describes itself."""
    return Endpoint(
        name="records",
        paths=("/v1/records",),
        summary="Count traffic records, each once, durably",
        parse=_nothing,
        render=_not_rendered,
        schema=_SCHEMA,
        parameters=PARAMETERS,
        bodies=taken.BODIES,
        stream=taker.take if taker else None,
        method="POST",
        scope=Scope.INGEST,
        errors=ERRORS,
        is_for_operators=True,
    )


def _nothing(_call: Call) -> None:
    return None


def _not_rendered(_call: Call, _question: object, _answer: object) -> Reply:
    raise BandmeterError(errors.FAILURE, "This endpoint answers by itself.")
