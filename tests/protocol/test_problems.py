"""The one list of problems: distinct kinds, stable names, honest statuses."""

import re

import pytest

from pfedbayespt.protocol import Problem, ProblemType


def test_no_two_kinds_are_merged_into_one() -> None:
    # Members of equal value would silently become aliases of each other.
    assert len(list(ProblemType)) == len(ProblemType.__members__)
    assert len({kind.title for kind in ProblemType}) == len(ProblemType)


@pytest.mark.parametrize("kind", list(ProblemType), ids=lambda kind: kind.name)
def test_a_kind_is_found_by_its_urn(kind: ProblemType) -> None:
    assert re.fullmatch(r"urn:pfedbayespt:problem:[a-z]+(_[a-z]+)*", kind.urn)
    assert ProblemType.from_urn(kind.urn) is kind


@pytest.mark.parametrize("kind", list(ProblemType), ids=lambda kind: kind.name)
def test_a_kind_has_an_error_status_and_a_title_without_a_full_stop(kind: ProblemType) -> None:
    assert 400 <= kind.status < 600
    assert kind.title[0].isupper()
    assert not kind.title.endswith(".")


@pytest.mark.parametrize(
    "urn",
    [
        "",
        "about:blank",
        "round_closed",
        "urn:pfedbayespt:problem:",
        "urn:pfedbayespt:problem:from_the_future",
        "urn:pfedbayespt:problem:ROUND_CLOSED",
        "urn:pfedbayespt:problem:mro",
    ],
)
def test_a_kind_that_this_release_does_not_know_is_none(urn: str) -> None:
    assert ProblemType.from_urn(urn) is None


def test_a_problem_keeps_members_that_this_release_does_not_know() -> None:
    text = '{"type":"about:blank","title":"t","status":418,"detail":"d","reason":"teapot"}'
    problem = Problem.model_validate_json(text)
    assert problem.model_extra == {"reason": "teapot"}
    assert problem.errors == ()
