"""Makes what the tests of `packaging/` need, in a folder: `python tests/debian/prepare.py FOLDER`, as root on Debian.

root    a small Debian of this machine's release, with Python and systemd, by debootstrap
wheels  what Bandmeter's pinned requirements are on that Debian's Python
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

from packaging.markers import Marker, default_environment

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = "python3,python3-venv,systemd"
REQUIREMENT = re.compile(r"^([a-z0-9][^ ;\n]*) ?(?:; (.*?))? \\\n((?:    --hash=.*\n)+)", re.MULTILINE)
TAGS = ("manylinux2014", "manylinux_2_17", "manylinux_2_24", "manylinux_2_27", "manylinux_2_28", "manylinux_2_34")


def make_root(folder: Path) -> None:
    """By debootstrap; whole, or not there."""
    release = platform.freedesktop_os_release()["VERSION_CODENAME"]
    growing = folder.with_name("root.partial")
    shutil.rmtree(growing, ignore_errors=True)
    subprocess.run(
        ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", release, growing],
        stdout=subprocess.DEVNULL,
        check=True,
    )
    growing.rename(folder)


def python_version(root: Path) -> str:
    program = "import platform; print(platform.python_version())"
    return subprocess.run(
        ["chroot", root, "python3", "-c", program], capture_output=True, text=True, check=True
    ).stdout.strip()


def pinned(version: str) -> str:
    """The requirements as that Python would choose them, without markers: pip's own choice is for the Python it runs on."""
    environment = default_environment() | {
        "python_full_version": version,
        "python_version": version.rpartition(".")[0],
    }
    chosen = {}
    for name in ("run", "build"):
        for requirement, marker, hashes in REQUIREMENT.findall((ROOT / "requirements" / f"{name}.txt").read_text()):
            if not marker or Marker(marker).evaluate(environment):
                chosen[requirement] = hashes
    return "".join(f"{requirement} \\\n{hashes}" for requirement, hashes in chosen.items())


def fetch_wheels(folder: Path, version: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "requirements.txt").write_text(pinned(version))
    short = version.rpartition(".")[0]
    abi = f"cp{short.replace('.', '')}"
    wanted = [f"--platform={tag}_{platform.machine()}" for tag in TAGS]
    wanted += [f"--python-version={short}", "--implementation=cp", *(f"--abi={name}" for name in (abi, "abi3", "none"))]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "download", "--no-deps"]
    subprocess.run(
        [*pip, "--require-hashes", "--only-binary=:all:", *wanted, "--dest", folder, "-r", folder / "requirements.txt"],
        check=True,
    )


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(exist_ok=True)
    if not (folder / "root").exists():
        make_root(folder / "root")
    fetch_wheels(folder / "wheels", python_version(folder / "root"))


if __name__ == "__main__":
    main()
