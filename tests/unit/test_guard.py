"""The guard: limits on what is sent, and who may do what."""

from __future__ import annotations

import urllib.parse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandmeter.catalog import Catalog
from bandmeter.domain import errors
from bandmeter.domain.errors import BandmeterError
from bandmeter.domain.tenancy import Account, Scope
from bandmeter.web import guard

BEARER = (("bearer", "authorization"),)
ANYWHERE = (("header", "x-apikey"), ("query", "apikey"), ("bearer", "authorization"))


def code_of(function, *arguments) -> str:
    with pytest.raises(BandmeterError) as caught:
        function(*arguments)
    return caught.value.code


# ---------------------------------------------------------------- credentials


@pytest.mark.parametrize("value", [b"Bearer k", b"bearer k", b"BEARER  k ", b"k"])
def test_the_scheme_word_is_read_in_any_case(value):
    """A key without the word is taken as it is."""
    assert guard.find_secret(BEARER, [(b"authorization", value)], ()) == "k"


@pytest.mark.parametrize("headers", [[], [(b"authorization", b"")], [(b"x-apikey", b"k")]])
def test_without_a_credential_the_key_is_missing(headers):
    assert code_of(guard.find_secret, BEARER, headers, ()) == errors.KEY_MISSING


def test_another_scheme_is_no_key():
    assert guard.find_secret(BEARER, [(b"authorization", b"Basic k")], ()) == "Basic k"
    assert guard.find_secret(BEARER, [(b"authorization", b"Bearer")], ()) == "Bearer"


def test_two_credentials_of_one_kind_are_none():
    """Two parsers in a row could each pick another."""
    assert code_of(guard.find_secret, BEARER, [(b"authorization", b"Bearer a")] * 2, ()) == errors.KEY_INVALID
    assert code_of(guard.find_secret, ANYWHERE, [], [("apikey", "a"), ("apikey", "a")]) == errors.KEY_INVALID


def test_credentials_are_tried_in_the_dialects_order():
    headers = [(b"authorization", b"Bearer c")]
    assert guard.find_secret(ANYWHERE, [*headers, (b"x-apikey", b"a")], [("apikey", "b")]) == "a"
    assert guard.find_secret(ANYWHERE, headers, [("apikey", "b")]) == "b"
    assert guard.find_secret(ANYWHERE, headers, ()) == "c"


# ---------------------------------------------------------------- parameters


def test_a_query_is_decoded():
    assert guard.read_query("/", b"") == ()
    assert guard.read_query("/", b"a=1+2&b=%C3%A9&c=") == [("a", "1 2"), ("b", "é"), ("c", "")]


@given(st.text(alphabet="ab=&;%+2 ", max_size=12))
def test_a_query_is_read_as_the_standard_library_does(text):
    try:
        expected = urllib.parse.parse_qsl(text, keep_blank_values=True, errors="strict")
    except UnicodeDecodeError:
        assert code_of(guard.read_query, "/", text.encode()) == errors.PARAMETER_INVALID
    else:
        assert list(guard.read_query("/", text.encode())) == expected


@pytest.mark.parametrize(
    "query",
    [b"a=" + b"x" * guard.URL_BYTES_MAX, b"&".join([b"a=1"] * (guard.PARAMETERS_MAX + 1)), b"a=%ff", b"a=\xff"],
    ids=["long", "many", "no utf-8", "no ascii"],
)
def test_a_query_beyond_the_limits_is_refused(query):
    assert code_of(guard.read_query, "/", query) == errors.PARAMETER_INVALID


def test_the_limits_themselves_are_allowed():
    assert len(guard.read_query("/", b"&".join([b"a=1"] * guard.PARAMETERS_MAX))) == guard.PARAMETERS_MAX
    assert guard.read_query("/", b"a=" + b"x" * (guard.URL_BYTES_MAX - 3))
    assert guard.take([("a", "x" * guard.VALUE_LENGTH_MAX)], {"a"})


def test_known_parameters_are_taken_and_others_ignored():
    assert guard.take([("a", "1"), ("b", "2"), ("b", "\x00")], {"a"}) == {"a": "1"}


@pytest.mark.parametrize("pairs", [[("a", "1"), ("a", "1")], [("a", "\x00")], [("a", "1\n")], [("a", "x" * 2049)]])
def test_a_known_parameter_is_sent_once_printable_and_bounded(pairs):
    assert code_of(guard.take, pairs, {"a"}) == errors.PARAMETER_INVALID


# ---------------------------------------------------------------- keys


def admit(catalog, secret, scope, now_s):
    """The account of whoever sends the secret, as the application finds it."""
    return guard.admit(guard.authenticate(catalog, secret, now_s), scope)


@pytest.fixture
def catalog(tmp_path):
    made = Catalog.open(f"sqlite:///{tmp_path}/catalog.db")
    made.add_account(Account("acme"))
    yield made
    made.close()


@pytest.mark.parametrize(
    ("granted", "asked"),
    [
        (Scope.READ, {Scope.READ}),
        (Scope.INGEST, {Scope.INGEST}),
        (Scope.ADMIN, {Scope.READ, Scope.INGEST, Scope.ADMIN}),
    ],
)
def test_a_key_may_do_what_its_scope_says(catalog, granted, asked):
    """Admin implies read and ingest; ingest does not imply read."""
    secret = catalog.add_key("acme", granted, None, 0)
    for scope in Scope:
        if scope in asked:
            assert admit(catalog, secret, scope, 1).id == "acme"
        else:
            assert code_of(admit, catalog, secret, scope, 1) == errors.SCOPE_MISSING


def test_an_operators_key_speaks_for_no_account(catalog):
    secret = catalog.add_key(None, Scope.ADMIN, None, 0)
    assert code_of(admit, catalog, secret, Scope.READ, 1) == errors.SCOPE_MISSING


def test_a_suspended_account_is_admitted_and_an_expired_key_is_not(catalog):
    secret = catalog.add_key("acme", Scope.READ, 10, 0)
    catalog.suspend_account("acme")
    assert admit(catalog, secret, Scope.READ, 9).status == "suspended"
    assert code_of(admit, catalog, secret, Scope.READ, 10) == errors.KEY_INVALID


@pytest.mark.parametrize("secret", ["bm_x_y", "é", "k" * 100_000, "bm__", " "])
def test_what_is_no_key_is_refused(catalog, secret):
    assert code_of(admit, catalog, secret, Scope.READ, 1) == errors.KEY_INVALID
