"""How a service ends: asked to, while bodies are on their way; and when the process that has started the others is gone."""

from __future__ import annotations

import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from crash.senders import Kind
from crash.service import service_of, until
from crash.world import world_of

KINDS = {"large": Kind("seq", (60_000,)), "small": Kind("key", (1, 2)), "packed": Kind("same", (20_000,), is_gzip=True)}


@pytest.fixture
def world(tmp_path):
    with world_of(tmp_path, "stop", KINDS) as made:
        made.service.start()
        yield made


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_bodies_on_their_way_are_answered(world, number):
    """The signal reaches all processes, as from systemd or a terminal; each body is counted, or refused."""
    for sender in world.senders:
        sender.send(sender.make())  # and keeps its connection
    bodies = [sender.make() for sender in world.senders]
    with ThreadPoolExecutor(len(bodies)) as threads:
        answers = [threads.submit(sender.post, body) for sender, body in zip(world.senders, bodies, strict=True)]
        until(answers[1].done, "the small body's answer")  # then the large ones have been sent
        os.killpg(world.service.pid, number)
        assert {answer.result().status for answer in answers} <= {200, 503}
    assert world.service.wait() == 0
    world.service.start()
    for sender, body in zip(world.senders, bodies, strict=True):
        sender.send(body)
    world.settle()


def test_nothing_is_left_of_a_service_whose_first_process_is_killed(world):
    """Also while a body does not come to its end; and what it kept outside of its data folder goes with the next."""
    kept = Path((world.data / "serve.lock").read_text())
    assert kept.is_dir()
    with socket.create_connection(("127.0.0.1", world.service.port)) as connection:
        head = f"POST /v1/records HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {world.keys['plain']}\r\n"
        connection.sendall(f"{head}Content-Type: application/x-ndjson\r\nContent-Length: 1000\r\n\r\n{{".encode())
        world.senders[0].send(world.senders[0].make())
        world.service.kill_parent()
    world.service.start()
    assert not kept.exists()
    world.settle()
    assert world.service.stop() == 0
    assert not Path((world.data / "serve.lock").read_text()).exists()


def test_one_folder_is_served_once(world):
    with service_of(world.data, world.data / "another.log") as another:
        assert "Another `bandmeter serve` runs on" in another.try_start()
    assert world.service.is_ready()
