"""A coordinator that is told to stop says so first, and answers what is under way."""

import json
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import httpx
import pytest
from tests.server.harness import ADMIN_TOKEN, specification
from tests.server.test_kill import Process

Seen = TypeVar("Seen")
BODY = json.dumps({"name": "alpha", "specification": specification().model_dump(mode="json")}).encode()


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    process = Process(tmp_path / "data", PFEDBAYESPT_DRAIN_SECONDS="2")
    process.start()
    yield process
    process.kill()


@pytest.mark.e2e
def test_a_process_told_to_stop_is_not_ready_then_deaf_and_answers_what_is_under_way(
    process: Process,
) -> None:
    assert process.running is not None
    with socket.create_connection(("127.0.0.1", process.port), timeout=60) as under_way:
        head = [
            "POST /v1/federations HTTP/1.1",
            "Host: localhost",
            f"Authorization: Bearer {ADMIN_TOKEN}",
            "Content-Type: application/json",
            f"Content-Length: {len(BODY)}",
        ]
        under_way.sendall("\r\n".join([*head, "", ""]).encode() + BODY[:10])
        process.running.send_signal(signal.SIGTERM)

        refusal = eventually(lambda: answer_unless_ready(process))
        assert refusal.status_code == 503
        assert refusal.json()["detail"] == "this process is about to stop"
        assert int(refusal.headers["Retry-After"]) >= 1
        assert httpx.get(f"{process.url}/livez").status_code == 200
        eventually(lambda: is_deaf(process) or None)

        under_way.sendall(BODY[10:])
        assert under_way.recv(12) == b"HTTP/1.1 201"
    assert process.running.wait(timeout=60) in {0, -signal.SIGTERM}


@pytest.mark.e2e
def test_a_second_signal_cuts_the_wait_short(tmp_path: Path) -> None:
    process = Process(tmp_path / "data", PFEDBAYESPT_DRAIN_SECONDS="3600")
    process.start()
    assert process.running is not None
    process.running.send_signal(signal.SIGTERM)
    eventually(lambda: answer_unless_ready(process))
    process.running.send_signal(signal.SIGTERM)
    assert process.running.wait(timeout=60) in {0, -signal.SIGTERM}


def eventually(look: Callable[[], Seen | None]) -> Seen:
    deadline = time.monotonic() + 60.0
    while (seen := look()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return seen


def answer_unless_ready(process: Process) -> httpx.Response | None:
    answer = httpx.get(f"{process.url}/readyz")
    return None if answer.status_code == 200 else answer


def is_deaf(process: Process) -> bool:
    try:
        socket.create_connection(("127.0.0.1", process.port), timeout=60).close()
    except ConnectionRefusedError:
        return True
    return False
