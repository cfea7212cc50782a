"""Bodies of requests: read whole, within a size and a time, and only after the guard let the request pass.

Law 9: what a caller sends has a limit, whatever its headers say of it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from starlette.types import Receive

from bandmeter.domain import errors
from bandmeter.domain.errors import BandmeterError

if TYPE_CHECKING:
    from bandmeter.web.guard import Headers

BYTES_MAX = 65_536  # room for the names of 4,000 zones, or of 250 with the longest names
SECONDS_MAX = 10.0  # for a whole body: a slow phone needs one; whoever sends a byte a second may not wait here for ever


async def read(headers: Headers, receive: Receive) -> bytes:
    """The whole body.

    Raises `body_too_large` as soon as more than BYTES_MAX are announced or have come, `body_late` after SECONDS_MAX,
    `parameter_invalid` when the caller went away before the end.
    """
    if any(name == b"content-length" and _size(value) > BYTES_MAX for name, value in headers):
        raise _too_large()
    try:
        async with asyncio.timeout(SECONDS_MAX):
            return await _collect(receive)
    except TimeoutError as error:
        sentence = f"The body did not end within {SECONDS_MAX:.0f} seconds."
        raise BandmeterError(errors.BODY_LATE, sentence) from error


def _size(value: bytes) -> int:
    """What a Content-Length says; no number says nothing, for the server has cut the body by then."""
    return int(value[:20]) if value.isdigit() else 0


async def _collect(receive: Receive) -> bytes:
    body, is_more = bytearray(), True
    while is_more:
        message = await receive()
        if message["type"] != "http.request":
            raise BandmeterError(errors.PARAMETER_INVALID, "The body ended too early.")
        body += message.get("body", b"")
        if len(body) > BYTES_MAX:
            raise _too_large()
        is_more = message.get("more_body", False)
    return bytes(body)


def _too_large() -> BandmeterError:
    return BandmeterError(errors.BODY_TOO_LARGE, f"The body is larger than {BYTES_MAX} bytes.")
