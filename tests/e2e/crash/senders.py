"""Senders as shippers are: each body again until it is acknowledged, and sometimes once more after that."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import random
import threading
import time
from typing import Any, NamedTuple

from crash import truth
from crash.service import DEADLINE_SECONDS, Service

RETRY_SECONDS = 0.03
AGAIN_SHARE = 0.1  # of bodies that are sent once more though they were acknowledged


class Kind(NamedTuple):
    """How a sender sends: what makes a body the same as another, and how many records each has."""

    naming: str  # "seq", "key" or "same"
    sizes: tuple[int, ...]
    is_gzip: bool = False
    pause_seconds: float = 0.02  # between two bodies, at most


class Body(NamedTuple):
    """One body: what is sent, and what its records add up to."""

    content: bytes
    path: str
    headers: dict[str, str]
    sums: truth.Sums


class Answer(NamedTuple):
    """Status 0: none came."""

    status: int
    body: Any
    retry_after: str | None


class Sender:
    """One of them. `sums`: what all of its bodies add up to that it has begun to send; `failure`: what was wrong."""

    def __init__(
        self, service: Service, keys: dict[str, str], clock: truth.Clock, *, name: str, kind: Kind, seed: str
    ) -> None:
        self.sums = truth.Sums()
        self.failure = ""
        self.acknowledged = 0
        self.refused = 0
        self._service, self._clock, self.name, self._kind = service, clock, name, kind
        self._secret = keys["same" if kind.naming == "same" else "plain"]
        self._draw = random.Random(f"{seed} {name}")
        self._seq = 0
        self._connection: http.client.HTTPConnection | None = None
        self._is_running = threading.Event()
        self._has_ended = threading.Event()
        self._turn = threading.Lock()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def resume(self) -> None:
        self._is_running.set()

    def pause(self) -> None:
        """Send no more, once the body that is being sent is acknowledged."""
        self._is_running.clear()
        assert self._turn.acquire(timeout=2 * DEADLINE_SECONDS), f"{self.name} hangs"
        self._turn.release()
        assert not self.failure, f"{self.name}: {self.failure}"

    def end(self) -> None:
        self._has_ended.set()
        self._is_running.set()
        self._thread.join()
        self._close()

    def _run(self) -> None:
        while not self._has_ended.is_set():
            with self._turn:
                if self._is_running.is_set() and not self.failure:
                    try:
                        self.send(self.make())
                    except AssertionError as error:
                        self.failure = str(error) or "an answer is not as it should be"
            self._has_ended.wait(self._draw.random() * self._kind.pause_seconds)
            self._is_running.wait()

    def make(self) -> Body:
        """The next body; from now on it must be counted."""
        content, sums = truth.make(self._draw, self._draw.choice(self._kind.sizes), "jsonl", self._clock)
        self._seq += 1
        path, headers = "/v1/records", {"Content-Type": "application/x-ndjson"}
        if self._kind.naming == "seq":
            path += f"?source={self.name}&seq={self._seq}"
        elif self._kind.naming == "key":
            headers["Idempotency-Key"] = f"{self.name}-{self._seq}"
        if self._kind.is_gzip:
            content, headers["Content-Encoding"] = gzip.compress(content, 1), "gzip"
        self.sums.add(sums)
        return Body(content, path, headers, sums)

    def send(self, body: Body) -> None:
        """Send it until it is acknowledged; what the answer says of it is right."""
        end = time.monotonic() + DEADLINE_SECONDS
        while True:
            answer = self.post(body)
            if answer.status == 200:
                break
            assert answer.status in (0, 429, 503), answer
            if answer.status:
                self.refused += 1
                assert answer.retry_after, answer
            assert time.monotonic() < end, f"{body.path}: not acknowledged for {DEADLINE_SECONDS} s: {answer}"
            self._has_ended.wait(RETRY_SECONDS)
        self._check(body, answer.body)
        self.acknowledged += 1
        if self._draw.random() < AGAIN_SHARE:
            again = self.post(body)
            if again.status == 200:
                assert again.body["duplicate"] == again.body["received"] == body.sums.records, again.body

    def begin(self, body: Body) -> http.client.HTTPConnection:
        """A connection over which only the head was sent; the server says when it waits for the content."""
        connection = self._connect()
        connection.putrequest("POST", body.path)
        length = {"Content-Length": str(len(body.content)), "Expect": "100-continue"}
        for name, value in (self._headers(body) | length).items():
            connection.putheader(name, value)
        connection.endheaders()
        return connection

    def post(self, body: Body) -> Answer:
        """Send it once."""
        self._connection = self._connection or self._connect()
        try:
            self._connection.request("POST", body.path, body.content, self._headers(body))
            answer = self._connection.getresponse()
            read = json.loads(answer.read())
        except (OSError, http.client.HTTPException, ValueError):
            self._close()
            return Answer(0, None, None)
        return Answer(answer.status, read, answer.headers["Retry-After"])

    def _connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self._service.port, timeout=DEADLINE_SECONDS)

    def _headers(self, body: Body) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._secret}", **body.headers}

    def _check(self, body: Body, answer: dict[str, Any]) -> None:
        """Law 2, and the body's own counts: now, or, of one that was counted before, then."""
        parts = ("counted", "duplicate", "no_target", "unattributed", "rejected")
        assert answer["received"] == sum(answer[part] for part in parts) == body.sums.records, answer
        counts = answer.get("first", {}) if answer["duplicate"] else answer
        wanted = {name: body.sums.outcomes[name] for name in ("counted", "unattributed", "rejected")}
        assert {name: counts.get(name) for name in wanted} == wanted, answer

    def _close(self) -> None:
        with contextlib.suppress(OSError):
            if self._connection:
                self._connection.close()
        self._connection = None
