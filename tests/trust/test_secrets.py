"""What must stay secret is in no log, no traceback, no table and no file of a coordinator that did everything."""

import logging
import subprocess
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url
from tests.contracts.conftest import create_database
from tests.server.harness import ADMIN_TOKEN, Coordinator, SiteCaller, check, rotate
from tests.trust.world import History, history

from pfedbayespt.protocol import ApiKeyRole
from pfedbayespt.server import schema
from pfedbayespt.server.api_keys import service as api_keys
from pfedbayespt.server.database import Database


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str | None:
    """None: the embedded database, in the coordinator's folder."""
    if request.param == "sqlite":
        return None
    url = create_database(request.getfixturevalue("postgres_url"))
    database = Database(url)
    schema.upgrade(database)
    database.close()
    return url


def private_part(pem: bytes) -> str:
    """The line of a private key's file that holds the key."""
    return pem.decode().splitlines()[1]


def test_no_secret_is_in_a_log_or_in_a_traceback_or_on_the_disk(
    tmp_path: Path,
    database_url: str | None,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.DEBUG)
    secrets = {"admin token": ADMIN_TOKEN}
    _remember_enrolment_tokens(monkeypatch, secrets)
    with history(tmp_path, database_url=database_url) as past:
        _collect(past, secrets)
        _provoke(past.sites[1], secrets)
        _fail_with_secrets_at_hand(past.coordinator, monkeypatch)
        past.coordinator.admin.post(f"/v1/sites/{past.sites[2].site_id}/revoke")
    log = "\n".join(
        f"{record.getMessage()} {vars(record)}"
        for record in caplog.records
        if not record.name.startswith("http")  # what the client of the tests says is its own
    )
    written = {str(file): file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    assert secrets["coordinator's key"].encode() in written.pop(str(tmp_path / "coordinator-key.pem"))
    if database_url is not None:
        written["pg_dump"] = _dump(database_url)
    _check_that_the_search_would_find(log, written)
    for name, secret in secrets.items():
        assert secret not in log, f"{name} is in the log"
        for file, content in written.items():
            assert secret.encode() not in content, f"{name} is in {file}"
    assert "PRIVATE KEY" not in log
    assert [file for file, content in written.items() if b"PRIVATE KEY" in content] == []


def _remember_enrolment_tokens(monkeypatch: pytest.MonkeyPatch, secrets: dict[str, str]) -> None:
    make = Coordinator.token

    def token(coordinator: Coordinator, federation: str, **request: Any) -> str:
        made = make(coordinator, federation, **request)
        secrets[f"enrolment token {len(secrets)}"] = made
        return made

    monkeypatch.setattr(Coordinator, "token", token)


def _collect(past: History, secrets: dict[str, str]) -> None:
    """Gather every secret of the run, after making one of each kind that it has not made."""

    def of_site(site: SiteCaller, name: str) -> None:
        assertion = site.assertion()
        check(site.ask_for_token(assertion), 200)
        secrets[f"{name} assertion"] = assertion
        secrets[f"{name} access token"] = str(site.credential)
        secrets[f"{name} private key"] = private_part(site.key.to_pem())

    for number, site in enumerate(past.sites):
        of_site(site, f"site {number}")
    rotate(past.sites[0])
    of_site(past.sites[0], "rotated")
    coordinator = past.coordinator
    coordinator.token("alpha")  # never redeemed
    secrets["coordinator's key"] = private_part(coordinator.context.signer.to_pem())
    for role in ApiKeyRole:
        body = {"organisation": "clinic", "name": "key", "role": role}
        key = coordinator.admin.post("/v1/federations/alpha/api-keys", body, status=201)["key"]
        secrets[f"{role} API key"], secrets[f"{role} API key's secret"] = key, key.split("_", 3)[3][:43]
    assert len([name for name in secrets if name.startswith("enrolment token")]) == 4


def _provoke(site: SiteCaller, secrets: dict[str, str]) -> None:
    """Use secrets where they belong, in wrong places and spoilt, so that refusals could repeat them."""
    for secret in secrets.values():
        site.http.get("/v1/federations/alpha", headers={"Authorization": f"Bearer {secret}"})
        site.http.get("/v1/sites/me", headers={"Authorization": f"Bearer {secret}x"})
        site.http.post("/v1/token", data={"client_assertion": f"{secret}x"})
        answer: Any = site.http.post("/v1/sites", json={"token": secret, "site_name": "Not A Slug"})
        assert secret not in answer.text
        site.http.get(f"/v1/federations?cursor={secret}", headers={"Authorization": f"Bearer {ADMIN_TOKEN}"})


def _fail_with_secrets_at_hand(coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a request fail in the middle, where local variables hold a new key and the credential."""

    def fail(*_: object) -> None:
        raise RuntimeError("provoked by a test")

    monkeypatch.setattr(api_keys, "describe", fail)
    body = {"organisation": "clinic", "name": "key"}
    path = "/v1/federations/alpha/api-keys"
    assert coordinator.admin.request("POST", path, json=body).status_code == 500


def _dump(url: str) -> bytes:
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    return subprocess.run(["pg_dump", "--dbname", plain], check=True, capture_output=True).stdout


def _check_that_the_search_would_find(log: str, written: dict[str, bytes]) -> None:
    """What is no secret is where a secret would be."""
    assert "provoked by a test" in log
    assert "Traceback" in log
    assert any(b"site.enrolled" in content for content in written.values())
