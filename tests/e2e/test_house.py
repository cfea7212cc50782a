"""The rules of the house, so that nobody has to remember them."""

from __future__ import annotations

import ast
import contextlib
import re
import stat
from pathlib import Path

import pytest

from bandmeter.dialects import DIALECTS
from bandmeter.formats import FORMATS, check
from bandmeter.formats.tsv import with_columns
from bandmeter.ingest import Job, Pipeline, Tools
from bandmeter.pricing import PRICES
from bandmeter.store import STORES
from bandmeter.store.memory import MemoryStore

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "bandmeter"
MADE = {"__pycache__", "node_modules", "bandmeter-data", "demo-data", "dist", "results"}  # folders that nobody wrote
KEPT = {".ci", ".github", ".gitignore"}
CODE = sorted(SOURCE.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("test_*.py"))
FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 60
LONG_FUNCTIONS_SHARE_MAX = 0.02
BANNED = {"util", "utils", "helper", "helpers", "common", "misc", "base", "manager", "handler", "process"}
BYTES_OF_TEXT_MAX = 2**20
NOW_MS = 1_800_000_000_000  # later than every example line


def written_files():
    """Every file that somebody wrote: not what tools make, and not git's own."""
    for path in sorted(ROOT.rglob("*")):
        parts = path.relative_to(ROOT).parts
        is_made = any(part in MADE or part.endswith(".egg-info") or part.startswith(".") for part in set(parts) - KEPT)
        if path.is_file() and not is_made and path.stat().st_size <= BYTES_OF_TEXT_MAX:
            yield path


def short(path):
    return str(path.relative_to(ROOT))


def functions(path):
    tree = ast.parse(path.read_text())
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


# ---------------------------------------------------------------- size and names


def test_no_file_is_longer_than_can_be_read_at_once():
    counts = {short(path): len(path.read_text().splitlines()) for path in CODE}
    assert {name: lines for name, lines in counts.items() if lines > FILE_LINES_MAX} == {}


def test_functions_are_small():
    lengths = [(node.end_lineno - node.lineno + 1, node.name) for path in CODE for node in functions(path)]
    too_long = [function for function in lengths if function[0] > FUNCTION_LINES_MAX]
    assert len(too_long) <= LONG_FUNCTIONS_SHARE_MAX * len(lengths), too_long


def test_no_name_says_nothing():
    """Files, classes and functions are named for what they do, in the words of the field."""
    found = []
    for path in CODE:
        tree = ast.parse(path.read_text())
        kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
        names = [path.stem, *(node.name for node in ast.walk(tree) if isinstance(node, kinds))]
        for name in names:
            words = {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)}
            found += [f"{short(path)}: {name}" for _ in words & BANNED]
    assert found == []


def test_every_module_says_what_it_is_for():
    assert [short(path) for path in CODE if not ast.get_docstring(ast.parse(path.read_text()))] == []


# ---------------------------------------------------------------- what no file may hold


@pytest.mark.parametrize(
    "words",
    [
        ("/wo" + "rk", r"(?![a-z])"),
        ("pypi" + ".org", ""),
        ("python" + "hosted", ""),
        ("registry." + "npmjs", ""),
        ("crates" + ".io", ""),
        ("proxy.golang" + ".org", ""),
    ],
    ids=lambda words: words[0],
)
def test_no_file_names_a_workplace_or_a_registry(words):
    """Where it was written, and where packages come from, are settings of a machine."""
    pattern = re.compile(re.escape(words[0]).encode() + words[1].encode())
    assert [short(path) for path in written_files() if pattern.search(path.read_bytes())] == []


PINNED = sorted(path for path in (ROOT / "requirements").glob("*.txt") if path.name != "debian.txt")


@pytest.mark.parametrize("path", PINNED, ids=lambda path: path.name)
def test_requirements_are_pinned_with_hashes_and_without_addresses(path):
    text = path.read_text()
    assert "://" not in text
    assert not re.search(
        r"^\s*-", re.sub(r"^ +--hash=sha256:[0-9a-f]{64}( \\)?$", "", text, flags=re.MULTILINE), re.MULTILINE
    )
    pinned = re.findall(r"^[a-z0-9]\S*.*(?:\n    --hash=.*)*", text, re.MULTILINE)
    assert pinned
    for requirement in pinned:
        assert re.match(r"[a-z0-9._-]+==[0-9][^ ]*( ; .+)? \\\n    --hash=sha256:[0-9a-f]{64}", requirement), (
            requirement
        )


def test_every_dependency_is_pinned():
    text = (ROOT / "pyproject.toml").read_text()
    declared = re.search(r"^dependencies = \[(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    assert declared
    names = re.findall(r'^ +"([a-z0-9-]+)', declared[1], re.MULTILINE)
    pinned = set(re.findall(r"^([a-z0-9._-]+)==", (ROOT / "requirements" / "run.txt").read_text(), re.MULTILINE))
    assert names
    assert set(names) <= pinned


def test_what_is_run_can_be_run():
    assert (ROOT / ".ci" / "run").stat().st_mode & stat.S_IXUSR


# ---------------------------------------------------------------- plug folders


def implementations(folder):
    """The files of a plug folder, and sub-folders, without the table itself."""
    return sorted(p.stem for p in (SOURCE / folder).iterdir() if p.name not in {"__init__.py", "__pycache__"})


@pytest.mark.parametrize(
    ("folder", "table"),
    [("formats", FORMATS), ("dialects", DIALECTS), ("pricing", PRICES), ("store", STORES)],
    ids=["formats", "dialects", "pricing", "store"],
)
def test_a_plug_folder_has_one_line_for_each_of_its_files(folder, table):
    lines = (SOURCE / folder / "__init__.py").read_text().splitlines()
    imported = [m[1] for line in lines if (m := re.match(rf"from bandmeter\.{folder}\.(\w+) import ", line))]
    assert imported == implementations(folder)
    assert len(table) == len(imported)


@pytest.mark.parametrize("folder", ["formats", "dialects", "pricing", "store"])
def test_plugs_import_no_sibling(folder):
    """But for the table of columns that the forms of the record share."""
    shared = {("tsv", "jsonl"), ("cloudevents", "jsonl")}
    for name in implementations(folder):
        own = SOURCE / folder / name
        for path in own.rglob("*.py") if own.is_dir() else [own.with_suffix(".py")]:
            used = set(re.findall(rf"from bandmeter\.{folder}\.(\w+)", path.read_text()))
            assert {(name, other) for other in used - {name}} <= shared, short(path)


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_has_an_example_that_decodes(name, tmp_path):
    log_format = FORMATS[name]
    if log_format.has_header:  # its example is a header: the columns must be ones that it knows
        check(with_columns(log_format.example.split("\t")))
        assert "ignored_0" not in with_columns(log_format.example.split("\t")).layouts[0].columns
        return
    path = tmp_path / "example.log"
    path.write_text(log_format.example + "\n")
    with contextlib.closing(Tools(MemoryStore(), list, lambda: NOW_MS, tmp_path, 1 << 20)) as tools:
        outcomes = Pipeline(tools).ingest(str(path), Job(log_format)).outcomes
    # An example names its account and zone, which this catalog does not have, or waits for a zone to claim it.
    assert outcomes.received == 1
    assert outcomes.unattributed + outcomes.rejected == 1
    if '"account"' not in log_format.example:
        assert outcomes.rejected == 0


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_has_a_section_in_the_docs(name):
    headings = re.findall(r"^#+ (.*)$", (ROOT / "docs" / "formats.md").read_text(), re.MULTILINE)
    assert [heading for heading in headings if f"`{name}`" in heading]


@pytest.mark.parametrize("name", [dialect.name for dialect in DIALECTS])
def test_a_dialect_has_a_page_in_the_docs_and_vectors(name):
    assert (ROOT / "docs" / "dialects" / f"{name}.md").exists()
    assert list((ROOT / "tests" / "conformance" / name).glob("*.json"))


@pytest.mark.parametrize("name", PRICES)
def test_a_price_names_its_fields(name):
    assert PRICES[name].name == name
    assert all(PRICES[name].fields.values())


# ---------------------------------------------------------------- tests


def asserting_names(path):
    """The functions of a test file that assert something themselves, or call one that does."""
    nodes = {node.name: node for node in functions(path)}
    found = {name for name, node in nodes.items() if any(is_assertion(part) for part in ast.walk(node))}
    while True:
        more = {name for name, node in nodes.items() if name not in found and calls(node) & found}
        if not more:
            return found
        found |= more


def is_assertion(node):
    """`assert`, pytest's `raises`, `warns` and `fail`, and what a library calls its assertions."""
    if isinstance(node, ast.Assert):
        return True
    if not isinstance(node, ast.Call):
        return False
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    return name in {"raises", "warns", "fail", "call_and_validate", "validate_response"} or name.startswith("assert_")


def calls(node):
    called = [part.func for part in ast.walk(node) if isinstance(part, ast.Call)]
    return {f.attr if isinstance(f, ast.Attribute) else getattr(f, "id", "") for f in called}


@pytest.mark.parametrize("path", TESTS, ids=short)
def test_every_test_asserts_something(path):
    tests = {node.name for node in functions(path) if node.name.startswith("test")}
    assert tests - asserting_names(path) == set()


@pytest.mark.parametrize("path", TESTS, ids=short)
def test_no_test_sleeps(path):
    """A test waits for what it waits for; `asyncio.sleep(0)` only lets others run."""
    slept = [part for node in functions(path) for part in ast.walk(node) if is_sleep(part)]
    assert [short(path) for part in slept if ast.unparse(part.args[0]) != "0"] == []


def is_sleep(node):
    return isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == "sleep"
