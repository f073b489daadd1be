"""The whole product at work: `pfedbayespt demo --quick` with real processes, the real ViT and real images."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.e2e, pytest.mark.backbone, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def demo_run(tmp_path_factory: pytest.TempPathFactory, backbone_weights: Path) -> Path:
    output = tmp_path_factory.mktemp("demo") / "run"
    command = [sys.executable, "-m", "pfedbayespt.cli.main", "demo", "--quick", "--output", str(output)]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout[-4000:] + finished.stderr[-4000:]
    (output / "printed").write_text(finished.stdout)
    return output


def test_every_site_learns_far_beyond_chance(demo_run: Path) -> None:
    results = json.loads((demo_run / "results.json").read_text())
    assert len(results["accuracy"]) == 3
    for site in results["accuracy"]:
        assert site["federated"] > 4 / results["num_classes"], site


def test_the_federation_is_likelier_than_every_site_alone(demo_run: Path) -> None:
    for site in json.loads((demo_run / "results.json").read_text())["nll"]:
        assert site["federated"] < site["alone"], site


def test_the_report_stands_alone(demo_run: Path) -> None:
    html = (demo_run / "report.html").read_text()
    assert not re.search(r"""src=["']https?:|<link""", html)
    links = re.findall(r"""href=["'](https?:[^"']+)""", html)
    assert {re.sub(r"//127\.0\.0\.1:\d+", "", link) for link in links} == {
        "http:/docs",
        "http:/ui/federations/ideograms",
        "http:/ui/federations/ideograms/try",
        "http:/ui/federations/ideograms/versions",
    }
    assert "<script" not in html
    assert html.count("<svg") == 3
    assert html.count("data:image/webp;base64,") >= 12


def test_it_ends_by_naming_the_dashboard_and_the_documentation(demo_run: Path) -> None:
    dashboard, documentation, hint = (demo_run / "printed").read_text().splitlines()[-3:]
    address = re.fullmatch(r"dashboard: (http://127\.0\.0\.1:\d+)/ui", dashboard)
    assert address, dashboard
    assert documentation == f"documentation: {address[1]}/docs"
    assert "KEEP=1" in hint
    assert f"{address[1]}/ui/federations/ideograms" in (demo_run / "report.html").read_text()


def test_the_served_version_names_the_updates_behind_it(demo_run: Path) -> None:
    lineage = json.loads((demo_run / "results.json").read_text())["served"]
    assert {update["site_name"] for update in lineage["inputs"]} == {
        "clinic-north",
        "clinic-south",
        "clinic-west",
    }
    assert sum(update["weight"] for update in lineage["inputs"]) == pytest.approx(1.0)
