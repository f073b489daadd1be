"""How much the SDK puts on a site's disk besides torch, and what importing it loads: both are printed."""

import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import pfedbayespt.client

ROOTS = Path(pfedbayespt.client.__file__).parents[3]
TRUNK = {"torch", "torchvision", "timm"}
MAX_MEBIBYTES = 150
MAX_OWN_MEBIBYTES = 2
FOR_THE_SDK = {"pfedbayespt", "safetensors", "stamina", "tenacity", "cryptography", "jwt"}
NEVER = {"fastapi", "starlette", "sqlalchemy", "uvicorn", "torch", "timm", "PIL", "rich", "typer"}


def needed(name: str, extras: frozenset[str], found: dict[str, int]) -> None:
    """Collect the sizes of a distribution's dependencies in bytes, those of the trunk left out."""
    for line in distribution(name).requires or ():
        requirement = Requirement(line)
        wanted = requirement.marker is None or any(
            requirement.marker.evaluate({"extra": extra}) for extra in extras or {""}
        )
        key = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if not wanted or key in TRUNK or key in found:
            continue
        try:
            files = distribution(key).files or ()
        except PackageNotFoundError:  # for another platform
            continue
        if key != "pfedbayespt":
            found[key] = sum(int(file.locate().stat().st_size) for file in files if file.locate().exists())
        needed(key, frozenset(requirement.extras), found)


def test_the_sdk_without_torch_stays_small(capsys: pytest.CaptureFixture[str]) -> None:
    sizes: dict[str, int] = {}
    needed("pfedbayespt", frozenset({"client", "model"}), sizes)
    own = sum(
        file.stat().st_size
        for part in ("protocol", "model", "client_sdk", "cli")
        for file in (ROOTS / part).rglob("*.py")
    )
    total = own + sum(sizes.values())
    with capsys.disabled():
        largest = sorted(sizes, key=lambda name: -sizes[name])[:5]
        told = ", ".join(f"{name} {sizes[name] / 2**20:.1f}" for name in largest)
        sys.stdout.write(
            f"\nSDK without torch: {total / 2**20:.1f} MiB, {own / 2**20:.2f} of it its own; largest: {told}"
        )
    assert {"httpx", "numpy", "pydantic", "stamina"} <= sizes.keys()
    assert not sizes.keys() & {"fastapi", "sqlalchemy", "uvicorn", "alembic"}
    assert own < MAX_OWN_MEBIBYTES * 2**20
    assert total < MAX_MEBIBYTES * 2**20


def modules_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return set(done.stdout.split())


def packages_of(modules: set[str]) -> set[str]:
    tops = {name.partition(".")[0] for name in modules}
    return {name for name in tops - set(sys.stdlib_module_names) if not name.startswith("_")}


def test_importing_the_sdk_loads_little_more_than_what_it_is_made_of(
    capsys: pytest.CaptureFixture[str],
) -> None:
    parts = modules_after("import httpx, numpy; from pydantic import BaseModel; type('M', (BaseModel,), {})")
    sdk = modules_after("import pfedbayespt.client")
    more = packages_of(sdk) - packages_of(parts)
    with capsys.disabled():
        ratio = len(sdk) / len(parts)
        sys.stdout.write(
            f"\nimporting the SDK: {len(sdk)} modules, {ratio:.2f} times httpx, numpy and pydantic\n"
        )
    assert more <= FOR_THE_SDK
    assert not more & NEVER
    assert ratio < 1.6
