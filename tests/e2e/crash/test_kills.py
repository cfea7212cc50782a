"""kill -9 of a service that counts: every acknowledged record and every line is counted once, none twice."""

from __future__ import annotations

import random
import sys

import pytest

from crash.service import PAUSE
from crash.world import world_of

ROUNDS = 20
ROUNDS_SOAK = 200
BEFORE_SECONDS = 0.5  # within which a kill comes
KILLS = ("group", "feeder", "worker", "group", "worker", "parent", "feeder", "worker")


@pytest.mark.parametrize("rounds", [ROUNDS, pytest.param(ROUNDS_SOAK, marks=pytest.mark.soak)], ids=["short", "soak"])
def test_killed_over_and_over(tmp_path, rounds, capsys):
    """At random moments: while bodies are read, in the commit, before the answer, in the middle of a rotation."""
    seed = str(random.SystemRandom().randrange(10**6))
    sys.stdout.write(f"seed {seed}\n")
    draw = random.Random(seed)
    with world_of(tmp_path, seed) as world:
        service = world.service
        service.start()
        for n in range(rounds):
            world.resume()
            PAUSE.wait(draw.random() * BEFORE_SECONDS)
            {
                "group": service.kill_group,
                "parent": service.kill_parent,
                "feeder": service.kill_feeder,
                "worker": service.kill_worker,
            }[KILLS[n % len(KILLS)]]()
            if service.process is None:
                service.start()
            world.pause()
            world.settle()
            world.writers.clean()
        assert service.stop() == 0
        world.settle()
        assert all(sender.acknowledged >= rounds for sender in world.senders)
