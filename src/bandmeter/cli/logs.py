"""`ingest` and `sources`: what came in."""

from __future__ import annotations

from itertools import starmap
from pathlib import Path
from typing import Annotated, Any

import typer

from bandmeter import service
from bandmeter.cli import output, progress
from bandmeter.cli import waiting as unclaimed
from bandmeter.cli.session import Json, opened
from bandmeter.domain import errors
from bandmeter.domain.contracts import SourceState, Unattributed
from bandmeter.domain.errors import BandmeterError
from bandmeter.domain.grid import Span, format_time
from bandmeter.domain.tenancy import Zone
from bandmeter.domain.usage import SHARED, Outcomes
from bandmeter.ingest import FileReport, Job
from bandmeter.reports.folding import gaps, newest_ms
from bandmeter.service import sources as configured

UNATTRIBUTED_SHOWN = 20
GAPS_SECONDS = 7 * 86_400
GAPS_SHOWN = 3  # the last ones; --json has all
MOVED = "it was moved or removed before it was opened; what has a new name by now, the next run counts."
# Exit statuses beside 0.
REJECTED, UNUSABLE, STOPPED = 1, 2, 130


def ingest(
    context: typer.Context,
    files: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FILE…", help="Log files, also .gz and .zst; - for a pipe. None: the configured sources."
        ),
    ] = None,
    *,
    format_name: Annotated[str | None, typer.Option("--format", help="The log's format.")] = None,
    account: Annotated[str | None, typer.Option(help="Whose records name no account.")] = None,
    zone: Annotated[str | None, typer.Option(help="The zone of records that name none.")] = None,
    source: Annotated[str, typer.Option(help="Tells machines apart whose logs could be equal.")] = "files",
    columns: Annotated[str | None, typer.Option(help="Comma-separated; of a tsv file without a header.")] = None,
    as_json: Json = False,
) -> None:
    """Count logs, each part of them once, however often they are given."""
    if not source:
        raise BandmeterError(errors.INPUT_INVALID, "--source takes a name: leave the option out to take `files`.")
    if (account is None) != (zone is None):
        raise BandmeterError(errors.INPUT_INVALID, "--account and --zone belong together: give both, or neither.")
    if bool(files) != (format_name is not None):
        raise BandmeterError(errors.INPUT_INVALID, "Files and --format belong together: give both, or neither.")
    reports: list[FileReport] = []
    with opened(context, create=True) as parts, progress.Shown() as shown:
        found = configured.find_all(parts.config)
        configured.check_apart(parts.config, found)
        if files:
            _check_own(parts, found, source, files)
        if files and format_name:
            names = tuple(columns.split(",")) if columns else ()
            job = Job(service.find_format(parts.config, format_name), source, account, zone, names)
            reports += service.ingest(parts, job, files, shown.of)
        else:
            _ingest_configured(parts, found, shown, reports)
    _print_reports(reports, as_json=as_json)
    if any(report.is_stopped for report in reports):
        output.complain("Stopped between two batches: give the same command again to go on.")
        raise typer.Exit(STOPPED)
    if not reports or any(report.error for report in reports):
        raise typer.Exit(UNUSABLE)
    if any(report.outcomes.rejected for report in reports):
        raise typer.Exit(REJECTED)


def _check_own(parts: service.Parts, found: dict[str, list[str]], source: str, files: list[str]) -> None:
    """Raise `input_invalid` when one of the files given is that of a configured source of another name."""
    for one in configured.shared(parts.config, found | {source: [*found.get(source, []), *files]}):
        sentence = (
            f"{errors.printable(one.path)} is a file of source {one.first}, and would be counted once more as"
            f" {one.second}: `bandmeter ingest` alone reads it, as bandmeter.toml says."
        )
        raise BandmeterError(errors.INPUT_INVALID, sentence)


def _ingest_configured(
    parts: service.Parts, found: dict[str, list[str]], shown: progress.Shown, reports: list[FileReport]
) -> None:
    if not parts.config.sources:
        sentence = "There is nothing to ingest: name files and their --format, or configure a [[source]]."
        raise BandmeterError(errors.INPUT_INVALID, sentence)
    for source in parts.config.sources:
        files = found[source.name]
        if not files:
            output.complain(f"Source {source.name}: no file fits {configured.pattern(parts.config, source)}.")
        for report in service.ingest(parts, service.job_of(parts.config, source), files, shown.of):
            if report.error and not Path(report.path).exists():  # it was there when the files were listed
                report = report._replace(error="", notes=(*report.notes, MOVED))  # noqa: PLW2901 - the same file's
            reports.append(report)


def _print_reports(reports: list[FileReport], *, as_json: bool) -> None:
    total = Outcomes()
    for report in reports:
        total = total.plus(report.outcomes)
        for sentence in filter(None, (report.error, *report.notes)):
            output.complain(sentence if report.path in sentence else f"{report.path}: {sentence}")
    if as_json:
        rows = [
            {"path": r.path, "source": r.source, **r.outcomes._asdict(), "notes": list(r.notes), "error": r.error}
            for r in reports
        ]
        output.print_json({"files": rows, "total": total._asdict()})
        return
    # What could not be read has no counts: a line of zeros would look like an empty log.
    lines = [(report.path, *report.outcomes) for report in reports if report.outcomes.received or not report.error]
    if lines:
        output.print_table(("file", *Outcomes._fields), lines, ("total", *total))
    if total.rejected:
        output.complain("Rejected lines are kept: see `bandmeter rejects`.")


def _source_row(source: SourceState) -> dict[str, Any]:
    return {
        "number": source.number,
        "name": source.name,
        "format": source.format,
        "path": source.path,
        "position": source.position,
        "lines": source.lines,
        **source.outcomes._asdict(),
        "newest": output.time_of_ms(source.newest_ms),
        "committed": output.time_of_ms(source.committed_ms),
        "note": source.note,
    }


def _unattributed_row(waiting: Unattributed, zone: Zone | None) -> dict[str, Any]:
    return {
        "identity": waiting.identity,
        "target_requests": waiting.target.requests,
        "target_bytes": waiting.target.bytes_up + waiting.target.bytes_down,
        "client_requests": waiting.client.requests,
        "client_bytes": waiting.client.bytes_up + waiting.client.bytes_down,
        "newest": output.time_of_ms(waiting.newest_ms),
        "reaches": zone and f"{zone.account}/{zone.name}",
    }


def _followed_rows(parts: service.Parts) -> list[dict[str, Any]]:
    """Of each source that `serve` follows, or followed, up to when all that it had was counted, and the last gaps."""
    now_ms = service.clock_ms()
    known: dict[str, list[SourceState]] = {}
    for source in parts.store.sources():
        known.setdefault(source.name, []).append(source)
    coverage = parts.store.coverage(0, now_ms + 1)
    week = Span(now_ms // 1000 - GAPS_SECONDS, now_ms // 1000)
    rows = []
    for name in dict.fromkeys([*(source.name for source in parts.config.sources), *coverage]):
        stretches = coverage.get(name, [])
        reported_ms = stretches[-1][1] if stretches else None
        found = gaps({name: stretches}, week)
        rows.append(
            {
                "source": name,
                "newest": output.time_of_ms(newest_ms(known.get(name, []), is_followed=True)),
                "reported": output.time_of_ms(reported_ms),
                "lag_seconds": None if reported_ms is None else max(0, now_ms - reported_ms) // 1000,
                "gaps": [{"from": format_time(gap.start), "to": format_time(gap.end)} for gap in found],
            }
        )
    return rows


def sources(context: typer.Context, as_json: Json = False) -> None:
    """List what was counted, file by file, which sources report, and the identities that no zone has claimed."""
    with opened(context) as parts:
        rows = [_source_row(source) for source in parts.store.sources()]
        followed = _followed_rows(parts)
        waiting = list(starmap(_unattributed_row, unclaimed.find(parts)))
    if as_json:
        output.print_json({"sources": rows, "followed": followed, "unattributed": waiting})
        return
    columns = ("number", "name", "format", "path", *Outcomes._fields, "newest", "note")
    output.records(rows, "sources", columns, as_json=False)
    if followed:
        output.say("\nFollowed by `serve`: up to `reported` all is counted; in a gap of the last 7 days nobody looked.")
        for row in followed:
            row["gaps"] = tuple(f"{gap['from']}/{gap['to']}" for gap in row["gaps"][-GAPS_SHOWN:]) or ("none",)
        output.records(followed, "followed", tuple(followed[0]), as_json=False)
    if waiting:
        count = output.count(len(waiting), "identity belongs", "identities belong")
        output.say(f"\n{count} to no zone; give them to one with `bandmeter zone claim`:")
        shown = ["identity", "target_requests", "target_bytes", "client_requests", "client_bytes", "newest"]
        shown += ["reaches"] * any(row["reaches"] for row in waiting[:UNATTRIBUTED_SHOWN])
        output.records(waiting[:UNATTRIBUTED_SHOWN], "unattributed", shown, as_json=False)
        for row in waiting[:UNATTRIBUTED_SHOWN]:
            if row["identity"] in SHARED:
                output.say(f"{row['identity']} is {SHARED[row['identity']]}.")
