"""A disk that is full: nothing is acknowledged that is not counted, it is told, and all goes on when there is space."""

from __future__ import annotations

import contextlib
import errno
import json
import random
import shutil
import subprocess
import sys

import pytest

from crash import truth
from crash.service import until
from crash.world import KINDS, world_of

DISK = "16m"
LEFT_BYTES = 300_000  # for a while longer
BLOCK_BYTES = 4_096
ASKED_TIMES = 5


@pytest.fixture
def disk(tmp_path):
    """A small disk of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a small disk takes the rights of root: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(disk) -> None:
    """Leave no byte."""
    with (disk / "filler").open("ab", buffering=0) as file:
        for size in (1 << 20, BLOCK_BYTES, 1):
            with contextlib.suppress(OSError):
                while file.write(b"x" * size):
                    pass
        with pytest.raises(OSError) as raised:
            file.write(b"x" * BLOCK_BYTES)
        assert raised.value.errno == errno.ENOSPC


@pytest.fixture(params=["all of it", "the usage alone"])
def world(request, tmp_path, disk):
    """A world whose data folder, log and temporary files are on the small disk, or only its usage."""
    seed = str(random.SystemRandom().randrange(10**6))
    sys.stdout.write(f"seed {seed}\n")
    is_whole = request.param == "all of it"
    data = disk / "data" if is_whole else tmp_path / "data"
    with world_of(tmp_path, seed, {name: KINDS[name] for name in ("small", "keyed", "packed")}, data) as made:
        if is_whole:
            (disk / "tmp").mkdir()
            made.service.environment |= {"TMPDIR": str(disk / "tmp")}
            made.service.log = disk / "log"
        else:
            shutil.move(data / "usage.db", disk)
            (data / "usage.db").symlink_to(disk / "usage.db")
        yield made


def refuse(world, disk, begun=None):
    """Fill the disk and send until a body of each sender is refused, those that were begun first; those bodies."""
    fill(disk)
    begun, refused = dict(begun or {}), {}
    while len(refused) < len(world.senders):
        for sender in world.senders:
            body = begun.pop(sender, None) or refused.pop(sender, None) or sender.make()
            answer = sender.post(body)
            if answer.status == 503:
                assert answer.retry_after, answer
                refused[sender] = body
            elif answer.status == 200:  # the journal still had room
                continue
            else:  # a connection to a service that is no more
                assert answer.status == 0, answer
                begun[sender] = body
    return refused


def requests_told(world) -> int:
    status, body = world.service.get("/v1/usage?resolution=total", world.keys["read"])
    assert status == 200, body
    return sum(row["requests"] for row in json.loads(body)["rows"])


def test_full_and_free_again(world, disk):
    """Bodies are refused and not counted, logs wait, questions are answered; and then it goes on by itself."""
    world.service.start()
    world.resume()
    until(lambda: all(sender.acknowledged for sender in world.senders), "a body of each sender")
    world.pause()
    world.settle()
    for _ in range(2):
        refused = refuse(world, disk)
        for log in world.writers.logs:
            log.write()
            log.finish()
        assert "full" in until(world.service.faults, "it to be told")[0]
        before = requests_told(world)
        for _ in range(ASKED_TIMES):
            assert {sender.post(body).status for sender, body in refused.items()} == {503}
        assert requests_told(world) == before
        (disk / "filler").unlink()
        until(world.service.is_ready, "it to go on, though nothing is sent")
        for sender, body in refused.items():
            sender.send(body)
        world.settle()


@pytest.mark.parametrize("world", ["all of it"], indirect=True)
def test_killed_and_started_while_full(world, disk):
    """It starts and tells, or says why it cannot; nothing is lost, and it goes on when there is space."""
    world.service.start()
    world.resume()
    until(lambda: all(sender.acknowledged for sender in world.senders), "a body of each sender")
    world.pause()
    refused = refuse(world, disk)
    world.service.kill_group()
    said = world.service.try_start()
    if said:
        assert "full" in said or "space" in said, said
        assert "Traceback" not in said, said
    else:  # its journal may have become shorter
        refused = refuse(world, disk, refused)
        assert "full" in until(world.service.faults, "it to be told")[0]
        assert requests_told(world) >= 0
    (disk / "filler").unlink()
    if said:
        world.service.start()
    until(world.service.is_ready, "it to go on, though nothing is sent")
    for sender, body in refused.items():
        sender.send(body)
    world.resume()
    world.pause()
    world.settle()
    assert truth.stored(world.data).records
