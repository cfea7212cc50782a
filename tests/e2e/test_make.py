"""`make` on a machine that is played by a script: what would be installed and run, in which order, and when again.

The script stands for Python and for all that an installation would bring, and writes down how it was called.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TARGETS = {"help", "install", "demo", "test", "lint", "bench", "soak", "lock", "clean"}
PLAYED = """#!/bin/sh
echo "$(basename "$0") $*" >> "$CALLS"
case "$*" in
  "-c import sys; "*) exit ${TOO_OLD:-0} ;;
  "-m venv .venv") mkdir -p .venv/bin; for n in python ruff mypy lint-imports; do cp "$0" .venv/bin/$n; done ;;
  "-m venv .venv/clients") mkdir -p .venv/clients/bin; cp "$0" .venv/clients/bin/python ;;
  "-m pip "*) exit ${NO_NETWORK:-0} ;;
  *" update") exit ${NO_DEBIAN:-0} ;;
  *" install --yes "*) test -x "$POLICY_RC_D" ;;  # no service may start now
  "-u") echo ${USER_ID:-0} ;;
  "--version") echo "Python 3.12.0" ;;
esac
"""

# A Debian on which `curl` is installed, and nothing else of the list.
PLAYED_DPKG = """#!/bin/sh
for name; do :; done
test "${INSTALLED:-curl}" = all -o "$name" = curl && printf installed
"""


class Machine:
    """A copy of what `make` reads, and the played Python."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls_file = folder / "calls.txt"
        for name in ("Makefile", "pyproject.toml"):
            shutil.copy(ROOT / name, folder)
        shutil.copytree(ROOT / "requirements", folder / "requirements")
        shutil.copytree(ROOT / "tests" / "clients", folder / "tests" / "clients")
        shutil.copytree(ROOT / "tests" / "debian", folder / "tests" / "debian")
        programs = [folder / "programs" / name for name in ("npm", "apt-get", "debootstrap", "id")]
        for program in (folder / "played-python", *programs):
            program.parent.mkdir(exist_ok=True)
            program.write_text(PLAYED)
            program.chmod(0o755)
        dpkg = folder / "programs" / "dpkg-query"
        dpkg.write_text(PLAYED_DPKG)
        dpkg.chmod(0o755)
        self.policy = folder / "policy-rc.d"

    def make(self, *arguments, **environment):
        """Run make; the finished process. GNU make of an outer run must not be felt."""
        outer = {k: v for k, v in os.environ.items() if k not in {"MAKEFLAGS", "MAKELEVEL", "MFLAGS", "PYTHON"}}
        return subprocess.run(
            ["make", *arguments, f"PYTHON={self.folder}/played-python"],
            cwd=self.folder,
            env=outer
            | {
                "CALLS": str(self.calls_file),
                "POLICY_RC_D": str(self.policy),
                "PATH": f"{self.folder}/programs:{outer['PATH']}",
            }
            | environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def calls(self):
        """How the played programs were called since the last time, without the looks at Python's version."""
        lines = self.calls_file.read_text().splitlines() if self.calls_file.exists() else []
        self.calls_file.unlink(missing_ok=True)
        return [line for line in lines if not re.search(r" -c |--version|^id ", line)]


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def test_help_lists_every_target(machine):
    shown = machine.make("help").stdout
    assert set(re.findall(r"^make (\w+)", shown, re.MULTILINE)) == TARGETS
    assert machine.make().stdout == shown  # and it is what a bare `make` does


def test_install_takes_only_what_is_pinned_with_hashes(machine):
    assert machine.make("install").returncode == 0
    pip = "python -m pip --disable-pip-version-check --quiet install"
    assert machine.calls() == [
        "played-python -m venv .venv",
        f"{pip} --require-hashes --requirement requirements/build.txt --requirement requirements/run.txt",
        f"{pip} --no-index --no-deps --no-build-isolation --editable .",
    ]


def test_what_is_installed_is_not_installed_again(machine):
    machine.make("install")
    machine.calls()
    assert machine.make("install").returncode == 0
    assert machine.calls() == []
    machine.make("demo")
    assert machine.calls() == ["python demo/run.py"]


def test_changed_requirements_are_installed(machine):
    machine.make("install")
    machine.calls()
    (machine.folder / "requirements" / "run.txt").touch()
    machine.make("install")
    assert [" --require-hashes " in call for call in machine.calls()] == [True, False]


def test_an_installation_that_broke_off_is_done_again(machine):
    assert machine.make("install", NO_NETWORK="1").returncode != 0
    machine.calls()
    assert machine.make("install").returncode == 0
    assert len([call for call in machine.calls() if " -m pip " in call]) == 2


def test_an_old_python_is_refused_in_a_sentence(machine):
    done = machine.make("install", TOO_OLD="1")
    assert done.returncode != 0
    assert "Bandmeter needs Python 3.11 or later" in done.stdout
    assert machine.calls() == []
    assert not (machine.folder / ".venv").exists()


def test_a_python_is_found_without_being_named():
    outer = {k: v for k, v in os.environ.items() if k not in {"MAKEFLAGS", "MAKELEVEL", "MFLAGS", "PYTHON"}}
    probe = "probe: ; @$(PYTHON) -c 'import sys; print(sys.version_info >= (3, 11))'"
    done = subprocess.run(
        ["make", "-f", "Makefile", "--eval", probe, "probe"],
        cwd=ROOT,
        env=outer,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "True\n"


def test_test_brings_what_the_tests_need_and_passes_arguments_on(machine):
    machine.make("test", "ARGS=-k catalog")
    *_, development, _, clients, npm, update, install, prepare, tests = machine.calls()
    assert development.endswith("--require-hashes --requirement requirements/dev.txt")
    assert clients.endswith("--require-hashes --requirement requirements/clients.txt")
    assert npm.startswith("npm ci --prefix .venv/clients --ignore-scripts")
    names = (ROOT / "requirements" / "debian.txt").read_text().split()
    assert names == sorted(names)
    assert update.startswith("apt-get -qq ")
    assert update.endswith(" update")
    assert install.endswith(" ".join(["install --yes --no-install-recommends", *(n for n in names if n != "curl")]))
    assert not machine.policy.exists()  # it was there while they were installed
    assert prepare == "python tests/debian/prepare.py .venv/debian"
    assert tests.startswith("python -m pytest -n 2 --dist loadfile")
    assert tests.endswith("-k catalog")
    machine.make("test")
    assert [call.split()[:3] for call in machine.calls()] == [["python", "-m", "pytest"]]


def test_who_is_not_root_installs_no_programs_and_still_tests(machine):
    done = machine.make("test", USER_ID="1000")
    assert done.returncode == 0
    assert "Only root may install buildah" in done.stdout
    assert not re.search("apt-get|debian", " ".join(machine.calls()))


def test_programs_that_cannot_be_installed_are_tried_again_next_time(machine):
    for _ in range(2):
        done = machine.make("test", NO_DEBIAN="1")
        assert done.returncode == 0
        assert "will be skipped" in done.stdout
        assert [call for call in machine.calls() if call.startswith("apt-get") and call.endswith(" update")]


def test_a_machine_with_all_of_debians_programs_asks_for_none(machine):
    assert machine.make("test", INSTALLED="all").returncode == 0
    assert [call for call in machine.calls() if call.startswith("apt-get")] == []
    assert (machine.folder / ".venv" / ".debian").exists()


def test_what_says_whether_services_may_start_is_left_as_it_is(machine):
    machine.policy.write_text("#!/bin/sh\nexit 101\n")
    machine.policy.chmod(0o755)
    machine.make("test")
    assert machine.policy.exists()


def test_lint_checks_style_types_and_layers(machine):
    machine.make("lint")
    assert machine.calls()[-4:] == ["ruff check", "ruff format --check", "mypy ", "lint-imports "]


def test_clean_removes_what_was_made_and_nothing_else(machine):
    machine.make("install")
    assert machine.make("clean").returncode == 0
    left = {path.name for path in machine.folder.iterdir()}
    assert left == {"Makefile", "pyproject.toml", "requirements", "tests", "played-python", "programs", "calls.txt"}


# ---------------------------------------------------------------- .ci/run

PASSED = "=========== 7 passed in 1.25s ==========="


@pytest.mark.parametrize(
    ("closing", "tests_fail", "lint_fails", "is_good"),
    [
        (PASSED, 0, 0, True),
        ("===== 7 passed, 2 warnings in 61.25s (0:01:01) =====", 0, 0, True),
        ("===== 6 passed, 1 skipped in 1.25s =====", 0, 0, False),
        ("===== 1 failed, 6 passed in 1.25s =====", 1, 0, False),
        (PASSED, 0, 1, False),
        ("Killed", 1, 0, False),
        ("", 0, 0, False),
    ],
)
def test_the_build_fails_when_a_test_fails_or_is_skipped(tmp_path, closing, tests_fail, lint_fails, is_good):
    """And pytest's closing line is the last that it prints."""
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci")
    (tmp_path / "Makefile").write_text(
        f"test:\n\t@echo dots\n\t@echo '{closing}'\n\t@exit {tests_fail}\nlint:\n\t@echo linted\n\t@exit {lint_fails}\n"
    )
    outer = {k: v for k, v in os.environ.items() if k not in {"MAKEFLAGS", "MAKELEVEL", "MFLAGS"}}
    done = subprocess.run([tmp_path / ".ci" / "run"], env=outer, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) is is_good
    assert "linted" in done.stdout
    if closing.startswith("="):
        assert done.stdout.splitlines()[-1] == closing
