"""What must stay secret is in no log, no table and no file of a coordinator that has done everything once."""

import logging
from pathlib import Path
from typing import Any

import pytest
from tests.server.harness import ADMIN_TOKEN, SiteCaller, rotate
from tests.trust.world import history


def private_part(site: SiteCaller) -> str:
    """The line of the private key's file that holds the key."""
    return site.key.to_pem().decode().splitlines()[1]


def test_no_secret_is_in_a_log_or_on_the_disk(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    secrets = {"admin token": ADMIN_TOKEN}

    def remember(site: SiteCaller, name: str) -> None:
        secrets[f"{name} access token"] = str(site.credential)
        secrets[f"{name} private key"] = private_part(site)
        secrets[f"{name} assertion"] = site.assertion()
        site.ask_for_token(secrets[f"{name} assertion"])

    with history(tmp_path) as past:
        coordinator = past.coordinator
        for number, site in enumerate(past.sites):
            remember(site, f"site {number}")
        rotate(past.sites[0])
        remember(past.sites[0], "rotated")
        secrets["enrolment token"] = coordinator.token("alpha")
        secrets["coordinator's key"] = coordinator.context.signer.to_pem().decode().splitlines()[1]
        _provoke(past.sites[1], secrets)
        coordinator.admin.post(f"/v1/sites/{past.sites[2].site_id}/revoke")
        ours = [
            record for record in caplog.records if not record.name.startswith("httpx")
        ]  # the client's own
        log = "\n".join(f"{record.getMessage()} {vars(record)}" for record in ours)
    files = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    key_file = tmp_path / "coordinator-key.pem"
    assert secrets["coordinator's key"].encode() in files.pop(key_file)
    assert any(file.suffix == ".sqlite3" for file in files)
    assert "request" in log
    for name, secret in secrets.items():
        assert secret not in log, f"{name} is in the log"
        for file, content in files.items():
            assert secret.encode() not in content, f"{name} is in {file}"


def _provoke(site: SiteCaller, secrets: dict[str, str]) -> None:
    """Use secrets in wrong places and spoilt, so that refusals could repeat them."""
    for secret in secrets.values():
        site.http.get("/v1/sites/me", headers={"Authorization": f"Bearer {secret}x"})
        site.http.post("/v1/token", data={"client_assertion": f"{secret}x"})
        answer: Any = site.http.post("/v1/sites", json={"token": secret, "site_name": "Not A Slug"})
        assert secret not in answer.text
        site.http.get(f"/v1/federations?cursor={secret}", headers={"Authorization": f"Bearer {ADMIN_TOKEN}"})
