"""What the documents say is true: their examples run and show what is printed there, their links lead somewhere.

In README.md and docs/*.md, a block marked `console` is run, line by line, in an empty folder that holds only the demo's
files: what follows a `$ ` is a command, and below it stands what it prints, where `…` is anything. A command ends with
status 0 unless it says `# exits with N`. A `toml` block that begins with `# bandmeter.toml` goes to the data folder.
curl speaks with a demo that serves.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from bandmeter.catalog import Catalog
from bandmeter.domain.tenancy import Scope

ROOT = Path(__file__).resolve().parents[2]
NOW = "2026-11-30T12:00:00Z"  # six days before it are in one month, so a sum of the month has them all
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ALL_PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SETTINGS = "# bandmeter.toml\n"
PROXY_LANGUAGES = {"squid", "nginx", "haproxy", "yaml", "sh", "vcl"}
# Of HAProxy's edge, and what Envoy asks with; tests/e2e/proxies runs them.
NOT_CAPTURED = {
    "http-request set-var(txn.user) req.hdr(host),field(1,:)",
    """headers_to_add: [{header: {key: proxy-authenticate, value: 'Basic realm="proxy"'}}]""",
}


class Example(NamedTuple):
    """A command of a page, the status that it must end with, and what it must print."""

    command: str
    status: int
    shown: str


def short(path):
    return str(path.relative_to(ROOT))


def blocks(path):
    return BLOCK.findall(path.read_text())


def examples(text):
    """The commands of a `console` block."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, shown = part.partition("\n")
        status = re.search(r"  # exits with (\d+)$", command)
        yield Example(command, int(status[1]) if status else 0, shown)


def is_shown(expected, printed):
    """Whether the output is what the page shows; the width of a table's columns does not matter."""
    expected, printed = (
        "\n".join(" ".join(line.split()) for line in text.strip().splitlines()) for text in (expected, printed)
    )
    pattern = ".*".join(re.escape(piece) for piece in expected.split("…"))
    return re.fullmatch(pattern, printed, re.DOTALL) is not None


# ---------------------------------------------------------------- examples


@pytest.fixture(scope="module")
def served(serve_demo):
    with serve_demo(now=NOW) as running:
        yield running


@pytest.fixture(scope="module")
def taking(serve_demo):
    """Another one, for what is sent: it would change the numbers of the first."""
    with serve_demo(now=NOW) as running:
        yield running


@pytest.mark.parametrize("path", PAGES, ids=short)
def test_the_examples_of_a_page_print_what_it_shows(path, served, demo_copy, request):
    folder = demo_copy()
    outer = {k: v for k, v in os.environ.items() if not k.startswith("BANDMETER_")}
    programs = f"{Path(sys.executable).parent}{os.pathsep}{outer['PATH']}"
    environment = outer | {"PATH": programs, "KEY": served.key, "BANDMETER_NOW": NOW, "COLUMNS": "240"}
    for language, text in blocks(path):
        if text.startswith(SETTINGS):
            (folder / "bandmeter-data").mkdir(exist_ok=True, mode=0o700)
            with (folder / "bandmeter-data" / "bandmeter.toml").open("a") as stream:
                stream.write(text)
        for example in examples(text) if language == "console" else ():
            port = served.port
            if "$SENDS" in example.command:
                taking = request.getfixturevalue("taking")
                port, environment["SENDS"] = taking.port, environment.get("SENDS") or sending_key(taking.data)
            command = example.command.replace("127.0.0.1:8080", f"127.0.0.1:{port}")
            done = subprocess.run(
                ["bash", "-c", f"exec 2>&1\n{command}"],
                cwd=folder,
                env=environment,
                stdout=subprocess.PIPE,
                check=False,
            )
            printed = done.stdout.decode()
            assert done.returncode == example.status, f"$ {command}\n{printed}"
            assert is_shown(example.shown, printed), f"$ {command}\n--- shown\n{example.shown}--- printed\n{printed}"


def sending_key(data):
    """An operator's key of a demo."""
    with contextlib.closing(Catalog.open(f"sqlite:///{data}/catalog.db")) as catalog:
        return catalog.add_key(None, Scope.INGEST, None, 0)


def test_the_pages_have_examples():
    """The test above runs what it finds: it must find the commands that a reader would try."""
    found = [
        e.command for path in PAGES for language, text in blocks(path) for e in examples(text) if language == "console"
    ]
    assert len(found) > 30
    assert all(
        re.match(r"bandmeter |curl |sed |printf .* > |(printf|gzip) .*\| (bandmeter|curl) ", command)
        for command in found
    )
    for path in ("/zone/bw", "/customer/bw", "/zone/cost"):
        assert [command for command in found if command.startswith("curl") and path in command]


@pytest.mark.parametrize("path", PAGES, ids=short)
def test_commands_stand_where_they_are_run(path):
    """A `bash` block is read and not run, so it holds nothing of ours that would print something."""
    lines = [line for language, text in blocks(path) if language == "bash" for line in text.splitlines()]
    assert [line for line in lines if re.match(r"(bandmeter|curl) ", line)] == []


def test_output_is_compared():
    """The comparison can fail, and `…` stands for anything."""
    assert is_shown("a … c\nd", "a b c  \nd\n")
    assert not is_shown("a … c", "a b d")
    assert not is_shown("", "surprise")


# ---------------------------------------------------------------- links


def slug(heading):
    """The anchor that a heading gets where the pages are shown."""
    return re.sub(r"[^\w\- ]", "", heading.lower().strip()).replace(" ", "-")


@pytest.mark.parametrize("path", ALL_PAGES, ids=short)
def test_every_link_leads_somewhere(path):
    text = BLOCK.sub("", path.read_text())
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.replace("\\", "").partition("#")
        page = (path.parent / name).resolve() if name else path
        assert page.exists(), target
        assert page.is_relative_to(ROOT), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", BLOCK.sub("", page.read_text()), re.MULTILINE)
            assert anchor in {slug(heading) for heading in headings}, target


def test_every_page_can_be_found_from_the_readme():
    seen, wanted = set(), [ROOT / "README.md"]
    while wanted:
        page = wanted.pop()
        if page in seen or page.suffix not in {".md", ""}:
            continue
        seen.add(page)
        if page.is_dir():
            wanted += page.glob("*.md")
        else:
            names = re.findall(r"\]\(([^)#\s:]+)[)#]", page.read_text())
            wanted += [path for name in names if (path := (page.parent / name).resolve()).exists()]
    assert set(ALL_PAGES) - seen == set()


# ---------------------------------------------------------------- directives and numbers


def test_a_directive_is_the_one_that_was_run():
    """Each line to be pasted into a proxy stands in the configuration that wrote the captured log.

    Real proxies run with what the page says in tests/e2e/proxies.
    """
    configurations = [
        p for p in (ROOT / "demo" / "logs").rglob("*") if p.suffix in {".conf", ".cfg", ".yaml", ".vcl", ".txt"}
    ]
    run = {re.sub(r"^\s*(- )?", "", line) for path in configurations for line in path.read_text().splitlines()}
    pasted = [
        re.sub(r"^\s*(- )?", "", line)
        for language, text in blocks(ROOT / "docs" / "formats.md")
        if language in PROXY_LANGUAGES
        for line in text.splitlines()
        if not line.startswith("varnishncsa ")  # run there with the capture's own folder
    ]
    assert len(pasted) > 15
    assert [line for line in pasted if line not in run | NOT_CAPTURED] == []


def accuracy(*arguments):
    return subprocess.run(
        [sys.executable, "-c", "import accuracy; " + "; ".join(arguments)],
        cwd=ROOT / "demo",
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()


@pytest.mark.parametrize("side", ["target", "client"])
def test_the_accuracy_tables_are_computed(side):
    text = (ROOT / "docs" / "accuracy.md").read_text()
    table = re.search(rf"<!-- accuracy: {side} -->\n(.*?)\n<!-- /accuracy -->", text, re.DOTALL)
    assert table
    assert table[1] == accuracy(f"print(accuracy.render({side!r}))")


@pytest.mark.parametrize(
    ("setup", "account", "logs"),
    [
        ("Squid 5, forward proxy", "acme", ["squid/access_meter.log"]),
        ("Traffic Server 9.2, forward proxy", "acme", ["trafficserver/access_meter.log"]),
        ("HAProxy 2.6 `mode http`, in front of a pool", "acme", ["haproxy/http_front_of_squid.log"]),
        ("HAProxy 2.6 `mode tcp`, by SNI", "gateway", ["haproxy/tcp_sni.log"]),
        ("nginx 1.22, edge with TLS", "edge", ["nginx/access_meter.log"]),
        ("Varnish 7.1, edge", "edge", ["varnish/client.log", "varnish/backend.log"]),
    ],
)
def test_bandmeter_counts_what_the_accuracy_tables_speak_of(setup, account, logs, demo_copy):
    """To the byte on the target's side; of the client's, the capture recorded percentages with two places."""
    fields = "*t.target_up, *t.target_down, *t.client_up, *t.client_down"
    numbers = accuracy(
        f"t = dict(accuracy.setups())[{setup!r}][-1]", "assert t.scenario == 'TOTAL'", f"print({fields})"
    )
    _, up, _, down, client_up, up_says, client_down, down_says = map(float, numbers.split())
    folder = demo_copy()
    outer = {k: v for k, v in os.environ.items() if not k.startswith("BANDMETER_")}
    environment = outer | {"BANDMETER_NOW": NOW, "BANDMETER_DATA": str(folder / "data")}

    def bandmeter(*arguments):
        command = [Path(sys.executable).with_name("bandmeter"), *arguments]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False).stdout

    def counted(side):
        shown = bandmeter("usage", account, "--side", side, "--resolution", "total", "--output", "csv")
        return [int(number) for number in shown.splitlines()[1].split(",")[-2:]]

    bandmeter("apply", "demo/catalog.json")
    bandmeter("ingest", "--format", logs[0].partition("/")[0], *(f"demo/logs/{log}" for log in logs))
    assert counted("target") == [up, down]
    if account == "edge":  # elsewhere the log has requests without a user, which belong to nobody
        found_up, found_down = counted("client")
        assert abs(found_up - up_says) <= 0.0001 * client_up
        assert abs(found_down - down_says) <= 0.0001 * client_down


def test_the_demo_has_the_proxies_that_the_readme_names():
    names = {
        "squid": "Squid",
        "nginx": "nginx",
        "haproxy": "HAProxy",
        "trafficserver": "Traffic Server",
        "varnish": "Varnish",
        "envoy": "Envoy",
    }
    assert {path.name for path in (ROOT / "demo" / "logs").iterdir()} == set(names)
    text = (ROOT / "README.md").read_text()
    assert [name for name in names.values() if name not in text] == []
