"""What a process reads, hashes and imports before it can answer: as little as possible."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.server.serving_parts import tiny_backbone

from pfedbayespt.server.inference import BackboneFolder

CPU = torch.device("cpu")


def test_a_backbone_file_is_hashed_once_and_again_when_it_changes(
    tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[str] = []
    file_digest = hashlib.file_digest

    def counted(file, name):
        hashed.append(Path(file.name).name)
        return file_digest(file, name)

    monkeypatch.setattr(hashlib, "file_digest", counted)
    folder = BackboneFolder(tmp_path, CPU)
    one = tiny_backbone(tmp_path, "one")
    first = folder.load(one)
    two = tiny_backbone(tmp_path, "two", seed=1)
    assert folder.load(two) is not first
    assert folder.load(one) is first
    assert hashed == ["one", "two"]
    three = tiny_backbone(tmp_path, "one", seed=2)
    os.utime(tmp_path / "one", ns=(1, 1))
    folder.load(three)
    assert hashed == ["one", "two", "one"]


def test_a_coordinator_without_inference_never_imports_torch(tmp_path: Path) -> None:
    script = f"""
import sys
from pathlib import Path
from fastapi.testclient import TestClient
from pfedbayespt.server import Settings, create_app
settings = Settings(admin_token="x" * 32, data_dir=Path({str(tmp_path)!r}), worker_interval_seconds=None)
with TestClient(create_app(settings)) as http:
    assert http.get("/readyz").status_code == 200
    assert http.post("/v1/federations/alpha/predictions", headers={{"Authorization": "Bearer " + "x" * 32}})
assert not {{"torch", "timm", "PIL", "pfedbayespt.model"}} & set(sys.modules), sorted(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
