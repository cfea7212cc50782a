"""Errors of the domain: a stable code and one sentence for the person who reads it.

They carry no HTTP status and no exit status: each dialect has one table from code to its own status and body,
and the command line has another.
"""

from __future__ import annotations


class BandmeterError(Exception):
    """An error that we foresaw: `code` is stable and for programs, `sentence` says what is wrong and what to do.

    `code` and `sentence` are safe to show to whoever asked: they never hold another account's names or numbers.
    """

    def __init__(self, code: str, sentence: str) -> None:
        self.code = code
        self.sentence = printable(sentence)
        super().__init__(self.sentence)


def printable(text: str) -> str:
    r"""What can be written: a byte of a file's name that is no UTF-8, which Python keeps as a surrogate, as `\xff`."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # a surrogate that stands for no byte
        return text.encode("utf-8", "backslashreplace").decode()


# The codes, in one place so that a dialect's table can be checked for completeness.
KEY_MISSING = "key_missing"  # no key was sent
KEY_INVALID = "key_invalid"  # unknown, revoked or expired key
SCOPE_MISSING = "scope_missing"  # the key is good, but not for this
PARAMETER_MISSING = "parameter_missing"
PARAMETER_INVALID = "parameter_invalid"
BODY_TOO_LARGE = "body_too_large"  # more than the endpoint reads
BODY_LATE = "body_late"  # it had not come to its end in time
ZONE_UNKNOWN = "zone_unknown"  # no such zone in this account; also when another account has one of that name
ACCOUNT_UNKNOWN = "account_unknown"
ROUTE_UNKNOWN = "route_unknown"  # no such endpoint
METHOD_UNKNOWN = "method_unknown"  # the endpoint exists, but not with this method
RATE_LIMITED = "rate_limited"
UNAVAILABLE = "unavailable"  # the store cannot be read or written now
FAILURE = "failure"  # ours; the sentence holds no detail
BODY_INVALID = "body_invalid"  # a body that cannot be decompressed, or is of no form that we read
OUT_OF_ORDER = "out_of_order"  # a batch whose number is beyond the next one of its source
MEDIA_TYPE_UNKNOWN = "media_type_unknown"  # a body of a type, or packed in a way, that nothing here reads
OVERLOADED = "overloaded"  # more is sent than can be taken now
KEY_REUSED = "key_reused"  # an idempotency key, or a number, that was used with another body
SUM_TOO_LARGE = "sum_too_large"  # a batch whose sums, with what is stored, pass 64 bits: its numbers are wrong
INPUT_INVALID = "input_invalid"  # a file or an option that cannot be used as it is
CONFLICT = "conflict"  # what was asked contradicts what is there

HTTP_CODES = frozenset(
    {
        KEY_MISSING,
        KEY_INVALID,
        SCOPE_MISSING,
        PARAMETER_MISSING,
        PARAMETER_INVALID,
        ZONE_UNKNOWN,
        ROUTE_UNKNOWN,
        METHOD_UNKNOWN,
        RATE_LIMITED,
        UNAVAILABLE,
        FAILURE,
    },
)
BODY_CODES = frozenset({BODY_TOO_LARGE, BODY_LATE})  # besides, where an endpoint takes a body
