"""The pages beside the dialects: health, the OpenAPI document, and its reader."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bandmeter.domain.errors import BandmeterError
from bandmeter.web import openapi

if TYPE_CHECKING:
    from bandmeter.domain.contracts import Dialect

_STATIC = Path(__file__).parent / "static"
_FILES = {
    "/docs": ("docs.html", "text/html; charset=utf-8"),
    "/static/docs.js": ("docs.js", "text/javascript; charset=utf-8"),
    "/static/docs.css": ("docs.css", "text/css; charset=utf-8"),
}
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


Warnings = Callable[[], Awaitable[Sequence[str]]]
Scrape = Callable[[Sequence[tuple[bytes, bytes]]], bytes]
Told = Callable[[], Awaitable[tuple[Sequence[str], Sequence[str]]]]


def build(
    dialects: Iterable[Dialect],
    health: Callable[[], Sequence[str]],
    warnings: Warnings | None = None,
    scrape: Scrape | None = None,
    *,
    told: Told | None = None,
) -> Starlette:
    """The Starlette application for every path that no dialect owns.

    `warnings`: what is wrong while answers are still right, a sentence each. `told`: why it is not ready, besides what
    `health` says, and more warnings, both of the process that ingests. `scrape`: the text of `/metrics` for a request's
    headers; raises `key_invalid`, `scope_missing`.
    """
    document = msgspec.json.encode(openapi.document(dialects))

    async def readyz(_request: Request) -> Response:
        faults, doubts = await told() if told else ((), ())
        found = list(dict.fromkeys([*health(), *faults]))
        warned = [*(await warnings() if warnings else ()), *doubts]
        body = {"ready": not found, "faults": found} | ({"warnings": warned} if warned else {})
        return _json(body, 503 if found else 200)

    async def healthz(_request: Request) -> Response:
        return _json({"alive": True})

    async def openapi_json(_request: Request) -> Response:
        return _reply(document, "application/json")

    def metrics(request: Request) -> Response:  # not async, so in a thread: it reads every source
        try:
            return _reply(scrape(request.headers.raw) if scrape else b"", CONTENT_TYPE_LATEST)
        except BandmeterError as error:
            return _reply(error.sentence.encode(), "text/plain; charset=utf-8", 401)

    async def root(_request: Request) -> Response:
        return _reply(b"", "text/plain; charset=utf-8", 307, {"Location": "/docs"})

    routes = [
        Route("/", root),
        Route("/healthz", healthz),
        Route("/readyz", readyz),
        Route("/openapi.json", openapi_json),
        *([Route("/metrics", metrics)] if scrape else []),
        *(_file_route(path, name, media_type) for path, (name, media_type) in _FILES.items()),
    ]
    return Starlette(routes=routes, exception_handlers={HTTPException: _refuse})


def _file_route(path: str, name: str, media_type: str) -> Route:
    body = (_STATIC / name).read_bytes()

    async def serve(_request: Request) -> Response:
        return _reply(body, media_type)

    return Route(path, serve)


async def _refuse(_request: Request, error: Exception) -> Response:
    """404 and 405, plain: no dialect owns these paths."""
    status, headers = (error.status_code, error.headers) if isinstance(error, HTTPException) else (500, None)
    sentence = {404: "Not Found", 405: "Method Not Allowed"}.get(status, "Error")
    return _reply(sentence.encode(), "text/plain; charset=utf-8", status, dict(headers or {}))


def _json(body: Any, status: int = 200) -> Response:
    return _reply(msgspec.json.encode(body), "application/json", status)


def _reply(body: bytes, media_type: str, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(body, status, headers={**_HEADERS, **(headers or {}), "Content-Type": media_type})
