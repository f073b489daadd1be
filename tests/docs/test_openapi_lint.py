"""Each of our own rules in .spectral.yaml finds what breaks it; `make openapi-lint` says that nothing does."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from scripts.openapi import SNAPSHOT

ROOT = Path(__file__).parents[2]
Json = dict[str, Any]

pytestmark = pytest.mark.skipif(shutil.which("npm") is None, reason="the linter is an npm package")


def spoil(document: Json) -> None:
    """Break every one of our rules once, each in a place of its own."""
    paths = document["paths"]
    paths["/v1/Not_kebab"] = paths.pop("/livez")
    read = paths["/v1/federations/{name}"]["get"]
    read["summary"] = "read a federation."
    read["description"] = "Without a full stop"
    create = paths["/v1/federations"]["post"]
    del create["requestBody"]["content"]["application/json"]["example"]
    del paths["/v1/rounds/{round_id}/updates/{site_id}"]["put"]["requestBody"]["description"]
    del create["responses"]["201"]["content"]["application/json"]["example"]
    errors = read["responses"]
    errors["404"]["content"] = {"application/json": {}}
    errors["403"]["content"]["application/problem+json"]["examples"] = {}
    del errors["422"]


def lint(document: Path) -> subprocess.CompletedProcess[str]:
    command = ["make", "--silent", "openapi-lint", f"DOCUMENT={document}"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_every_rule_of_ours_finds_what_breaks_it(tmp_path: Path) -> None:
    document = json.loads(SNAPSHOT.read_text())
    spoil(document)
    spoiled = tmp_path / "openapi.json"
    spoiled.write_text(json.dumps(document))
    done = lint(spoiled)
    assert done.returncode != 0
    ours = {
        name for name, rule in yaml.safe_load((ROOT / ".spectral.yaml").read_text())["rules"].items() if rule
    }
    assert len(ours) == 9
    assert ours <= set(re.findall(r"(?:warning|error)\s+([\w-]+)", done.stdout)), done.stdout + done.stderr
