"""The OpenAPI 3.1 document, made from the dialects' endpoint tables: it cannot say what they do not do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import bandmeter
from bandmeter.domain import errors
from bandmeter.domain.contracts import Dialect, Endpoint, Parameter, Reply
from bandmeter.domain.errors import BandmeterError
from bandmeter.web.native.problems import FORMAT_UNAVAILABLE

# What every endpoint can answer, whatever it does.
_ALWAYS = (
    errors.KEY_MISSING,
    errors.KEY_INVALID,
    errors.SCOPE_MISSING,
    errors.PARAMETER_INVALID,
    errors.METHOD_UNKNOWN,
    errors.RATE_LIMITED,
    errors.FAILURE,
    errors.UNAVAILABLE,
)
_MEANINGS = {
    errors.KEY_MISSING: "No key was sent.",
    errors.KEY_INVALID: "The key is unknown, revoked or expired.",
    errors.SCOPE_MISSING: "The key may not do this.",
    errors.PARAMETER_MISSING: "A required parameter was not sent.",
    errors.PARAMETER_INVALID: "A parameter cannot be read: the body names it and what it takes.",
    errors.BODY_TOO_LARGE: "The body is larger than what is read.",
    errors.BODY_LATE: "The body did not come to its end in time.",
    errors.BODY_INVALID: "The body cannot be decompressed, or is no JSON where it says so.",
    errors.MEDIA_TYPE_UNKNOWN: "The body is of a type that is not read here.",
    errors.OUT_OF_ORDER: "The body's number is beyond the next one; `expected` is that.",
    errors.KEY_REUSED: "The key or number was used with another body.",
    errors.SUM_TOO_LARGE: "A sum would pass 64 bits, so a number in the body is wrong: nothing was counted.",
    errors.OVERLOADED: "More is sent than can be counted: send it again.",
    errors.ZONE_UNKNOWN: "The account has no such zone.",
    errors.ACCOUNT_UNKNOWN: "There is no such account, or it is not the key's.",
    FORMAT_UNAVAILABLE: "The answer cannot be had in the form asked for.",
    errors.ROUTE_UNKNOWN: "There is no such endpoint.",
    errors.METHOD_UNKNOWN: "The endpoint does not know the method.",
    errors.RATE_LIMITED: "Too many requests.",
    errors.FAILURE: "The server failed.",
    errors.UNAVAILABLE: "The server cannot answer now: try again later.",
}
_STRING = {"type": "string"}
_PLAIN = "text/plain; charset=utf-8"


def document(dialects: Iterable[Dialect]) -> dict[str, Any]:
    """The whole document."""
    paths: dict[str, dict[str, Any]] = dict(_PAGES)
    schemas: dict[str, Any] = {}
    schemes: dict[str, Any] = {}
    for dialect in dialects:
        schemes |= _security_schemes(dialect)
        for endpoint in dialect.endpoints:
            schemas[_name(dialect, endpoint)] = endpoint.schema
            for number, path in enumerate(endpoint.paths, start=1):
                operation = _operation(dialect, endpoint, number)
                paths.setdefault(path, {})[endpoint.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Bandmeter",
            "version": bandmeter.__version__,
            "description": "Exact usage and cost of what proxies and CDN edges carry, in the APIs that tools speak.",
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": dialect.title} for dialect in dialects] + [{"name": "Bandmeter"}],
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": schemes},
    }


def _name(dialect: Dialect, endpoint: Endpoint) -> str:
    return f"{dialect.name}_{endpoint.name}"


def _scheme_name(dialect: Dialect, where: str, name: str) -> str:
    return f"{dialect.name}_{where}_{name}"


def _security_schemes(dialect: Dialect) -> dict[str, Any]:
    return {
        _scheme_name(dialect, where, name): (
            {"type": "http", "scheme": "bearer"} if where == "bearer" else {"type": "apiKey", "in": where, "name": name}
        )
        for where, name in dialect.credentials
    }


def _operation(dialect: Dialect, endpoint: Endpoint, number: int) -> dict[str, Any]:
    """`number` 1 is the path's first form; every form needs an id of its own."""
    operation = {
        "operationId": _name(dialect, endpoint) + (f"_{number}" if number > 1 else ""),
        "summary": endpoint.summary,
        "tags": [dialect.title],
        "security": [{_scheme_name(dialect, where, name): []} for where, name in dialect.credentials],
        "parameters": [_parameter(parameter) for parameter in endpoint.parameters],
        "responses": _responses(dialect, endpoint),
    }
    if endpoint.body is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": endpoint.body}}}
    if endpoint.bodies:
        content = {media_type: {"schema": schema} for media_type, schema in endpoint.bodies.items()}
        operation["requestBody"] = {"required": False, "content": content}
    return operation


def _parameter(parameter: Parameter) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": parameter.where,
        "required": parameter.required,
        "description": parameter.description,
        "schema": parameter.schema,
    }


def _responses(dialect: Dialect, endpoint: Endpoint) -> dict[str, Any]:
    success = {"$ref": f"#/components/schemas/{_name(dialect, endpoint)}"}
    signed = _sign(dialect, endpoint, Reply(b"", content_type=endpoint.media_types[0]))
    answer = _response("The answer.", signed.content_type, success, signed.headers)
    answer["content"] |= {media_type: {"schema": _STRING} for media_type in endpoint.media_types[1:]}
    responses = {"200": answer}
    possible = [*_ALWAYS, *endpoint.errors]
    if any(p.required and p.where == "query" for p in endpoint.parameters):
        possible.append(errors.PARAMETER_MISSING)
    if endpoint.body is not None:
        possible += sorted(errors.BODY_CODES)
    for code in possible:
        reply = _sign(dialect, endpoint, dialect.render_error(BandmeterError(code, _MEANINGS[code])))
        names = [*reply.headers, *(["Allow"] if code == errors.METHOD_UNKNOWN else [])]
        is_json = "json" in reply.content_type
        new = _response(_MEANINGS[code], reply.content_type, {"type": "object"} if is_json else _STRING, names)
        known = responses.get(str(reply.status))
        if known is not None:
            new["description"] = f"{known['description']} {new['description']}"
        responses[str(reply.status)] = new
    return dict(sorted(responses.items()))


def _sign(dialect: Dialect, endpoint: Endpoint, reply: Reply) -> Reply:
    """With the headers that every reply has; those of a limit are left out, for a key may have none."""
    return reply if dialect.sign is None else dialect.sign(reply, endpoint, None)


def _response(
    description: str,
    media_type: str,
    schema: Mapping[str, Any],
    headers: Iterable[str] = (),
) -> dict[str, Any]:
    response: dict[str, Any] = {"description": description, "content": {media_type: {"schema": schema}}}
    named = {name: {"schema": _STRING, "required": True} for name in headers}
    return response | ({"headers": named} if named else {})


# ---------------------------------------------------------------- pages that no dialect owns


def _page(name: str, summary: str, responses: dict[str, Any]) -> dict[str, Any]:
    refused = {"405": _response(_MEANINGS[errors.METHOD_UNKNOWN], _PLAIN, _STRING, ["Allow"])}
    operation = {"operationId": name, "summary": summary, "tags": ["Bandmeter"], "security": []}
    return {"get": operation | {"responses": responses | refused}}


def _flags(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


_SENTENCES = {"type": "array", "items": _STRING}
_READY = _flags(ready={"type": "boolean"}, faults=_SENTENCES)
_READY["properties"] |= {"warnings": _SENTENCES | {"description": "What is wrong while answers are still right."}}
_PAGES = {
    "/healthz": _page(
        "healthz",
        "Whether the server runs",
        {"200": _response("It runs.", "application/json", _flags(alive={"type": "boolean"}))},
    ),
    "/readyz": _page(
        "readyz",
        "Whether the server can answer",
        {
            "200": _response("It can.", "application/json", _READY),
            "503": _response("It cannot; faults says why.", "application/json", _READY),
        },
    ),
    "/openapi.json": _page(
        "openapi",
        "This document",
        {"200": _response("OpenAPI 3.1.", "application/json", {"type": "object"})},
    ),
    "/docs": _page(
        "docs",
        "This document, for people",
        {"200": _response("A page.", "text/html; charset=utf-8", _STRING)},
    ),
}
