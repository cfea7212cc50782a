"""The files of configured sources, each of one source only: what two counted would be counted twice."""

from __future__ import annotations

import contextlib
import glob
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from bandmeter.config import Config
from bandmeter.config.tables import Source
from bandmeter.domain import errors
from bandmeter.domain.errors import BandmeterError
from bandmeter.domain.usage import Side
from bandmeter.ingest.files.found import Shares, identity_of


class Shared(NamedTuple):
    """A file that two sources would count."""

    path: str
    first: str
    second: str

    @property
    def sentence(self) -> str:
        """What is wrong, and what to do."""
        return (
            f"{errors.printable(self.path)} would be counted by source {self.first} and by source {self.second}: let it"
            " fit one's path only, or give each another side."
        )


def pattern(config: Config, source: Source) -> str:
    """What fits the files of a source; a relative pattern starts at the data folder."""
    return str(config.data / source.path)


def find(config: Config, source: Source) -> list[str]:
    """The files of a source, by name."""
    return sorted(glob.glob(pattern(config, source), recursive=True))  # noqa: PTH207 - may be absolute


def find_all(config: Config) -> dict[str, list[str]]:
    """The files of each configured source."""
    return {source.name: find(config, source) for source in config.sources}


def shared(config: Config, files: Mapping[str, Sequence[str]]) -> Iterator[Shared]:
    """Those of the sources' files that more than one of them would count."""
    sides = {source.name: Side(source.side) for source in config.sources if source.side}
    shares = Shares()
    for name, paths in files.items():
        for path in paths:
            with contextlib.suppress(OSError):  # who opens it says what is wrong
                first = shares.take(name, sides.get(name), identity_of(os.stat(path)))  # noqa: PTH116 - as glob gave it
                if first:
                    yield Shared(path, first, name)


def check_apart(config: Config, files: Mapping[str, Sequence[str]]) -> None:
    """Raise `input_invalid` when one of the sources' files would be counted twice."""
    for one in shared(config, files):
        raise BandmeterError(errors.INPUT_INVALID, one.sentence)
