"""compose.yaml against what it speaks of: the Dockerfile's stages and the server's settings."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from pfedbayespt.server import ServerRole, Settings

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    document = yaml.safe_load((ROOT / "compose.yaml").read_text())
    return {name: service for name, service in document["services"].items() if "build" in service}


def test_every_service_is_built_from_a_stage_of_the_dockerfile(services: dict[str, Any]) -> None:
    stages = set(re.findall(r"^FROM \S+ AS (\S+)$", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE))
    assert services
    for service in services.values():
        assert service["build"]["target"] in stages


def test_every_variable_is_a_setting_of_the_server(services: dict[str, Any]) -> None:
    for service in services.values():
        for variable in service["environment"]:
            assert variable.removeprefix("PFEDBAYESPT_").lower() in Settings.model_fields


def test_the_services_together_play_every_role(services: dict[str, Any]) -> None:
    played = [set(json.loads(service["environment"]["PFEDBAYESPT_ROLES"])) for service in services.values()]
    assert set.union(*played) == {role.value for role in ServerRole}


def test_no_secret_has_a_default() -> None:
    text = (ROOT / "compose.yaml").read_text()
    assert text.count("${PFEDBAYESPT_ADMIN_TOKEN:?") == 1
    assert text.count("${POSTGRES_PASSWORD:?") == 2
    assert not re.search(r"\$\{[A-Z_]+:-", text)
