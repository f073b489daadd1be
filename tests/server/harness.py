"""A coordinator, an admin and sites, driven over HTTP; time and the worker move when a test says so."""

import base64
import hashlib
import io
import json
import secrets
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import jwt
import numpy as np
from fastapi.testclient import TestClient
from pydantic import ValidationError
from sqlalchemy.orm import Session

from pfedbayespt.protocol import (
    ASSERTION_TYPE,
    STATEMENT_HEADER,
    BackboneSpecification,
    FederationSpecification,
    KeyPossession,
    ParametersManifest,
    RoundPolicy,
    SigningKey,
    SiteEnrol,
    SiteKeyAdd,
    SiteKeyRetire,
    TensorFileError,
    UpdateManifest,
    UpdateStatement,
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


def statement_header(statement: UpdateStatement) -> dict[str, str]:
    text = base64.urlsafe_b64encode(statement.model_dump_json().encode()).rstrip(b"=").decode()
    return {STATEMENT_HEADER: text}


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
    """An enrolled site, its key and an access token."""

    site_id: str = ""
    federation: str = ""
    key: SigningKey = field(default_factory=SigningKey.generate)
    coordinator_key_id: str = ""
    logged_in_at: datetime | None = None

    def assertion(self, **claims: Any) -> str:
        """Return a fresh assertion; `claims` replace what an honest site would say."""
        now = int(self.now().timestamp())
        honest = {"iss": self.site_id, "sub": self.site_id, "aud": self.coordinator_key_id}
        honest |= {"iat": now, "exp": now + 60, "jti": secrets.token_hex(16)}
        return jwt.encode(honest | claims, self.key.private, "EdDSA", headers={"kid": self.key.key_id})

    def now(self) -> datetime:
        """The coordinator's time: moved on by tests where it runs in this process."""
        if not isinstance(self.http, TestClient):
            return datetime.now(UTC)
        context: Context = self.http.app.state.context  # type: ignore[attr-defined]
        with context.database.read() as tx:
            return tx.now

    def ask_for_token(self, assertion: str) -> Any:
        form = {"grant_type": "client_credentials", "client_assertion_type": ASSERTION_TYPE}
        content = urlencode(form | {"client_assertion": assertion})
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        return self.http.request("POST", "/v1/token", content=content, headers=headers)

    def log_in(self) -> None:
        """Get a new access token."""
        self.logged_in_at = self.now()
        self.credential = check(self.ask_for_token(self.assertion()), 200)["access_token"]

    def request(self, method: str, path: str, **options: Any) -> Any:
        """Call with an access token, a new one if it has grown old."""
        if self.logged_in_at is not None and self.now() - self.logged_in_at > timedelta(minutes=14):
            self.log_in()
        return super().request(method, path, **options)

    def statement(self, round_id: str, content: bytes, /, **changes: Any) -> UpdateStatement:
        """Return the signed statement about an update file; `changes` replace what an honest site would say."""
        try:
            manifest = json.loads(tensors.read_header(io.BytesIO(content)).manifest_json)
            claims = {name: manifest[name] for name in ("base_digest", "num_examples")}
        except (TensorFileError, KeyError, ValueError):
            claims = {"base_digest": digest_of_bytes(b"base"), "num_examples": 1}
        facts = {
            "federation": self.federation,
            "round_id": round_id,
            "site_id": self.site_id,
            "update_digest": digest_of_bytes(content),
            "nonce": secrets.token_hex(16),
        }
        key = changes.pop("key", self.key)
        try:
            return UpdateStatement.signed(key, **(facts | claims | changes))
        except ValidationError:  # the file's own claims are not allowed; sign something that is
            return UpdateStatement.signed(
                key, **(facts | {"base_digest": facts["update_digest"], "num_examples": 1})
            )

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
        statement = options.pop("statement", None) or self.statement(round_id, content)
        headers = statement_header(statement) | options.pop("headers", {})
        path = f"/v1/rounds/{round_id}/updates/{self.site_id}"
        return self.put_file(path, content, headers=headers, **options)

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


def key_addition(site: SiteCaller, new: SigningKey, **changes: Any) -> dict[str, Any]:
    """Return the body that adds a key."""
    facts = {"site_id": site.site_id, "public_key": new.public_key} | changes
    possession = KeyPossession.signed(new, **facts)
    return SiteKeyAdd.signed(site.key, possession=possession).model_dump(mode="json")


def rotate(site: SiteCaller) -> SigningKey:
    """Give a site another key in place of the one it has; return the old one."""
    old, new = site.key, SigningKey.generate()
    site.post("/v1/sites/me/keys", key_addition(site, new))
    site.key = new
    site.log_in()
    retirement = SiteKeyRetire.signed(new, site_id=site.site_id, retired_key_id=old.key_id)
    site.post(f"/v1/sites/me/keys/{old.key_id}/retire", retirement.model_dump(mode="json"))
    return old


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
        key = SigningKey.generate()
        answer = self.anonymous().post("/v1/sites", self.enrolment(token, name, key), status=201)
        site = SiteCaller(
            self.http, None, answer["site"]["site_id"], federation, key, answer["coordinator"]["key_id"]
        )
        site.log_in()
        return site

    def enrolment(self, token: str, name: str, key: SigningKey, **changes: Any) -> dict[str, Any]:
        """Return the body that redeems a token."""
        facts = {
            "token": token,
            "site_name": name,
            "public_key": key.public_key,
            "coordinator_key_id": self.key_id(),
        }
        return SiteEnrol.signed(key, **(facts | changes)).model_dump(mode="json")

    def key_id(self) -> str:
        return str(self.anonymous().get("/.well-known/pfedbayespt-coordinator")["key_id"])

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
        """Return every row of every table but used assertions: what must not change when nothing may change."""
        with self.context.database.read() as tx:
            return {
                table.name: sorted(
                    (tuple(map(repr, row)) for row in tx.session.execute(table.select())), key=repr
                )
                for table in METADATA.sorted_tables
                if table.name != "used_assertions"
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
