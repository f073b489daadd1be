"""A coordinator on a real SQLite file, built by the real migrations."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.server.harness import Coordinator, running, settings_for


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[Coordinator]:
    with running(settings_for(tmp_path / "data")) as coordinator:
        yield coordinator
