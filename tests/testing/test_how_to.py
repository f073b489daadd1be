"""The examples of the page about testing an integration pass as they stand, in a project that is not ours."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/how-to/test-your-integration.md"


def test_the_examples_pass_as_they_stand(tmp_path: Path) -> None:
    examples = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    for number, example in enumerate(examples):
        (tmp_path / f"test_example_{number}.py").write_text(example)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert re.search(r"^\d+ passed in", done.stdout, flags=re.MULTILINE), done.stdout
    assert len(examples) == 2


def test_the_plug_in_imports_nothing_of_ours_until_it_is_asked(tmp_path: Path) -> None:
    (tmp_path / "test_nothing.py").write_text(
        "import sys\n\n"
        "def test_nothing_is_imported():\n"
        "    ours = {name for name in sys.modules if name.startswith('pfedbayespt.')}\n"
        "    assert ours == {'pfedbayespt.testing', 'pfedbayespt.testing.plugin'}\n"
        "    assert 'torch' not in sys.modules\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
