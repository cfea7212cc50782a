"""What every command shares: the settings, the open catalog and store, and values read from options."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from bandmeter import service
from bandmeter.catalog import DOCUMENT_BYTES_MAX, load_document
from bandmeter.config import Config
from bandmeter.domain import errors, grid
from bandmeter.domain.errors import BandmeterError
from bandmeter.domain.tenancy import Account, Zone
from bandmeter.service import Parts

# How a setting that came from an option is named; who typed the option knows nothing of the setting.
OPTION_SETTING = re.compile(r"option (--[a-z-]+): [a-z_.]+: ")
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
Target = Annotated[str, typer.Argument(metavar="ACCOUNT[/ZONE]", help="An account, or one of its zones.")]


def configure(context: typer.Context, options: Mapping[str, Any] | None = None) -> Config:
    """The settings in force, with what the command line says above all. Raises `input_invalid`."""
    try:
        return service.configure(context.find_root().obj, options)
    except BandmeterError as error:
        raise BandmeterError(error.code, OPTION_SETTING.sub(r"\1 ", error.sentence)) from error


@contextlib.contextmanager
def opened(context: typer.Context, *, create: bool = False) -> Iterator[Parts]:
    """The catalog, the store and the reports of the data folder; `create` makes the folder where there is none."""
    with service.open_parts(configure(context), create=create) as parts:
        yield parts


def read_time(text: str | None, option: str, *, is_end: bool = False) -> int | None:
    """Unix seconds of a time given as an option; a fraction is cut, of an end widened."""
    if text is None:
        return None
    try:
        return grid.parse_time(text, is_end=is_end)
    except (ValueError, OverflowError) as error:
        sentence = f"{option} {text[:80]!r} is no time: write it as 2026-11-30 or 2026-11-30T12:00:00Z."
        raise BandmeterError(errors.INPUT_INVALID, sentence) from error


def read_json(path: str) -> Any:
    """The JSON of a file, or of standard input for `-`, within the limit."""
    try:
        if path == "-":
            return load_document(sys.stdin.buffer.read(DOCUMENT_BYTES_MAX + 1))
        with Path(path).open("rb") as stream:
            return load_document(stream.read(DOCUMENT_BYTES_MAX + 1))
    except OSError as error:
        sentence = f"{path} cannot be read ({error.strerror}): check its name and permissions."
        raise BandmeterError(errors.INPUT_INVALID, sentence) from error


def split_target(target: str) -> tuple[str, str | None]:
    """(account, zone or None) of `ACCOUNT[/ZONE]`."""
    account, slash, zone = target.partition("/")
    if slash and not zone:
        raise BandmeterError(errors.INPUT_INVALID, f"{target!r} names no zone after its '/': write ACCOUNT/ZONE.")
    return account, zone or None


def need_account(parts: Parts, account: str) -> Account:
    """An account by its id; raises `account_unknown`, with what to do about it."""
    found = parts.catalog.account(account)
    if found is None:
        sentence = f"There is no account {account[:80]!r}: see `bandmeter account list`."
        raise BandmeterError(errors.ACCOUNT_UNKNOWN, sentence)
    return found


def need_zone(parts: Parts, account: str, name: str) -> Zone:
    """A zone by its name; raises `account_unknown` or `zone_unknown`, with what to do about it."""
    need_account(parts, account)
    found = parts.catalog.zone(account, name)
    if found is None:
        sentence = f"Account {account} has no zone {name[:80]!r}: see `bandmeter zone list {account}`."
        raise BandmeterError(errors.ZONE_UNKNOWN, sentence)
    return found


def need_target(parts: Parts, target: str) -> tuple[str, tuple[str, ...] | None]:
    """(account, zones) as a question takes them, both known to exist."""
    account, zone = split_target(target)
    need_account(parts, account)
    return account, None if zone is None else (need_zone(parts, account, zone).name,)
