"""What is in `packaging/` is tried: systemd runs the unit, and the container file is built and its image run.

`make test` makes a small Debian for that in .venv/debian, when it is root on Debian. The image is built on it instead
of the Python image that the container file names, and systemd is started in it by systemd-nspawn, on a network of its
own.
"""

from __future__ import annotations

import configparser
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from bandmeter import service
from bandmeter.service import feeding

ROOT = Path(__file__).resolve().parents[2]
PACKAGING = ROOT / "packaging"
DEBIAN = Path(sys.prefix) / "debian"
EXPOSURE_MAX = 15  # tenths, as systemd-analyze counts; a service without any hardening has 96
USER = 10_001
BOOT_SECONDS_MAX = 180
PIP_SETTINGS = "[global]\nno-index = true\nfind-links = /wheels\n"
# What is tried on the machine that systemd runs; each step writes a line `# NAME`, then what the command says.
TRIED_UNIT = """[Unit]
Description=Tries the other unit
[Service]
Type=oneshot
ExecStart=/bin/bash /tried.sh
StandardOutput=append:/tried.log
StandardError=append:/tried.log
ExecStopPost=/bin/systemctl --no-block poweroff
"""
TRIED = """
ready() { /opt/bandmeter/bin/python -c "
import urllib.request as u
print(u.urlopen('http://127.0.0.1:8080/readyz').read().decode())"; }
show() { systemctl show -p "$1" --value bandmeter; }
until_is() { for _ in $(seq 300); do [ "$(show $1)" = $2 ] && return; sleep 0.1; done; echo "never $1 $2"; }

echo "# a wrong setting"
install -d -o bandmeter -g bandmeter -m 0700 /var/lib/bandmeter
echo "nonsense = 1" > /var/lib/bandmeter/bandmeter.toml
systemctl start bandmeter 2>/dev/null
show ExecMainStatus; show Result; show NRestarts
rm /var/lib/bandmeter/bandmeter.toml

echo "# started"
systemctl start bandmeter && ready
pid=$(show MainPID)
echo "# user"
ps -o user= -p $pid 2>/dev/null || stat -c %U /proc/$pid
echo "# folder"
find /var/lib/bandmeter -printf '%u %m %f\\n' | sort
echo "# killed"
[ $pid -gt 1 ] && kill -9 $pid
until_is NRestarts 1; until_is ActiveState active
ready
echo "# stopped"
systemctl stop bandmeter
show Result; show ExecMainStatus; pgrep -c -u bandmeter 2>/dev/null || true
echo "# logged"
journalctl --no-pager --output cat -u bandmeter
"""


def needs(*programs):
    """Skip, with the reason, where a program or the small Debian is missing."""
    missing = [program for program in programs if not shutil.which(program)]
    reason = f"needs {', '.join(missing)} and root on Debian: `make test` installs them there"
    return pytest.mark.skipif(bool(missing) or os.geteuid() != 0 or not (DEBIAN / "root").exists(), reason=reason)


# ---------------------------------------------------------------- the container


class Image:
    """The built image, and a container of it."""

    def __init__(self, folder):
        self.folder = folder
        self._storage = ["--root", folder / "storage", "--runroot", folder / "run"]
        (folder / "pip.conf").write_text(PIP_SETTINGS)
        base = self.buildah("from", "scratch")
        self.buildah("add", base, DEBIAN / "root", "/")
        self.buildah("commit", "--quiet", base, "localhost/base")
        self.buildah("rm", base)
        self.built = self.buildah(
            *("build", "--isolation", "chroot", "--network", "host", "--format", "docker"),
            *("--volume", f"{DEBIAN / 'wheels'}:/wheels:ro", "--volume", f"{folder / 'pip.conf'}:/etc/pip.conf:ro"),
            *(
                "--build-arg",
                "BASE=localhost/base",
                "--file",
                PACKAGING / "Containerfile",
                "--tag",
                "localhost/bandmeter",
            ),
            ROOT,
        )
        self.container = self.buildah("from", "localhost/bandmeter")

    def buildah(self, *arguments):
        command = ["buildah", *self._storage, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{done.stdout[-2_000:]}\n{done.stderr[-2_000:]}"
        return done.stdout.strip()

    @property
    def settings(self):
        return json.loads(self.buildah("inspect", "--type", "image", "localhost/bandmeter"))["Docker"]["config"]

    def command(self, *arguments, **environment):
        """How the image's command is run, by what it says itself of user, entrypoint, variables and volume."""
        settings = [f"--env={name}={value}" for name, value in environment.items()]
        started = ["run", "--isolation=chroot", "--network=host", *settings, self.container, "--"]
        return ["buildah", *self._storage, *started, *self.settings["Entrypoint"], *arguments]

    def __call__(self, *arguments):
        return subprocess.run(self.command(*arguments), capture_output=True, text=True, check=False)

    def volume(self):
        """What is in the volume that the image asks for, which buildah keeps beside the container."""
        return list((self.folder / "storage").glob("*-containers/*/userdata/buildah-volumes/*/*"))


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    folder = tmp_path_factory.mktemp("image")
    yield Image(folder)
    subprocess.run(["rm", "-rf", folder], check=True)  # a gigabyte


@needs("buildah", "debootstrap")
def test_the_image_holds_what_the_container_file_says(image):
    settings = image.settings
    assert settings["User"] == f"{USER}:{USER}"
    assert settings["Entrypoint"] == ["bandmeter"]
    assert settings["Cmd"] == ["serve"]
    assert list(settings["Volumes"]) == ["/data"]
    assert list(settings["ExposedPorts"]) == ["8080/tcp"]
    root = Path(image.buildah("mount", image.container))
    own = [path for path in (root / "opt" / "bandmeter").rglob("*") if not path.is_symlink()]
    assert len(own) > 1_000
    assert [
        path for path in own if path.stat().st_uid != 0 or path.stat().st_mode & 0o022
    ] == []  # not its user's to change
    assert (root / "data").stat().st_uid == USER
    assert stat.S_IMODE((root / "data").stat().st_mode) == 0o700
    assert not (root / "src").exists()  # what it was built from stays in the first stage
    image.buildah("umount", image.container)


@needs("buildah", "debootstrap")
def test_the_image_runs_as_its_own_user_and_keeps_its_data(image):
    done = image("account", "add", "--id", "acme")
    assert (done.returncode, done.stdout) == (0, "Account acme added.\n"), done.stderr
    assert "acme" in image("account", "list").stdout
    assert {
        (path.stat().st_uid, stat.S_IMODE(path.stat().st_mode)) for path in image.volume() if path.suffix == ".db"
    } == {(USER, 0o600)}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def descendants(pid):
    """The processes below one, the nearest first."""
    found = [pid]
    for parent in found:
        for tasks in Path(f"/proc/{parent}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += [int(child) for child in tasks.read_text().split()]
    return found[1:]


def arguments_of(pid):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return []


@needs("buildah", "debootstrap")
def test_the_image_serves_is_healthy_and_stops_when_asked(image):
    """Its health check is what the image says, and its first process gets the signal that the image names."""
    port = str(free_port())
    command = image.command(*image.settings["Cmd"], BANDMETER_SERVER_PORT=port)
    check = image.settings["Healthcheck"]["Test"]
    assert check[0] == "CMD"
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        guard = threading.Timer(BOOT_SECONDS_MAX, process.kill)
        guard.start()
        assert process.stdout.readline() == f"Listening on http://0.0.0.0:{port}\n"
        entry = image.settings["Entrypoint"]
        healthy = [*command[: command.index("--") + 1], *check[1:]]
        done = subprocess.run(healthy, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        served = [
            pid
            for pid in descendants(process.pid)
            if len(words := arguments_of(pid)) > 2
            and words[1].endswith(entry[0].encode())
            and words[0].endswith(b"python")
        ]
        os.kill(served[0], getattr(signal, image.settings["StopSignal"]))
        process.communicate()
        guard.cancel()
        assert process.returncode == 0
        assert [pid for pid in served if arguments_of(pid)] == []
    done = subprocess.run(healthy, capture_output=True, check=False)
    assert done.returncode != 0  # nothing answers any more


def test_the_container_file_installs_only_what_is_pinned():
    text = (PACKAGING / "Containerfile").read_text()
    installs = re.findall(r"pip install ((?:.*\\\n)*.*)", text)
    assert len(installs) == 2
    assert all("--require-hashes" in line or ("--no-index" in line and "--no-deps" in line) for line in installs)


# ---------------------------------------------------------------- systemd


def unit():
    """The unit's settings, the last of each name."""
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str
    parser.read(PACKAGING / "bandmeter.service")
    return parser


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze, of Debian's systemd")
def test_systemd_understands_the_unit(tmp_path):
    """Without a warning; the program is the one of this environment, which is there."""
    text = (PACKAGING / "bandmeter.service").read_text().replace("/opt/bandmeter/bin", str(Path(sys.executable).parent))
    (tmp_path / "bandmeter.service").write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", tmp_path / "bandmeter.service"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze, of Debian's systemd")
def test_the_unit_is_hardened():
    command = ["systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE_MAX}"]
    done = subprocess.run([*command, PACKAGING / "bandmeter.service"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-300:]


def test_the_unit_fits_the_program():
    settings = unit()["Service"]
    assert settings["Environment"] == f"BANDMETER_DATA=/var/lib/{settings['StateDirectory']}"
    assert int(settings["TimeoutStopSec"]) > service.STOP_SECONDS + feeding.STOP_SECONDS
    assert settings["RestartPreventExitStatus"] == "2"
    user = (PACKAGING / "bandmeter.sysusers").read_text().splitlines()[-1].split()
    assert user[:2] == ["u", settings["User"]]
    assert user[-1] == f"/var/lib/{settings['StateDirectory']}"


def test_serve_tells_systemd_when_it_answers(command, tmp_path):
    """Not before: what is started after it can ask at once."""
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(address)
        supervisor.settimeout(BOOT_SECONDS_MAX)
        port = free_port()
        process = command.start("serve", "--port", str(port), NOTIFY_SOCKET=address)
        try:
            assert supervisor.recv(100) == b"READY=1"
            socket.create_connection(("127.0.0.1", port)).close()
        finally:
            process.terminate()
            process.communicate()
    assert process.returncode == 0


@pytest.fixture(scope="module")
def tried(image, tmp_path_factory):
    """What the commands of TRIED said, by step, on a machine that systemd runs, with what the image has in /opt."""
    folder = tmp_path_factory.mktemp("machine")
    root = folder / "root"
    subprocess.run(["cp", "-a", DEBIAN / "root", root], check=True)
    mounted = Path(image.buildah("mount", image.container))
    subprocess.run(["cp", "-a", mounted / "opt" / "bandmeter", root / "opt"], check=True)
    image.buildah("umount", image.container)
    for source, target in (("bandmeter.service", "systemd/system"), ("bandmeter.sysusers", "sysusers.d")):
        (root / "etc" / target).mkdir(exist_ok=True)
        name = source if target == "systemd/system" else "bandmeter.conf"
        shutil.copy(PACKAGING / source, root / "etc" / target / name)
    (root / "etc" / "systemd" / "system" / "tried.service").write_text(TRIED_UNIT)
    (root / "tried.sh").write_text(TRIED)
    command = ["systemd-nspawn", "--register=no", "--keep-unit", "--private-network", "--quiet", f"--directory={root}"]
    started = subprocess.run(
        [*command, "--boot", "systemd.unit=tried.service"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=BOOT_SECONDS_MAX,
        check=False,
    )
    log = root / "tried.log"
    assert log.exists(), started.stdout[-2_000:] + started.stderr[-2_000:]
    steps = re.split(r"^# (.*)\n", log.read_text(), flags=re.MULTILINE)
    yield dict(zip(steps[1::2], steps[2::2], strict=True))
    subprocess.run(["rm", "-rf", folder], check=True)


READY = '{"ready":true,"faults":[]}'


@needs("buildah", "debootstrap", "systemd-nspawn")
def test_systemd_starts_the_service_and_it_answers(tried):
    """`systemctl start` returns when it is ready, with all of the unit's restrictions in force."""
    assert tried["started"].strip() == READY, tried


@needs("buildah", "debootstrap", "systemd-nspawn")
def test_the_service_owns_its_folder_and_nobody_else_reads_it(tried):
    assert tried["user"].strip() == "bandmeter"
    lines = [line.split() for line in tried["folder"].splitlines()]
    assert {owner for owner, _, _ in lines} == {"bandmeter"}
    assert {name: mode for _, mode, name in lines if name in {"bandmeter", "usage.db", "catalog.db"}} == {
        "bandmeter": "700",
        "usage.db": "600",
        "catalog.db": "600",
    }


@needs("buildah", "debootstrap", "systemd-nspawn")
def test_systemd_starts_it_again_after_a_crash_and_stops_it_cleanly(tried):
    assert tried["killed"].strip() == READY
    result, status, *running = tried["stopped"].split()
    assert (result, status) == ("success", "0")
    assert running in ([], ["0"])


@needs("buildah", "debootstrap", "systemd-nspawn")
def test_a_mistake_in_a_setting_is_told_and_not_tried_again(tried):
    assert tried["a wrong setting"].split() == ["2", "exit-code", "0"]
    assert "nonsense: there is no such section" in tried["logged"]
