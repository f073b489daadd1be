"""The terms that the example offers are those that the benchmark measured."""

import tomllib
from dataclasses import asdict
from pathlib import Path

import pytest
from catalogue import METHODS, OURS
from choices import read_choices
from plans import IMAGE_SIZE, MID_BLOCK, SETTINGS

from pfedbayespt.model.config import HeadConfig
from pfedbayespt.protocol import FederationSpecification

ROOT = Path(__file__).parents[2]


def terms_of(example: str) -> FederationSpecification:
    described = tomllib.loads((ROOT / "examples" / example).read_text())
    described["backbone"]["weights_digest"] = "sha256:" + "0" * 64
    return FederationSpecification.model_validate(described)


@pytest.mark.parametrize("example", sorted(path.name for path in (ROOT / "examples").glob("*.toml")))
def test_every_example_is_a_specification(example):
    assert len(terms_of(example).classes) > 2


def test_the_example_without_prompts_is_what_is_measured_as_heads_alone():
    terms, method = terms_of("heads-alone.toml"), METHODS["heads alone"]
    (choice,) = method.candidates
    assert terms.insertion.kind == "none"
    assert terms.backbone.image_size_pixels == IMAGE_SIZE
    assert terms.head.model_dump() == asdict(HeadConfig(MID_BLOCK, **method.head))
    assert terms.rounds.num_rounds == choice.num_rounds


def test_the_letters_example_is_what_leads_in_the_tables():
    plan, terms = SETTINGS["letters-F2"], terms_of("letters.toml")
    chosen = read_choices(ROOT / "benchmarks" / "results" / "tuning.csv")["letters-F2"][OURS]
    assert terms.backbone.image_size_pixels == IMAGE_SIZE
    assert terms.insertion.model_dump() == asdict(plan.insertion)
    assert terms.posterior.model_dump().items() >= (asdict(plan.posterior) | METHODS[OURS].posterior).items()
    assert terms.head.mid_block == MID_BLOCK
    head = METHODS[OURS].head | {"fold_ridge": chosen.fold_ridge}
    assert terms.head.model_dump().items() >= head.items()
    training = asdict(plan.training) | METHODS[OURS].training | {"learning_rate": chosen.learning_rate}
    untouched = {
        "head_learning_rate",
        "seed",
    }  # no step is taken at that rate, and a seed is a federation's own
    measured = {name: value for name, value in training.items() if name not in untouched}
    assert terms.training.model_dump().items() >= measured.items()
    assert terms.rounds.num_rounds == chosen.num_rounds + terms.training.head_rounds
