"""What comes in a body, as lines that a format can read: decompressed, and JSON in any of its shapes one a line."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import numpy as np
import zstandard

from bandmeter.domain import errors
from bandmeter.domain.errors import BandmeterError
from bandmeter.formats import FORMATS, check
from bandmeter.formats.tsv import with_columns

if TYPE_CHECKING:
    from bandmeter.domain.contracts import Format

BODY_BYTES_MAX = 33_554_432  # decompressed: 200,000 records; a larger one is better sent in parts that can be retried
CONTENT_BYTES_MAX = BODY_BYTES_MAX + 1  # of its lines: the last may lack its newline
HEADER_BYTES_MAX = 65_536
SPLIT_BYTES = 1 << 20  # of an array at once: what is worked out of it takes eight times as much
WINDOW_BYTES_MAX = 8_388_608  # of zstd: what its standard wants every reader to have
PARTS_MAX = (
    10_000  # members of gzip, frames of zstd: whoever packs line by line has one a record; empty ones are endless
)
PIECE_BYTES = 256  # that are decompressed at once; of zstd they can hold 8 MiB
LINES, VALUE = "lines", "value"  # a record a line; or one JSON value: a record, or an array of them
OWN_TYPE = "text/vnd.bandmeter."  # before the name of a format, also of a configured one
# Media type → format, and the shape of what is in the body.
MEDIA_TYPES: dict[str, tuple[str, str]] = {
    "application/x-ndjson": ("jsonl", LINES),
    "application/ndjson": ("jsonl", LINES),
    "application/jsonl": ("jsonl", LINES),
    "application/json": ("jsonl", VALUE),
    "application/cloudevents+json": ("cloudevents", VALUE),
    "application/cloudevents-batch+json": ("cloudevents", VALUE),
    "text/tab-separated-values": ("tsv", LINES),
} | {f"{OWN_TYPE}{name}": (name, LINES) for name in FORMATS}
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
        self._parts = 1

    def feed(self, chunk: bytes, most: int) -> bytes:
        found = bytearray()
        view, at = memoryview(chunk), 0
        try:
            while at < len(view) and len(found) <= most:
                if self._stream.eof:
                    self._stream = zlib.decompressobj(zlib.MAX_WBITS | 16)
                    self._parts = _counted(self._parts)
                piece = view[at : at + PIECE_BYTES]  # small, for what is left of it is copied
                found += self._stream.decompress(piece, most + 1 - len(found))
                at += len(piece) - len(self._stream.unused_data)
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
        self._parts = 0

    def feed(self, chunk: bytes, most: int) -> bytes:
        found = bytearray()
        view, at = memoryview(chunk), 0
        try:
            while at < len(view) and len(found) <= most:
                if self._stream is None or self._stream.eof:
                    self._stream = zstandard.ZstdDecompressor(max_window_size=WINDOW_BYTES_MAX).decompressobj()
                    self._parts = _counted(self._parts)
                # In small pieces, for it has no limit on what it gives: a few bytes can hold a whole block.
                piece = view[at : at + PIECE_BYTES]
                found += self._stream.decompress(piece)
                at += len(piece) - len(self._stream.unused_data)
        except zstandard.ZstdError as error:
            raise _broken("zstd") from error
        return bytes(found)

    def finish(self) -> None:
        if self._stream is None or not self._stream.eof:
            raise _broken("zstd")


def _counted(parts: int) -> int:
    if parts >= PARTS_MAX:
        raise BandmeterError(errors.BODY_INVALID, f"The body is packed in over {PARTS_MAX} parts: pack it in fewer.")
    return parts + 1


def decompressor(encoding: str) -> Decompressor:
    """For a Content-Encoding; raises `media_type_unknown`."""
    kinds: dict[str, type[Decompressor]] = {"": _Plain, "identity": _Plain, "gzip": _Gzip, "x-gzip": _Gzip}
    kinds["zstd"] = _Zstd
    encoding = encoding.strip().lower()
    if encoding not in kinds:
        sentence = f"Content-Encoding takes {', '.join(ENCODINGS)}."
        raise BandmeterError(errors.MEDIA_TYPE_UNKNOWN, sentence)
    return kinds[encoding]()


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
    if known is None and name.startswith(OWN_TYPE):
        return name.removeprefix(OWN_TYPE), LINES
    if known is None:
        sentence = f"Content-Type takes {', '.join(MEDIA_TYPES)}; or name the format: ?format=squid."
        raise BandmeterError(errors.MEDIA_TYPE_UNKNOWN, sentence)
    return known


def lines(content: bytes, shape: str) -> bytes:
    """A record a line, each with its newline. Raises `body_invalid` for a JSON array that is none."""
    if shape == VALUE:
        content = content.removeprefix(_BYTE_ORDER_MARK)
        whole = content.strip(_BLANK)
        if whole.startswith(b"["):
            content = _elements(whole)
        elif whole.startswith(b"{") and _is_one_value(whole):
            content = _flat(whole)
        elif not whole:
            content = whole
    return content if not content or content.endswith(b"\n") else content + b"\n"


def _is_one_value(content: bytes) -> bool:
    """Whether an object goes over lines; else it is all there is, or there is one a line."""
    try:
        msgspec.json.decode(content, type=msgspec.Raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _flat(content: bytes) -> bytes:
    """JSON on one line: it has no newline within its texts."""
    return content.replace(b"\n", b" ").replace(b"\r", b" ")


def _elements(content: bytes) -> bytes:
    """The elements of an array, one a line. Not one of them becomes an object of Python: there may be millions."""
    try:
        msgspec.json.decode(content, type=msgspec.Raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BandmeterError(errors.BODY_INVALID, f"The body is no JSON array: {error}.") from error
    except RecursionError as error:
        raise BandmeterError(errors.BODY_INVALID, "The JSON array is nested too deeply.") from error
    content = _flat(content)
    # Backslashes stand in texts only. Without them, each quote begins or ends a text.
    plain = np.frombuffer(content.replace(b"\\\\", b"..").replace(b'\\"', b".."), dtype=np.uint8)
    split = np.frombuffer(bytearray(content), dtype=np.uint8)
    texts, depth = 0, 0
    for start in range(0, len(plain), SPLIT_BYTES):
        piece = plain[start : start + SPLIT_BYTES]
        in_text = (np.cumsum(piece == _QUOTE, dtype=np.uint8) + np.uint8(texts)) & 1
        steps = np.where(in_text, np.int8(0), _STEPS[piece])
        depths = np.cumsum(steps, dtype=np.int32) + depth
        split[start : start + SPLIT_BYTES][(piece == _COMMA) & (depths == 1) & (in_text == 0)] = _NEWLINE
        texts, depth = int(in_text[-1]), int(depths[-1])
    found = split[1:-1].tobytes()
    return found if found.strip(_BLANK) else b""


_BLANK = b" \t\r\n"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_QUOTE, _COMMA, _NEWLINE = b'",\n'
_STEPS = np.zeros(256, dtype=np.int8)  # by how much a byte changes the depth
_STEPS[list(b"[{")], _STEPS[list(b"]}")] = 1, -1


def take_header(content: bytes, log_format: Format, columns: tuple[str, ...]) -> tuple[bytes, tuple[str, ...]]:
    """The lines without the header line of a table that has one, and its columns.

    Raises `body_invalid`, or `parameter_invalid` for `columns`, when they do not make a format.
    """
    if not log_format.has_header or not (columns or content):
        return content, ()
    if columns:
        return content, _checked(columns, errors.PARAMETER_INVALID)
    line, _, rest = content.partition(b"\n")
    if len(line) > HEADER_BYTES_MAX:
        raise BandmeterError(errors.BODY_INVALID, f"The header line is longer than {HEADER_BYTES_MAX} bytes.")
    names = tuple(line.decode("utf-8-sig", "replace").removesuffix("\r").split("\t"))
    return rest, _checked(names, errors.BODY_INVALID)


def _checked(names: tuple[str, ...], code: str) -> tuple[str, ...]:
    """The columns, those that mean nothing under names of ours."""
    made = with_columns(names)
    try:
        check(made)
    except BandmeterError as error:
        raise BandmeterError(code, error.sentence) from error
    return made.layouts[0].columns
