"""No foreign data is ever run or unpickled: not a single call in the sources that could."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("protocol", "model", "client_sdk", "server", "cli", "demo", "migrations", "benchmarks")
SOURCES = FOLDERS[:6]
MODULES = frozenset({"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"})
NAMES = frozenset({"exec", "eval", "__import__"})
METHODS = frozenset({("torch", "load"), ("torch", "save"), ("yaml", "load"), ("os", "system")})


def forbidden(source: str) -> Iterator[str]:
    """Yield what a module does that could run what it reads."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from (name.name for name in names if name.name.split(".")[0] in MODULES)
            case ast.ImportFrom(module=str(module)) if module.split(".")[0] in MODULES:
                yield module
            case ast.Call(func=ast.Name(id=name)) if name in NAMES:
                yield name
            case ast.Call(func=ast.Attribute(value=ast.Name(id=owner), attr=name), keywords=keywords):
                unpickles = name == "load" and any(map(_allows_pickle, keywords))
                if (owner, name) in METHODS or unpickles:
                    yield f"{owner}.{name}"


def _allows_pickle(keyword: ast.keyword) -> bool:
    """`allow_pickle` of numpy's `load`, unless it is plainly False, as it is by default."""
    is_off = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
    return keyword.arg == "allow_pickle" and not is_off


def sources() -> list[Path]:
    return sorted(file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py"))


def test_no_source_could_run_what_it_reads() -> None:
    found = {
        str(file.relative_to(ROOT)): list(forbidden(file.read_text(encoding="utf-8"))) for file in sources()
    }
    assert len(found) > 100
    assert {name: calls for name, calls in found.items() if calls} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import torch\ntorch.load('x')",
        "eval('1')",
        "exec('1')",
        "np.load('x', allow_pickle=True)",
        "import os\nos.system('x')",
    ],
)
def test_the_check_can_fail(source: str) -> None:
    assert list(forbidden(source))


@pytest.mark.parametrize(
    ("source", "rule"),
    [
        ("import pickle", "TID251"),
        ("import torch\n\ntorch.load(file)", "TID251"),
        ("import torch\n\ntorch.hub.load(place)", "TID251"),
        ("exec(text)", "S102"),
        ("eval(text)", "S307"),
    ],
)
def test_the_linter_fails_where_foreign_data_would_run(source: str, rule: str) -> None:
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format", "concise"]
    for part in SOURCES:
        name = ROOT / part / "pfedbayespt" / "made_up.py"
        checked = subprocess.run(
            [*command, "--stdin-filename", str(name), "-"],
            input=source,
            capture_output=True,
            text=True,
            cwd=ROOT,
        )
        assert checked.returncode == 1
        assert f" {rule} " in checked.stdout, part


@pytest.mark.parametrize(
    "source", ["model.eval()", "np.load('x')", "np.load('x', allow_pickle=False)", "json.load(file)"]
)
def test_the_check_leaves_harmless_calls_alone(source: str) -> None:
    assert list(forbidden(source)) == []
