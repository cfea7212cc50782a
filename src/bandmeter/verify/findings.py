"""What a check has found."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

SENTENCES_MAX = 1_000  # of a kind; a store with more faults than that is not mended one by one


@dataclasses.dataclass
class Findings:
    """What was looked at, by kind and how much of it; what differs; and what could not be checked, with the reason."""

    checked: dict[str, int] = dataclasses.field(default_factory=dict)
    differences: list[str] = dataclasses.field(default_factory=list)
    unchecked: list[str] = dataclasses.field(default_factory=list)

    def looked_at(self, kind: str, count: int = 1) -> None:
        """Count what was checked."""
        self.checked[kind] = self.checked.get(kind, 0) + count

    def differs(self, sentence: str) -> None:
        """Note a difference."""
        if len(self.differences) < SENTENCES_MAX:
            self.differences.append(sentence)

    def leaves_out(self, sentence: str) -> None:
        """Note what could not be checked."""
        if len(self.unchecked) < SENTENCES_MAX:
            self.unchecked.append(sentence)


# Called with what is being done, and how many bytes of how many are.
Progress = Callable[[str, int, int], None]
