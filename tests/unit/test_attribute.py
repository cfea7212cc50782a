"""Whose traffic it is: three rules in their order, and what waits to be claimed."""

from __future__ import annotations

import contextlib
import json

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandmeter.domain.contracts import Batch
from bandmeter.domain.tenancy import Zone
from bandmeter.domain.usage import OTHERS, SIDED, UNSIDED, Side, pack
from bandmeter.ingest.batch.attribute import SEPARATOR, Attribution, Caller, Owner

pytestmark = pytest.mark.usefixtures("each_size")

ZONES = [
    Zone(1, "acme", "res"),
    Zone(2, "acme", "res-eu"),
    Zone(3, "acme", "res-eu-west"),
    Zone(4, "acme", "my_zone"),
    Zone(5, "acme", "eu-zone-1"),
    Zone(6, "hl_0a1b2c3d", "static"),
    Zone(7, "a-b", "c-d"),
    Zone(8, "acme", "static", identities=("alice", "cust-old-zone-x-session-7", "cust-gone-zone-web")),
    Zone(9, "cdn", "shop.test", "cdn", identities=("www.Shop.test", "*.shop.test")),
    Zone(10, "cdn", "wide", "cdn", identities=("*.test", "*.b.c.test")),
    Zone(11, "gone", "web-eu"),
    Zone(12, "cust", "zone"),
    Zone(13, "other", "shop.test"),
]
# identity → the zone's number, or the name under which it waits
CASES = {
    "cust-acme-zone-res": 1,
    "customer-acme-zone-res": 1,
    "brd-customer-hl_0a1b2c3d-zone-static-session-77-country-us": 6,
    "lum-customer-acme-zone-res-session-1": 1,
    "a-b-c-cust-acme-zone-res": 1,
    "cust-acme-zone-res-session-9": 1,
    "cust-acme-zone-res-eu": 2,
    "cust-acme-zone-res-eu-session-9": 2,
    "cust-acme-zone-res-eu-west": 3,
    "cust-acme-zone-res-eu-west-session-1-country-de": 3,
    "cust-acme-zone-res-eu-weste": 2,
    "cust-acme-zone-res-europe": 1,
    "cust-acme-zone-my_zone-x": 4,
    "cust-acme-zone-my": "cust-acme-zone-my",
    "cust-acme-zone-eu-zone-1-session-4": 5,
    "cust-acme-zone-eu-zone-2": "cust-acme-zone-eu",
    "cust-a-b-zone-c-d-session-1": 7,
    "cust-a-zone-b-cust-acme-zone-res": "cust-a-zone-b",  # what stands behind a zone are parameters
    "cust-cust-zone-zone": 12,
    "alice": 8,
    "Alice": "Alice",
    "alice-session-1": "alice-session-1",
    "cust-old-zone-x-session-7": 8,
    "cust-old-zone-x-session-77": "cust-old-zone-x",
    "cust-old-zone-x": "cust-old-zone-x",
    "cust-gone-zone-web": 8,
    "cust-gone-zone-web-session-1": 8,
    "cust-gone-zone-web-eu-session-1": 11,  # the longer name wins, also over an identity that was cut
    "shop.test": 9,
    "SHOP.TEST": 9,
    "www.shop.test": 9,
    "WWW.SHOP.test": 9,
    "deep.www.shop.test": 9,
    "other.test": 10,
    "x.c.test": 10,
    "test": "test",
    "shop.test.evil": "shop.test.evil",
    "evilshop.test": 10,
    "shop.test\nx": "shop.test\nx",
    "xcust-acme-zone-res": "xcust-acme-zone-res",
    "cust-acme": "cust-acme",
    "cust-acme-zone": "cust-acme-zone",
    "cust-acme-zone-": "cust-acme-zone-",
    "CUST-acme-zone-res": "CUST-acme-zone-res",
    "cust-ACME-zone-res": "cust-ACME-zone-res",
    "cust-acme-zone-RES": "cust-acme-zone-RES",
    "custom-acme-zone-res": "custom-acme-zone-res",
    "-": "-",
    "": "-",
}


@pytest.fixture
def meter(make_meter):
    made = make_meter()
    made.zones = list(ZONES)
    return made


def record(identity, i=0, **fields):
    return {"time": 1_795_132_800, "identity": identity, "bytes_up": 2**i, "bytes_down": 0, **fields}


def lines(records):
    return b"".join(json.dumps(r).encode() + b"\n" for r in records)


def test_identities_reach_their_zones(meter):
    """All in one batch, through the cut that DuckDB makes and the look-up here."""
    meter.feed(lines(record(identity, i) for i, identity in enumerate(CASES)))
    found = {zone.number: meter.total(zone).bytes_up for zone in ZONES} | {
        u.identity: u.target.bytes_up for u in meter.store.unattributed()
    }
    expected: dict = {zone.number: 0 for zone in ZONES}
    for i, owner in enumerate(CASES.values()):
        expected[owner] = expected.get(owner, 0) + 2**i
    assert found == expected


def test_the_three_rules_in_their_order(make_meter):
    """Account and zone, then a registered identity, then the form of the identity."""
    meter = make_meter()
    named, registered, formed = (meter.add_zone("acme", name) for name in ("named", "registered", "formed"))
    identity = "cust-acme-zone-formed"
    meter.feed(lines([record(identity, 0)]))
    assert meter.total(formed).bytes_up == 1
    meter.zones[1] = Zone(2, "acme", "registered", identities=(identity,))
    meter.feed(lines([record(identity, 1)]))
    assert meter.total(registered).bytes_up == 2
    meter.feed(lines([record(identity, 2, account="acme", zone="named")]))
    assert meter.total(named).bytes_up == 4
    meter.feed(lines([record(identity, 3, account="acme", zone="nowhere")]))
    assert [r.reason for r in meter.rejects()] == ["unknown_zone"]
    assert meter.store.unattributed() == []


def test_account_and_zone_of_the_command_are_for_records_that_name_none(make_meter):
    meter = make_meter()
    own, other = meter.add_zone("acme", "own"), meter.add_zone("acme", "other")
    content = lines(
        [
            record(None, 0),
            record("x", 1),
            record(None, 2, account="acme", zone="other"),
            record(None, 3, account="acme"),
        ]
    )
    meter.feed(content, account="acme", zone="own")
    assert (meter.total(own).bytes_up, meter.total(other).bytes_up) == (3, 4)
    assert [(r.field, r.reason) for r in meter.rejects()] == [("zone", "missing_field")]


def test_two_accounts_may_have_a_zone_of_one_name():
    """A domain that two CDN zones are named after is nobody's until one registers it."""
    found = Attribution([Zone(1, "a", "shop.test", "cdn"), Zone(2, "b", "shop.test", "cdn")])
    assert found.find(Owner("shop.test", is_named=False)) == "shop.test"
    assert found.find(Owner(f"b{SEPARATOR}shop.test", is_named=True)).number == 2


def test_no_identity_at_all_waits_under_a_dash_and_can_be_registered():
    assert Attribution([]).find(Owner(None, is_named=False)) == "-"
    assert Attribution([Zone(1, "a", "b", identities=("-",))]).find(Owner(None, is_named=False)).number == 1


def test_sessions_do_not_multiply_groups(make_meter, monkeypatch):
    """200 zones with 30 % session suffixes fold into 200 keys, and nothing waits."""
    meter = make_meter()
    for i in range(200):
        meter.add_zone("acme", f"zone{i}-x" if i % 2 else f"zone{i}")
    keys = []
    find = Attribution.find
    monkeypatch.setattr(
        Attribution, "find", lambda self, owner, caller: keys.append(owner) or find(self, owner, caller)
    )
    names = [zone.name for zone in meter.zones]
    meter.feed(
        lines(
            record(f"cust-acme-zone-{names[i % 200]}" + (f"-session-{i}-country-us" if i % 10 < 3 else ""))
            for i in range(4000)
        ),
    )
    assert len(keys) == len(set(keys)) == 200
    assert [meter.total(zone).requests for zone in meter.zones] == [20] * 200
    assert meter.store.unattributed() == []


# ---------------------------------------------------------------- what waits


def test_unattributed_traffic_is_claimed_with_its_history(make_meter):
    """Both sides, the network and the times; what did not say its side becomes the side that the zone bills."""
    for network, side in (("res", Side.TARGET), ("cdn", Side.CLIENT)):
        meter = make_meter()
        meter.feed(
            lines(
                [
                    record("alice", 4, status=200),
                    record("alice", 5, network="isp", time=1_795_140_000),
                    {"time": 1_795_132_900, "identity": "alice", "target_bytes_up": 100, "target_bytes_down": 200}
                    | {"client_bytes_up": 1000, "client_bytes_down": 2000},
                ]
            ),
        )
        waiting = {u.side: (u.target[2:], u.client[2:]) for u in meter.store.unattributed()}
        assert waiting == {UNSIDED: ((48, 0), (0, 0)), SIDED: ((100, 200), (1000, 2000))}
        zone = meter.add_zone("acme", "mine", network)
        moved = meter.store.claim("alice", zone)
        plain = {Side.TARGET: 0, Side.CLIENT: 0} | {side: 48}
        assert meter.store.unattributed() == []
        assert meter.total(zone, Side.TARGET)[2:] == (100 + plain[Side.TARGET], 200)
        assert meter.total(zone, Side.CLIENT)[2:] == (1000 + plain[Side.CLIENT], 2000)
        assert moved == meter.total(zone, side)
        assert meter.store.freshness([zone.number]).newest_ms == 1_795_140_000_000
        dimensions = {row[1] for rows in meter.rows().values() for row in rows}
        assert dimensions == {pack(network=network), pack(network="isp")}


def test_a_batch_that_was_attributed_before_the_claim_follows_it(meter):
    """It waits for its commit while the operator claims: the zone gets it all the same."""
    zone = meter.zones[0]

    class Late:
        def __getattr__(self, name):
            return getattr(store, name)

        def write(self, batch: Batch):
            store.claim("bob", zone)
            return store.write(batch)

    store = meter.store
    meter.store = Late()
    meter.feed(lines([record("bob", 3), record("alice", 4)]))
    assert meter.total(zone).bytes_up == 8
    assert store.unattributed() == []


def test_new_identities_of_a_day_are_bounded(make_meter):
    """An attacker's names share one, which the operator sees; those that were known keep theirs; the next day is new."""
    meter = make_meter()
    meter.store.identities_per_day = 3
    meter.feed(lines(record(f"user{i}") for i in range(10)))
    assert {u.identity: u.target.requests for u in meter.store.unattributed()} == {
        OTHERS: 7,
        "user0": 1,
        "user1": 1,
        "user2": 1,
    }
    meter.now_ms += 86_400_000
    meter.feed(lines([record("user0"), record("user7"), record("user8")]))
    assert {u.identity: u.target.requests for u in meter.store.unattributed()} == {
        OTHERS: 7,
        "user0": 2,
        "user1": 1,
        "user2": 1,
        "user7": 1,
        "user8": 1,
    }
    assert meter.outcomes().unattributed == 13


def test_a_zone_in_use_costs_nothing_of_the_bound(meter):
    meter.store.identities_per_day = 0
    meter.feed(lines([record("cust-acme-zone-res-session-5"), record("unknown")]))
    assert [u.identity for u in meter.store.unattributed()] == [OTHERS]
    assert meter.total(meter.zones[0]).requests == 1


# ---------------------------------------------------------------- a sender who may speak for one account

MINE = [
    Zone(1, "acme", "res", "res", identities=("alice",)),
    Zone(2, "acme", "res-eu", "res"),
    Zone(3, "acme", "wide", "cdn", identities=("*.test",)),
    Zone(4, "acme", "site.example", "cdn"),
]
# What stands in the way of each of those, were it looked at.
OTHERS_ZONES = [
    Zone(5, "other", "res", "res", identities=("cust-acme-zone-res", "bob", "*.shop.test", "www.test")),
    Zone(6, "other", "site.example", "cdn"),
    Zone(7, "other", "res-eu-x", "res"),
]
ACME = Caller("acme", is_restricted=True)


@pytest.mark.parametrize(
    ("text", "is_named", "number"),
    [
        ("acme\x01res", True, 1),
        ("\x01res", True, 1),
        ("other\x01res", True, None),
        ("\x01site.example", True, 4),
        ("\x01nothing", True, None),
        ("alice", False, 1),
        ("cust-acme-zone-res-session-5", False, 1),
        ("cust-acme-zone-res-eu-x-session-5", False, 2),
        ("cust-other-zone-res-session-5", False, None),
        ("bob", False, None),
        ("nobody", False, None),
        (None, False, None),
        ("a.shop.test", False, 3),
        ("www.test", False, 3),
        ("site.example", False, 4),
        ("www.example", False, None),
    ],
)
def test_who_speaks_for_one_account_finds_its_zones_whatever_others_have(text, is_named, number):
    """Not a name of theirs changes what he is told: he could ask for names until one is refused."""
    owner = Owner(text, is_named)
    for zones in (MINE, MINE + OTHERS_ZONES, OTHERS_ZONES + MINE):
        found = Attribution(zones).find(owner, ACME)
        assert (found.number if found else None) == number


WORDS = st.sampled_from(
    [
        "cust",
        "customer",
        "acme",
        "glob",
        "zone",
        "res",
        "eu",
        "us",
        "web",
        "session",
        "x",
        "",
        "ü",
        "e\u0301",
        "👩‍🚀",
        "a\nb",
        "%",
        "_",
    ]
)
TEXTS = st.lists(WORDS, min_size=1, max_size=10).map("-".join)


@given(names=st.lists(TEXTS, max_size=4), identities=st.lists(TEXTS, max_size=3), asked=st.lists(TEXTS, min_size=1))
def test_identities_are_cut_in_python_as_they_are_in_sql(names, identities, asked):
    """Else whose a record is would depend on the way in which it was read."""
    zones = [Zone(n, "acme", name, "res") for n, name in enumerate(names, 1)]
    attribution = Attribution([*zones, Zone(99, "acme", "any", "res", identities=tuple(identities))])
    with contextlib.closing(duckdb.connect()) as db:
        for table in ("whole_identities", "dashed_names"):
            db.execute(
                f"CREATE TABLE {table} AS SELECT unnest(?::VARCHAR[]) AS name", [list(getattr(attribution, table))]
            )
        cut = attribution.cut_sql("i")
        found = db.execute(f"SELECT {cut} FROM (SELECT unnest(?::VARCHAR[]) AS i)", [asked]).fetchall()
    assert attribution.cut(asked) == [text for (text,) in found]


def test_what_others_have_registered_cuts_nothing_for_a_caller_who_sees_his_own_zones_only():
    mine = Zone(1, "glob", "web", identities=("cust-foo-zone-res-us",))
    caller = Caller("glob", is_restricted=True)
    for others in ([], [Zone(2, "acme", "res-us")], [Zone(2, "acme", "res-eu")]):
        seen = Attribution([mine, *others]).seen_by(caller)
        assert seen.cut(["cust-foo-zone-res-us-session-1"]) == ["cust-foo-zone-res"]
        assert not seen.dashed_names
