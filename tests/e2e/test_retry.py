"""Rejects that can be counted by now count where they are kept: once, whoever tries, and whenever he dies."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from array import array

import pytest

from bandmeter.domain.contracts import POSTED, Batch, Reject, SourceState
from bandmeter.domain.usage import Outcomes
from bandmeter.formats import FORMATS
from bandmeter.ingest import Job, Tools
from bandmeter.ingest.batch.clean import LINE_BYTES_MAX
from bandmeter.ingest.files import retry
from bandmeter.ingest.files.tail import Tail, Watched
from bandmeter.ingest.posts import PATH_OF_ACCOUNT
from bandmeter.store import SqliteStore

TIME = 1_795_132_800


def line(zone, up, **more):
    record = {"time": TIME + up, "account": "acme", "zone": zone, "bytes_up": up, "bytes_down": 2 * up}
    return json.dumps(record | more).encode() + b"\n"


@pytest.fixture
def meter(durable_meter):
    return durable_meter


def count(meter, **job):
    """Retry all sources; what became of their rejects."""
    total = Outcomes()
    for state in meter.store.sources():
        tools = Tools(meter.store, lambda: list(meter.zones), lambda: meter.now_ms, meter.folder, meter.batch_bytes)
        total = total.plus(retry.Retry(tools, Job(FORMATS[state.format], state.name, **job)).count(state))
        tools.close()
    return total


def bytes_up(meter, zone):
    return meter.total(meter.zones[zone]).bytes_up


class DiedError(Exception):
    """The process, as far as a test can tell."""


# ---------------------------------------------------------------- once


@pytest.mark.parametrize("at_once", [3, 7, 10_000])
def test_a_retry_that_dies_again_and_again(meter, tmp_path, monkeypatch, at_once):
    """Before a transaction or after it; each line counts once, and what is still wrong stays."""
    monkeypatch.setattr(retry, "AT_ONCE", at_once)
    seed = random.randrange(10**6)
    sys.stderr.write(f"seed {seed}\n")
    dice = random.Random(seed)
    kinds = [dice.choice(["res", "later", "later", "wrong"]) for _ in range(60)]
    lines = [line("later", -n) if kind == "wrong" else line(kind, n) for n, kind in enumerate(kinds, start=1)]
    for part in range(3):
        (tmp_path / f"{part}.log").write_bytes(b"".join(lines[20 * part : 20 * part + 20]))
        meter.feed(tmp_path / f"{part}.log")
    meter.add_zone("acme", "later")
    write = meter.store.write_together

    def dies(batches):
        if dice.random() < 0.3:
            raise DiedError
        assert write(batches)
        if dice.random() < 0.3:
            raise DiedError
        return [1]

    monkeypatch.setattr(meter.store, "write_together", dies)
    for _ in range(1_000):
        try:
            done = count(meter)
        except DiedError:
            continue
        break
    monkeypatch.undo()
    assert done.rejected == kinds.count("wrong")
    assert count(meter) == Outcomes(done.rejected, rejected=done.rejected)
    assert [r.text + b"\n" for r in meter.rejects()] == [x for x, k in zip(lines, kinds, strict=True) if k == "wrong"]
    sums = {k: sum(n for n, kind in enumerate(kinds, start=1) if kind == k) for k in ("res", "later")}
    assert [bytes_up(meter, zone) for zone in (0, 1)] == [sums["res"], sums["later"]]
    assert meter.outcomes() == Outcomes(60, counted=60 - kinds.count("wrong"), rejected=kinds.count("wrong"))


@pytest.mark.parametrize("meanwhile", ["a retry", "the log"])
def test_another_process_that_is_faster(meter, tmp_path, monkeypatch, meanwhile):
    """It has counted the same rejects, or the log's next lines, between the reading and the commit."""
    log = tmp_path / "a.log"
    log.write_bytes(b"".join(line("later", n) for n in range(1, 11)))
    meter.feed(log)
    meter.add_zone("acme", "later")
    write = meter.store.write_together

    def overtaken(batches):
        monkeypatch.undo()
        if meanwhile == "a retry":
            assert count(meter).counted == 10
        else:
            log.write_bytes(log.read_bytes() + line("later", 100))
            assert meter.feed(log).outcomes.counted == 1
        return write(batches)

    monkeypatch.setattr(meter.store, "write_together", overtaken)
    assert count(meter).counted == (0 if meanwhile == "a retry" else 10)
    assert bytes_up(meter, 1) == 55 + (100 if meanwhile == "the log" else 0)
    assert meter.rejects() == []


def test_the_log_and_a_file_of_its_rejects_count_nothing_afterwards(meter, tmp_path):
    """Whichever of the ways was taken first."""
    log, again = tmp_path / "a.log", tmp_path / "again.log"
    log.write_bytes(b"".join(line("res" if n % 3 else "later", n) for n in range(1, 31)))
    meter.feed(log)
    again.write_bytes(b"".join(reject.text + b"\n" for reject in meter.rejects()))
    meter.add_zone("acme", "later")
    assert meter.feed(again).outcomes == Outcomes(10, counted=10)
    assert count(meter) == Outcomes()
    for path in (log, again, log, again):
        assert meter.feed(path).outcomes.counted == 0
    assert bytes_up(meter, 1) == sum(range(3, 31, 3))


def test_a_file_of_rejects_some_of_which_stay_wrong(meter, tmp_path):
    """It may be given once more when the others can be counted too."""
    again = tmp_path / "again.log"
    meter.feed(line("res", 1) + line("b", 2) + line("c", 4) + line("b", 8))
    again.write_bytes(b"".join(reject.text + b"\n" for reject in meter.rejects()))
    meter.add_zone("acme", "b")
    assert meter.feed(again).outcomes == Outcomes(3, counted=2, duplicate=1)
    assert meter.feed(again).outcomes == Outcomes(3, duplicate=3)
    meter.add_zone("acme", "c")
    assert meter.feed(again).outcomes == Outcomes(3, counted=1, duplicate=2)
    assert meter.feed(again).outcomes == Outcomes(3, duplicate=3)
    assert [bytes_up(meter, zone) for zone in range(3)] == [1, 10, 4]


@pytest.mark.parametrize("batch_bytes", [1 << 20, LINE_BYTES_MAX])
def test_a_line_that_was_cut_is_left(make_meter, tmp_path, batch_bytes):
    """What is left of it might be read as another; here in a table, and shorter for the password that is not kept."""
    meter = make_meter(batch_bytes=batch_bytes)
    example = FORMATS["trafficserver"].example
    (tmp_path / "a.log").write_text(f"{example}{'x' * 2 * LINE_BYTES_MAX}\n{example}\n")
    meter.now_ms *= 2
    assert meter.feed(tmp_path / "a.log", "trafficserver").outcomes.rejected == 1
    assert count(meter) == Outcomes()
    assert len(meter.rejects()) == 1


@pytest.fixture
def repeated(meter, tmp_path):
    """A log of 1 byte and two rejects of 100 and 200, a file of these, and their zone, which is there by now."""
    log, again = tmp_path / "a.log", tmp_path / "f.log"
    log.write_bytes(line("res", 1) + line("later", 100) + line("later", 200))
    meter.feed(log)
    again.write_bytes(b"".join(reject.text + b"\n" for reject in meter.rejects()))
    meter.add_zone("acme", "later")
    return again


def test_a_file_of_rejects_that_grows_counts_what_is_new(meter, repeated):
    assert meter.feed(repeated).outcomes == Outcomes(2, counted=2)
    for times in (1, 2):
        repeated.write_bytes(repeated.read_bytes() + line("later", 1000))
        assert meter.feed(repeated).outcomes == Outcomes(2 + times, counted=1, duplicate=1 + times)
    assert bytes_up(meter, 1) == 2_300


def test_a_part_of_a_file_of_rejects_is_an_older_copy(meter, repeated, tmp_path):
    meter.feed(repeated)
    part = tmp_path / "part.log"
    part.write_bytes(line("later", 100))
    assert meter.feed(part).outcomes.counted == 0
    assert bytes_up(meter, 1) == 300


def test_a_file_of_rejects_that_are_counted_already(meter, repeated):
    """They were tried where they are kept, before it was ingested."""
    assert count(meter).counted == 2
    for _ in range(2):
        assert meter.feed(repeated).outcomes == Outcomes(2, duplicate=2)
    assert bytes_up(meter, 1) == 300


@pytest.mark.parametrize("is_followed", [False, True])
def test_a_file_of_rejects_keeps_its_place_under_another_name(meter, repeated, is_followed):
    """The source is called otherwise, or its folder is followed."""
    meter.feed(repeated)
    job = Job(FORMATS["jsonl"], "edge", other_names=frozenset())
    if is_followed:
        tools = Tools(meter.store, lambda: list(meter.zones), lambda: meter.now_ms, meter.folder, 1 << 20)
        tail = Tail(tools, [Watched(job, str(repeated))], lambda: 1)
        while tail.step():
            pass
        tail.close()
        tools.close()
    else:
        assert meter.feed(repeated, source_name="edge", other_names=frozenset()).outcomes.counted == 0
    assert bytes_up(meter, 1) == 300


def test_mended_lines_find_their_rejects_whatever_else_counts(meter, tmp_path, monkeypatch):
    """Another process counts some of them, after the lines were laid side by side."""
    monkeypatch.setattr(retry, "AT_ONCE", 4)
    lines = [line("later" if n % 3 else "res", n, bytes_up=n if n % 3 else -n) for n in range(1, 31)]
    (tmp_path / "a.log").write_bytes(b"".join(lines))
    meter.feed(tmp_path / "a.log")
    pairs = [(r.line, r.text.replace(b'"later"', b'"res"').replace(b": -", b": 1000")) for r in meter.rejects()]
    meter.add_zone("acme", "later")
    mend = retry.replaced(iter(pairs))

    def late(reject):
        if reject.line == 1:
            assert count(meter).counted == 20  # those that need no mending
        return mend(reject)

    tools = Tools(meter.store, lambda: list(meter.zones), lambda: meter.now_ms, meter.folder, 1 << 20)
    (state,) = meter.store.sources()
    assert retry.Retry(tools, Job(FORMATS["jsonl"])).count(state, late).counted == 10
    tools.close()
    assert bytes_up(meter, 1) == sum(n for n in range(1, 31) if n % 3)
    assert bytes_up(meter, 0) == sum(int(f"1000{n}") for n in range(3, 31, 3))


def test_mended_lines_that_are_longer_than_a_batch_together(make_meter, tmp_path):
    """Though what was kept fits into one."""
    meter = make_meter(batch_bytes=4096)
    meter.add_zone("acme", "res")
    (tmp_path / "a.log").write_bytes(b"".join(line("res", n, bytes_up=-1) for n in range(1, 31)))
    meter.feed(tmp_path / "a.log")
    pairs = [(r.line, r.text.replace(b": -1", b": 1, " + b'"more": "%s"' % (b"x" * 1_000))) for r in meter.rejects()]
    tools = Tools(meter.store, lambda: list(meter.zones), lambda: meter.now_ms, meter.folder, 4096)
    (state,) = meter.store.sources()
    assert retry.Retry(tools, Job(FORMATS["jsonl"])).count(state, retry.replaced(pairs)).counted == 30
    tools.close()
    assert bytes_up(meter, 0) == 30


@pytest.mark.parametrize("odd", [b"\xef\xbb\xbf\xef\xbb\xbf", b"\0\xef\xbb\xbf\0\0"])
def test_a_line_of_nothing_stops_no_other(meter, tmp_path, odd):
    (tmp_path / "a.log").write_bytes(odd + b"\n" + line("later", 5) + odd + b"\n")
    meter.feed(tmp_path / "a.log")
    meter.add_zone("acme", "later")
    assert count(meter).counted == 1
    assert bytes_up(meter, 1) == 5


# ---------------------------------------------------------------- the command


def rows(command, *arguments, status=0):
    return json.loads(command("rejects", *arguments, "--json", status=status).stdout)


def usage(command):
    found = json.loads(
        command(
            "usage", "acme", "--from", "2026-11-01", "--resolution", "total", "--group-by", "zone", "--output", "json"
        ).stdout
    )["rows"]
    return {row["zone"]: (row["requests"], row["bytes_up"]) for row in found}


def test_mended_lines_take_the_place_of_what_was_kept(command, tmp_path):
    """One by one, with an editor that knows nothing of us; and what was left as it was stays."""
    command.apply({"acme": {"res": {}}})
    log, mended = tmp_path / "a.log", tmp_path / "mended"
    lines = {n: line("res", n, bytes_up=n if n % 2 else -n) for n in range(1, 9)}
    log.write_bytes(b"".join(lines.values()))
    command("ingest", "--format", "jsonl", log, status=1)
    mended.write_bytes(command("rejects", "1", "--lines").stdout)
    subprocess.run(["sed", "-i", "-e", "s/: -[24],/: 70,/; 3s/.*//", mended], check=True)
    total = rows(command, "1", "--mend", mended, status=1)["total"]
    assert (total["received"], total["counted"], total["rejected"]) == (4, 2, 2)
    assert usage(command) == {"res": (6, 16 + 70 + 70)}
    assert command("rejects", "--lines").stdout == lines[6] + lines[8]
    told = command("verify").stdout.decode()  # which reads the log, and what was mended in it
    assert "1 log recounted" in told
    assert "✓ No difference." in told
    mended.write_bytes(lines[6].replace(b"-6", b"6") + lines[8].replace(b"-8", b"8"))
    command("rejects", "1", "--mend", mended)
    assert command("rejects", "1", "--mend", mended).stdout == b"No rejects are kept.\n"
    assert usage(command) == {"res": (8, 16 + 70 + 70 + 14)}
    assert "✓ No difference." in command("verify").stdout.decode()


def test_as_many_lines_as_are_kept(command, tmp_path):
    """Else nobody knows which is which."""
    command.apply({"acme": {"res": {}}})
    log, other, mended = tmp_path / "a.log", tmp_path / "b.log", tmp_path / "mended"
    log.write_bytes(line("res", -1) + line("res", -2))
    other.write_bytes(line("res", -3))
    command("ingest", "--format", "jsonl", log, other, status=1)
    mended.write_bytes(line("res", 1))
    told = command("rejects", "1", "--mend", mended, status=2).stderr.decode()
    assert f"Source 1 keeps 2 rejects, and {mended} has 1 line" in told
    mended.write_bytes(line("res", 1) * 3)
    assert "has more" in command("rejects", "1", "--mend", mended, status=2).stderr.decode()
    assert "cannot be read" in command("rejects", "1", "--mend", tmp_path / "none", status=2).stderr.decode()
    assert "the lines of one source" in command("rejects", "--mend", mended, status=2).stderr.decode()
    assert usage(command) == {}


def test_mended_lines_may_come_through_a_pipe(command, tmp_path):
    command.apply({"acme": {"res": {}}})
    log = tmp_path / "a.log"
    log.write_bytes(line("wrong", 3) + line("wrong", 4))
    command("ingest", "--format", "jsonl", log, status=1)
    pipe = f"<({command.path} rejects 1 --lines | sed s/wrong/res/)"
    script = f"{command.path} rejects 1 --mend {pipe}"
    done = subprocess.run(["bash", "-c", script], env=command.environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert usage(command) == {"res": (2, 7)}
    command("zone", "add", "acme", "wrong")  # which the lines as they came would reach today
    told = command("verify", status=0).stdout.decode()
    assert "✓ No difference." in told


def test_a_table_is_read_by_the_columns_that_it_had(command, tmp_path):
    """Its rejects have no header; and what `--account` and `--zone` said is said once more."""
    command.apply({"acme": {"res": {}}})
    log = tmp_path / "a.tsv"
    log.write_text(f"bytes_down\ttime\tbytes_up\n1\t{TIME}\t2\n1\t{TIME + 10**7}\t40\n")
    command("ingest", "--format", "tsv", "--account", "acme", "--zone", "res", log, status=1)
    later = command.environment | {"BANDMETER_NOW": "2027-11-23T00:00:00Z"}
    command("rejects", "--retry", "--account", "acme", "--zone", "res", env=later)
    found = json.loads(
        command(
            "usage",
            "acme",
            "--from",
            "2026-11-01",
            "--to",
            "2027-11-01",
            "--resolution",
            "total",
            "--output",
            "json",
            env=later,
        ).stdout
    )["rows"]
    assert (found[0]["requests"], found[0]["bytes_up"]) == (2, 42)
    assert command("rejects", "--retry", env=later).stdout == b"No rejects are kept.\n"


def test_a_configured_source_is_read_as_it_is_configured_now(command, tmp_path):
    """As when its zone was misspelt in the settings of the proxy, and is given by a rule now."""
    command.apply({"acme": {"res": {}}})
    record = {"time": TIME, "bytes_up": 5, "bytes_down": 0, "client_bytes_up": -1, "client_bytes_down": 7}
    (tmp_path / "a.log").write_text(json.dumps(record | {"target_bytes_up": 5, "target_bytes_down": 1}) + "\n")
    settings = (
        f"[[source]]\nname = 'edge'\nformat = 'jsonl'\npath = '{tmp_path}/*.log'\naccount = 'acme'\nzone = 'res'\n"
    )
    (command.data / "bandmeter.toml").write_text(settings)
    command("ingest", status=1)
    mended = tmp_path / "mended"
    mended.write_bytes(command("rejects", "edge", "--lines").stdout.replace(b"-1", b"1"))
    command("rejects", "edge", "--mend", mended)
    assert usage(command) == {"res": (1, 5)}
    assert "✓" in command("verify", "--no-logs").stdout.decode()


def test_what_an_account_has_sent_counts_for_it_alone(command):
    """Whatever its lines name: the operator who tries again lends it no rights."""
    command.apply({"acme": {"res": {}}, "evil": {"own": {}}})
    texts = [line("res", 1), line("own", 2, account="evil"), line("own", 4, account=None)]
    before = SourceState(
        0, "posts", "jsonl", f"{PATH_OF_ACCOUNT}evil", POSTED + b"x", 0, b"", 0, "", Outcomes(), None, None, ""
    )
    after = before._replace(position=1, lines=3, outcomes=Outcomes(3, rejected=3))
    store = SqliteStore(command.data / "usage.db")
    kept = [Reject(n, 0, "zone", "unknown_zone", "", text[:-1]) for n, text in enumerate(texts, start=1)]
    store.write(Batch(before, after, array("q"), {}, kept, 0))
    store.close()
    total = rows(command, "--retry", status=1)["total"]
    assert (total["counted"], total["rejected"]) == (2, 1)
    assert usage(command) == {}
    assert command("rejects", "1", "--lines").stdout == texts[0]


def test_a_log_is_whole_for_verify_when_its_rejects_have_counted(command, tmp_path):
    command.apply({"acme": {"res": {}}})
    log = tmp_path / "a.log"
    log.write_bytes(b"".join(line("res" if n % 3 else "later", n) for n in range(1, 31)))
    command("ingest", "--format", "jsonl", log, status=1)
    command("zone", "add", "acme", "later")
    assert rows(command, "--retry")["total"]["counted"] == 10
    told = command("verify").stdout.decode()
    assert "30 records recounted" in told
    assert "✓ No difference." in told


@pytest.mark.parametrize(("wrong", "right"), [("squid", "jsonl"), ("squid", "tsv"), ("tsv", "jsonl")])
@pytest.mark.parametrize("grows", [False, True])
def test_a_log_that_was_given_in_a_wrong_format(meter, tmp_path, wrong, right, grows):
    """Too short for that to be told at once: nothing was counted, so in the right one all of it is; once."""
    log = tmp_path / "a.log"
    header = "time\taccount\tzone\tbytes_up\tbytes_down\n" if right == "tsv" else ""
    records = [json.loads(line("res", n)) for n in range(1, 8)]
    rows = ["\t".join(map(str, record.values())) + "\n" if header else json.dumps(record) + "\n" for record in records]
    log.write_text(header + "".join(rows[:6]))
    columns = ("time", "identity", "bytes_up", "bytes_down") if wrong == "tsv" else ()
    assert meter.feed(log, wrong, columns=columns).outcomes.counted == 0
    if grows:
        log.write_text(header + "".join(rows))
    for _ in range(2):
        meter.feed(log, right)
        for state in meter.store.sources():
            if meter.store.rejects(state.number, 9):
                tools = Tools(meter.store, lambda: list(meter.zones), lambda: meter.now_ms, meter.folder, 1 << 20)
                names = tuple(header.split()) if header else ()
                retry.Retry(tools, Job(FORMATS[state.format], columns=names)).count(state)
                tools.close()
    total = meter.total(meter.zones[0])
    assert (total.requests, total.bytes_up) == ((7, 28) if grows else (6, 21))
    assert [state.format for state in meter.store.sources()] == [right]


def test_a_file_of_rejects_that_has_grown_is_named_by_verify(command, tmp_path):
    """It counts where two logs meet; what is stored is more than the logs say, and no difference."""
    command.apply({"acme": {"res": {}}})
    log, again = tmp_path / "a.log", tmp_path / "f.log"
    log.write_bytes(line("res", 1) + line("later", 100))
    command("ingest", "--format", "jsonl", log, status=1)
    again.write_bytes(command("rejects", "--lines").stdout)
    command("zone", "add", "acme", "later")
    for more in (b"", line("res", 5)):
        again.write_bytes(again.read_bytes() + more)
        assert command.ingest("jsonl", again).counted == 1
        told = command("verify").stdout.decode()
        assert "✓ No difference." in told
        assert ("what it got besides is not recounted" in told) == bool(more)
    assert usage(command) == {"res": (2, 6), "later": (1, 100)}


def test_what_excludes_each_other_is_refused(command):
    command.apply({"acme": {"res": {}}})
    for wrong in (["--lines", "--retry"], ["--retry", "--account", "acme"], ["--account", "acme", "--zone", "res"]):
        assert b"give" in command("rejects", *wrong, status=2).stderr
