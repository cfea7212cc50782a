"""Every schema that a released Bandmeter made must open in this one, with all that it held."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy.dialects import postgresql

from bandmeter.catalog import Catalog, connect, tables
from bandmeter.domain import errors
from bandmeter.domain.errors import BandmeterError
from bandmeter.domain.tenancy import Account, AccountStatus, Scope, ZoneStatus
from bandmeter.domain.usage import Side

DUMPS = sorted(Path(__file__).parent.glob("catalog_*.sql"))
NOW = 1_669_116_932
SECRET = "bm_0123456789ab_" + "k" * 43  # its digest is in the dumps


def restore(dump, path):
    with sqlite3.connect(path) as raw:
        raw.executescript(dump.read_text())
    raw.close()


@pytest.mark.parametrize("dump", DUMPS, ids=lambda path: path.stem)
def test_an_old_catalog_opens_with_all_that_it_held(tmp_path, dump):
    restore(dump, tmp_path / "catalog.db")
    catalog = Catalog.open(f"sqlite:///{tmp_path}/catalog.db")
    acme = catalog.account("acme")
    assert (acme.name, acme.trial_until_s, acme.prepayment) == ("Acme", 1_669_852_800, "1999.00")
    assert (acme.email_verified, acme.status) == (True, AccountStatus.ACTIVE)
    static = catalog.zone("acme", "static")
    assert (static.number, static.network, static.product, static.side) == (1, "dc", "sdc", Side.TARGET)
    assert (static.status, static.identities) == (ZoneStatus.SUSPENDED, ("*.acme.example", "u1"))
    assert catalog.plan(static, "2022-10") == ("per_gb", {"price": "0.42", "unit": "GB"})
    key = catalog.authenticate(SECRET, NOW).key
    assert (key.account, key.scope) == ("acme", Scope.READ)
    catalog.add_account(Account("new"))
    assert catalog.add_zone("new", "z", now_s=NOW).number == 2
    catalog.close()


def test_every_schema_has_its_dump():
    versions = sorted(path.name[:4] for path in (connect.MIGRATIONS / "versions").glob("[0-9]*.py"))
    assert [path.stem.removeprefix("catalog_") for path in DUMPS] == versions


def test_head_is_the_newest_migration():
    config = Config()
    config.set_main_option("script_location", str(connect.MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_heads() == [tables.HEAD]


def test_the_migrations_make_what_the_tables_say(tmp_path):
    def schema(path):
        with sqlite3.connect(path) as raw:
            found = dict(raw.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL"))
        raw.close()
        return {
            name: " ".join(sql.replace('"', "").split()) for name, sql in found.items() if name != "alembic_version"
        }

    Catalog.open(f"sqlite:///{tmp_path}/migrated.db").close()
    engine = sa.create_engine(f"sqlite:///{tmp_path}/made.db")
    tables.METADATA.create_all(engine)
    engine.dispose()
    assert schema(tmp_path / "migrated.db") == schema(tmp_path / "made.db")


def test_a_schema_from_the_future_is_refused_in_a_sentence(tmp_path):
    Catalog.open(f"sqlite:///{tmp_path}/catalog.db").close()
    with sqlite3.connect(tmp_path / "catalog.db") as raw:
        raw.execute("UPDATE alembic_version SET version_num = '9999'")
    raw.close()
    with pytest.raises(BandmeterError) as caught:
        Catalog.open(f"sqlite:///{tmp_path}/catalog.db")
    assert caught.value.code == errors.INPUT_INVALID
    assert "newer" in caught.value.sentence


def test_a_catalog_at_head_opens_without_the_migration_engine(tmp_path, monkeypatch):
    """It costs a third of a second to import, which every command would pay."""
    Catalog.open(f"sqlite:///{tmp_path}/catalog.db").close()
    monkeypatch.setattr(connect, "MIGRATIONS", Path("/nonexistent"))
    with contextlib.closing(Catalog.open(f"sqlite:///{tmp_path}/catalog.db")) as catalog:
        assert catalog.accounts() == []


def test_a_migration_that_stops_halfway_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("alembic.op.bulk_insert", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        Catalog.open(f"sqlite:///{tmp_path}/catalog.db")
    with sqlite3.connect(tmp_path / "catalog.db") as raw:
        assert raw.execute("SELECT name FROM sqlite_master").fetchall() == []
    raw.close()


def test_the_tables_can_be_made_in_postgresql():
    made = [str(sa.schema.CreateTable(t).compile(dialect=postgresql.dialect())) for t in tables.METADATA.sorted_tables]
    made += [
        str(sa.schema.CreateIndex(index).compile(dialect=postgresql.dialect()))
        for table in tables.METADATA.sorted_tables
        for index in table.indexes
    ]
    assert any("BIGINT" in text for text in made)
    assert any("coalesce(zone, 0)" in text for text in made)
