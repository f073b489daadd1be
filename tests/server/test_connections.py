"""Connections outlive the clients' own limits, so that no request is lost on one that is just being closed."""

import http.client
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.server.test_kill import Process

HTTPX_KEEPS_FOR_SECONDS = 5.0


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    process = Process(tmp_path / "data")
    process.start()
    yield process
    process.kill()


@pytest.mark.e2e
def test_a_connection_that_a_client_still_holds_is_answered(process: Process) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", process.port, timeout=60)
    assert answered(connection) == 200
    time.sleep(HTTPX_KEEPS_FOR_SECONDS + 1.0)
    assert answered(connection) == 200
    connection.close()


def answered(connection: http.client.HTTPConnection) -> int:
    connection.request("GET", "/livez")
    answer = connection.getresponse()
    answer.read()
    return answer.status
