"""The machine's clock is set forth and back between two starts: nothing is lost or counted twice, and it is told."""

from __future__ import annotations

import datetime as dt
import json
import random
import subprocess
import sys
from pathlib import Path

from crash.service import until
from crash.world import KINDS, world_of

NOW = dt.datetime(2026, 11, 23, tzinfo=dt.UTC)
DAYS = (0, 40, -3, 1)


def clock_by_doctor(world) -> str:
    """What `bandmeter doctor` says is wrong with the clock."""
    command = [Path(sys.executable).parent / "bandmeter", "--data", world.data, "doctor", "--json"]
    done = subprocess.run(command, env=world.service.environment, capture_output=True, check=False)
    return {check["name"]: check["problem"] for check in json.loads(done.stdout)["checks"]}["clock"]


def test_set_forth_and_back(tmp_path):
    """What is more than 10 minutes ahead is rejected; a body that is sent again is known however the clock was set."""
    seed = str(random.SystemRandom().randrange(10**6))
    sys.stdout.write(f"seed {seed}\n")
    sent, told = [], {}
    with world_of(tmp_path, seed, {name: KINDS[name] for name in ("small", "keyed", "shipper")}) as world:
        world.clock.records_s = NOW.timestamp()
        for days in DAYS:
            now = NOW + dt.timedelta(days)
            world.clock.service_s = now.timestamp()
            world.service.environment["BANDMETER_NOW"] = now.isoformat()
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
        assert world.sums().outcomes["rejected"] > 0
    assert {days: bool(problem) for days, problem in told.items()} == {0: False, 40: False, -3: True, 1: False}
    assert "set the clock" in told[-3]
