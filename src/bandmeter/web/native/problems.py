"""Errors as problem details (RFC 9457), each with the domain's stable code."""

from __future__ import annotations

from http import HTTPStatus

import msgspec

from bandmeter.domain import errors
from bandmeter.domain.contracts import Reply
from bandmeter.domain.errors import BandmeterError

MEDIA_TYPE = "application/problem+json"
FORMAT_UNAVAILABLE = "format_unavailable"  # of the native API alone: an answer in a form that cannot be made here
_RETRY_AFTER_SECONDS = "5"  # for trouble of ours; a rate limit says when it starts anew
_STATUSES = {
    errors.KEY_MISSING: 401,
    errors.KEY_INVALID: 401,
    errors.SCOPE_MISSING: 403,
    errors.PARAMETER_MISSING: 400,
    errors.PARAMETER_INVALID: 400,
    errors.ZONE_UNKNOWN: 404,
    errors.ACCOUNT_UNKNOWN: 404,
    errors.ROUTE_UNKNOWN: 404,
    errors.METHOD_UNKNOWN: 405,
    FORMAT_UNAVAILABLE: 406,
    errors.BODY_LATE: 408,
    errors.OUT_OF_ORDER: 409,
    errors.BODY_TOO_LARGE: 413,
    errors.MEDIA_TYPE_UNKNOWN: 415,
    errors.KEY_REUSED: 422,
    errors.SUM_TOO_LARGE: 422,
    errors.BODY_INVALID: 400,
    errors.OVERLOADED: 503,
    errors.RATE_LIMITED: 429,
    errors.UNAVAILABLE: 503,
    errors.FAILURE: 500,
}
_HEADERS = {
    401: {"WWW-Authenticate": "Bearer"},
    429: {"Retry-After": _RETRY_AFTER_SECONDS},
    503: {"Retry-After": _RETRY_AFTER_SECONDS},
}
# Instead of the error's own sentence: which knows nothing of this API's header, or may name files and causes, which are
# the operator's business and stand in the log.
_SENTENCES = {
    errors.KEY_MISSING: "No key was sent: send it in the header `Authorization: Bearer KEY`.",
    errors.UNAVAILABLE: "The server cannot answer now: try again later.",
    errors.FAILURE: "The server failed; what happened is in its log.",
}


def render_error(error: BandmeterError) -> Reply:
    """`type` names the code as a URN, `title` the status, `detail` says what to do; `code` is for programs."""
    code = error.code if error.code in _STATUSES else errors.FAILURE
    status = HTTPStatus(_STATUSES[code])
    body = {
        "type": f"urn:bandmeter:problem:{code}",
        "title": status.phrase,
        "status": int(status),
        "detail": _SENTENCES.get(code, error.sentence),
        "code": code,
    }
    return Reply(msgspec.json.encode(body), int(status), MEDIA_TYPE, _HEADERS.get(status, {}))
