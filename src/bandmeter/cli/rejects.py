"""`rejects`: the records that could not be read, and what can be done about them."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from bandmeter import service
from bandmeter.cli import output
from bandmeter.cli.session import Json, opened
from bandmeter.domain import errors
from bandmeter.domain.contracts import SourceState
from bandmeter.domain.errors import BandmeterError
from bandmeter.domain.usage import Outcomes
from bandmeter.ingest.batch.clean import LINE_BYTES_MAX
from bandmeter.ingest.posts import PATH_OF_ACCOUNT
from bandmeter.service import rejects as attempts

LISTED_MAX = 100_000  # of one source; nobody reads more, and all of them are in memory
AT_ONCE = 10_000
REJECTED = 1  # exit status: some still are


def rejects(
    context: typer.Context,
    source: Annotated[str | None, typer.Argument(help="A source's number or name; all, when not given.")] = None,
    *,
    lines: Annotated[bool, typer.Option("--lines", help="Only the lines as they came.")] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Count those that can be counted by now.")] = False,
    mend: Annotated[
        str | None, typer.Option(metavar="FILE", help="Count these lines instead: as --lines prints them, mended.")
    ] = None,
    account: Annotated[str | None, typer.Option(help="As `ingest` was given it.")] = None,
    zone: Annotated[str | None, typer.Option(help="As `ingest` was given it.")] = None,
    as_json: Json = False,
) -> None:
    """List the records that could not be read, with line, byte, field and reason; or count them after all."""
    if lines + retry + (mend is not None) > 1:
        raise BandmeterError(errors.INPUT_INVALID, "--lines, --retry and --mend exclude each other: give one.")
    if (account is None) != (zone is None) or (account and not (retry or mend)):
        sentence = "--account and --zone belong together, and to --retry or --mend: give both, or neither."
        raise BandmeterError(errors.INPUT_INVALID, sentence)
    with opened(context) as parts:
        known = parts.store.sources()
        chosen = [s for s in known if source is None or source in {str(s.number), s.name, s.path}]
        if source is not None and not chosen:
            sentence = f"There is no source {source[:80]!r}: take its number from `bandmeter sources`."
            raise BandmeterError(errors.INPUT_INVALID, sentence)
        if lines:
            _print_lines(parts, chosen, source)
        elif retry or mend:
            chosen = [s for s in chosen if s.outcomes.rejected]
            mended = _read_mended(parts, chosen, mend) if mend and chosen else None
            _count(attempts.retry(parts, chosen, mended, account, zone), as_json=as_json)
        else:
            _list(parts, chosen, as_json=as_json)


def _print_lines(parts: service.Parts, chosen: list[SourceState], asked: str | None) -> None:
    """All of them, however many there are.

    Without those that accounts have posted, which may count for these accounts only, unless it is that source alone
    that is `asked` for.
    """
    chosen = [s for s in chosen if s.outcomes.rejected]
    foreign = [s for s in chosen if s.path.startswith(PATH_OF_ACCOUNT) and asked not in {str(s.number), s.path}]
    sys.stdout.flush()
    for source in chosen:
        after = 0
        while source not in foreign and (found := parts.store.rejects(source.number, AT_ONCE, after)):
            sys.stdout.buffer.write(b"".join(reject.text + b"\n" for reject in found))
            after = found[-1].line
    sys.stdout.buffer.flush()
    if foreign:
        sentence = "Lines that accounts have posted with keys of their own are left out: they may not count for others."
        output.complain(f"{sentence} `bandmeter rejects NUMBER --lines` prints those of one.")


def _read_mended(parts: service.Parts, chosen: list[SourceState], path: str) -> list[tuple[int, bytes]]:
    """The lines of a file, each with the line of its reject; raises `input_invalid` when they are not as many."""
    if len(chosen) != 1:
        sentence = "--mend takes the lines of one source: name it by its number, as `bandmeter sources` has it."
        raise BandmeterError(errors.INPUT_INVALID, sentence)
    number, kept = chosen[0].number, list[int]()
    while found := parts.store.rejects(number, AT_ONCE, kept[-1] if kept else 0):
        kept += [reject.line for reject in found]
    try:
        with Path(path).open("rb") as file:  # once: it may be a pipe
            read = iter(lambda: file.readline(LINE_BYTES_MAX + 1), b"")
            mended = [line.removesuffix(b"\n") for line in itertools.islice(read, len(kept) + 1)]
    except OSError as error:
        sentence = f"{path} cannot be read ({error.strerror}): check its name and permissions."
        raise BandmeterError(errors.INPUT_INVALID, sentence) from error
    if len(mended) != len(kept):
        has = "more" if len(mended) > len(kept) else output.count(len(mended), "line")
        sentence = (
            f"Source {number} keeps {output.count(len(kept), 'reject')}, and {path} has {has}: mend what"
            f" `bandmeter rejects {number} --lines` prints now, each line in its place; an empty one leaves its reject."
        )
        raise BandmeterError(errors.INPUT_INVALID, sentence)
    return list(zip(kept, mended, strict=True))


def _count(retried: Iterator[tuple[SourceState, Outcomes, str]], *, as_json: bool) -> None:
    total, rows, problems = Outcomes(), [], []
    for source, outcomes, problem in retried:
        total = total.plus(outcomes)
        rows.append({"source": source.number, "path": source.path, **outcomes._asdict(), "error": problem})
        problems += [f"Source {source.number} ({source.path}): {problem}"] * bool(problem)
    if as_json:
        output.print_json({"sources": rows, "total": total._asdict()})
    elif rows:
        columns = ("source", "path", *Outcomes._fields)
        output.print_table(columns, [[row[name] for name in columns] for row in rows], ("total", "", *total))
    else:
        output.say("No rejects are kept.")
    for problem in problems:
        output.complain(problem)
    if total.rejected or problems:
        raise typer.Exit(REJECTED)


def _list(parts: service.Parts, chosen: list[SourceState], *, as_json: bool) -> None:
    for s in chosen:
        if s.outcomes.rejected > LISTED_MAX:
            sentence = f"the first {LISTED_MAX:,} of {s.outcomes.rejected:,} rejects are listed"
            output.complain(f"Source {s.number} ({s.path}): {sentence}; --lines prints all.")
    rows = [
        {
            "source": s.number,
            "path": s.path,
            "line": reject.line,
            "byte": reject.byte,
            "field": reject.field,
            "reason": reject.reason,
            "detail": reject.detail,
            "text": reject.text.decode(errors="backslashreplace"),
        }
        for s, reject in itertools.chain.from_iterable(
            ((s, reject) for reject in parts.store.rejects(s.number, LISTED_MAX)) for s in chosen
        )
    ]
    columns = ("source", "path", "line", "byte", "field", "reason", "detail")
    output.records(rows, "rejects", columns, as_json=as_json)
