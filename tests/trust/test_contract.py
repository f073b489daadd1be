"""What the live OpenAPI document says is what the coordinator does, for whoever asks and whatever they send."""

from collections.abc import Iterator

import pytest
from tests.server.test_authorisation import World, inhabited
from tests.trust import contract


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with inhabited(tmp_path_factory.mktemp("contract")) as world:
        yield world


def test_an_answer_that_the_document_does_not_know_is_found(world: World) -> None:
    document = contract.live_document(world)
    livez = document["paths"]["/livez"]
    livez["get"]["responses"]["200"]["content"]["application/json"]["schema"] = {"type": "integer"}
    answers = list(contract.answers(world, document | {"paths": {"/livez": livez}}, 2))
    assert answers
    assert all(answer.complaint for answer in answers)


def test_no_answer_breaks_the_live_document(world: World) -> None:
    answers = list(contract.answers(world, contract.live_document(world), 6))
    assert [answer.complaint for answer in answers if answer.complaint] == []
    # 503: this coordinator answers no predictions, and says so
    assert [answer for answer in answers if answer.status >= 500 and answer.status != 503] == []
    assert {answer.status // 100 for answer in answers if answer.caller == "admin"} >= {2, 4}
    assert 401 in {answer.status for answer in answers if answer.caller == "nobody"}
