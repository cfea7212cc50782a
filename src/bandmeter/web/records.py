"""`POST /v1/records`: traffic records in. A 2xx means that they are on disk and counted, and not before.

A worker reads a body in bounded memory, makes lines of it, and hands them to the process that ingests (`ingest`), which
is the only one that writes; its answer is the caller's.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from bandmeter.domain import errors
from bandmeter.domain.contracts import EVERY_ACCOUNT, Call, Endpoint, Format, Parameter, Reply
from bandmeter.domain.errors import BandmeterError
from bandmeter.domain.tenancy import Scope
from bandmeter.domain.usage import Outcomes
from bandmeter.formats import FORMATS
from bandmeter.ingest import bodies, wire
from bandmeter.web.feed import Feed
from bandmeter.web.native import problems

BODY_BYTES_MAX = 33_554_432  # decompressed: 200,000 records; a larger one is better sent in parts that can be retried
RECORDS_MAX = 250_000  # of a body: should all be rejected, their explanations take 75 MB
HELD_BYTES_MAX = 67_108_864  # of all bodies that a worker reads at once: two of the largest
PAUSE_SECONDS = 30.0  # between two parts of a body; whoever is slower holds memory for nothing
NAME_LENGTH_MAX = 128  # of a source or a key
SEQ_MAX = 2**53  # where JSON's numbers stop being whole everywhere
_DEFAULT_SOURCE = "posts"
_COUNTS = list(Outcomes._fields)

Headers = Iterable[tuple[bytes, bytes]]
Receive = Callable[[], Any]


class Taker:
    """Takes bodies for one worker. `find_format` raises `input_invalid`."""

    def __init__(self, feed: Feed, find_format: Callable[[str], Format]) -> None:
        self._feed, self._find_format = feed, find_format
        self._held_bytes = 0

    async def take(self, call: Call, headers: Headers, receive: Receive) -> Reply:
        """Count a body; raises what `problems.render_error` renders."""
        named = {name: value.decode("latin-1") for name, value in headers}
        format_name, shape = bodies.find(named.get(b"content-type", ""), call.parameters.get("format", ""))
        log_format = self._known(format_name)
        head = _head(call, named, log_format)
        body = _Body(named, self)
        try:
            content = bodies.lines(await body.read(receive), shape)
            content, columns = bodies.take_header(content, log_format, head.columns)
            if content.count(b"\n") > RECORDS_MAX:
                raise BandmeterError(errors.BODY_TOO_LARGE, f"The body has over {RECORDS_MAX} records: send fewer.")
            has_header = len(columns) > len(head.columns)
            head = msgspec.structs.replace(head, columns=columns, header_lines=int(has_header))
            if call.key and call.key.same_body_once and not head.key and head.seq is None:
                head = msgspec.structs.replace(head, key=f"body {hashlib.sha256(content).hexdigest()}")
            answer = await self._feed.send(head, content)
        finally:
            self._held_bytes -= body.held
        return _reply(answer)

    def hold(self, size: int) -> None:
        """Take memory for a part of a body; raises `overloaded`."""
        if self._held_bytes + size > HELD_BYTES_MAX:
            raise BandmeterError(errors.OVERLOADED, "More is sent than can be counted: send it again.")
        self._held_bytes += size

    def _known(self, name: str) -> Format:
        try:
            return self._find_format(name)
        except BandmeterError as error:
            raise BandmeterError(errors.PARAMETER_INVALID, error.sentence) from error


class _Body:
    """One body on its way in; `held`: what it takes of the worker's memory."""

    def __init__(self, named: Mapping[bytes, str], taker: Taker) -> None:
        self.held = 0
        self._taker = taker
        self._decompressor = bodies.decompressor(named.get(b"content-encoding", ""))
        length = named.get(b"content-length", "")
        if length.isdigit() and int(length[:20]) > BODY_BYTES_MAX:
            raise _too_large()

    async def read(self, receive: Receive) -> bytes:
        """The whole body, decompressed."""
        parts = bytearray()
        is_more = True
        while is_more:
            chunk, is_more = await self._next(receive)
            part = self._decompressor.feed(chunk, BODY_BYTES_MAX - len(parts))
            self._taker.hold(len(part))
            self.held += len(part)
            parts += part
            if len(parts) > BODY_BYTES_MAX:
                raise _too_large()
        if parts or self.held:
            self._decompressor.finish()
        return bytes(parts)

    @staticmethod
    async def _next(receive: Receive) -> tuple[bytes, bool]:
        try:
            async with asyncio.timeout(PAUSE_SECONDS):
                message = await receive()
        except TimeoutError as error:
            raise BandmeterError(errors.BODY_LATE, f"Nothing came for {PAUSE_SECONDS:.0f} seconds.") from error
        if message["type"] != "http.request":
            raise BandmeterError(errors.BODY_INVALID, "The body ended too early.")
        return message.get("body", b""), message.get("more_body", False)


def _too_large() -> BandmeterError:
    sentence = f"The body is larger than {BODY_BYTES_MAX} bytes, decompressed: send it in parts."
    return BandmeterError(errors.BODY_TOO_LARGE, sentence)


def _head(call: Call, named: Mapping[bytes, str], log_format: Format) -> wire.Head:
    source, seq = call.parameters.get("source", ""), call.parameters.get("seq")
    if len(source) > NAME_LENGTH_MAX:
        raise BandmeterError(errors.PARAMETER_INVALID, f"source takes at most {NAME_LENGTH_MAX} characters.")
    if seq is not None and not (seq.isascii() and seq.isdigit() and len(seq) <= 16 and 1 <= int(seq) <= SEQ_MAX):  # noqa: PLR2004 - digits of SEQ_MAX
        raise BandmeterError(errors.PARAMETER_INVALID, f"seq takes a whole number from 1 to {SEQ_MAX}.")
    if seq is not None and not source:
        raise BandmeterError(errors.PARAMETER_MISSING, "seq counts the bodies of a source: name it with source.")
    key = named.get(b"idempotency-key", "")
    if len(key) > NAME_LENGTH_MAX or not key.isprintable():
        sentence = f"Idempotency-Key takes at most {NAME_LENGTH_MAX} printable characters."
        raise BandmeterError(errors.PARAMETER_INVALID, sentence)
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
PARAMETERS = (
    Parameter(
        "source",
        {"type": "string", "minLength": 1, "maxLength": NAME_LENGTH_MAX},
        "Who sends: counted under this name, and numbered by `seq`.",
    ),
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
        {"type": "string", "maxLength": 2_048},
        "Of a table without a header line: its columns, comma-separated.",
    ),
)
ERRORS = (
    errors.BODY_TOO_LARGE,
    errors.BODY_LATE,
    errors.BODY_INVALID,
    errors.MEDIA_TYPE_UNKNOWN,
    errors.OUT_OF_ORDER,
    errors.KEY_REUSED,
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
        request_media_types=tuple(bodies.MEDIA_TYPES),
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
