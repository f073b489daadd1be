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


def test_two_coordinators_share_their_files_and_their_database(services: dict[str, Any]) -> None:
    coordinators = [service for name, service in services.items() if name.startswith("coordinator")]
    assert len(coordinators) == 2
    assert len({str(service["volumes"]) for service in coordinators}) == 1
    assert len({service["environment"]["PFEDBAYESPT_DATABASE_URL"] for service in coordinators}) == 1


def test_every_service_of_ours_is_read_only_and_gains_no_privileges(services: dict[str, Any]) -> None:
    for service in services.values():
        assert service["read_only"] is True
        assert service["security_opt"] == ["no-new-privileges:true"]


def test_every_file_that_is_mounted_is_there_and_every_port_is_local() -> None:
    document = yaml.safe_load((ROOT / "compose.yaml").read_text())
    for service in document["services"].values():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            known = source in document["volumes"] or (ROOT / source).exists() or source == "./backbones"
            assert known, f"{source} is neither a volume nor a file"
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))


def test_no_image_floats() -> None:
    document = yaml.safe_load((ROOT / "compose.yaml").read_text())
    for service in document["services"].values():
        assert ":" in service.get("image", ":pinned")
        assert not service.get("image", "").endswith(":latest")
