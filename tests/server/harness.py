"""A coordinator, an admin and sites, driven over HTTP; time and the worker move when a test says so."""

import base64
import hashlib
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from fastapi.testclient import TestClient
from sqlalchemy.orm import Session

from pfedbayespt.protocol import (
    BackboneSpecification,
    FederationSpecification,
    ParametersManifest,
    RoundPolicy,
    UpdateManifest,
    digest_of_bytes,
    tensors,
)
from pfedbayespt.server import Settings, create_app
from pfedbayespt.server.context import Context
from pfedbayespt.server.database import database_clock
from pfedbayespt.server.schema import METADATA
from pfedbayespt.server.worker.driver import tick

ADMIN_TOKEN = "admin-token-of-at-least-32-characters"
SAFETENSORS = "application/vnd.safetensors"
SHAPES = {
    "head.bias": (3,),
    "head.weight": (3, 4),
    "statistics.mean": (4,),
    "statistics.second_moment": (4,),
}


class MovableClock:
    """The database's clock, moved on by the tests."""

    def __init__(self) -> None:
        self.ahead = timedelta(0)

    def __call__(self, session: Session) -> datetime:
        return database_clock(session) + self.ahead

    def move(self, seconds: float) -> None:
        self.ahead += timedelta(seconds=seconds)


def specification(**policy: Any) -> FederationSpecification:
    return FederationSpecification(
        classes=("a", "b", "c"),
        backbone=BackboneSpecification(
            architecture="vit_tiny", weights_digest=digest_of_bytes(b"weights"), image_size_pixels=32
        ),
        rounds=RoundPolicy(**policy),
    )


def initial_arrays() -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    return {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}


def deltas(task: str, value: float) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    """Return a delta that is `value` wherever the round's task allows and zero elsewhere."""
    return {
        name: np.full(
            shape, value if name.startswith("statistics.") == (task == "statistics") else 0.0, np.float32
        )
        for name, shape in SHAPES.items()
    }


def upload_headers(content: bytes) -> dict[str, str]:
    digest = base64.b64encode(hashlib.sha256(content).digest()).decode()
    return {"Content-Type": SAFETENSORS, "Content-Digest": f"sha-256=:{digest}:"}


def check(response: Any, status: int) -> Any:
    """Return the JSON of a response that must have `status`."""
    assert response.status_code == status, (response.status_code, response.text)
    return response.json()


def problem_of(response: Any) -> str:
    """Return the kind of the problem that a response is."""
    assert response.headers["content-type"] == "application/problem+json", response.text
    body = response.json()
    assert body["status"] == response.status_code
    assert body["instance"] == response.headers["x-request-id"]
    return str(body["type"]).removeprefix("urn:pfedbayespt:problem:")


@dataclass
class Caller:
    """Somebody with a credential."""

    http: TestClient
    credential: str | None

    def request(self, method: str, path: str, **options: Any) -> Any:
        headers = dict(options.pop("headers", {}))
        if self.credential is not None:
            headers["Authorization"] = f"Bearer {self.credential}".encode()
        return self.http.request(method, path, headers=headers, **options)

    def get(self, path: str, status: int = 200, **options: Any) -> Any:
        return check(self.request("GET", path, **options), status)

    def post(self, path: str, body: Any = None, status: int = 200) -> Any:
        return check(self.request("POST", path, json=body), status)

    def put_file(self, path: str, content: bytes, **options: Any) -> Any:
        headers = upload_headers(content) | options.pop("headers", {})
        return self.request("PUT", path, content=content, headers=headers, **options)


@dataclass
class SiteCaller(Caller):
    """An enrolled site."""

    site_id: str = ""
    federation: str = ""

    def assignment(self) -> Any:
        return self.get("/v1/sites/me/assignment")

    def update(self, round_: Mapping[str, Any], value: float, num_examples: int, **manifest: Any) -> bytes:
        """Return the file of an update for that round."""
        facts = {
            "federation": self.federation,
            "round_id": round_["round_id"],
            "task": round_["task"],
            "base_digest": round_["base_digest"],
            "num_examples": num_examples,
            "metrics": {"loss": 0.5},
        }
        return tensors.encode(deltas(round_["task"], value), UpdateManifest(**(facts | manifest)))

    def submit_file(self, round_id: str, content: bytes, **options: Any) -> Any:
        return self.put_file(f"/v1/rounds/{round_id}/updates/{self.site_id}", content, **options)

    def train(self, value: float = 1.0, num_examples: int = 10) -> Any:
        """Do what the assignment asks and return the receipt."""
        assignment = self.assignment()
        assert assignment["action"] == "train", assignment
        round_ = assignment["round"]
        content = self.update(round_, value, num_examples)
        return check(self.submit_file(round_["round_id"], content), 201)

    def evaluate(self, accuracy: float, status: int = 200) -> Any:
        assignment = self.assignment()
        assert assignment["action"] == "evaluate", assignment
        return self.report(assignment["model_version"], accuracy, status)

    def report(self, version: int, accuracy: float, status: int = 200) -> Any:
        path = f"/v1/federations/{self.federation}/model-versions/{version}/evaluations/{self.site_id}"
        body = {"num_examples": 5, "metrics": {"accuracy": accuracy}}
        return check(self.request("PUT", path, json=body), status)


@dataclass
class Coordinator:
    """A running coordinator."""

    http: TestClient
    clock: MovableClock
    admin: Caller = field(init=False)

    def __post_init__(self) -> None:
        self.admin = Caller(self.http, ADMIN_TOKEN)

    @property
    def context(self) -> Context:
        context: Context = self.http.app.state.context  # type: ignore[attr-defined]
        return context

    def anonymous(self) -> Caller:
        return Caller(self.http, None)

    def tick(self) -> bool:
        return tick(self.context)

    def settle(self) -> None:
        """Tick until nothing is due."""
        for _ in range(20):
            if not self.tick():
                return
        raise AssertionError("the worker never comes to rest")

    def draft(self, name: str = "alpha", **policy: Any) -> str:
        body = {"name": name, "specification": specification(**policy).model_dump(mode="json")}
        self.admin.post("/v1/federations", body, status=201)
        return name

    def initial_file(self, name: str) -> bytes:
        federation = self.admin.get(f"/v1/federations/{name}")
        manifest = ParametersManifest(
            federation=name, specification_digest=federation["specification_digest"], version_number=0
        )
        return tensors.encode(initial_arrays(), manifest)

    def put_initial(self, name: str) -> Any:
        path = f"/v1/federations/{name}/initial-parameters"
        return check(self.admin.put_file(path, self.initial_file(name)), 201)

    def federation(self, name: str = "alpha", **policy: Any) -> str:
        """Return the name of an active federation."""
        self.draft(name, **policy)
        self.put_initial(name)
        self.admin.post(f"/v1/federations/{name}/activate")
        return name

    def enrol(
        self, federation: str = "alpha", name: str = "site-1", organisation: str = "clinic"
    ) -> SiteCaller:
        token = self.token(federation, organisation=organisation)
        body = {"token": token, "site_name": name}
        credentials = self.anonymous().post("/v1/sites", body, status=201)
        return SiteCaller(self.http, credentials["secret"], credentials["site"]["site_id"], federation)

    def token(self, federation: str, **request: Any) -> str:
        path = f"/v1/federations/{federation}/enrolment-tokens"
        return str(self.admin.post(path, {"organisation": "clinic"} | request, status=201)["token"])

    def sites(self, count: int, federation: str = "alpha") -> list[SiteCaller]:
        return [self.enrol(federation, f"site-{number}") for number in range(1, count + 1)]

    def live_round(self, federation: str = "alpha") -> Any:
        return self.admin.get(f"/v1/federations/{federation}/rounds")["items"][0]

    def versions(self, federation: str = "alpha") -> list[Any]:
        """Return all versions, newest first."""
        return list(self.admin.get(f"/v1/federations/{federation}/model-versions")["items"])

    def parameters(self, number: int, federation: str = "alpha") -> dict[str, Any]:
        response = self.admin.request(
            "GET", f"/v1/federations/{federation}/model-versions/{number}/parameters"
        )
        assert response.status_code == 200, response.text
        return tensors.decode(response.content)[1]

    def dump(self) -> dict[str, list[tuple[Any, ...]]]:
        """Return every row of every table: what must not change when nothing may change."""
        with self.context.database.read() as tx:
            return {
                table.name: sorted(
                    (tuple(map(repr, row)) for row in tx.session.execute(table.select())), key=repr
                )
                for table in METADATA.sorted_tables
            }

    def publish_statistics(self, sites: list[SiteCaller]) -> None:
        """Run the first round, which asks for statistics."""
        self.settle()
        for site in sites:
            site.train()
        self.settle()


def settings_for(folder: Path, **changes: Any) -> Settings:
    """Return settings without a worker thread and without throttled heartbeats."""
    defaults: dict[str, Any] = {"worker_interval_seconds": None, "heartbeat_seconds": 0.0}
    return Settings(admin_token=ADMIN_TOKEN, data_dir=folder, **(defaults | changes))


@contextmanager
def running(settings: Settings, clock: MovableClock | None = None) -> Any:
    """Yield a coordinator that runs with these settings."""
    clock = clock or MovableClock()
    app = create_app(settings, clock=clock)
    with TestClient(app, raise_server_exceptions=False) as http:
        yield Coordinator(http, clock)
