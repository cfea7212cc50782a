"""How a service ends: asked to, while bodies are on their way; and when the process that has started the others is gone."""

from __future__ import annotations

import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from crash.senders import Kind
from crash.service import DEADLINE_SECONDS, free_port, is_alive, service_of, until
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
    bodies = [sender.make() for sender in world.senders]
    begun = [sender.begin(body) for sender, body in zip(world.senders, bodies, strict=True)]
    for connection in begun:
        assert connection.sock.recv(12, socket.MSG_PEEK) == b"HTTP/1.1 100"  # now the body is waited for
    os.killpg(world.service.pid, number)
    with ThreadPoolExecutor(len(bodies)) as threads:
        assert set(threads.map(_finish, begun, bodies)) <= {200, 503}
    assert world.service.wait() == 0
    world.service.start()
    for sender, body in zip(world.senders, bodies, strict=True):
        sender.send(body)
    world.settle()


def test_workers_that_end_before_the_first_process_hears_of_it_have_not_failed(world):
    """A terminal's Ctrl-C reaches them all, in any order."""
    service = world.service
    workers = service.workers()
    os.kill(service.pid, signal.SIGSTOP)
    for worker in workers:
        os.kill(worker, signal.SIGINT)
    until(lambda: not any(map(is_alive, workers)), "the end of the workers")
    os.kill(service.pid, signal.SIGINT)
    os.kill(service.pid, signal.SIGCONT)
    assert service.wait() == 0
    assert "failed" not in service.log.read_text()


def _finish(connection, body):
    connection.send(body.content)
    return connection.getresponse().status


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


# A worker asks for the end of all while it starts, and waits until it is told.
EARLY = """
import os, signal, sys

if "serve" in sys.orig_argv:
    from bandmeter.service import feeding

    def stop():
        os.kill(os.getppid(), signal.SIGTERM)
        signal.pause()

    feeding.end_with_parent = stop
"""


def test_a_worker_that_still_starts_ends_when_it_is_told(command, tmp_path):
    """It has nothing to finish; were the signal lost, it would be killed after ten seconds, and that be said."""
    (tmp_path / "sitecustomize.py").write_text(EARLY)
    with command.start("serve", "--port", str(free_port()), PYTHONPATH=str(tmp_path)) as server:
        assert server.communicate(timeout=DEADLINE_SECONDS) == (b"", b"")
    assert server.returncode == 0
