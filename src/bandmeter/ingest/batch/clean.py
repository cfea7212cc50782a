"""What a splitter could misread is taken out of a batch before it is decoded, line by line, each with its reason.

Proxies do write such lines: broken UTF-8 by Traffic Server, NUL bytes into a HAProxy log that someone truncated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from bandmeter.ingest.batch.scratch import Scratch

LINE_BYTES_MAX = 262_144  # a URL may have 64 KiB in Squid and nginx; a line four times as long is damage
_NEWLINE, _RETURN, _TAB, _NUL = 10, 13, 9, 0
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Lines(NamedTuple):
    """Where the lines of a batch are. `starts` and `ends` (without the newline) are positions in the batch.

    A line starts behind the NUL bytes that a truncation left before it, and behind byte order marks.
    """

    starts: Any
    ends: Any

    def __len__(self) -> int:
        return len(self.starts)


def count(scratch: Scratch) -> tuple[int, bool]:
    """The number of newlines, counted on its own, to hold against what the splitter says; may a line be too long?"""
    array = scratch.array
    step = LINE_BYTES_MAX // 2  # a longer line fills such a piece; and a piece stays in the processor's cache
    counts = [int(np.count_nonzero(array[i : i + step] == _NEWLINE)) for i in range(0, len(array), step)]
    return sum(counts), 0 in counts


def is_clean(scratch: Scratch, *, is_whole_line: bool) -> bool:
    """Whether no byte of the batch can mislead the splitter. Blank lines show in the count of rows."""
    if scratch.holds(b"\0") or scratch.holds(b"\r") or (is_whole_line and scratch.holds(b"\x01")):
        return False
    if scratch.length and int(scratch.array.max()) > 127:  # noqa: PLR2004 - beyond ASCII
        try:
            str(memoryview(scratch.array), "utf-8")
        except UnicodeDecodeError:
            return False
        return not (scratch.bytes(0, 3) == _BYTE_ORDER_MARK or scratch.holds(b"\n" + _BYTE_ORDER_MARK))
    return True


def lines(scratch: Scratch) -> Lines:
    """Every line of the batch, which ends with a newline."""
    array = scratch.array
    newlines = np.flatnonzero(array == _NEWLINE)
    starts = np.concatenate([[0], newlines[:-1] + 1])[: len(newlines)]
    for index in np.flatnonzero((array[starts] == _NUL) | (array[starts] == _BYTE_ORDER_MARK[0])).tolist():
        line = scratch.bytes(int(starts[index]), int(newlines[index]))
        starts[index] += _leading(line)
    return Lines(starts, newlines)


def _leading(line: bytes) -> int:
    """How many bytes of NULs and whole byte order marks a line begins with; there may be millions."""
    marks = line[: len(line) - len(line.lstrip(b"\0" + _BYTE_ORDER_MARK))].replace(_BYTE_ORDER_MARK, b"\0\0\0")
    return len(marks) - len(marks.lstrip(b"\0"))


def leading_nuls(scratch: Scratch) -> int:
    """How many NUL bytes the batch begins with."""
    array = scratch.array
    return int(np.argmax(array != _NUL)) if array.any() else len(array)


def faults(scratch: Scratch, all_lines: Lines, widths: tuple[int, ...]) -> dict[int, tuple[str, str]]:
    """The lines to take out: their index, and the reason with its detail. A blank line has the reason "".

    `widths`: the numbers of columns that a line of a tab-separated format may have; () for others.
    """
    array = scratch.array
    # A CR before the newline is another system's way to end a line: it is cut off, below, and no fault.
    found: dict[int, tuple[str, str]] = {}
    for index, position, reason in _broken_utf8(scratch, all_lines):
        found[index] = ("corrupt", f"{reason} at byte {position} of the line")
    lone = array == _RETURN
    lone[:-1] &= array[1:] != _NEWLINE
    marks = [(array == _NUL, "a NUL byte"), (lone, "a carriage return inside the line")]
    if not widths:
        marks.append((array == 1, "the control character 0x01"))
    for is_mark, what in marks:
        for index in _lines_with(is_mark, all_lines):
            found.setdefault(index, ("corrupt", f"the line holds {what}"))
    for index in np.flatnonzero(all_lines.ends - all_lines.starts > LINE_BYTES_MAX).tolist():
        found[index] = ("corrupt", f"the line has over {LINE_BYTES_MAX} bytes")
    if widths:
        columns = np.bincount(_line_of(np.flatnonzero(array == _TAB), all_lines), minlength=len(all_lines)) + 1
        wanted = " or ".join(map(str, widths))
        for index in np.flatnonzero(~np.isin(columns, widths)).tolist():
            reason = "torn_line" if columns[index] < max(widths) else "corrupt"
            found.setdefault(index, (reason, f"{columns[index]} columns, and the format has {wanted}"))
    for index in np.flatnonzero(_is_blank(array, all_lines)).tolist():
        found[index] = ("", "")
    return found


def take_out(scratch: Scratch, all_lines: Lines, out: dict[int, tuple[str, str]]) -> Any:
    """Leave only the other lines in the batch, their CRs cut off; the index of each line that stays."""
    stays = np.ones(len(all_lines), dtype=bool)
    stays[list(out)] = False
    kept = np.flatnonzero(stays)
    content = scratch.bytes()
    pairs = zip(all_lines.starts[kept].tolist(), all_lines.ends[kept].tolist(), strict=True)
    scratch.replace(b"".join(content[start:end].removesuffix(b"\r") + b"\n" for start, end in pairs))
    return kept


def _line_of(positions: Any, all_lines: Lines) -> Any:
    return np.searchsorted(all_lines.ends, positions)


def _lines_with(is_mark: Any, all_lines: Lines) -> list[int]:
    edges = np.stack([all_lines.starts, all_lines.ends], axis=1).ravel()
    found: list[int] = np.flatnonzero(np.logical_or.reduceat(is_mark, edges)[::2]).tolist() if len(edges) else []
    return found


def _is_blank(array: Any, all_lines: Lines) -> Any:
    length = all_lines.ends - all_lines.starts
    return (length == 0) | ((length == 1) & (array[all_lines.starts] == _RETURN))


def _broken_utf8(scratch: Scratch, all_lines: Lines) -> list[tuple[int, int, str]]:
    found = []
    content = memoryview(scratch.bytes())
    start = 0
    while start < len(content):
        try:
            str(content[start:], "utf-8")
        except UnicodeDecodeError as error:
            index = int(_line_of(np.array([start + error.start]), all_lines)[0])
            found.append((index, start + error.start - int(all_lines.starts[index]), "broken UTF-8"))
            start = int(all_lines.ends[index]) + 1
        else:
            break
    return found
