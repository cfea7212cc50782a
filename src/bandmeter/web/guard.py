"""What stands before every answer: limits on the request, the key, and what the key may do.

Law 9: everything that a stranger can make long has a limit here.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from bandmeter.domain import errors
from bandmeter.domain.contracts import EVERY_ACCOUNT
from bandmeter.domain.errors import BandmeterError
from bandmeter.domain.tenancy import Account, Scope

if TYPE_CHECKING:
    from bandmeter.catalog import Caller, Catalog

URL_BYTES_MAX = 8_192  # path and query; what every proxy and CDN in front lets through, and 15 times our longest
PARAMETERS_MAX = 32  # of one query; no endpoint takes a third of that
VALUE_LENGTH_MAX = 2_048  # characters; room for a list of domains, and eight times the longest single name
SECRET_LENGTH_MAX = 128  # characters; ours have under 64
_GRANTS = {
    Scope.READ: frozenset({Scope.READ}),
    Scope.INGEST: frozenset({Scope.INGEST}),
    Scope.ADMIN: frozenset(Scope),
}

Headers = Iterable[tuple[bytes, bytes]]
Pairs = Sequence[tuple[str, str]]


def read_query(path: str, query: bytes) -> Pairs:
    """The decoded pairs of a query string; `parameter_invalid` when it is too long or cannot be decoded."""
    if not query:
        return ()
    if len(path) + len(query) > URL_BYTES_MAX:
        raise BandmeterError(errors.PARAMETER_INVALID, f"The address is longer than {URL_BYTES_MAX} bytes.")
    try:
        text = query.decode("ascii")
        if (
            "%" not in text and "+" not in text and text.count("&") < PARAMETERS_MAX
        ):  # nothing to decode: five times faster
            return [part.partition("=")[::2] for part in text.split("&") if part]
        return parse_qsl(
            text,
            keep_blank_values=True,
            errors="strict",
            max_num_fields=PARAMETERS_MAX,
        )
    except ValueError as error:  # of which UnicodeDecodeError is one
        raise BandmeterError(
            errors.PARAMETER_INVALID,
            f"The query must be percent-encoded UTF-8 with at most {PARAMETERS_MAX} parameters.",
        ) from error


def take(pairs: Pairs, names: Collection[str], *, is_strict: bool = False) -> dict[str, str]:
    """The parameters that the endpoint knows, each sent once.

    What it does not know is ignored, as vendors do, or refused when `is_strict`.
    """
    taken: dict[str, str] = {}
    for name, value in pairs:
        if name not in names:
            if is_strict:
                raise BandmeterError(errors.PARAMETER_INVALID, _unknown(name[:80], sorted(names)))
            continue
        if name in taken:
            raise BandmeterError(errors.PARAMETER_INVALID, f"{name} was sent twice: send it once.")
        if len(value) > VALUE_LENGTH_MAX:
            raise BandmeterError(errors.PARAMETER_INVALID, f"{name} takes at most {VALUE_LENGTH_MAX} characters.")
        if not value.isprintable():
            raise BandmeterError(errors.PARAMETER_INVALID, f"{name} takes printable characters only.")
        taken[name] = value
    return taken


def _unknown(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}."
    return f"There is no parameter {name!r} here: {hint}"


def find_secret(credentials: Sequence[tuple[str, str]], headers: Headers, pairs: Pairs) -> str:
    """The first credential that was sent, by the dialect's order; `key_missing` when none was."""
    for where, name in credentials:
        if where == "query":
            sent = [value for key, value in pairs if key == name]
        else:
            wanted = name.encode()
            sent = [value.decode("latin-1") for key, value in headers if key == wanted]
        if where == "bearer":
            sent = [_without_scheme(value) for value in sent if value]
        if len(sent) == 1 and sent[0]:
            return sent[0]
        if len(sent) > 1:
            raise BandmeterError(errors.KEY_INVALID, "The key was sent twice.")
    raise BandmeterError(errors.KEY_MISSING, "No key was sent.")


def _without_scheme(value: str) -> str:
    """What follows `Bearer`, in any case; another scheme's value stays whole, and is no key."""
    scheme, _, secret = value.partition(" ")
    return secret.strip() or value if scheme.lower() == "bearer" else value


def find_accept(headers: Headers) -> str:
    """The Accept header; "" when none was sent."""
    return ",".join(value.decode("latin-1") for name, value in headers if name == b"accept")


def authenticate(catalog: Catalog, secret: str, now_s: int) -> Caller:
    """Who sent the key; raises `key_invalid`."""
    if len(secret) > SECRET_LENGTH_MAX:
        raise BandmeterError(errors.KEY_INVALID, "The key is unknown.")
    return catalog.authenticate(secret, now_s)


def admit(caller: Caller, scope: Scope, *, is_for_operators: bool = False) -> Account:
    """The account that the key speaks for, suspended or not; EVERY_ACCOUNT for an operator's key.

    Raises `scope_missing` when the key may not do this: an operator's key stands above accounts and speaks for none, so
    most endpoints have no use for it.
    """
    if scope not in _GRANTS[caller.key.scope]:
        raise BandmeterError(errors.SCOPE_MISSING, f"The key lacks the scope {scope}.")
    if caller.account is None:
        if is_for_operators:
            return EVERY_ACCOUNT
        raise BandmeterError(errors.SCOPE_MISSING, "An operator's key speaks for no account: use an account's key.")
    return caller.account
