"""The command line: each command's happy path, each error's sentence and exit status."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
from array import array

import pytest

from bandmeter import cli, config, service
from bandmeter.catalog import Catalog
from bandmeter.cli import output, rejects
from bandmeter.domain.contracts import POSTED, Batch, Reject, SourceState
from bandmeter.domain.usage import Outcomes
from bandmeter.service import doctor, sources
from bandmeter.store import SqliteStore

NOW = "2022-11-22T11:35:32Z"
LINES = [
    # (time, identity, more fields)
    ("2022-10-01T00:00:00Z", "u1", {"bytes_up": 1, "bytes_down": 9}),
    ("2022-11-20T10:00:00Z", "u1", {"bytes_up": 100, "bytes_down": 900, "scheme": "https"}),
    ("2022-11-20T10:04:59Z", "u1", {"bytes_up": 1_000_000_000, "bytes_down": 0, "scheme": "http", "requests": 3}),
    ("2022-11-20T10:05:00Z", "u2", {"target_bytes_up": 5, "target_bytes_down": 5, "client_bytes_up": 7, "client_bytes_down": 8}),
    ("2022-11-21T23:59:59Z", "u2", {"bytes_up": 2, "bytes_down": 3}),
    ("2022-11-22T00:00:00Z", "stranger", {"bytes_up": 20, "bytes_down": 30}),
]  # fmt: skip
LINE = {"time": 1_669_000_000, "account": "acme", "zone": "static", "bytes_up": 1, "bytes_down": 0}
BROKEN = '{"time": "2022-11-20T10:00:00Z", "identity": "u1", "bytes_up": -1, "bytes_down": 0}'


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
    for name in list(os.environ):
        if name.startswith("BANDMETER_"):
            monkeypatch.delenv(name)
    folder = tmp_path / "data"
    monkeypatch.setenv("BANDMETER_DATA", str(folder))
    monkeypatch.setenv("BANDMETER_NOW", NOW)
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture
def run(capfd):
    """Run a command; (exit status, standard output, standard error)."""

    def call(*arguments):
        with pytest.raises(SystemExit) as caught:
            cli.main([str(a) for a in arguments])
        out, err = capfd.readouterr()
        return caught.value.code, out, err

    return call


@pytest.fixture
def done(run):
    """Run a command that must succeed without a word on standard error; its output."""

    def call(*arguments):
        status, out, err = run(*arguments)
        assert (status, err) == (0, "")
        return out

    return call


@pytest.fixture
def fails(run):
    """Run a command that must fail with one sentence, and nothing on standard output; the sentence."""

    def call(*arguments, status=2):
        got, out, err = run(*arguments)
        assert (got, out) == (status, ""), err
        assert err.startswith("bandmeter: ")
        assert err.count("\n") == 1
        assert "Traceback" not in err
        return err.removeprefix("bandmeter: ").rstrip("\n")

    return call


@pytest.fixture
def acme(done):
    done("account", "add", "--id", "acme", "--name", "Acme")
    done("zone", "add", "acme", "static", "--product", "sdc", "--identity", "u1")
    done("zone", "add", "acme", "edge", "--network", "cdn", "--identity", "u2")


@pytest.fixture
def counted(acme, tmp_path, run):
    lines = [json.dumps({"time": at, "identity": who, **rest}) for at, who, rest in LINES]
    (tmp_path / "log.jsonl").write_text("\n".join([*lines, BROKEN]) + "\n")
    status, out, _ = run("ingest", "--format", "jsonl", tmp_path / "log.jsonl", "--json")
    assert status == 1
    return json.loads(out)


# ---------------------------------------------------------------- the program


def test_the_version_is_told_without_importing_the_rest(done):
    program = "import sys; sys.argv[1:] = ['--version']\nfrom bandmeter.cli import main\n"
    program += "try: main()\nfinally: print(sorted({'typer', 'sqlalchemy', 'duckdb', 'numpy'} & set(sys.modules)))"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert told.splitlines()[0] == done("--version").strip() == done("--data", "x", "--version").strip()
    assert told.splitlines()[1] == "[]"


def test_a_command_does_not_load_the_web_or_the_migrations(data, acme):
    program = (
        "import sys; sys.argv[1:] = ['zone', 'list']\nfrom bandmeter.cli import main\ntry: main()\nfinally:"
        " print({'starlette', 'granian', 'alembic', 'sqlalchemy.orm', 'structlog', 'prometheus_client'} & set(sys.modules))"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert told.splitlines()[-1] == "set()"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["frobnicate"], "No such command 'frobnicate': see `bandmeter --help`."),
        (["account", "add"], "Missing option '--id': see `bandmeter account add --help`."),
        (["usage"], "Missing argument 'ACCOUNT[/ZONE]': see `bandmeter usage --help`."),
        (["usage", "a", "--xyz"], "No such option: --xyz: see `bandmeter usage --help`."),
        (
            ["usage", "a", "--side", "x"],
            "Invalid value for '--side': 'x' is not one of 'target', 'client': see `bandmeter usage --help`.",
        ),
        (
            ["serve", "--port", "x"],
            "Invalid value for '--port': it takes a whole number: see `bandmeter serve --help`.",
        ),
    ],
)
def test_a_misspelt_command_is_a_usage_error_in_a_sentence(fails, arguments, sentence):
    assert fails(*arguments) == sentence


@pytest.mark.parametrize("group", [[], ["account"], ["zone"], ["key"], ["operator-key"], ["price"]])
def test_a_group_alone_prints_its_help_and_nothing_else(run, group):
    status, out, err = run(*group)
    assert (status, err) == (2, "")
    assert f"Usage: {' '.join(['bandmeter', *group])} [OPTIONS] COMMAND" in out


def test_help_shows_no_types_of_the_program(run):
    """A flag takes nothing, and the rest is TEXT, a NUMBER, a choice, or what its own name says."""
    shown = {c: run(*c.split(), "--help")[1] for c in ("", "zone add", "ingest", "usage", "cost", "serve", "sources")}
    for text in shown.values():
        assert not re.search(r"<(list|bool|str|int)\b", text)
        assert "--help" in text
    assert re.search(r"--identity +TEXT", shown["zone add"])
    assert re.search(r"--port +NUMBER", shown["serve"])
    assert re.search(r"--side +<target\|client>", shown["usage"])
    assert re.search(r"--from and --to widen to whole buckets", " ".join(shown["usage"].split()))
    assert re.search(r"--from and --to widen to whole days", " ".join(shown["cost"].split()))


def test_our_own_failure_is_status_3_without_a_traceback_unless_debugging(fails, run, acme, monkeypatch):
    monkeypatch.setattr(Catalog, "zones", lambda *_: 1 / 0)
    assert "ZeroDivisionError" in fails("zone", "list", status=3)
    monkeypatch.setenv("BANDMETER_DEBUG", "1")
    status, _, err = run("zone", "list")
    assert status == 3
    assert "Traceback" in err


def test_a_damaged_database_is_status_3(fails, data, acme):
    (data / "catalog.db").write_bytes(b"no database " * 1000)
    for journal in data.glob("catalog.db-*"):
        journal.unlink()
    assert "catalog" in fails("zone", "list", status=3)


def test_ctrl_c_is_told_as_a_shell_does(run, acme, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Catalog, "zones", interrupt)
    assert run("zone", "list")[0] == 130


def test_the_data_folder_is_made_for_its_owner_only_and_only_by_commands_that_fill_it(fails, done, data):
    assert "There is no data folder" in fails("account", "list")
    assert not data.exists()
    done("account", "add", "--id", "acme")
    assert data.stat().st_mode & 0o777 == 0o700
    assert {p.name: p.stat().st_mode & 0o777 for p in data.iterdir() if p.suffix == ".db"} == {
        "catalog.db": 0o600,
        "usage.db": 0o600,
    }


def test_data_on_the_command_line_wins(done, tmp_path):
    done("--data", tmp_path / "other", "account", "add", "--id", "acme")
    assert (tmp_path / "other" / "catalog.db").exists()


@pytest.mark.parametrize("text", ["noon", "2022-11-22T11:35:32", "2022-11-22"])
def test_a_clock_that_stands_at_no_time_is_refused(fails, monkeypatch, text):
    monkeypatch.setenv("BANDMETER_NOW", text)
    assert fails("account", "add", "--id", "a").startswith(f"BANDMETER_NOW={text} is no time")


def test_the_clock_stands_where_it_is_told_to(monkeypatch):
    assert service.clock_ms() == 1_669_116_932_000
    monkeypatch.setenv("BANDMETER_NOW", "2022-11-22T12:35:32.122+01:00")
    assert service.clock_ms() == 1_669_116_932_122
    monkeypatch.delenv("BANDMETER_NOW")
    assert service.clock_s() > 1_700_000_000


# ---------------------------------------------------------------- accounts, zones, apply


def test_an_account_is_listed_and_shown_as_it_was_added(done):
    flags = ["--name", "Ä Inc", "--kind", "team", "--email", "a@b.c", "--email-verified", "--proxy-username", "u"]
    done(
        "account",
        "add",
        "--id",
        "acme",
        *flags,
        "--currency",
        "EUR",
        "--trial-until",
        "2022-12-01",
        "--prepayment",
        "9.5",
    )
    (row,) = json.loads(done("account", "list", "--json"))["accounts"]
    assert row == {
        "id": "acme",
        "name": "Ä Inc",
        "kind": "team",
        "email": "a@b.c",
        "email_verified": True,
        "proxy_username": "u",
        "currency": "EUR",
        "prepayment": "9.5",
        "trial_until": "2022-12-01T00:00:00Z",
        "status": "active",
        "created": NOW,
    }
    assert json.loads(done("account", "show", "acme", "--json")) == row | {"zones": []}
    assert "Ä Inc" in done("account", "list")
    assert "2022-12-01T00:00:00Z" in done("account", "show", "acme")


def test_an_account_is_suspended_and_resumed(done, acme):
    done("account", "suspend", "acme")
    assert json.loads(done("account", "show", "acme", "--json"))["status"] == "suspended"
    done("account", "resume", "acme")
    assert json.loads(done("account", "show", "acme", "--json"))["status"] == "active"


def test_zones_are_listed_with_their_defaults(done, acme):
    edge, static = json.loads(done("zone", "list", "acme", "--json"))["zones"]
    assert (edge["name"], edge["network"], edge["side"], edge["identities"]) == ("edge", "cdn", "client", ["u2"])
    assert (static["name"], static["network"], static["side"], static["product"]) == ("static", "dc", "target", "sdc")
    assert done("zone", "list") == done("zone", "list", "acme")


@pytest.mark.parametrize(("verb", "status"), [("suspend", "suspended"), ("delete", "deleted")])
def test_a_zones_status_changes_and_comes_back(done, acme, verb, status):
    def seen():
        return json.loads(done("zone", "list", "--json"))["zones"][1]["status"]

    done("zone", verb, "acme", "static")
    assert seen() == status
    done("zone", "resume", "acme", "static")
    assert seen() == "active"


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["account", "add", "--id", "acme"], "Account acme exists already"),
        (["account", "add", "--id", "a/b"], "is no account id"),
        (["account", "add", "--id", "b", "--kind", "firm"], "kind: 'firm' is not one of personal, team."),
        (["account", "add", "--id", "b", "--trial-until", "soon"], "--trial-until 'soon' is no time"),
        (["account", "show", "nobody"], "There is no account 'nobody'"),
        (["account", "suspend", "nobody"], "There is no account 'nobody'"),
        (["zone", "add", "nobody", "z"], "There is no account 'nobody'"),
        (["zone", "add", "acme", "static"], "has a zone static already"),
        (["zone", "add", "acme", "z", "--network", "moon"], "network: 'moon' is not one of"),
        (["zone", "add", "acme", "z", "--identity", "u1"], "belongs to another zone already"),
        (["zone", "suspend", "acme", "nope"], "Account acme has no zone 'nope'"),
        (["zone", "list", "nobody"], "There is no account 'nobody'"),
        (["zone", "claim", "acme", "nope", "u"], "Account acme has no zone 'nope'"),
        (["key", "add", "nobody"], "There is no account 'nobody'"),
        (["key", "add", "acme", "--scope", "all"], "--scope"),
        (["key", "add", "acme", "--expires", "2022-11-22T11:35:32Z"], "would have expired already"),
        (["key", "add", "acme", "--expires", "never"], "--expires 'never' is no time"),
        (["key", "list", "nobody"], "There is no account 'nobody'"),
        (["key", "revoke", "0123"], "There is no key of that id"),
        (["operator-key", "add", "--scope", "read"], "'read' is not one of 'ingest', 'admin'"),
        (["apply", "nowhere.json"], "nowhere.json cannot be read"),
        (["price", "set", "acme", "nowhere.json"], "nowhere.json cannot be read"),
        (["usage", "nobody"], "There is no account 'nobody'"),
        (["usage", "acme/nope"], "Account acme has no zone 'nope'"),
        (["usage", "acme/"], "names no zone"),
        (["usage", "acme", "--from", "yesterday"], "--from 'yesterday' is no time"),
        (["usage", "acme", "--from", "2022-11-02", "--to", "2022-11-01"], "ends before it starts"),
        (["usage", "acme", "--from", "2030-01-01"], "it ends tomorrow 00:00 UTC unless --to says otherwise"),
        (["ingest", "--format", "jsonl", "--source", "", "nowhere.log"], "--source takes a name"),
        (["usage", "acme", "--from", "0001-01-01"], "longer than 800 days"),
        (["usage", "acme", "--to", "9999-12-31"], "longer than 800 days"),
        (["usage", "acme", "--group-by", "zone,moon"], "--group-by does not know 'moon'"),
        (["usage", "acme", "--group-by", "host", "--resolution", "hour"], "Take --resolution day, month or total"),
        (["usage", "acme", "--group-by", "zone,host", "--resolution", "5m"], "Take --resolution day, month or total"),
        (["usage", "acme", "--group-by", "host,network"], "cannot take host together with network"),
        (["usage", "acme", "--resolution", "week"], "--resolution"),
        (["cost", "acme/nope"], "Account acme has no zone 'nope'"),
        (["cost", "acme", "--to", "9999-12-31"], "longer than 800 days"),
        (["rejects", "77"], "There is no source '77'"),
        (["ingest", "--format", "squidd", "x.log"], "There is no format 'squidd'"),
        (["ingest", "x.log"], "Files and --format belong together"),
        (["ingest", "--format", "squid", "x.log", "--zone", "z"], "--account and --zone belong together"),
        (["ingest"], "There is nothing to ingest"),
        (["serve", "--port", "0"], "--port takes a number from 1 to 65535, not 0."),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence_with_status_2(fails, acme, arguments, part):
    assert part in fails(*arguments)


def test_apply_tells_what_it_changed_and_then_that_nothing_did(done, fails, tmp_path):
    document = {"accounts": [{"id": "acme", "zones": [{"name": "z", "identities": ["u"]}]}]}
    (tmp_path / "c.json").write_text(json.dumps(document))
    told = done("apply", tmp_path / "c.json").splitlines()
    assert told == ["account acme: added", "zone acme/z: added (dc, target side)", "zone acme/z: identities added: u"]
    assert done("apply", tmp_path / "c.json") == "Nothing to change.\n"
    document["accounts"][0]["zones"][0]["netwrok"] = "dc"
    (tmp_path / "c.json").write_text(json.dumps(document))
    assert fails("apply", tmp_path / "c.json").startswith("accounts[0].zones[0].netwrok: no such key here")
    (tmp_path / "c.json").write_text("{")
    assert fails("apply", tmp_path / "c.json").startswith("The file is not JSON")


def test_apply_reads_a_pipe(data, tmp_path):
    command = [sys.executable, "-c", "from bandmeter.cli import main; main()", "apply", "-"]
    told = subprocess.run(command, input='{"accounts": [{"id": "a"}]}', capture_output=True, text=True, check=True)
    assert told.stdout == "account a: added\n"


# ---------------------------------------------------------------- keys


def test_a_key_stands_alone_on_standard_output_and_works(done, data, acme):
    secret = done("key", "add", "acme", "--scope", "ingest", "--expires", "2022-12-01")
    assert secret.count("\n") == 1
    catalog = Catalog.open(f"sqlite:///{data}/catalog.db")
    assert catalog.authenticate(secret.strip(), service.clock_s()).key.scope == "ingest"
    done("key", "revoke", secret.split("_")[1])
    assert catalog.keys("acme")[0].revoked
    catalog.close()


def test_keys_are_listed_without_their_secrets(done, acme, monkeypatch):
    secrets = [
        done("operator-key", "add"),
        done("key", "add", "acme"),
        done("key", "add", "acme", "--expires", "2022-12-01"),
    ]
    ids = [secret.split("_")[1] for secret in secrets]
    done("key", "revoke", ids[1])
    monkeypatch.setenv("BANDMETER_NOW", "2022-12-01T00:00:00Z")
    listed = json.loads(done("key", "list", "--json"))["keys"]
    assert {row["id"]: (row["account"], row["scope"], row["status"]) for row in listed} == {
        ids[0]: (None, "ingest", "active"),
        ids[1]: ("acme", "read", "revoked"),
        ids[2]: ("acme", "read", "expired"),
    }
    assert [row["account"] for row in json.loads(done("key", "list", "acme", "--json"))["keys"]] == ["acme"] * 2
    assert [row["id"] for row in json.loads(done("operator-key", "list", "--json"))["keys"]] == [ids[0]]
    for secret in secrets:
        assert secret.strip() not in done("key", "list") + done("operator-key", "list") + done("key", "list", "--json")


@pytest.mark.parametrize("group", ["key", "operator-key"])
def test_an_operators_key_is_revoked_under_either_name(done, acme, group):
    number = done("operator-key", "add", "--scope", "admin").split("_")[1]
    assert done(group, "revoke", number) == f"Key {number} revoked.\n"
    assert [row["status"] for row in json.loads(done("operator-key", "list", "--json"))["keys"]] == ["revoked"]


# ---------------------------------------------------------------- what came in


def test_ingest_tells_what_became_of_the_records(counted):
    total = counted["total"]
    assert total == {"received": 7, "counted": 5, "duplicate": 0, "no_target": 0, "unattributed": 1, "rejected": 1}


def test_the_same_file_again_adds_nothing_and_is_no_failure(counted, run, done, tmp_path):
    before = done("usage", "acme", "--output", "json")
    status, out, _ = run("ingest", "--format", "jsonl", tmp_path / "log.jsonl", "--json")
    assert (status, json.loads(out)["total"]["duplicate"]) == (0, 7)
    assert done("usage", "acme", "--output", "json") == before


def test_sources_are_listed_with_what_waits_to_be_claimed(counted, done, tmp_path):
    found = json.loads(done("sources", "--json"))
    (source,) = found["sources"]
    assert (source["name"], source["format"], source["path"]) == ("files", "jsonl", str(tmp_path / "log.jsonl"))
    assert (source["received"], source["lines"], source["rejected"]) == (7, 7, 1)
    assert source["newest"] == "2022-11-22T00:00:00.000Z"
    (waiting,) = found["unattributed"]
    assert (waiting["identity"], waiting["newest"]) == ("stranger", "2022-11-22T00:00:00.000Z")
    assert "stranger" in done("sources")
    assert "\n1 identity belongs to no zone; give" in done("sources")


def test_a_followed_source_that_is_quiet_is_told_from_one_that_does_not_report(acme, done, data, monkeypatch):
    (data / "bandmeter.toml").write_text(
        "".join(f"[[source]]\nname = '{name}'\nformat = 'jsonl'\npath = '{name}.jsonl'\n" for name in ("a", "new"))
    )
    hour_ms, start_ms = 3_600_000, 1_795_132_800_000
    with service.open_parts(config.load(os.environ)) as parts:
        for name, reported_ms in (("a", (0, hour_ms)), ("b", (0, 5 * hour_ms, 6 * hour_ms))):
            for ms in reported_ms:
                parts.store.cover({name: start_ms + ms}, gap_ms=hour_ms)
            log = SourceState(0, name, "jsonl", "x", b"x", 1, b"", 1, "", Outcomes(), start_ms, None, "")
            for state in (log, log._replace(head=POSTED, newest_ms=start_ms + hour_ms)):  # somebody posts as `name`
                parts.store.write(Batch(state._replace(position=0), state, array("q"), {}, [], start_ms))
    monkeypatch.setenv("BANDMETER_NOW", "2026-11-20T06:00:10Z")
    assert json.loads(done("sources", "--json"))["followed"] == [
        {
            "source": "a",
            "newest": "2026-11-20T00:00:00.000Z",
            "reported": "2026-11-20T01:00:00.000Z",
            "lag_seconds": 5 * 3600 + 10,
            "gaps": [],
        },
        {"source": "new", "newest": None, "reported": None, "lag_seconds": None, "gaps": []},
        {
            "source": "b",
            "newest": "2026-11-20T00:00:00.000Z",
            "reported": "2026-11-20T06:00:00.000Z",
            "lag_seconds": 10,
            "gaps": [{"from": "2026-11-20T00:00:00Z", "to": "2026-11-20T05:00:00Z"}],
        },
    ]
    shown = done("sources")
    assert "2026-11-20T00:00:00Z/2026-11-20T05:00:00Z" in shown
    assert "none" in shown


def test_rejects_are_listed_and_their_lines_come_back_to_the_byte(counted, done):
    (reject,) = json.loads(done("rejects", "--json"))["rejects"]
    assert (reject["line"], reject["field"], reject["reason"], reject["text"]) == (7, "bytes_up", "negative", BROKEN)
    assert "negative" in done("rejects", "files")
    assert done("rejects", reject["source"], "--lines") == BROKEN + "\n"


def test_a_claimed_identity_brings_its_history(counted, done, fails):
    assert done("zone", "claim", "acme", "static", "stranger") == (
        "stranger belongs to acme/static; moved 1 request, 50 bytes.\n"
    )
    assert json.loads(done("sources", "--json"))["unattributed"] == []
    (row,) = json.loads(done("usage", "acme/static", "--from", "2022-11-22", "--output", "json"))["rows"]
    assert row == {"bucket": "2022-11-22T00:00:00Z", "requests": 1, "bytes_up": 20, "bytes_down": 30}
    assert "moved 0 requests" in done("zone", "claim", "acme", "static", "stranger")
    assert "another zone" in fails("zone", "claim", "acme", "edge", "stranger")


def feed(run, folder, name, *identities):
    """A line of each."""
    lines = [{"log": name, "time": LINES[0][0], "identity": who, "bytes_up": 1, "bytes_down": 2} for who in identities]
    (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert run("ingest", "--format", "jsonl", folder / name)[0] == 0


def waiting(done):
    """What each identity that waits would reach."""
    return {one["identity"]: one["reaches"] for one in json.loads(done("sources", "--json"))["unattributed"]}


@pytest.mark.usefixtures("acme")
def test_what_waits_for_a_zone_that_is_added_later_is_told_and_moved(run, done, tmp_path):
    """By whichever rule it would reach the zone; what waits for others, or for nobody, stays."""
    feed(run, tmp_path, "a.jsonl", "a.shop.test", "B.Shop.Test", "cust-acme-zone-shop-session-1", "else", "nobody")
    document = {"accounts": [{"id": "acme", "zones": [{"name": "other", "identities": ["else"]}]}]}
    (tmp_path / "c.json").write_text(json.dumps(document))
    told = done("zone", "add", "acme", "shop", "--network", "cdn", "--identity", "*.shop.test").splitlines()
    sentence = "identities have traffic from before that waits for acme/shop: `bandmeter zone claim acme shop` moves"
    assert told[1:] == [f"3 {sentence} it there."]
    for known in (False, True):
        told = done("apply", tmp_path / "c.json")
        assert "1 identity has traffic from before that waits for acme/other" in told
        assert f"3 {sentence}" in told
        assert ("Nothing to change." in told) == known
    shop = dict.fromkeys(["a.shop.test", "B.Shop.Test", "cust-acme-zone-shop"], "acme/shop")
    assert waiting(done) == shop | {"else": "acme/other", "nobody": None}
    assert "reaches" in done("sources")
    moved = done("zone", "claim", "acme", "shop").splitlines()
    assert sorted(moved) == sorted(f"{who}: moved 1 request, 3 bytes." for who in shop)
    assert waiting(done) == {"else": "acme/other", "nobody": None}
    (row,) = json.loads(
        done("usage", "acme/shop", "--from", "2022-10-01", "--resolution", "total", "--output", "json")
    )["rows"]
    assert (row["requests"], row["bytes_up"], row["bytes_down"]) == (3, 3, 6)
    assert done("zone", "claim", "acme", "shop") == "Nothing waits that would reach acme/shop.\n"


@pytest.mark.usefixtures("acme")
def test_what_a_wildcard_has_claimed_goes_on_with_the_wildcard(run, done, fails, tmp_path):
    feed(run, tmp_path, "a.jsonl", "a.shop.test")
    done("zone", "add", "acme", "shop", "--network", "cdn", "--identity", "*.shop.test")
    done("zone", "claim", "acme", "shop")
    done("zone", "release", "acme", "shop", "*.shop.test")
    feed(run, tmp_path, "b.jsonl", "a.shop.test")
    assert waiting(done) == {"a.shop.test": None}
    for identity in ("-", "(beyond the daily bound)"):
        assert "--shared" in fails("zone", "add", "acme", "x", "--identity", identity)


@pytest.mark.usefixtures("acme")
def test_an_identity_that_is_released_waits_again_and_leaves_what_was_counted(run, done, fails, tmp_path):
    """So a misspelt claim can be taken back, and an identity goes from one customer to another."""
    feed(run, tmp_path, "a.jsonl", "bob")
    assert "misspelt" not in done("zone", "claim", "acme", "static", "bob")
    misspelt = done("zone", "claim", "acme", "static", "b b").splitlines()[1]
    assert misspelt.endswith("a misspelt one is taken back with `bandmeter zone release acme static 'b b'`.")
    for identity in ("bob", "b b"):
        done("zone", "release", "acme", "static", identity)
        assert "has no identity" in fails("zone", "release", "acme", "static", identity)
    assert waiting(done) == {}
    feed(run, tmp_path, "b.jsonl", "bob", "bob")
    assert waiting(done) == {"bob": None}
    assert done("zone", "claim", "acme", "edge", "bob") == "bob belongs to acme/edge; moved 2 requests, 6 bytes.\n"
    feed(run, tmp_path, "c.jsonl", "bob", "bob", "bob")
    rows = json.loads(
        done("usage", "acme", "--from", "2022-10-01", "--resolution", "total", "--group-by", "zone", "--output", "json")
    )["rows"]
    assert {row["zone"]: row["requests"] for row in rows} == {"static": 1, "edge": 5}
    assert "u1" in done("zone", "list", "acme")


def test_who_has_an_identity_is_said(acme, fails):
    """To the operator, with the command that takes it from there."""
    for command in (("claim", "acme", "edge", "u1"), ("add", "acme", "more", "--identity", "u9", "--identity", "u1")):
        told = fails("zone", *command)
        assert told.endswith("acme/static: `bandmeter zone release acme static u1` takes it from there.")


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0 B"), (999, "999 B"), (1_000, "1.00 kB"), (23_685, "23.69 kB"), (999_994, "999.99 kB"), (999_995, "1.00 MB"),
     (10**18, "1.00 EB"), (10**21 + 5 * 10**15, "1000.01 EB")],
)  # fmt: skip
def test_sizes_are_rounded_half_up(count, shown):
    assert output.human(count) == shown


def test_a_period_without_a_day_is_no_answer(acme, fails):
    for command in ("usage", "cost"):
        assert "--to is outside it" in fails(command, "acme", "--from", "2022-11-01", "--to", "2022-11-01")


@pytest.mark.usefixtures("acme")
def test_a_url_is_no_identity(fails):
    assert "write its domain alone" in fails("zone", "add", "acme", "shop", "--identity", "https://shop.test")


@pytest.mark.parametrize(("identity", "zone"), [("-", "static"), ("-", "edge"), ("(beyond the daily bound)", "static")])
@pytest.mark.usefixtures("acme")
def test_what_is_nobodys_own_is_not_claimed_in_passing(done, fails, tmp_path, identity, zone):
    """First it is said what it is, how much, and that it is for good."""
    sides = {"target_bytes_up": 5, "target_bytes_down": 5, "client_bytes_up": 7, "client_bytes_down": 8}
    lines = [{"time": LINES[0][0], "bytes_up": 1, "bytes_down": 2}, {"time": LINES[1][0], **sides}]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    done("ingest", "--format", "jsonl", tmp_path / "log.jsonl")
    assert "- is all traffic that names no identity." in done("sources").splitlines()
    waiting = {"(beyond the daily bound)": (0, 0)}.get(identity, (2, 13 if zone == "static" else 18))
    size = f"{waiting[0]} requests, {waiting[1]} bytes"
    refused = fails("zone", "claim", "acme", zone, identity)
    assert refused.startswith(f"{identity} is all traffic ")
    assert f"{size} so far, and all to come. To give it to acme/{zone} for good, add --shared." in refused
    assert done("zone", "claim", "acme", zone, identity, "--shared") == (
        f"{identity} belongs to acme/{zone}; moved {size}.\n"
    )


def test_a_file_that_is_renamed_before_it_is_opened_is_no_mistake(acme, run, data, tmp_path, monkeypatch):
    (tmp_path / "a.jsonl").write_text(json.dumps({"time": LINES[0][0], "identity": "u1", **LINES[0][2]}) + "\n")
    (data / "bandmeter.toml").write_text(
        f"[[source]]\nname = 'edge1'\nformat = 'jsonl'\npath = '{tmp_path}/*.jsonl*'\n"
    )
    listed, moved = sources.find, tmp_path / "a.jsonl.1"

    def list_and_rename(*arguments):
        files = listed(*arguments)
        (tmp_path / "a.jsonl").rename(moved)
        return files

    with monkeypatch.context() as patched:
        patched.setattr(sources, "find", list_and_rename)
        status, out, err = run("ingest", "--json")
    assert status == 0
    assert json.loads(out)["total"]["received"] == 0
    assert "moved or removed" in err
    status, out, _ = run("ingest", "--json")
    assert (status, json.loads(out)["total"]["counted"]) == (0, 1)


def test_configured_sources_are_read_without_naming_a_file(acme, done, fails, data, tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"time": LINES[0][0], "identity": "u1", **LINES[0][2]}) + "\n")
    (data / "bandmeter.toml").write_text(f"[[source]]\nname = 'edge1'\nformat = 'jsonl'\npath = '{tmp_path}/*.jsonl'\n")
    assert json.loads(done("ingest", "--json"))["total"]["counted"] == 1
    assert json.loads(done("sources", "--json"))["sources"][0]["name"] == "edge1"


# ---------------------------------------------------------------- what was carried


def rows(done, *arguments):
    return json.loads(done("usage", *arguments, "--output", "json"))["rows"]


def test_usage_by_default_is_by_day_since_the_first_of_the_previous_month(counted, done):
    assert rows(done, "acme/static") == [
        {"bucket": "2022-10-01T00:00:00Z", "requests": 1, "bytes_up": 1, "bytes_down": 9},
        {"bucket": "2022-11-20T00:00:00Z", "requests": 4, "bytes_up": 1_000_000_100, "bytes_down": 900},
    ]


def test_a_period_without_a_start_begins_a_month_before_the_one_in_which_it_ends(counted, done):
    """As in the native API: its last moment decides, so a whole month is told with the one before."""
    assert [
        row["from"][:7] for row in json.loads(done("cost", "acme/edge", "--to", "2022-11-01", "--json"))["rows"]
    ] == [
        "2022-09",
        "2022-10",
    ]
    assert [row["bucket"] for row in rows(done, "acme", "--to", "2022-11-01")] == ["2022-10-01T00:00:00Z"]
    assert rows(done, "acme", "--to", "2022-10-01") == rows(done, "acme", "--to", "1970-01-01") == []


def test_json_is_asked_for_as_everywhere(counted, done, fails):
    assert done("usage", "acme", "--json") == done("usage", "acme", "--output", "json")
    assert "give one of them" in fails("usage", "acme", "--json", "--output", "csv")


@pytest.mark.parametrize(
    ("resolution", "expected"),
    [
        ("5m", [("2022-10-01T00:00:00Z", 10), ("2022-11-20T10:00:00Z", 1_000_001_000), ("2022-11-20T10:05:00Z", 15), ("2022-11-21T23:55:00Z", 5)]),
        ("hour", [("2022-10-01T00:00:00Z", 10), ("2022-11-20T10:00:00Z", 1_000_001_015), ("2022-11-21T23:00:00Z", 5)]),
        ("day", [("2022-10-01T00:00:00Z", 10), ("2022-11-20T00:00:00Z", 1_000_001_015), ("2022-11-21T00:00:00Z", 5)]),
        ("month", [("2022-10-01T00:00:00Z", 10), ("2022-11-01T00:00:00Z", 1_000_001_020)]),
        ("total", [("2022-10-01T00:00:00Z", 1_000_001_030)]),
    ],
)  # fmt: skip
def test_every_resolution_sums_the_same_traffic(counted, done, resolution, expected):
    found = rows(done, "acme", "--resolution", resolution)
    assert [(row["bucket"], row["bytes_up"] + row["bytes_down"]) for row in found] == expected


def test_the_span_is_half_open_and_widened_to_the_buckets_edges(counted, done):
    def size(*span):
        return sum(row["bytes_up"] + row["bytes_down"] for row in rows(done, "acme", *span))

    assert size("--from", "2022-11-20", "--to", "2022-11-21") == 1_000_001_015
    assert size("--from", "2022-11-20T11:00:00Z", "--to", "2022-11-20T12:00:00Z") == 1_000_001_015  # the whole day
    hour = ("--resolution", "hour", "--from", "2022-11-20T11:00:00Z", "--to", "2022-11-20T12:00:00Z")
    assert size(*hour) == 0
    for end in ("06:00Z", "05:00.001Z"):
        assert size("--resolution", "5m", "--from", "2022-11-20T10:05:00Z", "--to", f"2022-11-20T10:{end}") == 15


def test_usage_is_split_by_what_is_asked_for(counted, done):
    span = ("--from", "2022-11-20", "--to", "2022-11-21", "--group-by", "zone,scheme")
    assert rows(done, "acme", *span) == [
        {"bucket": "2022-11-20T00:00:00Z", "zone": "edge", "scheme": "other", "requests": 1, "bytes_up": 7, "bytes_down": 8},
        {"bucket": "2022-11-20T00:00:00Z", "zone": "static", "scheme": "http", "requests": 3, "bytes_up": 10**9, "bytes_down": 0},
        {"bucket": "2022-11-20T00:00:00Z", "zone": "static", "scheme": "https", "requests": 1, "bytes_up": 100, "bytes_down": 900},
    ]  # fmt: skip
    grouped = rows(done, "acme", "--group-by", "account,network", "--resolution", "total")
    assert [(r["account"], r["network"]) for r in grouped] == [("acme", "cdn"), ("acme", "dc")]


def test_the_other_side_can_be_asked_for(counted, done):
    span = ("--from", "2022-11-20", "--to", "2022-11-21")
    assert rows(done, "acme/edge", *span)[0]["bytes_up"] == 7
    assert rows(done, "acme/edge", *span, "--side", "target")[0]["bytes_up"] == 5


def test_csv_has_the_same_rows(counted, done):
    assert done("usage", "acme/static", "--output", "csv").splitlines() == [
        "bucket,requests,bytes_up,bytes_down",
        "2022-10-01T00:00:00Z,1,1,9",
        "2022-11-20T00:00:00Z,4,1000000100,900",
    ]


def test_the_table_ends_with_its_total_exact_and_for_reading(counted, done):
    lines = [line.split() for line in done("usage", "acme/static").splitlines()]
    assert lines[0] == ["bucket", "requests", "bytes_up", "bytes_down", "bytes"]
    assert lines[1] == ["2022-10-01T00:00:00Z", "1", "1", "9", "10", "10", "B"]
    assert lines[-1] == ["total", "5", "1000000101", "909", "1000001010", "1.00", "GB"]


def test_a_price_is_set_and_a_cost_answered(counted, done, fails, tmp_path):
    (tmp_path / "p.json").write_text('{"plan": "per_gb", "price": 0.50}')
    assert done("price", "set", "acme", tmp_path / "p.json") == "acme: plan per_gb from the beginning.\n"
    assert done("price", "set", "acme", tmp_path / "p.json") == "acme has this plan already.\n"
    (tmp_path / "z.json").write_text('{"plan": "per_gb", "price": "2", "unit": "GB"}')
    assert done("price", "set", "acme/static", tmp_path / "z.json") == "acme/static: plan per_gb from 2022-11.\n"
    assert "a past month keeps its price" in fails("price", "set", "acme", tmp_path / "z.json", "--from", "2022-10")
    answer = json.loads(done("cost", "acme/static", "--json"))
    assert answer["currency"] == "USD"
    october, november = answer["rows"]
    assert october == {
        "zone": "static",
        "from": "2022-10-01T00:00:00Z",
        "to": "2022-11-01T00:00:00Z",
        "requests": 1,
        "bytes": 10,
        "cost": "0.0000",
        "unit": "bytes",
        "priced": True,
    }
    assert (november["bytes"], november["cost"]) == (1_000_001_000, "2.0000")
    assert done("cost", "acme").splitlines()[-1].split()[-1] == "2.0000"
    shown = json.loads(done("account", "show", "acme", "--json"))["zones"]
    assert [zone["plan"]["price"] for zone in shown] == ["0.50", "2"]


def test_prices_are_listed_with_their_months(counted, done, fails, tmp_path):
    assert "price" in done("price", "--help")
    assert json.loads(done("price", "list", "acme", "--json")) == {"prices": []}
    for target, price, start in (
        ("acme", "0.50", []),
        ("acme/static", "2", ["--from", "2022-12"]),
        ("acme", "0.60", []),
        ("acme", "0.70", ["--from", "2023-01"]),
    ):
        (tmp_path / "p.json").write_text(json.dumps({"plan": "per_gb", "price": price}))
        done("price", "set", target, tmp_path / "p.json", *start)
    assert json.loads(done("price", "list", "acme", "--json"))["prices"] == [
        {"zone": "", "from": "", "plan": "per_gb", "fields": {"price": "0.50"}},
        {"zone": "", "from": "2022-11", "plan": "per_gb", "fields": {"price": "0.60"}},
        {"zone": "", "from": "2023-01", "plan": "per_gb", "fields": {"price": "0.70"}},
        {"zone": "static", "from": "2022-12", "plan": "per_gb", "fields": {"price": "2"}},
    ]
    shown = done("price", "list", "acme")
    assert "(all others)  the beginning  per_gb  price 0.50" in shown
    assert "There is no account 'nobody'" in fails("price", "list", "nobody")


def test_what_has_no_price_is_told_from_what_is_free(counted, run, done, tmp_path):
    """Month by month; zones without traffic are not spoken of, for they would cost nothing anyway."""
    done("zone", "add", "acme", "idle")
    (tmp_path / "p.json").write_text('{"plan": "per_gb", "price": "0"}')
    done("price", "set", "acme/edge", tmp_path / "p.json")
    done("price", "set", "acme/static", tmp_path / "p.json", "--from", "2022-11")
    status, out, err = run("cost", "acme", "--json")
    assert status == 0
    assert err == "No price for traffic of acme/static, so it costs nothing: see `bandmeter price set --help`.\n"
    unpriced = [(row["zone"], row["from"][:7]) for row in json.loads(out)["rows"] if not row["priced"]]
    assert unpriced == [("idle", "2022-10"), ("idle", "2022-11"), ("static", "2022-10")]
    assert [line.split()[-1] for line in run("cost", "acme")[1].splitlines()[1:]] == [
        *("0.0000", "0.0000"),
        *("-", "-"),
        *("-", "0.0000"),
        "0.0000",
    ]
    done("cost", "acme", "--from", "2022-11-01")


@pytest.mark.parametrize(
    "text",
    ['{"plan": "per_gb", "price": "1", "price": "2"}', '{"plan": "per_gb", "kind": "per_gb", "price": "1"}'],
)
def test_a_plan_that_says_two_things_is_refused(acme, fails, tmp_path, text):
    (tmp_path / "p.json").write_text(text)
    assert re.search("twice|once", fails("price", "set", "acme", tmp_path / "p.json"))


def test_doctor_and_verify_look_at_the_catalogs_pages(acme, run, done, data):
    """An index that says something else than its table."""
    done("zone", "add", "acme", "unmistakable")
    with contextlib.closing(sqlite3.connect(data / "catalog.db", isolation_level=None)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    content = (data / "catalog.db").read_bytes()
    assert content.count(b"unmistakable") == 2
    (data / "catalog.db").write_bytes(content.replace(b"unmistakable", b"unmistakably", 1))
    assert "index" in checks(run, status=1)["catalog"]["problem"]
    status, out, _ = run("verify", "--sample", "0")
    assert (status, "index" in out) == (1, True)


@pytest.mark.parametrize("text", ["[]", "{", '{"price": 1}', '{"plan": "per_mile"}', '{"plan": "per_gb", "price": -1}'])
def test_what_is_no_plan_is_refused(acme, fails, tmp_path, text):
    (tmp_path / "p.json").write_text(text)
    assert fails("price", "set", "acme", tmp_path / "p.json").endswith(".")


# ---------------------------------------------------------------- the program itself


def test_config_is_dumped_with_where_it_came_from(done, monkeypatch):
    monkeypatch.setenv("BANDMETER_SERVER_PORT", "99")
    assert "port = 99  # BANDMETER_SERVER_PORT" in done("config", "--dump")


def test_a_registered_format_that_cannot_work_is_refused_before_anything(data, fails, acme):
    (data / "bandmeter.toml").write_text(
        "[[format]]\nname = 'm'\nsplit = 'tab'\ncolumns = ['a']\nfields = {moon = 'a'}\n"
    )
    assert "format 'm'" in fails("zone", "list")


def checks(run, status=0):
    got, out, err = run("doctor", "--json")
    assert (got, err) == (status, "")
    return {check["name"]: check for check in json.loads(out)["checks"]}


def test_doctor_finds_nothing_where_nothing_is_wrong(counted, run, done, data, tmp_path):
    (data / "bandmeter.toml").write_text(f"[[source]]\nname = 'e'\nformat = 'jsonl'\npath = '{tmp_path}/*.jsonl'\n")
    found = checks(run)
    assert all(check["ok"] for check in found.values())
    assert {"data folder", "file modes", "free disk", "catalog", "usage store", "clock", "source e"} == set(found)
    assert all(line.startswith("✓ ") for line in done("doctor").splitlines())


def test_doctor_says_what_is_wrong_and_what_to_do(counted, run, data, monkeypatch):
    (data / "bandmeter.toml").write_text(
        "[[source]]\nname = 'gone'\nformat = 'jsonl'\npath = 'nowhere/*.log'\n"
        "[[source]]\nname = 'odd'\nformat = 'moon'\npath = 'x'\n"
    )
    (data / "usage.db").chmod(0o644)
    monkeypatch.setenv("BANDMETER_NOW", "2022-11-01T00:00:00Z")
    monkeypatch.setattr(doctor, "DISK_BYTES_MIN", 2**80)
    found = checks(run, status=1)
    wrong = {name: check["problem"] for name, check in found.items() if not check["ok"]}
    assert set(wrong) == {"file modes", "free disk", "clock", "source gone", "source odd"}
    assert "chmod -R go-rwx" in wrong["file modes"]
    assert "set the clock" in wrong["clock"]
    assert "nowhere/*.log" in wrong["source gone"]


@pytest.mark.usefixtures("counted")
def test_doctor_names_the_folder_however_it_was_given(run, data, monkeypatch):
    """Whoever reads it may not know where it was asked."""
    (data / "bandmeter.toml").write_text("[[source]]\nname = 'gone'\nformat = 'jsonl'\npath = '*.log'\n")
    (data / "usage.db").chmod(0o644)
    monkeypatch.chdir(data.parent)
    monkeypatch.setenv("BANDMETER_DATA", data.name)
    found = checks(run, status=1)
    assert found["data folder"]["seen"] == str(data)
    assert f"{data}/usage.db: run `chmod -R go-rwx {data}`" in found["file modes"]["problem"]
    assert found["source gone"]["problem"] == f"No file fits {data}/*.log: mend the path in {data}/bandmeter.toml."
    monkeypatch.setenv("BANDMETER_DATA", "nowhere")
    assert f"no folder {data.parent}/nowhere" in checks(run, status=1)["data folder"]["problem"]


def test_doctor_finds_resolutions_that_disagree(counted, run, data):
    with sqlite3.connect(data / "usage.db") as raw:
        raw.execute("UPDATE usage_day SET target_bytes_up = target_bytes_up + 1")
    raw.close()
    assert not checks(run, status=1)["usage store"]["ok"]


def test_doctor_finds_a_folder_that_is_missing_or_a_database_that_is_none(run, acme, data, monkeypatch):
    (data / "catalog.db").write_bytes(b"no database " * 1000)
    for journal in data.glob("catalog.db-*"):
        journal.unlink()
    assert not checks(run, status=1)["databases"]["ok"]
    monkeypatch.setenv("BANDMETER_DATA", str(data / "nowhere"))
    assert not checks(run, status=1)["data folder"]["ok"]


def test_usage_that_is_gone_is_not_answered_as_none(counted, run, fails, done, data):
    """What was deleted, or not brought along, would read as 0; and logs would be counted once more."""
    for file in data.glob("usage.db*"):
        file.unlink()
    commands = (["usage", "acme"], ["ingest", "--format", "jsonl", data.parent / "log.jsonl"], ["serve"], ["migrate"])
    for command in commands:
        assert f"{data}/usage.db is gone, and catalog.db beside it has 1 account" in fails(*command)
    assert "bandmeter restore" in checks(run, status=1)["databases"]["problem"]
    assert not (data / "usage.db").exists()
    (data / "usage.db").touch(mode=0o644)  # as the sentence says
    assert json.loads(run("usage", "acme", "--output", "json")[1]) == {"rows": []}
    assert checks(run)["file modes"]["ok"]


def test_a_new_folder_has_no_usage_to_lose(done, data):
    """Also when the first command was stopped between making the one and the other."""
    data.mkdir()
    Catalog.open(f"sqlite:///{data}/catalog.db").close()
    done("account", "add", "--id", "acme")


# ---------------------------------------------------------------- serve


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def test_a_taken_port_is_said_in_a_sentence(fails, acme):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert "choose others with --host and --port" in fails("serve", "--port", port, status=3)


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_serve_tells_when_it_is_ready_answers_and_stops_gracefully(counted, done, data, stop):
    secret = done("key", "add", "acme").strip()
    port = free_port()
    command = [sys.executable, "-c", "from bandmeter.cli import main; main()", "serve", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout.readline() == f"Listening on http://127.0.0.1:{port}\n"
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            connection.request("GET", "/zone/bw?zone=static", headers={"Authorization": f"Bearer {secret}"})
            answer = json.loads(connection.getresponse().read())
            connection.close()
            server.send_signal(stop)
            out, err = server.communicate(timeout=30)
        finally:
            server.kill()
    assert answer["acme"]["sums"]["static"]["back_m0"]["bw_sum"] == 1_000_001_000
    assert (server.returncode, out) == (0, "")
    assert secret not in err


def test_all_rejected_lines_come_back_however_many_there_are(acme, run, done, tmp_path, monkeypatch):
    """A list has an end, and says so."""
    monkeypatch.setattr(rejects, "AT_ONCE", 2)
    monkeypatch.setattr(rejects, "LISTED_MAX", 3)
    lines = "".join(json.dumps({"time": LINES[0][0], "identity": f"u{n}"}) + "\n" for n in range(7))
    (tmp_path / "a.jsonl").write_text(lines)
    assert run("ingest", "--format", "jsonl", tmp_path / "a.jsonl")[0] == 1
    assert done("rejects", "--lines") == lines
    status, out, err = run("rejects", "--json")
    assert (status, len(json.loads(out)["rejects"])) == (0, 3)
    assert "the first 3 of 7 rejects are listed; --lines prints all" in err


def test_what_cannot_be_read_is_told_without_a_line_of_zeros(acme, run, monkeypatch, tmp_path):
    """Which would look like an empty log."""
    monkeypatch.setattr(sys, "stdin", None)
    error = "-: There is no standard input to read: name a file.\n"
    assert run("ingest", "--format", "jsonl", "-") == (2, "", error)
    (tmp_path / "a.log").touch()
    status, out, err = run("ingest", "--format", "jsonl", "-", tmp_path / "a.log")
    assert (status, err) == (2, error)
    assert [line.split()[0] for line in out.splitlines()] == ["file", str(tmp_path / "a.log"), "total"]


def repair(run, tmp_path):
    """What the documents say for lines that need no mending: the two commands."""
    again = tmp_path / "again.log"
    again.write_text(run("rejects", "--lines")[1])
    return json.loads(run("ingest", "--format", "jsonl", again, "--json")[1])["total"] if again.stat().st_size else {}


def test_a_repair_that_was_tried_too_early_counts_once_when_it_is_tried_again(acme, run, done, tmp_path, monkeypatch):
    """The clock was behind, also at the first try; nothing counts twice, however often it is tried."""
    monkeypatch.setenv("BANDMETER_NOW", "2022-11-25T12:00:00Z")
    ahead = "".join(json.dumps(LINE | {"time": 1_669_400_000 + n, "bytes_up": n}) + "\n" for n in range(5))
    (tmp_path / "a.log").write_text(json.dumps(LINE | {"time": 1_669_370_000, "bytes_up": 100}) + "\n" + ahead)
    assert run("ingest", "--format", "jsonl", tmp_path / "a.log")[0] == 1
    assert repair(run, tmp_path)["duplicate"] == 5
    monkeypatch.setenv("BANDMETER_NOW", "2022-11-28T12:00:00Z")
    assert [repair(run, tmp_path).get("counted") for _ in range(3)] == [5, None, None]
    (row,) = json.loads(done("usage", "acme", "--resolution", "total", "--output", "json"))["rows"]
    assert (row["requests"], row["bytes_up"]) == (6, 110)


def test_what_counts_again_is_not_among_the_lines_to_repair(acme, run, done, data, tmp_path):
    """A log of a zone that was not there yet: the next `ingest` counts it by itself."""
    lines = "".join(json.dumps(LINE | {"zone": "later", "bytes_up": n}) + "\n" for n in range(5))
    (tmp_path / "a.jsonl").write_text(lines)
    (data / "bandmeter.toml").write_text(f"[[source]]\nname = 'e'\nformat = 'jsonl'\npath = '{tmp_path}/*.jsonl'\n")
    assert run("ingest")[0] == 1
    done("zone", "add", "acme", "later")
    assert json.loads(run("ingest", "--json")[1])["total"]["counted"] == 5
    assert repair(run, tmp_path) == {}
    assert done("rejects", "e", "--lines") == ""
    (row,) = json.loads(done("usage", "acme/later", "--resolution", "total", "--output", "json"))["rows"]
    assert row["requests"] == 5


def test_lines_that_accounts_have_posted_are_printed_only_when_asked_for(acme, run, data):
    """They may count for these accounts alone, and whoever ingests them may count for all."""
    before = SourceState(
        0, "posts", "jsonl", "POST /v1/records of evil", POSTED + b"x", 0, b"", 0, "", Outcomes(), None, None, ""
    )
    after = before._replace(position=1, outcomes=Outcomes(1, rejected=1))
    store = SqliteStore(data / "usage.db")
    number = store.write(Batch(before, after, array("q"), {}, [Reject(1, 0, "zone", "unknown_zone", "", b"theirs")], 0))
    store.close()
    for asked in ((), ("posts",)):
        status, out, err = run("rejects", *asked, "--lines")
        assert (status, out) == (0, "")
        assert "they may not count for others" in err
    assert run("rejects", number, "--lines") == (0, "theirs\n", "")


@pytest.mark.parametrize("rule", ["account = 'acme'\nzone = 'none'", "zones = {'u9' = 'acme/none'}"])
@pytest.mark.usefixtures("acme")
def test_a_source_of_a_zone_that_there_is_not_is_read_by_nobody(done, fails, data, tmp_path, rule):
    """All of its lines would be rejects, or wait for a zone, and the log be taken as read."""
    (tmp_path / "a.jsonl").write_text(json.dumps({"time": LINES[0][0], "identity": "u9", **LINES[0][2]}) + "\n")
    (data / "bandmeter.toml").write_text(
        f"[[source]]\nname = 'edge1'\nformat = 'jsonl'\npath = '{tmp_path}/*.jsonl'\n{rule}\n"
    )
    for command in ("ingest", "serve"):
        assert "There is no zone acme/none" in fails(command)
    assert json.loads(done("sources", "--json"))["sources"] == []


def test_a_source_without_a_file_is_told(acme, run, data, tmp_path):
    (data / "bandmeter.toml").write_text(f"[[source]]\nname = 'edge1'\nformat = 'jsonl'\npath = '{tmp_path}/*.jsnl'\n")
    status, _, err = run("ingest")
    assert status == 2
    assert "Source edge1: no file fits" in err


def test_a_source_without_a_file_is_no_mistake_beside_others(acme, run, data, tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"time": LINES[0][0], "identity": "u9", **LINES[0][2]}) + "\n")
    entry = "[[source]]\nname = '{0}'\nformat = 'jsonl'\npath = '{1}/*.{0}'\n"
    (data / "bandmeter.toml").write_text("".join(entry.format(name, tmp_path) for name in ("none", "jsonl")))
    status, out, err = run("ingest", "--json")
    assert (status, json.loads(out)["total"]["received"]) == (0, 1)
    assert "Source none: no file fits" in err


BOTH = "".join(f"[[source]]\nname = '{{}}'\nformat = 'jsonl'\npath = '{{}}/{p}'\n{{}}\n" for p in ("*", "*.jsonl"))


def write_sources(data, folder, *sides):
    """Two sources, `whole` and `part`, whose paths a file in `folder` fits."""
    first, second = sides or ("", "")
    (data / "bandmeter.toml").write_text(BOTH.format("whole", folder, first, "part", folder, second))


@pytest.fixture
def logged(tmp_path):
    """A log with one record, in a folder of its own."""
    folder = tmp_path / "logs"
    folder.mkdir()
    (folder / "a.jsonl").write_text(json.dumps({"time": LINES[0][0], "identity": "u1", **LINES[0][2]}) + "\n")
    return folder / "a.jsonl"


@pytest.mark.usefixtures("acme")
def test_a_file_that_fits_two_sources_is_refused_before_anything_is_counted(done, fails, data, run, logged):
    """It would be counted twice; the error names the file and both sources, and `doctor` says the same."""
    write_sources(data, logged.parent)
    for command in ("ingest", "serve"):
        assert f"{logged} would be counted by source whole and by source part" in fails(command)
    assert json.loads(done("sources", "--json"))["sources"] == []
    assert "by source whole" in checks(run, status=1)["source part"]["problem"]


@pytest.mark.usefixtures("acme")
def test_a_configured_file_is_not_counted_under_another_name(done, fails, data, logged):
    """By whatever path; under the source's own name it may be."""
    (data / "bandmeter.toml").write_text(f"[[source]]\nname = 'e'\nformat = 'jsonl'\npath = '{logged.parent}/*'\n")
    other = logged.parent.parent / "linked.jsonl"
    other.symlink_to(logged)
    told = fails("ingest", "--format", "jsonl", other)
    assert "is a file of source e, and would be counted once more as files: `bandmeter ingest` alone reads it" in told
    command = ("ingest", "--json", "--format", "jsonl", "--source", "e", other)
    assert json.loads(done(*command))["total"]["counted"] == 1


@pytest.mark.usefixtures("acme")
def test_a_side_of_a_log_goes_on_from_no_other_name(done, data, run, logged):
    """Nobody knows which side was counted under that."""
    done("ingest", "--format", "jsonl", logged)
    write_sources(data, logged.parent, "side = 'target'", "side = 'client'")
    assert json.loads(done("ingest", "--json"))["total"]["duplicate"] == 0
    assert len(json.loads(done("sources", "--json"))["sources"]) == 3


@pytest.mark.usefixtures("acme")
def test_two_sources_may_count_the_two_sides_of_a_file(done, data, run, logged):
    write_sources(data, logged.parent, "side = 'target'", "side = 'client'")
    assert json.loads(done("ingest", "--json"))["total"]["received"] == 2
    assert checks(run)["source part"]["ok"]
