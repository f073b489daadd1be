"""The exception tree is the wire contract's list of problems."""

import pytest

from pfedbayespt.client import errors
from pfedbayespt.client.errors import PFedBayesPTError, ProblemError, problem_error
from pfedbayespt.protocol import Problem, ProblemType


def camel_case(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("_"))


def test_there_is_one_exception_per_problem_type_and_of_the_same_name() -> None:
    assert {cls.__name__ for cls in ProblemError.__subclasses__()} == {
        camel_case(kind.name) for kind in ProblemType
    }


@pytest.mark.parametrize("kind", ProblemType)
def test_each_problem_type_raises_its_namesake(kind: ProblemType) -> None:
    error = problem_error(Problem(type=kind.urn, title=kind.title, status=kind.status, detail="why"))
    assert type(error).__name__ == camel_case(kind.name)
    assert str(error) == "why"


def test_everything_the_sdk_raises_has_one_base_and_stands_in_the_drawn_tree() -> None:
    classes = [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, Exception)]
    assert all(issubclass(cls, PFedBayesPTError) for cls in classes)
    drawing = errors.__doc__ or ""
    assert [cls.__name__ for cls in classes if cls.__name__ not in drawing] == []
