"""Rejects that are read once more, each in the way of its source."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from bandmeter import service
from bandmeter.domain.contracts import POSTED, SourceState
from bandmeter.domain.errors import BandmeterError
from bandmeter.domain.usage import Outcomes
from bandmeter.ingest import Job
from bandmeter.ingest.batch.attribute import Caller
from bandmeter.ingest.files.retry import Retry, as_it_is, replaced
from bandmeter.ingest.posts import PATH_OF_ACCOUNT


def retry(
    parts: service.Parts,
    states: Sequence[SourceState],
    mended: Sequence[tuple[int, bytes]] | None = None,
    account: str | None = None,
    zone: str | None = None,
) -> Iterator[tuple[SourceState, Outcomes, str]]:
    """Count those that can be counted by now; of each source, what became of its rejects, and what went wrong.

    `mended`: what to read in the place of the rejects of certain lines. `account` and `zone`: of lines that name none,
    where no `[[source]]` says it. What an account's own key has sent counts for that account only.
    """
    with contextlib.closing(service.tools_of(parts, parts.config.ingest.batch_bytes)) as tools:
        for state in states:
            mend = replaced(mended) if mended else as_it_is
            try:
                job = _job(parts, state, account, zone)
                service.check_zones(parts, job)
                outcomes = Retry(tools, job, _caller(state) or job.caller).count(state, mend)
                # What was not even read, a line that was cut or left empty, is still a reject.
                left = parts.store.count_rejects(state.number, state.lines) - outcomes.rejected
                yield state, outcomes.plus(Outcomes(left, rejected=left)), ""
            except BandmeterError as error:
                yield state, Outcomes(), error.sentence


def _job(parts: service.Parts, state: SourceState, account: str | None, zone: str | None) -> Job:
    configured = {source.name: source for source in parts.config.sources}.get(state.name)
    if configured and not state.head.startswith(POSTED):
        return service.job_of(parts.config, configured)
    return Job(service.find_format(parts.config, state.format), state.name, account, zone)


def _caller(state: SourceState) -> Caller | None:
    if state.path.startswith(PATH_OF_ACCOUNT):
        return Caller(state.path.removeprefix(PATH_OF_ACCOUNT), is_restricted=True)
    return None
