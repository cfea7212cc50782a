"""The target host of a request, as a breakdown by target names it."""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

HOST_BYTES_MAX = 253  # of a domain name (RFC 1035)
_PLAIN = re.compile(r"[a-z0-9._-]*[a-z0-9_-]")
_ADDRESS = re.compile(r"\[[0-9a-f:.]+(%[0-9a-z._-]+)?\]")


def hosts_of(texts: Sequence[str | None]) -> list[str | None]:
    """`host_of` of each, worked out once for texts that repeat."""
    found = {text: None if text is None else host_of(text) for text in set(texts)}
    return [found[text] for text in texts]


def host_of(text: str) -> str | None:
    """A domain name in any script, or an address, in lower case and without its port; None for anything else.

    An IPv6 address has brackets; it may come without, for more than one ':' is no port. Logs hold all sorts of things
    where there is no host, and what is told to people must not be one of them.
    """
    if len(text) > HOST_BYTES_MAX or not _PLAIN.fullmatch(text):
        text = _without_port(text).lower()
        is_host = _ADDRESS.fullmatch(text) or (text != "-" and all(map(_is_of_name, text)))
        if not (text and is_host and len(text.encode()) <= HOST_BYTES_MAX):
            return None
    return None if text == "-" else text


def _without_port(text: str) -> str:
    if text.startswith("["):
        return f"{text.partition(']')[0]}]"
    return f"[{text}]" if text.count(":") > 1 else text.partition(":")[0].rstrip(".")


def _is_of_name(character: str) -> bool:
    return character in "._-" or unicodedata.category(character)[0] in "LMN"
