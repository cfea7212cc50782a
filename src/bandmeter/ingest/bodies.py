"""What comes in a body, as lines that a format can read: decompressed, and JSON in any of its shapes one a line."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import zstandard

from bandmeter.domain import errors
from bandmeter.domain.errors import BandmeterError
from bandmeter.formats import FORMATS

if TYPE_CHECKING:
    from bandmeter.domain.contracts import Format

HEADER_BYTES_MAX = 65_536
WINDOW_BYTES_MAX = 8_388_608  # of zstd: what its standard wants every reader to have
PIECE_BYTES = 256  # of zstd at once, which are 8 MiB at most
LINES, VALUE = "lines", "value"  # a record a line; or one JSON value: a record, or an array of them
# Media type → format, and the shape of what is in the body.
MEDIA_TYPES: dict[str, tuple[str, str]] = {
    "application/x-ndjson": ("jsonl", LINES),
    "application/ndjson": ("jsonl", LINES),
    "application/jsonl": ("jsonl", LINES),
    "application/json": ("jsonl", VALUE),
    "application/cloudevents+json": ("cloudevents", VALUE),
    "application/cloudevents-batch+json": ("cloudevents", VALUE),
    "text/tab-separated-values": ("tsv", LINES),
} | {f"text/vnd.bandmeter.{name}": (name, LINES) for name in FORMATS}
ENCODINGS = ("identity", "gzip", "zstd")


class Decompressor(Protocol):
    """Takes a body's parts as they come."""

    def feed(self, chunk: bytes, most: int) -> bytes:
        """What the part holds; stops soon after `most` bytes. Raises `body_invalid`."""

    def finish(self) -> None:
        """Raise `body_invalid` when the end is missing."""


class _Plain:
    def feed(self, chunk: bytes, _most: int) -> bytes:
        return chunk

    def finish(self) -> None:
        pass


class _Gzip:
    """One member or several."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(zlib.MAX_WBITS | 16)

    def feed(self, chunk: bytes, most: int) -> bytes:
        found = bytearray()
        try:
            while chunk and len(found) <= most:
                if self._stream.eof:
                    self._stream = zlib.decompressobj(zlib.MAX_WBITS | 16)
                found += self._stream.decompress(chunk, most + 1 - len(found))
                chunk = self._stream.unconsumed_tail or self._stream.unused_data
        except zlib.error as error:
            raise _broken("gzip") from error
        return bytes(found)

    def finish(self) -> None:
        if not self._stream.eof:
            raise _broken("gzip")


class _Zstd:
    """One frame or several."""

    def __init__(self) -> None:
        self._stream: Any = None

    def feed(self, chunk: bytes, most: int) -> bytes:
        found = bytearray()
        try:
            while chunk and len(found) <= most:
                if self._stream is None or self._stream.eof:
                    self._stream = zstandard.ZstdDecompressor(max_window_size=WINDOW_BYTES_MAX).decompressobj()
                # In small pieces, for it has no limit on what it gives: a few bytes can hold a whole block.
                piece, chunk = chunk[:PIECE_BYTES], chunk[PIECE_BYTES:]
                found += self._stream.decompress(piece)
                chunk = self._stream.unused_data + chunk
        except zstandard.ZstdError as error:
            raise _broken("zstd") from error
        return bytes(found)

    def finish(self) -> None:
        if self._stream is None or not self._stream.eof:
            raise _broken("zstd")


def decompressor(encoding: str) -> Decompressor:
    """For a Content-Encoding; raises `media_type_unknown`."""
    kinds: dict[str, type[Decompressor]] = {"": _Plain, "identity": _Plain, "gzip": _Gzip, "x-gzip": _Gzip}
    kinds["zstd"] = _Zstd
    if encoding.lower() not in kinds:
        sentence = f"Content-Encoding takes {', '.join(ENCODINGS)}."
        raise BandmeterError(errors.MEDIA_TYPE_UNKNOWN, sentence)
    return kinds[encoding.lower()]()


def _broken(encoding: str) -> BandmeterError:
    return BandmeterError(errors.BODY_INVALID, f"The body is no whole {encoding}.")


def find(media_type: str, format_name: str) -> tuple[str, str]:
    """The format's name and the shape of a body; the name that was asked for wins. Raises `media_type_unknown`."""
    name = media_type.partition(";")[0].strip().lower()
    known = MEDIA_TYPES.get(name)
    if format_name:
        is_value = format_name in {"jsonl", "cloudevents"} and (known is None or known[1] == VALUE)
        return format_name, VALUE if is_value else LINES
    if not name:
        return "jsonl", VALUE
    if known is None:
        sentence = f"Content-Type takes {', '.join(MEDIA_TYPES)}; or name the format: ?format=squid."
        raise BandmeterError(errors.MEDIA_TYPE_UNKNOWN, sentence)
    return known


def lines(content: bytes, shape: str) -> bytes:
    """A record a line, each with its newline. Raises `body_invalid` for JSON that is none."""
    if shape == VALUE:
        start = content.lstrip(b" \t\r\n")[:1]
        if start == b"[":
            content = _elements(content)
        elif start == b"{":
            content = _one_or_more(content)
    return content if not content or content.endswith(b"\n") else content + b"\n"


def _elements(content: bytes) -> bytes:
    """The elements of an array; a newline inside of one is a blank, for JSON has none in its texts."""
    try:
        found = msgspec.json.decode(content, type=list[msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BandmeterError(errors.BODY_INVALID, f"The body is no JSON array: {error}.") from error
    parts = [bytes(part) for part in found]
    if any(b"\n" in part or b"\r" in part for part in parts):
        parts = [part.replace(b"\n", b" ").replace(b"\r", b" ") for part in parts]
    return b"\n".join(parts)


def _one_or_more(content: bytes) -> bytes:
    """One object, over as many lines as it likes; or else one a line."""
    if b"\n" not in content.strip():
        return content.strip()
    try:
        msgspec.json.decode(content, type=msgspec.Raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return content
    return content.strip().replace(b"\n", b" ").replace(b"\r", b" ")


def take_header(content: bytes, log_format: Format, columns: tuple[str, ...]) -> tuple[bytes, tuple[str, ...]]:
    """The lines without the header line of a table that has one, and its columns."""
    if not log_format.has_header or columns or not content:
        return content, columns
    line, _, rest = content.partition(b"\n")
    if len(line) > HEADER_BYTES_MAX:
        raise BandmeterError(errors.BODY_INVALID, f"The header line is longer than {HEADER_BYTES_MAX} bytes.")
    return rest, tuple(line.decode("utf-8-sig", "replace").removesuffix("\r").split("\t"))
