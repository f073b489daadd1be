"""The lifecycles: tables, the verbs that alone write a status, and the diagrams in the documentation."""

import ast
import re
from enum import StrEnum
from pathlib import Path

import pytest

import pfedbayespt.server
from pfedbayespt.server.errors import TransitionNotAllowed
from pfedbayespt.server.federations.lifecycle import LIFECYCLE as FEDERATION
from pfedbayespt.server.lifecycle import Lifecycle
from pfedbayespt.server.model_versions.lifecycle import LIFECYCLE as MODEL_VERSION
from pfedbayespt.server.rounds.lifecycle import LIFECYCLE as ROUND
from pfedbayespt.server.sites.lifecycle import LIFECYCLE as SITE
from pfedbayespt.server.trials.lifecycle import LIFECYCLE as TRIAL
from pfedbayespt.server.updates.lifecycle import LIFECYCLE as UPDATE

LIFECYCLES = {
    lifecycle.subject: lifecycle for lifecycle in (FEDERATION, SITE, ROUND, UPDATE, MODEL_VERSION, TRIAL)
}
SERVER = Path(pfedbayespt.server.__file__).parent
DATA_MODEL = Path(__file__).parents[2] / "docs" / "data-model.md"


@pytest.mark.parametrize("subject", LIFECYCLES)
def test_every_status_is_reached_from_the_initial_one(subject: str) -> None:
    lifecycle: Lifecycle[StrEnum] = LIFECYCLES[subject]
    reached, frontier = {lifecycle.initial}, {lifecycle.initial}
    while frontier:
        frontier = {target for source, target, _ in lifecycle.edges() if source in frontier} - reached
        reached |= frontier
    assert reached == set(type(lifecycle.initial))


@pytest.mark.parametrize("subject", LIFECYCLES)
def test_every_verb_is_refused_wherever_the_table_does_not_have_it(subject: str) -> None:
    lifecycle: Lifecycle[StrEnum] = LIFECYCLES[subject]
    allowed = {(source, verb) for source, _, verb in lifecycle.edges()}
    for status in type(lifecycle.initial):
        for verb in lifecycle.verbs:
            if (status, verb) in allowed:
                lifecycle.target(verb, status, "x")
            else:
                with pytest.raises(TransitionNotAllowed, match=str(status)):
                    lifecycle.target(verb, status, "x")


@pytest.mark.parametrize("subject", LIFECYCLES)
def test_the_diagram_in_the_data_model_is_the_table(subject: str) -> None:
    text = DATA_MODEL.read_text(encoding="utf-8")
    found = re.search(rf"## The {subject}\b.*?```mermaid\nstateDiagram-v2\n(.*?)```", text, re.S)
    assert found is not None, f"docs/data-model.md has no diagram under '## The {subject}'"
    lifecycle: Lifecycle[StrEnum] = LIFECYCLES[subject]
    lines = [line.strip() for line in found[1].splitlines() if line.strip()]
    assert lines.pop(0) == f"[*] --> {lifecycle.initial}"
    drawn = [tuple(re.fullmatch(r"(\w+) --> (\w+): (\w+)", line).groups()) for line in lines]  # type: ignore[union-attr]
    assert set(drawn) == {(str(source), str(target), verb) for source, target, verb in lifecycle.edges()}
    assert len(drawn) == len(set(drawn))


def test_a_status_is_written_by_constructors_and_by_advance_alone() -> None:
    """A status that is assigned elsewhere has no event and no fence."""
    offenders = []
    for path in SERVER.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                is_write = any(isinstance(part, ast.Attribute) and part.attr == "status" for part in targets)
            else:
                is_write = (
                    isinstance(node, ast.Call)
                    and isinstance(node.func, ast.Attribute)
                    and node.func.attr == "values"
                    and any(keyword.arg == "status" for keyword in node.keywords)
                )
            if is_write and path != SERVER / "lifecycle.py":
                offenders.append(f"{path.name}:{node.lineno}")
    assert offenders == []


def test_a_record_is_born_with_its_lifecycles_initial_status() -> None:
    offenders = []
    for path in SERVER.rglob("service.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Record"):
                offenders += [
                    f"{path.parent.name}:{node.lineno}"
                    for keyword in node.keywords
                    if keyword.arg == "status" and ast.unparse(keyword.value) != "lifecycle.LIFECYCLE.initial"
                ]
    assert offenders == []
