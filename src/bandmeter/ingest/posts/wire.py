"""How a worker hands a body to the process that ingests: frames over a Unix socket, without the socket.

A request is a head in JSON and the body's lines, both with their length before them; an answer is JSON behind its
length. Many requests may follow each other on one connection, one at a time.
"""

from __future__ import annotations

import struct
from typing import Any

import msgspec

from bandmeter.domain import errors
from bandmeter.domain.errors import BandmeterError

HEAD_BYTES_MAX = 65_536  # of a request's head, or of an answer: names, or a hundred errors
_LENGTHS = struct.Struct(">II")
_LENGTH = struct.Struct(">I")
REQUEST_PREFIX_BYTES = _LENGTHS.size
ANSWER_PREFIX_BYTES = _LENGTH.size


class Head(msgspec.Struct, frozen=True):
    """What the process that ingests must know of a body; the names are those of `posts.Post`.

    `format` "" asks how it is doing, and has no body.
    """

    format: str = ""
    account: str = ""
    is_restricted: bool = False
    source: str = ""
    seq: int | None = None
    key: str = ""
    columns: tuple[str, ...] = ()
    header_lines: int = 0


class Answer(msgspec.Struct, frozen=True):
    """What became of it: `body` of a success, else an error's code and sentence, and the number expected."""

    body: dict[str, Any] | None = None
    code: str = ""
    sentence: str = ""
    expected: int | None = None


_HEAD = msgspec.json.Decoder(Head)
_ANSWER = msgspec.json.Decoder(Answer)


def encode_request(head: Head, content: bytes) -> tuple[bytes, bytes]:
    """What goes over the wire: the lengths and the head, and then the content as it is."""
    encoded = msgspec.json.encode(head)
    return _LENGTHS.pack(len(encoded), len(content)) + encoded, content


def decode_lengths(prefix: bytes) -> tuple[int, int]:
    """The lengths of a request's head and content; `failure` for a head that cannot be one."""
    head, content = _LENGTHS.unpack(prefix)
    if head > HEAD_BYTES_MAX:
        raise BandmeterError(errors.FAILURE, "The request's head is too long.")
    return head, content


def decode_head(head: bytes) -> Head:
    """A request's head."""
    return _HEAD.decode(head)


def encode_answer(answer: Answer) -> bytes:
    """What goes back."""
    encoded = msgspec.json.encode(answer)
    return _LENGTH.pack(len(encoded)) + encoded


def decode_answer_length(prefix: bytes) -> int:
    """The length of an answer."""
    length: int = _LENGTH.unpack(prefix)[0]
    return length


def decode_answer(answer: bytes) -> Answer:
    """An answer."""
    return _ANSWER.decode(answer)
