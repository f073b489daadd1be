"""Every page with commands or programs is run by a test; those that no test of its own runs are run here."""

import re
import subprocess
import sys
from pathlib import Path

from pfedbayespt.model.backbone import load_backbone, weights_digest
from pfedbayespt.model.config import BackboneConfig

ROOT = Path(__file__).parents[2]
RUN_BY = {
    "README.md": "tests/e2e/test_readme.py",
    "docs/serving.md": "tests/e2e/test_serving_docs.py",
    "docs/tutorial.md": "tests/e2e/test_tutorial.py",
    "docs/uncertainty.md": "tests/docs/test_commands.py",
    "docs/how-to/bring-your-backbone.md": "tests/docs/test_commands.py",
    "docs/how-to/follow-a-prediction.md": "tests/trust/test_audit.py",
    "docs/how-to/operate.md": "tests/e2e/test_operate.py",
    "docs/how-to/serve-on-ray.md": "tests/server/test_ray_serve.py",
    "docs/how-to/steer-a-federation.md": "tests/ui/cast.py",
    "docs/how-to/test-your-integration.md": "tests/testing/test_how_to.py",
}


def blocks(page: str) -> list[str]:
    """The page's commands and programs, without the indentation of a list that they stand in."""
    text = (ROOT / page).read_text()
    found = re.findall(
        r"^( *)```(?:sh|bash|console|python)\b[^\n]*\n(.*?)^ *```", text, flags=re.DOTALL | re.MULTILINE
    )
    return [re.sub(f"^{indent}", "", block, flags=re.MULTILINE) for indent, block in found]


def test_every_page_with_commands_is_run_by_a_test_that_reads_it() -> None:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    with_commands = {str(page.relative_to(ROOT)) for page in pages if blocks(str(page.relative_to(ROOT)))}
    assert with_commands == RUN_BY.keys()
    for page, test in RUN_BY.items():
        assert Path(page).name in (ROOT / test).read_text(), f"{test} does not read {page}"


def test_a_backbone_of_one_s_own_is_saved_as_the_page_says_and_loads(tmp_path: Path) -> None:
    (program,) = blocks("docs/how-to/bring-your-backbone.md")
    (tmp_path / "save.py").write_text(program.replace("your_weights", "model.state_dict()"))
    subprocess.run([sys.executable, "save.py"], cwd=tmp_path, check=True, timeout=120)
    ((architecture, image_size),) = re.findall(r'create_model\("(\w+)".*img_size=(\d+)', program)
    file = tmp_path / "backbone.safetensors"
    config = BackboneConfig(architecture, weights_digest(file.read_bytes()), int(image_size))
    assert load_backbone(config, file).embed_dim == 384


def test_the_command_behind_the_figures_about_doubt_starts_and_names_the_backbone_that_it_misses(
    tmp_path: Path,
) -> None:
    (command,) = blocks("docs/uncertainty.md")
    program, script, *options = command.split()
    assert (program, options) == ("python", [])  # hours of training; what it computes has tests of its own
    done = subprocess.run(
        [sys.executable, ROOT / script, "--out", tmp_path, "--weights", tmp_path / "weights-not-imported"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode != 0
    assert "weights-not-imported" in done.stderr
