"""Traces are off unless asked for, and then what was asked for."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from tests.server.harness import ADMIN_TOKEN, Coordinator, running, settings_for
from tests.server.test_kill import Process
from tests.telemetry.collector import FAILED, Collector, collecting

from pfedbayespt.server.api_keys import service as api_keys
from pfedbayespt.server.telemetry import TelemetryError, is_wanted
from pfedbayespt.server.tracing import UNTRACED

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}
SECRET = "a-value-that-nobody-may-read"
SERVES_ONE_REQUEST = """
import sys
from pathlib import Path
from fastapi.testclient import TestClient
from pfedbayespt.server import Settings, create_app
settings = Settings(admin_token="x" * 32, data_dir=Path(sys.argv[1]))
with TestClient(create_app(settings)) as http:
    assert http.get("/v1/federations", headers={"traceparent": sys.argv[2]}).status_code == 401
print(*sys.modules)
"""


@pytest.fixture(autouse=True)
def nothing_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with collecting() as (collector, url):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        yield collector


@pytest.mark.parametrize(
    ("telemetry", "environment", "wanted"),
    [
        ("auto", {}, False),
        ("auto", {"OTEL_SERVICE_NAME": "a"}, False),
        ("auto", ENDPOINT, True),
        ("auto", {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318/v1/traces"}, True),
        ("auto", {"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ("auto", ENDPOINT | {"OTEL_TRACES_EXPORTER": "none"}, False),
        ("auto", ENDPOINT | {"OTEL_SDK_DISABLED": "True"}, False),
        ("auto", ENDPOINT | {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, True),
        ("on", {}, True),
        ("on", {"OTEL_SDK_DISABLED": "true"}, False),
        ("off", ENDPOINT, False),
    ],
)
def test_the_setting_and_the_standard_variables_decide(
    telemetry: str, environment: dict[str, str], wanted: bool, tmp_path: Path
) -> None:
    assert is_wanted(settings_for(tmp_path, telemetry=telemetry), environment) is wanted


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (
            {"OTEL_TRACES_EXPORTER": "zipkin"},
            "OTEL_TRACES_EXPORTER 'zipkin' is not supported; allowed: otlp, none",
        ),
        (
            ENDPOINT | {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "OTEL_EXPORTER_OTLP_PROTOCOL 'grpc' is not supported; allowed: http/protobuf",
        ),
    ],
)
def test_what_cannot_be_done_is_refused(environment: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(TelemetryError, match=message):
        is_wanted(settings_for(tmp_path), environment)


def test_a_coordinator_that_is_not_asked_loads_nothing_that_makes_spans(tmp_path: Path) -> None:
    traceparent = "00-" + "1" * 32 + "-" + "2" * 16 + "-01"
    done = subprocess.run(
        [sys.executable, "-c", SERVES_ONE_REQUEST, tmp_path, traceparent],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    loaded = (
        done.stdout.split()
    )  # FastAPI itself loads `opentelemetry.trace`, the interface without an implementation
    assert "pfedbayespt.server.app" in loaded
    makers = ("opentelemetry.sdk", "opentelemetry.exporter", "pfedbayespt.server.telemetry.")
    assert [name for name in loaded if name.startswith(makers)] == []
    with running(settings_for(tmp_path / "off")) as coordinator:
        assert coordinator.context.tracing is UNTRACED


def test_without_the_packages_the_error_names_the_extra(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "sys.modules['opentelemetry.exporter.otlp.proto.http.trace_exporter'] = None\n"
        "from pfedbayespt.cli.main import app\n"
        "app(['coordinator', 'run', '--port', '0'])\n"
    )
    asked = ENDPOINT | {"PFEDBAYESPT_ADMIN_TOKEN": ADMIN_TOKEN, "PFEDBAYESPT_DATA_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | asked, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 1
    assert "traces need pip install 'pfedbayespt[telemetry]'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("sampler", "num_spans"), [("always_off", 0), ("always_on", 1)])
def test_the_standard_sampler_is_obeyed(
    sampler: str, num_spans: int, collector: Collector, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    with running(settings_for(tmp_path)) as coordinator:
        coordinator.admin.get("/v1/federations")
    found = [span for span in collector.spans if span.name == "GET /v1/federations"]
    assert len(found) == num_spans
    assert bool(collector.everything) == bool(num_spans)


def test_the_resource_is_what_the_variables_say(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "north")
    with running(settings_for(tmp_path)) as coordinator:
        coordinator.admin.get("/v1/federations")
    assert {span.service for span in collector.spans} == {"north"}


def test_machines_that_look_leave_no_traces(collector: Collector, tmp_path: Path) -> None:
    with running(settings_for(tmp_path)) as coordinator:
        for path in ("/livez", "/readyz", "/metrics"):
            assert coordinator.admin.request("GET", path).status_code == 200
    assert collector.spans == []


def test_what_fails_tells_its_kind_and_not_its_message(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError(SECRET)

    monkeypatch.setattr(api_keys, "describe", fail)
    with running(settings_for(tmp_path)) as coordinator:
        coordinator.federation()
        refused = coordinator.admin.request(
            "POST", "/v1/federations/alpha/api-keys", json={"organisation": "clinic", "name": "key"}
        )
        assert refused.status_code == 500
        break_a_statement(coordinator)
    by_name = {span.name: span for span in collector.spans}
    request = by_name["POST /v1/federations/{name}/api-keys"]
    assert (request.status, request.notes["error.type"]) == (FAILED, "500")
    statement = by_name["SELECT nowhere"]
    assert (statement.status, statement.notes["error.type"]) == (FAILED, "OperationalError")
    assert (by_name["broken"].status, by_name["broken"].notes["error.type"]) == (FAILED, "OperationalError")
    assert SECRET.encode() not in collector.everything


def break_a_statement(coordinator: Coordinator) -> None:
    context = coordinator.context
    with pytest.raises(OperationalError, match=SECRET), context.tracing.root("broken"):  # noqa: SIM117
        with context.database.read() as tx:
            tx.session.execute(text("SELECT x FROM nowhere WHERE x = :x"), {"x": SECRET})


@pytest.mark.e2e
def test_a_process_that_is_told_to_stop_sends_what_it_has(tmp_path: Path) -> None:
    with collecting() as (collector, url):
        rarely = {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_BSP_SCHEDULE_DELAY": "3600000"}
        process = Process(tmp_path / "data", **rarely)
        process.start()
        try:
            assert httpx.get(f"{process.url}/v1/federations").status_code == 401
            assert collector.spans == []
            assert process.running is not None
            process.running.send_signal(signal.SIGTERM)
            assert process.running.wait(timeout=60) in {0, -signal.SIGTERM}
        finally:
            process.kill()
        (span,) = [span for span in collector.spans if span.name == "GET /v1/federations"]
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines() if line.startswith("{")]
    (line,) = [line for line in lines if line.get("path") == "/v1/federations"]
    assert (line["trace_id"], line["request_id"]) == (span.trace_id, span.notes["pfedbayespt.request_id"])
