"""What importing the SDK costs and needs."""

import subprocess
import sys

import pytest


def modules_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return set(done.stdout.split())


def test_a_site_needs_neither_a_web_framework_nor_a_database() -> None:
    loaded = modules_after("from pfedbayespt.client import Site; import pfedbayespt.client.checks")
    assert "torch" in loaded
    assert not loaded & {"fastapi", "starlette", "sqlalchemy", "uvicorn", "pfedbayespt.server"}


def test_an_admins_client_does_not_load_torch() -> None:
    loaded = modules_after("from pfedbayespt.client import CoordinatorClient, errors, events")
    assert not loaded & {"torch", "timm", "PIL"}


def test_only_one_module_knows_the_http_library() -> None:
    from pathlib import Path

    import pfedbayespt.client

    sources = Path(pfedbayespt.client.__file__).parent.rglob("*.py")
    assert [file.name for file in sources if "import httpx" in file.read_text()] == ["transport.py"]


def test_every_public_name_is_there_and_no_other_is_invented() -> None:
    import pfedbayespt.client as sdk

    assert all(getattr(sdk, name) is not None for name in sdk.__all__)
    assert list(sdk.__all__) == sorted(sdk.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Sight'"):
        _ = sdk.Sight
