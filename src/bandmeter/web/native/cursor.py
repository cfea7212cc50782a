"""Cursors: where the next page begins, opaque to the caller.

A cursor holds nothing secret and grants nothing: what the key may see is decided anew for each page.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Any, NoReturn

import msgspec

from bandmeter.domain import errors
from bandmeter.domain.contracts import Call
from bandmeter.domain.errors import BandmeterError

LENGTH_MAX = 1_024  # characters; ours have under 600, with the longest account and zone names
_FREE = frozenset({"cursor", "limit", "format"})  # may differ from page to page


def write(call: Call, state: list[Any]) -> str:
    """A cursor that fits this call and pages after it."""
    return base64.urlsafe_b64encode(msgspec.json.encode([_digest(call), *state])).decode().rstrip("=")


def read(call: Call) -> list[Any] | None:
    """The state in the call's cursor, None without one.

    Raises `parameter_invalid` for what is no cursor, and for one of other parameters: its pages would not fit together.
    """
    text = call.parameters.get("cursor")
    if text is None:
        return None
    if len(text) > LENGTH_MAX:
        refuse()
    try:
        found = msgspec.json.decode(base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True), type=list)
    except (binascii.Error, ValueError, RecursionError):  # of which msgspec's errors are some
        refuse()
    if not found or found[0] != _digest(call):
        refuse()
    return list(found[1:])


def refuse() -> NoReturn:
    """Raise `parameter_invalid`."""
    sentence = "cursor takes what the page before gave as `next`, with that page's other parameters."
    raise BandmeterError(errors.PARAMETER_INVALID, sentence)


def _digest(call: Call) -> str:
    asked = sorted((name, value) for name, value in call.parameters.items() if name not in _FREE)
    return hashlib.blake2b(msgspec.json.encode([call.account.id, asked]), digest_size=6).hexdigest()
