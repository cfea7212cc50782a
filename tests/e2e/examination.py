"""Schemathesis, run over an OpenAPI document: every check, each phase, the same examples in every run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import schemathesis
from schemathesis.engine import events, from_schema

SEED = 20221122


class Findings(NamedTuple):
    """What failed, how often each operation gave each status, and how many operations there are."""

    failures: list[str]
    statuses: dict[str, Counter[int]]
    operations: int


def examine(load: Callable[[schemathesis.Config], Any], headers: dict[str, str], examples: int) -> Findings:
    """Run all phases over what `load` gives, `examples` of each operation and phase."""
    config = schemathesis.Config(seed=SEED)
    project = config.projects.default
    project.headers = headers
    project.continue_on_failure = True
    project.generation.max_examples = examples
    project.generation.deterministic = True
    project.generation.database = "none"
    api = load(config)
    failures: list[str] = []
    statuses: dict[str, Counter[int]] = {}
    for event in from_schema(api).execute():
        if isinstance(event, events.NonFatalError | events.FatalError):
            failures.append(str(getattr(event, "value", None) or event.exception))
        if isinstance(event, events.EngineFinished):
            failures += [str(failure) for failure in event.failures]
        if isinstance(event, events.ScenarioFinished):
            for case_id, checks in event.recorder.checks.items():
                failed = [check for check in checks if check.failure_info]
                failures += [f"{check.failure_info.failure}\n{check.failure_info.code_sample}" for check in failed]
                interaction = event.recorder.interactions.get(case_id)
                if interaction and interaction.response:
                    counted = statuses.setdefault(event.recorder.cases[case_id].value.operation.label, Counter())
                    counted[interaction.response.status_code] += 1
    return Findings(failures, statuses, api.statistic.operations.selected)
