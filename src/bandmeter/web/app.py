"""The ASGI application: a request finds its endpoint in a table, passes the guard, and is answered.

Answers of the dialects are sent straight over ASGI: a dictionary look-up and two messages cost a twentieth of what a
router with request and response objects does. What has no such traffic (health, docs) is an ordinary Starlette app.
"""

from __future__ import annotations

import asyncio
import functools
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import structlog
from starlette.types import ASGIApp, Receive, Scope, Send

from bandmeter import telemetry
from bandmeter.domain import errors
from bandmeter.domain.contracts import Call, Dialect, Endpoint, Limit, Reply, Store
from bandmeter.domain.errors import BandmeterError
from bandmeter.domain.tenancy import Account, Key
from bandmeter.reports import Reports
from bandmeter.web import body, guard, kept, pages
from bandmeter.web.kept import Kept
from bandmeter.web.pages import Told

if TYPE_CHECKING:
    from bandmeter.catalog import Catalog
    from bandmeter.telemetry import Metrics
    from bandmeter.web.limits import Limiter

# Answers over many zones are computed off the event loop. Each thread keeps a connection and its page cache, so few,
# and always the same ones.
HEAVY_THREADS = 4
HEAVY_WAITING_MAX = 256  # at 10 ms each a wait of under a second; whoever comes then is told to come back
_FIXED_HEADERS = [
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
]
_log = structlog.get_logger(__name__)


class _Route(NamedTuple):
    dialect: Dialect
    endpoint: Endpoint
    names: frozenset[str]  # of the query parameters that the endpoint knows


_Methods = dict[str, _Route]


def build(
    reports: Reports,
    catalog: Catalog,
    dialects: Iterable[Dialect],
    clock: Callable[[], int],
    health: Callable[[], Sequence[str]],
    *,
    limiter: Limiter | None = None,
    metrics: Metrics | None = None,
    told: Told | None = None,
    kept_bytes: int = 0,
) -> ASGIApp:
    """The application. `clock` gives Unix milliseconds; `health` says why it is not ready, a sentence each, at once.

    `told`: the same of the process that ingests, and its warnings. Without a `limiter` nothing is limited; without
    `metrics` nothing is measured, and there is no `/metrics`; `kept_bytes` 0: no reply is kept.
    """
    dialects = tuple(dialects)
    scrape = functools.partial(_scrape, metrics, catalog, reports.store, clock) if metrics else None
    rest = pages.build(dialects, health, limiter.warnings if limiter else None, scrape, told=told)
    shelf = Kept(reports.store, kept_bytes) if kept_bytes else None
    return _Application(reports, catalog, dialects, clock, rest, limiter=limiter, metrics=metrics, shelf=shelf)


def _scrape(
    metrics: Metrics, catalog: Catalog, store: Store, clock: Callable[[], int], headers: guard.Headers
) -> bytes:
    """What strangers may see; with an operator's key what has names in it too. Raises `key_invalid`."""
    is_operator = False
    if any(name == b"authorization" for name, _ in headers):
        secret = guard.find_secret((("bearer", "authorization"),), headers, ())
        if guard.authenticate(catalog, secret, clock() // 1000).account is not None:
            raise BandmeterError(errors.SCOPE_MISSING, "Names are told to an operator's key only.")
        is_operator = True
    outcomes = [source.outcomes for source in store.sources()]
    return metrics.render(outcomes, store.committed_ms(), with_names=is_operator)


class _Application:
    """Holds the tables; safe for any number of requests at once."""

    def __init__(
        self,
        reports: Reports,
        catalog: Catalog,
        dialects: tuple[Dialect, ...],
        clock: Callable[[], int],
        rest: ASGIApp,
        *,
        limiter: Limiter | None,
        metrics: Metrics | None,
        shelf: Kept | None,
    ) -> None:
        self._reports = reports
        self._catalog = catalog
        self._clock = clock
        self._rest = rest
        self._limiter = limiter
        self._metrics = metrics
        self._paths, self._patterns = _tables(dialects)
        self._prefixes = [(prefix, dialect) for dialect in dialects for prefix in dialect.prefixes]
        self._kept = shelf
        self._threads = ThreadPoolExecutor(HEAVY_THREADS, thread_name_prefix="heavy")
        self._waiting = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._rest(scope, receive, send)
            return
        path = scope["path"]
        methods, in_path = self._paths.get(path), _NOTHING
        if methods is None:
            methods, in_path = self._match(path)
        if methods is None:
            dialect = self._owner(path)
            if dialect is None:
                await self._rest(scope, receive, send)
            else:
                reply = dialect.render_error(BandmeterError(errors.ROUTE_UNKNOWN, _tell_paths(dialect)))
                await _send(_sign(dialect, reply, None, None), scope, send)
            return
        method = scope["method"]
        route = methods.get("GET" if method == "HEAD" else method)
        if route is None:
            await _send(_refuse_method(methods), scope, send)
        elif self._metrics is None:
            await _send(await self._serve(route, scope, receive, in_path), scope, send)
        else:
            start = time.perf_counter()
            reply = await self._serve(route, scope, receive, in_path)
            await _send(reply, scope, send)
            taken = time.perf_counter() - start
            self._metrics.answered(route.dialect.name, route.endpoint.name, reply.status, taken)

    # ------------------------------------------------------------ finding

    def _match(self, path: str) -> tuple[_Methods | None, Mapping[str, str]]:
        for pattern, methods in self._patterns:
            found = pattern.fullmatch(path)
            if found:
                return methods, found.groupdict()
        return None, _NOTHING

    def _owner(self, path: str) -> Dialect | None:
        """The dialect in whose form an unknown path is refused."""
        for prefix, dialect in self._prefixes:
            if path == prefix or path.startswith(f"{prefix}/"):
                return dialect
        return None

    # ------------------------------------------------------------ answering

    async def _serve(self, route: _Route, scope: Scope, receive: Receive, in_path: Mapping[str, str]) -> Reply:
        dialect, endpoint, names = route
        limit: Limit | None = None
        try:
            pairs = guard.read_query(scope["path"], scope["query_string"])
            secret = guard.find_secret(dialect.credentials, scope["headers"], pairs)
            now_ms = self._clock()
            caller = guard.authenticate(self._catalog, secret, now_ms // 1000)
            limit, is_over = await self._count(dialect, caller.key, now_ms)
            if is_over:
                raise BandmeterError(errors.RATE_LIMITED, "Too many requests in this minute.")  # noqa: TRY301 - one exit
            account = guard.admit(caller, endpoint.scope, is_for_operators=endpoint.is_for_operators)
            parameters = guard.take(pairs, names, is_strict=dialect.is_strict)
            parameters.update(in_path)
            client = scope.get("client")
            accept = guard.find_accept(scope["headers"]) if len(endpoint.media_types) > 1 else ""
            peer = client[0] if client else ""
            call = Call(account, parameters, now_ms, peer, limit=limit, accept=accept, key=caller.key)
            if endpoint.body is not None:
                call = call._replace(body=await body.read(scope["headers"], receive))
            if endpoint.stream is not None:
                reply = await endpoint.stream(call, scope["headers"], receive)
            else:
                reply = await self._find_or_answer(route, call, caller.version)
        except BandmeterError as error:
            if error.code == errors.UNAVAILABLE:
                _log.error("unavailable", endpoint=endpoint.name, reason=error.sentence)
            reply = dialect.render_error(error)
            if limit and error.code == errors.RATE_LIMITED:
                reply = reply._replace(headers={**reply.headers, "Retry-After": str(limit.reset_s)})
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller gets the dialect's answer and we the trace
            _log_failure(endpoint, error)
            reply = dialect.render_error(BandmeterError(errors.FAILURE, "The server failed."))
        return _sign(dialect, reply, endpoint, limit)

    async def _count(self, dialect: Dialect, key: Key, now_ms: int) -> tuple[Limit | None, bool]:
        """Where the key stands with this request, and whether it is one too many."""
        rule = self._limiter and self._limiter.find(dialect.name, key.id)
        standing = await self._limiter.hit(rule, now_ms) if self._limiter and rule else None
        return standing or (None, False)

    async def _find_or_answer(self, route: _Route, call: Call, catalog: int) -> Reply:
        """The kept reply where it is right, else a new one; `catalog`: the catalog's version before all else."""
        dialect, endpoint, _ = route
        shelf = self._kept if endpoint.steady_s else None
        key = kept.key_of(dialect.name, endpoint, call) if shelf else ()
        found = shelf.find(key, endpoint, catalog) if shelf else None
        if found:
            return found
        if not endpoint.is_heavy or self._is_small(call.account, endpoint):
            answer, reply = self._answer(endpoint, call)
        else:
            answer, reply = await self._answer_in_thread(route, call)
        if shelf:
            shelf.keep(key, catalog, answer, reply)
        return reply

    def _is_small(self, account: Account, endpoint: Endpoint) -> bool:
        most = endpoint.light_zones
        return most > 0 and len(self._catalog.zones(account.id)) <= most

    def _answer(self, endpoint: Endpoint, call: Call) -> tuple[Any, Reply]:
        question = endpoint.parse(call)
        answer: Any = None if question is None else self._reports.answer(question)
        return answer, endpoint.render(call, question, answer)

    async def _answer_in_thread(self, route: _Route, call: Call) -> tuple[Any, Reply]:
        if self._waiting >= HEAVY_WAITING_MAX:  # not raised, so that no line is logged for each
            return None, route.dialect.render_error(BandmeterError(errors.UNAVAILABLE, "Too many requests wait."))
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, self._answer, route.endpoint, call)
        finally:
            self._waiting -= 1


_NOTHING: Mapping[str, str] = {}


def _tables(dialects: Iterable[Dialect]) -> tuple[dict[str, _Methods], list[tuple[re.Pattern[str], _Methods]]]:
    """The endpoints by path, and those with a parameter in their path by pattern."""
    paths: dict[str, _Methods] = {}
    for dialect in dialects:
        for endpoint in dialect.endpoints:
            names = frozenset(p.name for p in endpoint.parameters if p.where == "query")
            for path in endpoint.paths:
                paths.setdefault(path, {})[endpoint.method] = _Route(dialect, endpoint, names)
    templates = {path: methods for path, methods in paths.items() if "{" in path}
    patterns = [
        (re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", path)), methods) for path, methods in templates.items()
    ]
    return {path: methods for path, methods in paths.items() if path not in templates}, patterns


def _sign(dialect: Dialect, reply: Reply, endpoint: Endpoint | None, limit: Limit | None) -> Reply:
    return reply if dialect.sign is None else dialect.sign(reply, endpoint, limit)


def _tell_paths(dialect: Dialect) -> str:
    paths = ", ".join(f"{endpoint.method} {path}" for endpoint in dialect.endpoints for path in endpoint.paths)
    return f"There is no such path: there are {paths}, and /docs tells of each."


def _refuse_method(methods: _Methods) -> Reply:
    dialect, endpoint, _ = next(iter(methods.values()))
    allowed = ", ".join(sorted({*methods, "HEAD"} if "GET" in methods else methods))
    reply = dialect.render_error(BandmeterError(errors.METHOD_UNKNOWN, f"This path takes {allowed}."))
    reply = _sign(dialect, reply, endpoint, None)
    return reply._replace(headers={**reply.headers, "Allow": allowed})


def _log_failure(endpoint: Endpoint, error: Exception) -> None:
    name = type(error).__name__
    _log.error("request failed", endpoint=endpoint.name, error=name, frames=telemetry.frames(error))


async def _send(reply: Reply, scope: Scope, send: Send) -> None:
    """Two messages; a HEAD request gets the headers of a GET without its body."""
    headers = [
        (b"content-type", reply.content_type.encode()),
        (b"content-length", b"%d" % len(reply.body)),
        *_FIXED_HEADERS,
    ]
    if reply.headers:
        headers += [(name.lower().encode(), value.encode()) for name, value in reply.headers.items()]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else reply.body})
