"""Names of accounts and zones, and what a new zone bills."""

from __future__ import annotations

import pytest

from bandmeter.domain import tenancy
from bandmeter.domain.errors import BandmeterError
from bandmeter.domain.usage import NETWORKS, Side


@pytest.mark.parametrize("name", ["a", "hl_0a1b2c3d", "A.b-c_9", "9", "_x", "a" * 64, "zone", "a-zone", "zone-b"])
def test_account_ids(name):
    assert tenancy.check_account_id(name) == name


@pytest.mark.parametrize(
    "name", ["", "-a", ".a", "a b", "a/b", "a\n", "ä", "a" * 65, "a-zone-b", "a'b", "a\0", "../x", "x-zone-"]
)
def test_what_is_no_account_id(name):
    """Above all what an identity could not tell from the zone behind it."""
    with pytest.raises(BandmeterError) as caught:
        tenancy.check_account_id(name)
    assert caught.value.code == "input_invalid"


@pytest.mark.parametrize(
    "name", ["a", "static", "my_zone-eu.1", "shop.test", "*.shop.test", "*", "a" * 253, "eu-zone-1"]
)
def test_zone_names(name):
    assert tenancy.check_zone_name(name) == name


@pytest.mark.parametrize("name", ["", "-a", ".a", "a b", "a/b", "a\n", "ä", "a" * 254, "'; --", "a,b", "a\0"])
def test_what_is_no_zone_name(name):
    with pytest.raises(BandmeterError, match="no zone name"):
        tenancy.check_zone_name(name)


def test_what_a_new_zone_bills():
    """A cache hit on an edge has no target: there it is the client's side."""
    assert [n for n in NETWORKS if tenancy.default_side(n) is Side.CLIENT] == ["cdn"]
