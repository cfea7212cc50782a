"""The machine's clock is set forth and back: nothing is lost or counted twice, and what is odd is told."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

from crash.service import until
from crash.world import KINDS, world_of

SABOTEUR = Path(__file__).parent / "saboteur"
DAY_SECONDS = 86_400
OLD_DAYS = 3  # the newest record, by a clock that is right
DAYS = (0, 40, -1, 400, -10, 0)  # by how many it is wrong


def clock_by_doctor(world) -> str:
    """What `bandmeter doctor` says is wrong with the clock."""
    command = [Path(sys.executable).parent / "bandmeter", "--data", world.data, "doctor", "--json"]
    environment = os.environ | world.service.environment
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    return {check["name"]: check["problem"] for check in json.loads(done.stdout)["checks"]}["clock"]


def test_set_forth_and_back(tmp_path):
    """What is more than 10 minutes ahead is rejected; a body that is sent again is known however the clock was set."""
    seed = str(random.SystemRandom().randrange(10**6))
    sys.stdout.write(f"seed {seed}\n")
    sent, told, wrong = [], {}, tmp_path / "wrong"
    with world_of(tmp_path, seed, {name: KINDS[name] for name in ("small", "keyed", "shipper")}) as world:
        world.service.environment |= {"PYTHONPATH": str(SABOTEUR), "CRASH_CLOCK": str(wrong)}
        world.clock.records_s = time.time() - OLD_DAYS * DAY_SECONDS
        for days in DAYS:
            wrong.write_text(str(days * DAY_SECONDS))
            world.clock.service_s = time.time() + days * DAY_SECONDS
            if days in (DAYS[0], DAYS[-2]):
                assert world.service.process is None or world.service.stop() == 0
                world.service.start()
                until(world.service.is_ready, "it to be ready")
            for sender in world.senders:
                sent.append((sender, sender.make()))
                sender.send(sent[-1][1])
            for sender, body in sent:
                again = sender.post(body)
                assert (again.status, again.body["duplicate"]) == (200, body.sums.records), again
            world.resume()
            world.pause()
            world.settle()
            told[days] = clock_by_doctor(world)
        assert world.service.stop() == 0
    assert {days for days, problem in told.items() if problem} == {-10}
    assert "set the clock" in told[-10]
