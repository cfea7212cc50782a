"""The target host of a request, as a breakdown by target names it."""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

HOST_BYTES_MAX = 253  # of a domain name (RFC 1035)
_PLAIN = re.compile(r"(?=[._-]*[a-z0-9])[a-z0-9_-]+(\.[a-z0-9_-]+)*")


def hosts_of(texts: Sequence[str | None]) -> list[str | None]:
    """`host_of` of each, worked out once for texts that repeat."""
    found = {text: None if text is None else host_of(text) for text in set(texts)}
    return [found[text] for text in texts]


def host_of(text: str) -> str | None:
    """A domain name in any script, or an address, in lower case and without its port; None for anything else.

    An IPv6 address has brackets, and one spelling; it may come without, for more than one ':' is no port. Logs hold all
    sorts of things where there is no host, and what is told to people must not be one of them.
    """
    if not _PLAIN.fullmatch(text):
        if text.startswith("[") or text.count(":") > 1:
            return _address(text.removeprefix("[").partition("]")[0])
        text = text.partition(":")[0].removesuffix(".").lower()
        if not _PLAIN.fullmatch(text) and not _is_name(text):
            return None
    return text if len(text) <= HOST_BYTES_MAX and len(text.encode()) <= HOST_BYTES_MAX else None


def _address(text: str) -> str | None:
    try:
        address = ipaddress.IPv6Address(text.lower())
    except ValueError:
        return None
    mapped = address.ipv4_mapped  # which not every Python writes in the same way
    return f"[{address}]" if mapped is None else f"[::ffff:{mapped}]"


def _is_name(text: str) -> bool:
    """Whether it is labels between dots, of letters, marks and digits of any script, '_' and '-'."""
    kinds = {unicodedata.category(character)[0] for character in text if character not in "._-"}
    return bool(kinds) and kinds <= {"L", "M", "N"} and all(text.split("."))
