"""deploy/ against what it speaks of: settings, ports, probes, and the metrics that the dashboard asks for."""

import json
import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from tests.server.harness import Coordinator, running, settings_for

from pfedbayespt.server import ServerRole, Settings

ROOT = Path(__file__).parents[2]
BASE = ROOT / "deploy/kustomize"


@pytest.fixture(scope="module")
def kustomization() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((BASE / "kustomization.yaml").read_text())
    return content


@pytest.fixture(scope="module")
def objects(kustomization: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        each for name in kustomization["resources"] for each in yaml.safe_load_all((BASE / name).read_text())
    ]


def deployments(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [each["spec"]["template"]["spec"] for each in objects if each["kind"] == "Deployment"]


def test_the_base_names_every_file_beside_it(kustomization: dict[str, Any]) -> None:
    beside = {path.name for path in BASE.glob("*.yaml")} - {"kustomization.yaml"}
    assert set(kustomization["resources"]) == beside


def test_objects_are_whole_and_named_once(objects: list[dict[str, Any]]) -> None:
    names = [(each["kind"], each["metadata"]["name"]) for each in objects]
    assert len(set(names)) == len(names)
    assert all(each["apiVersion"] for each in objects)


def test_objects_are_what_kubernetes_takes(objects: list[dict[str, Any]]) -> None:
    kubernetes = kubernetes_validate.latest_version()
    assert objects
    for each in objects:
        kubernetes_validate.validate(each, kubernetes, strict=True)
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(each | {"misspelt": {}}, kubernetes, strict=True)


def test_every_selector_finds_its_pods(objects: list[dict[str, Any]]) -> None:
    labels = [
        each["spec"]["template"]["metadata"]["labels"] for each in objects if each["kind"] == "Deployment"
    ]
    for each in objects:
        if each["kind"] == "Service":
            assert each["spec"]["selector"] in labels
        if each["kind"] == "Deployment":
            chosen = each["spec"]["selector"]["matchLabels"]
            assert chosen == each["spec"]["template"]["metadata"]["labels"]


def test_containers_are_as_confined_as_they_can_be(objects: list[dict[str, Any]]) -> None:
    assert deployments(objects)
    for pod in deployments(objects):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 10001  # as in the Dockerfile
        assert pod["automountServiceAccountToken"] is False
        for container in pod["containers"]:
            confined = container["securityContext"]
            assert confined["readOnlyRootFilesystem"] is True
            assert confined["allowPrivilegeEscalation"] is False
            assert confined["capabilities"]["drop"] == ["ALL"]
            assert container["resources"]["limits"]["memory"]
            mounted = {mount["name"] for mount in container["volumeMounts"]}
            assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_settings_exist_and_secrets_come_from_a_secret(objects: list[dict[str, Any]]) -> None:
    played: set[str] = set()
    for pod in deployments(objects):
        for variable in pod["containers"][0]["env"]:
            field = variable["name"].removeprefix("PFEDBAYESPT_").lower()
            assert field in Settings.model_fields
            assert ("valueFrom" in variable) == (field in {"admin_token", "database_url"})
            if field == "roles":
                played |= set(json.loads(variable["value"]))
    assert played == {role.value for role in ServerRole}


def test_images_are_the_dockerfile_s_and_have_a_version(
    kustomization: dict[str, Any], objects: list[dict[str, Any]]
) -> None:
    text = (ROOT / "Dockerfile").read_text()
    (version,) = re.findall(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)
    tags = {image["name"]: image["newTag"] for image in kustomization["images"]}
    for pod in deployments(objects):
        image = pod["containers"][0]["image"]
        assert f"-t {image} " in text
        assert tags[image] == version


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with running(settings_for(tmp_path_factory.mktemp("deploy"))) as running_one:
        yield running_one


def test_probes_ask_what_answers(objects: list[dict[str, Any]], coordinator: Coordinator) -> None:
    for pod in deployments(objects):
        for probe in ("readinessProbe", "livenessProbe"):
            path = pod["containers"][0][probe]["httpGet"]["path"]
            assert coordinator.http.get(path).status_code == 200


def test_the_grafana_dashboard_asks_for_metrics_and_routes_that_exist(coordinator: Coordinator) -> None:
    board = json.loads((ROOT / "deploy/grafana/dashboard.json").read_text())
    asked = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    told = coordinator.admin.request("GET", "/metrics").text
    known = set(re.findall(r"^# TYPE (\w+)", told, flags=re.MULTILINE))
    for expression in asked:
        for name in re.findall(r"pfedbayespt_\w+", expression):
            assert re.sub(r"_(bucket|count|sum)$", "", name) in known, name
        for route in re.findall(r'route="([^"]+)"', expression):
            assert route in coordinator.http.get("/openapi.json").json()["paths"]


def test_prometheus_asks_the_services_that_compose_has() -> None:
    config = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    (job,) = config["scrape_configs"]
    (targets,) = job["static_configs"]
    assert {target.split(":")[0] for target in targets["targets"]} == {
        name for name, service in services.items() if "build" in service
    }
    assert job["authorization"]["credentials_file"] == "/run/secrets/admin_token"
