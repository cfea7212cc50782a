"""Keys: 256 random bits, shown once, of which only a digest is kept."""

from __future__ import annotations

import hmac

import pytest

from bandmeter.catalog import Catalog, changes, keys
from bandmeter.domain import errors
from bandmeter.domain.errors import BandmeterError
from bandmeter.domain.tenancy import Account, Scope

NOW = 1_669_116_932


@pytest.fixture
def catalog(tmp_path):
    opened = Catalog.open(f"sqlite:///{tmp_path}/catalog.db")
    opened.add_account(Account("acme"))
    yield opened
    opened.close()


def is_refused(catalog, secret, now_s=NOW):
    with pytest.raises(BandmeterError) as caught:
        catalog.authenticate(secret, now_s)
    assert caught.value.code == errors.KEY_INVALID
    assert len(secret) < 10 or secret not in caught.value.sentence
    return caught.value.sentence


def test_a_key_speaks_for_its_account_with_its_scope(catalog):
    secret = catalog.add_key("acme", Scope.INGEST, NOW + 10, NOW)
    key, account, _ = catalog.authenticate(secret, NOW)
    assert account == catalog.account("acme")
    assert (key.account, key.scope, key.expires_s, key.revoked) == ("acme", Scope.INGEST, NOW + 10, False)
    assert catalog.keys("acme") == [key]
    assert secret.startswith(f"bm_{key.id}_")


def test_an_operators_key_speaks_for_no_account(catalog):
    secret = catalog.add_key(None, Scope.ADMIN, None, NOW)
    assert catalog.authenticate(secret, NOW)[:2] == (catalog.keys(None)[0], None)
    assert [k.id for k in catalog.keys(None)] == [keys.key_id(secret)]
    assert catalog.keys("acme") == []


def test_a_secret_has_256_bits_and_no_two_are_equal():
    made = [keys.new_key() for _ in range(100)]
    assert len({number for number, _ in made}) == 100
    assert len({secret for _, secret in made}) == 100
    assert {len(secret.split("_", 2)[2]) for _, secret in made} == {43}  # base64url of 32 bytes
    assert all(keys.key_id(secret) == number for number, secret in made)


def test_no_file_holds_a_secret(catalog, tmp_path):
    secret = catalog.add_key("acme", Scope.READ, None, NOW)
    catalog.authenticate(secret, NOW)
    proof = secret.split("_", 2)[2].encode()
    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert proof not in stored
    assert keys.digest(secret) in stored


def test_a_key_ends_at_the_second_it_expires(catalog):
    secret = catalog.add_key("acme", Scope.READ, NOW + 10, NOW)
    assert catalog.authenticate(secret, NOW + 9)
    is_refused(catalog, secret, NOW + 10)


def test_a_key_that_would_have_expired_is_not_made(catalog):
    with pytest.raises(BandmeterError) as caught:
        catalog.add_key("acme", Scope.READ, NOW, NOW)
    assert caught.value.code == errors.INPUT_INVALID
    assert catalog.keys("acme") == []


def test_a_revoked_key_is_refused_at_once_also_where_it_was_just_used(catalog):
    secret = catalog.add_key("acme", Scope.READ, None, NOW)
    catalog.authenticate(secret, NOW)
    catalog.revoke_key(keys.key_id(secret))
    is_refused(catalog, secret)
    assert catalog.keys("acme")[0].revoked


def test_every_refusal_has_the_same_sentence(catalog):
    revoked, good = (catalog.add_key("acme", Scope.READ, None, NOW) for _ in range(2))
    expired = catalog.add_key("acme", Scope.READ, NOW + 1, NOW)
    catalog.revoke_key(keys.key_id(revoked))
    wrong = good[:-4] + ("aaaa" if not good.endswith("aaaa") else "bbbb")
    odd = ["", "x", "bm_", good + "a", good[:-1], good.upper(), f"bm_{'0' * 12}_{'a' * 43}", "bm_é_\ud800", "a" * 10**5]
    assert len({is_refused(catalog, secret, NOW + 5) for secret in (revoked, expired, wrong, *odd)}) == 1
    assert catalog.authenticate(good, NOW)


def test_secrets_are_compared_in_constant_time_also_for_unknown_ids(catalog, monkeypatch):
    compared, compare = [], hmac.compare_digest

    def spy(a, b):
        compared.append((len(a), len(b)))
        return compare(a, b)

    monkeypatch.setattr("bandmeter.catalog.catalog.hmac.compare_digest", spy, raising=True)
    is_refused(catalog, f"bm_{'0' * 12}_{'a' * 43}")
    is_refused(catalog, "nonsense")
    assert compared == [(32, 32), (32, 32)]


def test_an_account_has_a_bounded_number_of_keys_of_which_revoked_ones_do_not_count(catalog, monkeypatch):
    monkeypatch.setattr(changes, "KEYS_PER_ACCOUNT_MAX", 2)
    first, _ = (catalog.add_key("acme", Scope.READ, None, NOW) for _ in range(2))
    with pytest.raises(BandmeterError) as caught:
        catalog.add_key("acme", Scope.READ, None, NOW)
    assert caught.value.code == errors.CONFLICT
    catalog.revoke_key(keys.key_id(first))
    assert catalog.add_key("acme", Scope.READ, None, NOW)
