"""The documentation: it builds without a warning, and what it names is there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").rglob("*.md"))


def test_the_site_builds_strictly(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    assert (tmp_path / "tutorial.html").is_file()
    start = (tmp_path / "index.html").read_text()
    assert not re.search(r"""(?:src|href)=["']https?://(?!arxiv|squidfunk)[^"']*.(?:js|css|woff2?)""", start)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    named = re.findall(
        r"`((?:tests|server|client_sdk|cli|model|protocol|examples|deploy)/[\w./-]+)`", page.read_text()
    )
    for path in named:
        assert (ROOT / path).exists(), f"{page.name} names {path}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_that_a_page_names_exists(page: Path) -> None:
    from typer.main import get_command

    from pfedbayespt.cli.main import app

    root = get_command(app)
    for words in re.findall(r"pfedbayespt ((?:[a-z][a-z-]+ ?){1,2})", page.read_text()):
        first, *rest = words.split()
        if first not in root.commands:  # type: ignore[attr-defined]
            assert first in {"demo"}, f"{page.name}: pfedbayespt {words}"
            continue
        group = root.commands[first]  # type: ignore[attr-defined]
        if hasattr(group, "commands") and rest:
            assert rest[0] in group.commands, f"{page.name}: pfedbayespt {words}"
