"""The catalog: lookups from memory that are never stale, changes that are whole or not at all."""

from __future__ import annotations

import concurrent.futures
import sqlite3
import subprocess
import sys
import threading

import pytest

from bandmeter.catalog import Catalog, connect, plans
from bandmeter.domain import errors
from bandmeter.domain.errors import BandmeterError
from bandmeter.domain.tenancy import Account, AccountStatus, Scope, ZoneStatus
from bandmeter.domain.usage import Side

NOW = 1_669_116_932  # 2022-11-22T11:35:32Z
MONTH = "2022-11"


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/catalog.db"


@pytest.fixture
def catalog(url):
    opened = Catalog.open(url)
    opened.add_account(Account("acme", created_s=NOW))
    yield opened
    opened.close()


@pytest.fixture
def other(catalog, url):
    """The same catalog, as another process has it open."""
    opened = Catalog.open(url)
    yield opened
    opened.close()


def refused(code, call, *arguments, **named):
    with pytest.raises(BandmeterError) as caught:
        call(*arguments, **named)
    assert caught.value.code == code
    return caught.value.sentence


def test_what_is_added_is_found_as_it_was_given(catalog):
    account = Account(
        "a.b-c",
        name="Ä",
        kind="team",
        email="a@b.c",
        email_verified=True,
        proxy_username="u",
        currency="EUR",
        trial_until_s=5,
        prepayment="19.99",
        created_s=7,
    )
    catalog.add_account(account)
    assert catalog.account("a.b-c") == account
    assert [a.id for a in catalog.accounts()] == ["a.b-c", "acme"]


def test_a_zone_is_found_by_name_number_and_in_lists(catalog):
    zone = catalog.add_zone("acme", "static", "res", "rp", ("u2", "u1", "u1"), now_s=NOW)
    assert zone.identities == ("u1", "u2")
    assert zone.side is Side.TARGET
    assert catalog.zone("acme", "static") == zone == catalog.zone_by_number(zone.number)
    assert catalog.zones() == catalog.zones("acme") == [zone]


def test_zones_are_listed_by_account_and_name(catalog):
    catalog.add_account(Account("aaa"))
    for account, name in (("acme", "b"), ("acme", "a"), ("aaa", "c")):
        catalog.add_zone(account, name, now_s=NOW)
    assert [(z.account, z.name) for z in catalog.zones()] == [("aaa", "c"), ("acme", "a"), ("acme", "b")]


def test_what_does_not_exist_is_none(catalog):
    assert catalog.account("nobody") is None
    assert catalog.zone("nobody", "z") is None
    assert catalog.zone("acme", "z") is None
    assert catalog.zone_by_number(9) is None
    assert catalog.zones("nobody") == []


def test_a_cdn_zone_bills_the_client_side_unless_told_otherwise(catalog):
    assert catalog.add_zone("acme", "a.example", "cdn", now_s=NOW).side is Side.CLIENT
    assert catalog.add_zone("acme", "b.example", "cdn", side=Side.TARGET, now_s=NOW).side is Side.TARGET


def test_a_number_is_never_given_out_twice(catalog, url, tmp_path):
    first = catalog.add_zone("acme", "first", now_s=NOW).number
    with sqlite3.connect(tmp_path / "catalog.db") as raw:
        raw.execute("DELETE FROM zone")
    raw.close()
    assert catalog.add_zone("acme", "second", now_s=NOW).number > first


@pytest.mark.parametrize(
    ("code", "change"),
    [
        (errors.CONFLICT, lambda c: c.add_account(Account("acme"))),
        (errors.INPUT_INVALID, lambda c: c.add_account(Account("a/b"))),
        (errors.INPUT_INVALID, lambda c: c.add_account(Account("x", kind="firm"))),
        (errors.INPUT_INVALID, lambda c: c.add_account(Account("x", currency="usd"))),
        (errors.INPUT_INVALID, lambda c: c.add_account(Account("x", prepayment="1e3"))),
        (errors.INPUT_INVALID, lambda c: c.add_account(Account("x", name="\ud800"))),
        (errors.ACCOUNT_UNKNOWN, lambda c: c.suspend_account("nobody")),
        (errors.ACCOUNT_UNKNOWN, lambda c: c.add_zone("nobody", "z", now_s=NOW)),
        (errors.INPUT_INVALID, lambda c: c.add_zone("acme", "a b", now_s=NOW)),
        (errors.INPUT_INVALID, lambda c: c.add_zone("acme", "z", "dcc", now_s=NOW)),
        (errors.INPUT_INVALID, lambda c: c.add_zone("acme", "z", "dc", "xx", now_s=NOW)),
        (errors.INPUT_INVALID, lambda c: c.add_zone("acme", "z", "dc", "", (" u",), now_s=NOW)),
        (errors.ZONE_UNKNOWN, lambda c: c.set_zone_status("acme", "z", ZoneStatus.ACTIVE)),
        (errors.ACCOUNT_UNKNOWN, lambda c: c.set_zone_status("nobody", "z", ZoneStatus.ACTIVE)),
        (errors.ZONE_UNKNOWN, lambda c: c.add_identity("acme", "z", "u")),
        (errors.ACCOUNT_UNKNOWN, lambda c: c.add_key("nobody", Scope.READ, None, NOW)),
        (errors.INPUT_INVALID, lambda c: c.revoke_key("000000000000")),
        (errors.ACCOUNT_UNKNOWN, lambda c: c.set_plan("nobody", None, "per_gb", {}, now_s=NOW)),
        (errors.ZONE_UNKNOWN, lambda c: c.set_plan("acme", "z", "per_gb", {}, now_s=NOW)),
        (errors.INPUT_INVALID, lambda c: c.set_plan("acme", None, "per_gb", {}, "2022-13", now_s=NOW)),
    ],
)
def test_a_change_that_cannot_be_is_refused_and_changes_nothing(catalog, tmp_path, code, change):
    def content():
        with sqlite3.connect(tmp_path / "catalog.db") as raw:
            dump = list(raw.iterdump())
        raw.close()
        return dump

    before = content()
    assert refused(code, change, catalog).endswith(".")
    assert content() == before


def test_a_zone_of_that_name_is_a_conflict_also_when_deleted(catalog):
    catalog.add_zone("acme", "z", now_s=NOW)
    catalog.set_zone_status("acme", "z", ZoneStatus.DELETED)
    refused(errors.CONFLICT, catalog.add_zone, "acme", "z", now_s=NOW)
    assert catalog.zones("acme")[0].status is ZoneStatus.DELETED


def test_an_identity_belongs_to_one_zone_and_the_other_account_is_not_named(catalog):
    catalog.add_account(Account("secretive"))
    catalog.add_zone("secretive", "hidden", "dc", "", ("u1",), now_s=NOW)
    catalog.add_zone("acme", "z", now_s=NOW)
    for sentence in (
        refused(errors.CONFLICT, catalog.add_identity, "acme", "z", "u1"),
        refused(errors.CONFLICT, catalog.add_zone, "acme", "z2", "dc", "", ("u0", "u1"), now_s=NOW),
    ):
        assert "secretive" not in sentence
        assert "hidden" not in sentence
    assert catalog.zone("acme", "z2") is None  # rolled back as a whole


def test_giving_an_identity_twice_to_its_zone_is_fine(catalog):
    catalog.add_zone("acme", "z", now_s=NOW)
    catalog.add_identity("acme", "z", "u")
    catalog.add_identity("acme", "z", "u")
    assert catalog.zone("acme", "z").identities == ("u",)


def test_a_suspended_account_resumes(catalog):
    catalog.suspend_account("acme")
    assert catalog.account("acme").status is AccountStatus.SUSPENDED
    catalog.resume_account("acme")
    assert catalog.account("acme").status is AccountStatus.ACTIVE


def test_another_ones_change_is_seen_at_the_next_lookup(catalog, other):
    """Every kind of lookup is warmed before the change, so that a cache that stays would show."""
    zone = catalog.add_zone("acme", "z", "dc", "", ("u",), now_s=NOW)
    assert other.account("acme").status is AccountStatus.ACTIVE
    assert other.zones() == other.zones("acme") == [zone] == [other.zone_by_number(zone.number)]
    assert other.plan(zone, MONTH) is None
    catalog.suspend_account("acme")
    catalog.set_zone_status("acme", "z", ZoneStatus.SUSPENDED)
    catalog.add_identity("acme", "z", "v")
    catalog.set_plan("acme", None, "per_gb", {"price": "1"}, now_s=NOW)
    changed = other.zone("acme", "z")
    assert other.account("acme").status is AccountStatus.SUSPENDED
    assert [a.status for a in other.accounts()] == [AccountStatus.SUSPENDED]
    assert (changed.status, changed.identities) == (ZoneStatus.SUSPENDED, ("u", "v"))
    assert other.zones() == [changed] == [other.zone_by_number(zone.number)]
    assert other.plan(zone, MONTH) == ("per_gb", {"price": "1"})


def test_the_version_changes_with_every_change_and_only_then(catalog, other):
    seen = [other.version(), other.version()]
    assert seen[0] == seen[1]
    catalog.add_zone("acme", "z", now_s=NOW)
    seen.append(other.version())
    other.add_zone("acme", "y", now_s=NOW)
    seen.append(other.version())
    assert seen[1] != seen[2] != seen[3]


def test_a_warm_lookup_asks_the_database_nothing_but_its_version(catalog, monkeypatch):
    zone = catalog.add_zone("acme", "z", now_s=NOW)
    secret = catalog.add_key("acme", Scope.READ, None, NOW)
    catalog.set_plan("acme", None, "per_gb", {"price": "1"}, now_s=NOW)

    def look():
        zones = catalog.zone("acme", "z"), catalog.zones(), catalog.zones("acme"), catalog.zone_by_number(zone.number)
        return catalog.account("acme"), catalog.accounts(), zones, catalog.plan(zone, MONTH), key()

    def key():
        return catalog.authenticate(secret, NOW)

    before = look()
    monkeypatch.setattr(catalog, "_engine", None)  # whoever asks for it now fails
    assert look() == before


def test_strangers_guesses_are_not_kept(catalog):
    for n in range(100):
        refused(errors.KEY_INVALID, catalog.authenticate, f"bm_{n:012x}_{'a' * 43}", NOW)
        catalog.account(f"x{n}"), catalog.zone(f"x{n}", "z"), catalog.zone("acme", f"x{n}"), catalog.zone_by_number(n)
    kept = catalog._cache
    assert (kept.keys, kept.zones, kept.numbers, kept.plans) == ({}, {}, {}, {})
    assert set(kept.accounts) <= {"acme"}


def test_a_key_that_another_process_adds_is_good_at_once(catalog, url):
    program = (
        "from bandmeter.catalog import Catalog; from bandmeter.domain.tenancy import Scope;"
        f"print(Catalog.open({url!r}).add_key('acme', Scope.READ, None, {NOW}))"
    )
    assert catalog.keys("acme") == []
    made = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert catalog.authenticate(made.stdout.strip(), NOW).key.account == "acme"


def test_processes_that_open_a_new_catalog_at_once_make_one_schema(tmp_path):
    program = "import sys; from bandmeter.catalog import Catalog; print(len(Catalog.open(sys.argv[1]).accounts()))"
    command = [sys.executable, "-c", program, f"sqlite:///{tmp_path}/new.db"]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    assert [(*run.communicate(), run.returncode) for run in runs] == [("0\n", "", 0)] * 4


def test_threads_may_change_and_look_at_once(catalog):
    barrier = threading.Barrier(4)

    def work(n):
        barrier.wait()
        for m in range(10):
            catalog.add_zone("acme", f"z{n}-{m}", now_s=NOW)
            assert catalog.zone("acme", f"z{n}-{m}") is not None

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert len(catalog.zones("acme")) == 40


def test_the_file_and_its_journals_are_the_owners_alone(catalog, tmp_path):
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.glob("catalog.db*")}
    assert "catalog.db-wal" in modes
    assert set(modes.values()) == {0o600}


@pytest.mark.parametrize("name", ["with space", "what?x=1", "100%25", "ü"])
def test_a_folder_may_have_any_name(tmp_path, name):
    (tmp_path / name).mkdir()
    opened = Catalog.open(f"sqlite:///{tmp_path}/{name}/catalog.db")
    opened.close()
    assert (tmp_path / name / "catalog.db").exists()


@pytest.mark.parametrize("url", ["nonsense", "", "nosuch://host/db", "sqlite://"])
def test_an_unusable_url_is_refused(url):
    refused(errors.INPUT_INVALID, Catalog.open, url)


def test_a_missing_folder_or_damaged_file_is_unavailable(tmp_path):
    refused(errors.UNAVAILABLE, Catalog.open, f"sqlite:///{tmp_path}/nowhere/catalog.db")
    (tmp_path / "damaged.db").write_bytes(b"this is no database " * 100)
    refused(errors.UNAVAILABLE, Catalog.open, f"sqlite:///{tmp_path}/damaged.db")


def test_the_counter_that_other_databases_are_asked_for_moves_with_every_change(catalog):
    before = connect._read_counter(catalog._engine)
    catalog.add_zone("acme", "z", now_s=NOW)
    assert connect._read_counter(catalog._engine) == before + 1


# ---------------------------------------------------------------- plans

A, B = {"price": "1"}, {"price": "2"}
START_CASES = [
    # own plans, the account's plans, new fields, start asked for → start (None: conflict)
    ("the first one covers all history", [], [], A, None, "0000-00"),
    ("the second starts with this month", [("0000-00", A)], [], B, None, "2022-11"),
    ("a zone's first starts now where its account had one", [], [("0000-00", A)], B, None, "2022-11"),
    ("a plan of the future has priced nothing yet", [("2023-05", A)], [], B, None, "0000-00"),
    ("the same again changes nothing", [("0000-00", A)], [], A, None, ""),
    ("the same as the account's is still the zone's own", [], [("0000-00", A)], A, None, "2022-11"),
    ("this month may still change", [("2022-11", A)], [], B, None, "2022-11"),
    ("a future start is taken", [("0000-00", A)], [], B, "2023-01", "2023-01"),
    ("a past start is fine where nothing was in force", [], [], A, "2022-01", "2022-01"),
    ("a past start before the first plan is fine up to it", [("2022-11", A)], [], B, "2022-01", "2022-01"),
    ("a past month that has a plan keeps it", [("2022-01", A)], [], B, "2022-03", None),
    ("also its very first month", [("2022-01", A)], [], B, "2022-01", None),
    ("also when the account's plan priced it", [], [("2022-05", A)], B, "2022-03", None),
    ("the account's later plan is no obstacle", [], [("2022-11", A)], B, "2022-03", "2022-03"),
    ("the same plan in the past changes nothing", [("2022-01", A)], [], A, "2022-03", ""),
]


@pytest.mark.parametrize(("own", "above", "fields", "asked", "expected"), [c[1:] for c in START_CASES], ids=[c[0] for c in START_CASES])  # fmt: skip
def test_a_plan_starts_where_no_past_month_changes(own, above, fields, asked, expected):
    levels = [[plans.Plan(start, "per_gb", f) for start, f in level] for level in (own, above)]
    new = plans.Plan("", "per_gb", fields)
    if expected is None:
        refused(errors.CONFLICT, plans.choose_start, *levels, new, asked, MONTH)
    else:
        assert plans.choose_start(*levels, new, asked, MONTH) == expected


def test_a_month_has_the_zones_latest_plan_else_the_accounts(catalog):
    zone = catalog.add_zone("acme", "z", now_s=NOW)
    assert catalog.set_plan("acme", None, "per_gb", A, "2022-01", now_s=NOW) == "2022-01"
    assert catalog.set_plan("acme", "z", "per_gb", B, "2022-12", now_s=NOW) == "2022-12"
    assert catalog.set_plan("acme", "z", "per_gb", A, "2023-02", now_s=NOW) == "2023-02"
    months = ("2021-12", "2022-01", "2022-11", "2022-12", "2023-01", "2023-02", "2030-01")
    found = [catalog.plan(zone, month) for month in months]
    assert found == [None, ("per_gb", A), ("per_gb", A), ("per_gb", B), ("per_gb", B), ("per_gb", A), ("per_gb", A)]


def test_a_plan_of_this_month_is_replaced_not_doubled(catalog):
    zone = catalog.add_zone("acme", "z", now_s=NOW)
    for fields in (A, B, A, B):
        catalog.set_plan("acme", "z", "per_gb", fields, "2022-11", now_s=NOW)
    assert catalog.plan(zone, MONTH) == ("per_gb", B)
    assert catalog.plan(zone, "2022-10") is None


def test_a_price_is_kept_as_it_was_written(catalog):
    zone = catalog.add_zone("acme", "z", now_s=NOW)
    catalog.set_plan("acme", "z", "per_gb", {"price": "0.10", "tiers": [{"price": 0.1}]}, now_s=NOW)
    assert catalog.plan(zone, MONTH) == ("per_gb", {"price": "0.10", "tiers": [{"price": "0.1"}]})
