"""A proxy that runs: in a folder of its own, as a user without rights, on ports that nobody else uses."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from proxies.wire import DEADLINE_SECONDS

POLL_SECONDS = 0.02
STARTS = 3
USER = "nobody"


class FailedError(Exception):
    """A proxy that ended, with what it said."""


class Place:
    """A folder, new below `parent`, in which programs run as `USER`, and their ports."""

    def __init__(self, parent: Path) -> None:
        parent.mkdir(exist_ok=True)
        self.folder = Path(tempfile.mkdtemp(dir=parent))
        self.folder.chmod(0o755)
        self._ports: set[int] = set()
        self._programs: list[tuple[subprocess.Popen[bytes], Path]] = []
        self._daemons: list[tuple[int, int]] = []  # process ids, and what tells that the process is gone

    def free_port(self) -> int:
        """A port that nobody has now, and that this was not asked for before."""
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        if port in self._ports:
            return self.free_port()
        self._ports.add(port)
        return port

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def hand_over(self) -> None:
        """Give all that was written so far to the user as whom the programs run."""
        if os.geteuid() == 0:
            for path in (self.folder, *self.folder.rglob("*")):
                shutil.chown(path, USER)

    def _as_user(self) -> dict:
        return {"user": USER, "group": "nogroup", "extra_groups": []} if os.geteuid() == 0 else {}

    def start(self, *command: str, output: str = "", **environment: str) -> subprocess.Popen[bytes]:
        """Start a program that stays in the foreground; `output`: the file to which its output is appended."""
        errors = self.folder / f"{Path(command[0]).name}-{len(self._programs)}.err"
        errors.touch()
        into = self.folder / (output or errors.name)
        with errors.open("ab") as stderr, into.open("ab") as stdout:
            program = subprocess.Popen(
                command,
                cwd=self.folder,
                env=os.environ | environment,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
                **self._as_user(),
            )
        self._programs.append((program, errors))
        return program

    def start_daemon(self, script: str, pid_file: Path) -> int:
        """Run a shell script that leaves a program in the background, which writes its process id to a file."""
        command = ("sh", "-c", script)
        done = subprocess.run(command, cwd=self.folder, capture_output=True, check=False, **self._as_user())
        if done.returncode:
            raise FailedError(f"{command}: {done.stderr.decode()}{done.stdout.decode()}")
        self.wait_for(lambda: pid_file.exists() and pid_file.read_text().strip() != "", str(pid_file))
        pid = int(pid_file.read_text())
        self._daemons.append((pid, os.pidfd_open(pid)))
        return pid

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        """Wait, as long as all programs run."""
        for _ in range(int(DEADLINE_SECONDS / POLL_SECONDS)):
            if condition():
                return
            for program, errors in self._programs:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    program.wait(POLL_SECONDS / len(self._programs))
                    raise FailedError(f"{program.args} ended with {program.returncode}: {errors.read_text()}")
        raise FailedError(f"waited in vain for {what}")

    def wait_for_port(self, port: int, host: str = "127.0.0.1") -> None:
        def is_open() -> bool:
            with contextlib.suppress(OSError), socket.create_connection((host, port), DEADLINE_SECONDS):
                return True
            return False

        self.wait_for(is_open, f"port {port}")

    def stop(self) -> None:
        """End what was started, the last first."""
        while self._daemons:
            pid, watched = self._daemons.pop()
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
            ended, _, _ = select.select([watched], [], [], DEADLINE_SECONDS)
            os.close(watched)
            if not ended:
                os.kill(pid, signal.SIGKILL)
                raise FailedError(f"process {pid} does not end")
        while self._programs:
            program, errors = self._programs.pop()
            program.terminate()
            try:
                program.wait(DEADLINE_SECONDS)
            except subprocess.TimeoutExpired:
                program.kill()
                program.wait()
                raise FailedError(f"{program.args} does not end: {errors.read_text()}") from None

    def remove(self) -> None:
        shutil.rmtree(self.folder)


@contextlib.contextmanager
def running(parent: Path, start: Callable[[Place], None]) -> Iterator[Place]:
    """Start a proxy below `parent`; a port may be taken before the proxy has it, and then all is tried again."""
    for tries_left in reversed(range(STARTS)):
        place = Place(parent)
        try:
            start(place)
            break
        except FailedError:
            place.stop()
            if not tries_left:
                raise
            place.remove()
    try:
        yield place
        place.stop()
    finally:
        place.stop()
        place.remove()
