"""A real federation, traced to a real collector: what a trace tells, and what it must not."""

import base64
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.telemetry.collector import CLIENT, INTERNAL, SERVER, Span, collecting

ROOT = Path(__file__).parents[2]
SERVICE = "pfedbayespt-coordinator-inference"
UPDATE = "/v1/rounds/{round_id}/updates/{site_id}"
MIN_SECRET_BYTES = 8  # what is shorter is in any bytes by chance
PIECE_BYTES = 48  # longer than an id, which spans may hold


@dataclass(frozen=True)
class Played:
    """What a federation left behind."""

    spans: list[Span]
    exported: bytes
    secrets: list[bytes]
    log: list[dict[str, object]]

    def named(self, name: str, service: str = SERVICE) -> list[Span]:
        return [span for span in self.spans if (span.name, span.service) == (name, service)]

    def children(self, span: Span) -> list[Span]:
        return [
            each for each in self.spans if (each.trace_id, each.parent_id) == (span.trace_id, span.span_id)
        ]

    def below(self, span: Span) -> list[Span]:
        return [each for child in self.children(span) for each in (child, *self.below(child))]

    def parent(self, span: Span) -> Span:
        (parent,) = [
            each for each in self.spans if (each.trace_id, each.span_id) == (span.trace_id, span.parent_id)
        ]
        return parent


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    folder = tmp_path_factory.mktemp("federation")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "PFED"))}
    with collecting() as (collector, url):
        done = subprocess.run(
            [sys.executable, Path(__file__).with_name("federation.py"), folder],
            env=kept
            | {
                "OTEL_EXPORTER_OTLP_ENDPOINT": url,
                "OTEL_BSP_MAX_QUEUE_SIZE": "100000",
                "FASTAPI_OTEL_AUTO_CONFIGURE": "true",
                "PYTHONPATH": os.pathsep.join([str(ROOT), kept.get("PYTHONPATH", "")]),
            },
            capture_output=True, text=True, check=False, timeout=280,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    secrets = [base64.b64decode(text) for text in json.loads((folder / "secrets.json").read_text())]
    log = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    return Played(collector.spans, collector.everything, secrets, log)


def test_an_update_is_one_trace_from_the_sites_request_to_the_disk(played: Played) -> None:
    arrived = played.named(f"PUT {UPDATE}")
    assert len(arrived) == 2  # statistics, then training
    for server in arrived:
        assert server.kind == SERVER
        assert server.notes["http.route"] == UPDATE
        assert server.notes["http.response.status_code"] == 201
        client = played.parent(server)
        assert (client.service, client.name, client.kind) == ("clinic", "PUT", CLIENT)
        assert client.notes["http.response.status_code"] == 201
        assert played.parent(client).name == "a day at the clinic"
        below = played.below(server)
        (stored,) = [span for span in below if span.name == "blobs put"]
        assert stored.notes["pfedbayespt.bytes"] > 1000
        (inserted,) = [span for span in below if span.name == "INSERT updates"]
        assert inserted.kind == CLIENT
        assert inserted.notes["db.query.text"].startswith("INSERT INTO updates (")
        assert (played.parent(inserted).name, played.parent(inserted).kind) == ("write transaction", INTERNAL)


def test_joining_is_one_trace(played: Played) -> None:
    (server,) = played.named("POST /v1/sites")
    assert played.parent(server).service == "clinic"
    assert "INSERT sites" in {span.name for span in played.below(server)}


def test_a_prediction_tells_how_long_its_steps_took(played: Played) -> None:
    (server,) = played.named("POST /v1/federations/{name}/predictions")
    client = played.parent(server)
    assert (client.service, client.parent_id) == ("clinic", "")
    (predicted,) = [span for span in played.below(server) if span.name == "predict"]
    assert predicted.notes["pfedbayespt.encode_seconds"] > 0


def test_each_step_of_the_worker_is_a_trace_of_its_own(played: Played) -> None:
    steps = played.named("worker start_round") + played.named("worker move_on")
    assert steps
    assert {span.parent_id for span in steps} == {""}
    assert len({span.notes["pfedbayespt.federation_id"] for span in steps}) == 1
    assert len({span.trace_id for span in steps}) == len(steps)
    moved = [span for span in played.named("worker move_on") if span.notes["pfedbayespt.moved"]]
    assert len({span.notes["pfedbayespt.round_id"] for span in moved}) == 2
    names = {span.name for step in moved for span in played.below(step)}
    assert {"aggregate", "blobs put", "write transaction"} <= names


def test_the_log_and_the_traces_name_each_other(played: Played) -> None:
    lines = {line["request_id"]: line for line in played.log if line.get("event") == "request"}
    arrived = [span for span in played.spans if span.kind == SERVER]
    assert len(arrived) > 10
    for span in arrived:
        line = lines[span.notes["pfedbayespt.request_id"]]
        assert line["trace_id"] == span.trace_id
        assert line["status"] == span.notes["http.response.status_code"]


def test_no_secret_no_body_and_no_value_of_a_statement_leaves_with_the_traces(played: Played) -> None:
    secrets = [secret for secret in played.secrets if len(secret) >= MIN_SECRET_BYTES]
    assert len(secrets) > 20
    assert b"INSERT INTO sites" in played.exported  # where a secret would be
    for secret in secrets:
        assert secret not in played.exported, secret[:60]
        for start in range(0, len(secret) - PIECE_BYTES, PIECE_BYTES // 2):
            piece = secret[start : start + PIECE_BYTES]
            assert len(set(piece)) < 8 or piece not in played.exported, piece


def test_names_are_words_of_the_code_and_templates_of_paths(played: Played) -> None:
    known = (
        r"_OTHER unknown|(GET|POST|PUT) (unknown|/[a-z0-9/{}_.-]*)|(GET|POST|PUT)|a day at the clinic"
        r"|(read|write) transaction|(SELECT|INSERT|UPDATE|DELETE)( [a-z_]+)?|BEGIN|SAVEPOINT|RELEASE"
        r"|worker (start_round|move_on)"
        r"|aggregate|predict|blobs (put|open|exists|size|delete)"
    )
    for span in played.spans:
        assert re.fullmatch(known, span.name), span
        assert span.num_events == 0, span  # by which messages of errors would travel
    sites = {(span.name, span.kind) for span in played.spans if span.service == "clinic"}
    assert sites == {("GET", CLIENT), ("POST", CLIENT), ("PUT", CLIENT), ("a day at the clinic", INTERNAL)}
    routes = {span.notes["http.route"] for span in played.spans if span.kind == SERVER}
    assert not [route for route in routes if re.search(r"of-ours|[0-9a-f]{12}", route)]
