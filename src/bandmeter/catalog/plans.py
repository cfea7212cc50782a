"""Which price plan applies to a month, and from when a new one may start. Pure.

A new price never changes a past month (money page of the specification): a month before the current one that already
has a plan in force keeps it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from bandmeter.domain import errors

BEGINNING = "0000-00"  # before every month
MONTH = re.compile(r"[0-9]{4}-(0[1-9]|1[0-2])")
END = "9999-99"  # after every month


class Plan(NamedTuple):
    """A plan of one level (a zone, or an account), in force from `start` until the level's next one starts."""

    start: str  # YYYY-MM, or BEGINNING
    kind: str
    fields: Mapping[str, Any]


def in_force(plans: Sequence[Plan], month: str) -> Plan | None:
    """The plan with the latest start that is not after `month`; `plans` in any order."""
    return max((p for p in plans if p.start <= month), key=lambda p: p.start, default=None)


def choose_start(own: Sequence[Plan], above: Sequence[Plan], new: Plan, start: str | None, current: str) -> str:
    """The month from which `new` counts, `""` when it is in force already.

    `own`: the plans of its level, `above`: of the account when the level is a zone. `start` None: from the beginning
    when nothing priced that usage before, else from the `current` month. Raises `conflict` when that changes the price
    of a past month, `input_invalid` when `start` is no month.
    """
    if start is not None and not MONTH.fullmatch(start):
        raise errors.BandmeterError(errors.INPUT_INVALID, f"{start[:20]!r} is no month: write it as YYYY-MM.")
    is_priced = any(p.start <= current for p in (*own, *above))
    first = start or (current if is_priced else BEGINNING)
    there = in_force(own, first)
    if there is not None and (there.kind, there.fields) == (new.kind, new.fields):
        return ""
    following = min((p.start for p in own if p.start > first), default=END)
    last_past = min(following, current)  # the months from `first` to before this one are past and would change
    if first < last_past and (there is not None or any(p.start < last_past for p in above)):
        raise errors.BandmeterError(
            errors.CONFLICT,
            f"A plan is in force already for a month between {first} and {current}: a past month keeps its price."
            f" Start the new plan with {current} or later.",
        )
    return first
