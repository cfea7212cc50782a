"""Far more is sent than can be counted: memory is bounded, what is acknowledged is counted, and then all is well again."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import random
import sys
import threading
import time
from collections import Counter

import pytest

from crash import truth
from crash.senders import Kind
from crash.service import PAUSE, until
from crash.world import world_of

SECONDS = 6
SECONDS_SOAK = 60
SENDERS = 160
SIZES = (1, 100, 5_000, 40_000)  # records of a body; of the largest, 24 are all that is held
PACKED_SHARE = 0.5
SAMPLE_SECONDS = 0.1
BACK_SECONDS = 5.0
TIMEOUT_SECONDS = 90.0
PEAK_BYTES_MAX = 1_200_000_000  # of all four processes, what they share counted each time; 860 MB were measured


class Flood:
    """Senders that send as fast as they can, each body with a key of its own, and do not come back."""

    def __init__(self, world, seed):
        self.answers = Counter()  # by status
        self.acknowledged = Counter()  # by body
        self.unknown = []  # (body, key) of what may have been counted
        self._world, self._lock = world, threading.Lock()
        self._has_ended = threading.Event()
        draw = random.Random(seed)
        self.bodies = [truth.make(draw, size, "jsonl", world.clock) for size in SIZES]
        self._packed = [gzip.compress(content, 1) for content, _ in self.bodies]
        self._threads = [threading.Thread(target=self._run, args=(n, f"{seed} {n}")) for n in range(SENDERS)]

    def run(self, seconds):
        for thread in self._threads:
            thread.start()
        PAUSE.wait(seconds)
        self._has_ended.set()

    def join(self):
        for thread in self._threads:
            thread.join()

    def _run(self, number, seed):
        draw, count, connection = random.Random(seed), 0, None
        while not self._has_ended.is_set():
            count += 1
            key, body = f"{number}-{count}", draw.randrange(len(SIZES))
            if connection is None:
                connection = http.client.HTTPConnection("127.0.0.1", self._world.service.port, timeout=TIMEOUT_SECONDS)
            status, code = self._send(connection, body, key, is_packed=draw.random() < PACKED_SHARE)
            if not status:
                connection.close()
                connection = None
            with self._lock:
                self.answers[status, code] += 1
                if status == 200:
                    self.acknowledged[body] += 1
                elif code != "overloaded":
                    self.unknown.append((body, key))
        if connection:
            connection.close()

    def _send(self, connection, body, key, *, is_packed):
        content = self._packed[body] if is_packed else self.bodies[body][0]
        headers = {
            "Authorization": f"Bearer {self._world.keys['plain']}",
            "Content-Type": "application/x-ndjson",
            "Idempotency-Key": key,
        } | ({"Content-Encoding": "gzip"} if is_packed else {})
        try:
            connection.request("POST", "/v1/records", content, headers)
            answer = connection.getresponse()
            read = json.loads(answer.read())
        except (OSError, http.client.HTTPException, ValueError):
            return 0, ""
        assert answer.status in (200, 429, 503), read
        assert answer.status == 200 or answer.headers["Retry-After"], read
        return answer.status, read.get("code", "")

    def send_again(self, body, key):
        """Send until it is acknowledged."""

        def is_acknowledged():
            with contextlib.closing(
                http.client.HTTPConnection("127.0.0.1", self._world.service.port, timeout=TIMEOUT_SECONDS)
            ) as connection:
                return self._send(connection, body, key, is_packed=False)[0] == 200

        until(is_acknowledged, "a body to be acknowledged")
        self.acknowledged[body] += 1


@pytest.mark.parametrize(
    "seconds", [SECONDS, pytest.param(SECONDS_SOAK, marks=pytest.mark.soak)], ids=["short", "soak"]
)
def test_flooded(tmp_path, seconds):
    seed = str(random.SystemRandom().randrange(10**6))
    with world_of(tmp_path, seed, {"single": Kind("seq", (1,))}) as world:
        world.service.start()
        (single,) = world.senders
        single.send(single.make())
        flood, peak, is_over = Flood(world, seed), [world.service.rss_bytes()], threading.Event()

        def sample():
            while not is_over.wait(SAMPLE_SECONDS):
                peak.append(world.service.rss_bytes())

        sampler = threading.Thread(target=sample)
        sampler.start()
        flood.run(seconds)
        ended = time.monotonic()
        body = single.make()
        until(lambda: single.post(body).status == 200, "a single body to be acknowledged", BACK_SECONDS)
        back = time.monotonic() - ended
        flood.join()
        is_over.set()
        sampler.join()
        told = {f"{status} {code}".strip(): number for (status, code), number in flood.answers.items()}
        megabytes = f"{peak[0] // 10**6} MB, at most {max(peak) // 10**6} MB"
        sys.stdout.write(f"seed {seed}; answers {told}; memory {megabytes}; back after {back:.2f} s\n")
        for unknown in flood.unknown:
            flood.send_again(*unknown)
        single.send(single.make())
        wanted = world.sums()
        for number, times in flood.acknowledged.items():
            for _ in range(times):
                wanted.add(flood.bodies[number][1])
        assert truth.stored(world.data).difference(wanted) == {}
        assert flood.answers[503, "overloaded"] > 0
        assert max(peak) < PEAK_BYTES_MAX
