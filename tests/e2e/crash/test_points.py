"""The process that ingests dies at each point of a body's and a line's way, and in the middle of writing a page."""

from __future__ import annotations

from pathlib import Path

from crash.senders import Kind
from crash.service import until
from crash.world import world_of

SABOTEUR = Path(__file__).parent / "saboteur"
KINDS = {
    "numbered": Kind("seq", (1, 3)),
    "keyed": Kind("key", (1_500,)),
    "shipper": Kind("same", (40,), is_gzip=True),
}
OF_STORE = ("the position has moved", "the rows are added", "before the commit", "half a page", "after the commit")
OF_BODIES = ("read without a query", "before the query", *OF_STORE, "before the answer")
OF_LINES = ("before the query", "after the query", *OF_STORE)


def test_dead_at_each_point(tmp_path):
    """What was counted is known, and what was not is counted when it comes again: each once."""
    at = tmp_path / "at"
    with world_of(tmp_path, "points", KINDS) as world:
        world.service.environment |= {"PYTHONPATH": str(SABOTEUR), "CRASH_AT": str(at)}
        world.service.start()
        for actors, points in ((world.senders, OF_BODIES), ([world.writers], OF_LINES)):
            for point in points:
                at.write_text(point)
                for actor in actors:
                    actor.resume()
                until(lambda: not at.exists(), f"the process to come by: {point}")
                world.pause()
                world.settle()
        assert world.service.stop() == 0
