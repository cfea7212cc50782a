"""`verify`: whether the stored numbers are right."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from typing import Annotated

import typer

from bandmeter import service
from bandmeter.cli import output, progress
from bandmeter.cli.session import Json, opened
from bandmeter.ingest import Job
from bandmeter.service import Parts, sources
from bandmeter.verify import DAYS, Candidate, Findings, Recount, check_days, check_sources, check_zones

FOUND = 1  # the exit status
SEED_MAX = 2**32 - 1
PLURAL = re.compile(r"\b(source|zone|log|record|bucket|database)s\b")


def verify(
    context: typer.Context,
    *,
    sample: Annotated[int, typer.Option(min=0, help="How often to draw a day of a zone; 0: look at all.")] = 1_000,
    seed: Annotated[int | None, typer.Option(min=0, max=SEED_MAX, help="Draw the same days again.")] = None,
    logs: Annotated[bool, typer.Option("--logs/--no-logs", help="Count the logs that are there again.")] = True,
    as_json: Json = False,
) -> None:
    """Check what is stored: the laws, days that are drawn, and the logs that are still there, counted again."""
    findings = Findings()
    seed = random.SystemRandom().randrange(SEED_MAX) if seed is None else seed
    with opened(context) as parts, progress.bytes_shown() as step:
        check_sources(parts.store, findings)
        if sample:
            check_days(parts.store, random.Random(seed), sample, findings)  # noqa: S311 - no secret is drawn
        else:
            findings.looked_at("databases, whole")
            for sentence in (*parts.catalog.check(), *parts.store.check()):
                findings.differs(sentence)
        check_zones(parts.store, parts.catalog.zones, findings)
        if logs:
            recount = Recount(
                parts.store,
                parts.catalog.zones,
                lambda name, log_format: _find_job(parts, name, log_format),
                batch_bytes=parts.config.ingest.batch_bytes,
            )
            recount.check(_candidates(parts), findings, step)
        else:
            findings.leaves_out("the logs were not looked at: --no-logs.")
    _print(findings, seed if sample else None, as_json=as_json)
    if findings.differences:
        raise typer.Exit(FOUND)


def _find_job(parts: Parts, name: str, log_format: str) -> Job:
    """How a source is read: as it is configured, else as its format says."""
    for source in parts.config.sources:
        if (source.name, source.format) == (name, log_format):
            return service.job_of(parts.config, source)
    return Job(service.find_format(parts.config, log_format), name)


def _candidates(parts: Parts) -> Iterator[Candidate]:
    """The files of the configured sources: a log that was rotated is known by its content."""
    for source in parts.config.sources:
        for path in sources.find(parts.config, source):
            yield Candidate(source.name, source.format, path)


def _print(findings: Findings, seed: int | None, *, as_json: bool) -> None:
    if as_json:
        shown = {"checked": findings.checked, "differences": findings.differences, "unchecked": findings.unchecked}
        output.print_json(shown | {"seed": seed})
        return
    for kind, count in findings.checked.items():
        drawn = f" (--seed {seed} draws them again)" if kind == DAYS else ""
        output.say(f"{_in_words(kind, count)}{drawn}")
    for sentence in findings.unchecked:
        output.say(f"Not checked: {sentence}")
    for sentence in findings.differences:
        output.say(f"✗ {sentence}")
    found = output.count(len(findings.differences), "difference")
    output.say(f"✗ {found}." if findings.differences else "✓ No difference.")


def _in_words(kind: str, count: int) -> str:
    """What was looked at. Of a small store the same day is drawn many times, so draws are what is counted."""
    if kind == DAYS:
        return output.count(count, "draw of a zone's day", "draws of a zone's day")
    if count == 1:
        kind = PLURAL.sub(r"\1", kind).replace("and identities", "or identity")
    return f"{count} {kind}"
