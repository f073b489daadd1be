"""Server optimisers: the papers' equations in plain NumPy, and the same bits whenever they are redone."""

import io
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pfedbayespt.protocol import (
    AggregationSpecification,
    FedAdam,
    FedAvgM,
    FedYogi,
    OptimiserStateManifest,
    ParametersManifest,
    RoundTask,
    TensorFileError,
    UpdateManifest,
    WeightedMean,
    digest_of_bytes,
    tensors,
)
from pfedbayespt.server.blobs import TemporaryBlob
from pfedbayespt.server.worker.aggregation import AggregationError, ServerStep, WeightedUpdate, aggregate
from pfedbayespt.server.worker.optimisers import optimiser_of

Arrays = dict[str, tensors.FloatArray]
Flat = np.ndarray[Any, np.dtype[np.float64]]
DIGEST = "sha256:" + "a" * 64
FACTS = {
    "federation": "clinics",
    "specification_digest": DIGEST,
    "version_number": 1,
    "inputs_digest": DIGEST,
}
MANIFEST, STATE_MANIFEST = ParametersManifest(**FACTS), OptimiserStateManifest(**FACTS)
RULES: list[AggregationSpecification] = [
    FedAvgM(server_learning_rate=0.5, momentum=0.8),
    FedAdam(server_learning_rate=0.1, beta_1=0.7, beta_2=0.95, tau=1e-2),
    FedYogi(server_learning_rate=0.1, beta_1=0.7, beta_2=0.95, tau=1e-2),
]
SHAPES = {"a.wide": (np.float64, (2, 3)), "b": (np.float32, (7,)), "statistics.mean": (np.float64, (4,))}
any_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.rule)


def finite(bound: float) -> st.SearchStrategy[Arrays]:
    return st.fixed_dictionaries(
        {
            name: hnp.arrays(
                dtype, shape, elements=st.floats(-bound, bound, width=32 if dtype is np.float32 else 64)
            )
            for name, (dtype, shape) in SHAPES.items()
        }
    )


def update_file(delta: Arrays, number: int) -> bytes:
    manifest = UpdateManifest(
        federation="clinics",
        round_id=f"rnd_{number}",
        task=RoundTask.TRAINING,
        base_digest=DIGEST,
        num_examples=1,
    )
    return tensors.encode(delta, manifest)


def advanced(
    rule: AggregationSpecification, base: bytes, state: bytes | None, deltas: list[Arrays], **options: Any
) -> tuple[bytes, bytes]:
    """Return the next version's file and the next state's, from equally weighted deltas."""
    files = [update_file(delta, number) for number, delta in enumerate(deltas)]
    updates = [
        WeightedUpdate(digest_of_bytes(content), partial(io.BytesIO, content), 1 / len(files))
        for content in files
    ]
    output, next_state = TemporaryBlob(io.BytesIO()), TemporaryBlob(io.BytesIO())
    optimiser = optimiser_of(rule)
    assert optimiser is not None
    previous = None if state is None else io.BytesIO(state)
    step = ServerStep(optimiser, previous, STATE_MANIFEST, next_state)
    aggregate(io.BytesIO(base), updates, MANIFEST, output, step=step, **options)
    for blob in (output, next_state):
        blob.file.seek(0)
    return output.file.read(), next_state.file.read()


# The equations, written down a second time


def fedavgm(rule: FedAvgM, theta: Flat, m: Flat, v: Flat, d: Flat) -> tuple[Flat, Flat, Flat]:
    m = rule.momentum * m + d
    return theta + rule.server_learning_rate * m, m, v


def adaptive(
    square: Callable[[float, Flat, Flat], Flat],
) -> Callable[..., tuple[Flat, Flat, Flat]]:
    def step(rule: Any, theta: Flat, m: Flat, v: Flat, d: Flat) -> tuple[Flat, Flat, Flat]:
        m = rule.beta_1 * m + (1 - rule.beta_1) * d
        v = square(rule.beta_2, v, d**2)
        return theta + rule.server_learning_rate * m / (np.sqrt(v) + rule.tau), m, v

    return step


REFERENCES: dict[str, Callable[..., tuple[Flat, Flat, Flat]]] = {
    "fedavgm": fedavgm,
    "fedadam": adaptive(lambda beta, v, square: beta * v + (1 - beta) * square),
    "fedyogi": adaptive(lambda beta, v, square: v - (1 - beta) * square * np.sign(v - square)),
}


@any_rule
def test_five_rounds_agree_with_numpy(rule: AggregationSpecification) -> None:
    random = np.random.default_rng(3)
    theta = random.normal(size=50)
    base, state = tensors.encode({"a": theta}, MANIFEST), None
    m, v = np.zeros(50), np.full(50, getattr(rule, "tau", 0.0) ** 2)
    for _ in range(5):
        deltas = random.normal(scale=0.1, size=(3, 50))
        base, state = advanced(rule, base, state, [{"a": delta} for delta in deltas])
        theta, m, v = REFERENCES[rule.rule](rule, theta, m, v, deltas.mean(axis=0))
        np.testing.assert_allclose(tensors.decode(base)[1]["a"], theta, rtol=1e-12, atol=1e-14)
    moments = tensors.decode(state)[1]["a"]
    np.testing.assert_allclose(moments[:, 0], m, rtol=1e-12, atol=1e-14)
    if rule.rule != "fedavgm":
        np.testing.assert_allclose(moments[:, 1], v, rtol=1e-12, atol=1e-16)


def test_known_steps() -> None:
    """By hand: d = 3, then d = -1."""
    base, state = tensors.encode({"a": np.float64([1.0])}, MANIFEST), None
    results = []
    for delta in (3.0, -1.0):
        base, state = advanced(FedAvgM(momentum=0.5), base, state, [{"a": np.float64([delta])}])
        results.append(float(tensors.decode(base)[1]["a"][0]))
    assert results == [1.0 + 3.0, 4.0 + 0.5]

    rule = FedAdam(server_learning_rate=1.0, beta_1=0.0, beta_2=0.75, tau=2.0)
    base, _ = advanced(
        rule, tensors.encode({"a": np.float64([0.0])}, MANIFEST), None, [{"a": np.float64([2.0])}]
    )
    assert tensors.decode(base)[1]["a"][0] == 2.0 / (2.0 + 2.0)  # v stays tau^2 = 4 = d^2


def test_fedavgm_without_momentum_and_with_rate_one_is_the_weighted_mean() -> None:
    random = np.random.default_rng(0)
    base = tensors.encode({"a": random.normal(size=9).astype(np.float32)}, MANIFEST)
    deltas: list[Arrays] = [{"a": random.normal(size=9).astype(np.float32)} for _ in range(4)]
    moved, _ = advanced(FedAvgM(momentum=0.0), base, None, deltas)
    updates = [
        WeightedUpdate(digest_of_bytes(content), partial(io.BytesIO, content), 0.25)
        for content in (update_file(delta, number) for number, delta in enumerate(deltas))
    ]
    plain = TemporaryBlob(io.BytesIO())
    aggregate(io.BytesIO(base), updates, MANIFEST, plain)
    assert plain.digest == digest_of_bytes(moved)


def test_the_weighted_mean_needs_no_optimiser() -> None:
    assert optimiser_of(WeightedMean()) is None


@any_rule
def test_statistics_are_averaged_and_have_no_state(rule: AggregationSpecification) -> None:
    base: Arrays = {"a": np.zeros(2), "statistics.mean": np.float64([5.0])}
    delta: Arrays = {"a": np.ones(2), "statistics.mean": np.float64([0.25])}
    moved, state = advanced(rule, tensors.encode(base, MANIFEST), None, [delta])
    assert tensors.decode(moved)[1]["statistics.mean"] == [5.25]
    assert set(tensors.decode(state)[1]) == {"a"}


@any_rule
@given(finite(1e6), finite(1e6), finite(1e6), st.integers(1, 20))
def test_neither_slices_nor_another_day_change_a_bit(
    rule: AggregationSpecification, base: Arrays, first: Arrays, second: Arrays, slice_elements: int
) -> None:
    file = tensors.encode(base, MANIFEST)
    once, state = advanced(rule, file, None, [first, second])
    assert advanced(rule, file, None, [second, first], slice_elements=slice_elements)[1] != b""
    twice = advanced(rule, once, state, [first, second])
    assert advanced(rule, once, state, [first, second], slice_elements=slice_elements) == twice
    manifest_json, moments = tensors.decode(twice[1])
    assert OptimiserStateManifest.model_validate_json(manifest_json) == STATE_MANIFEST
    assert tensors.encode(moments, STATE_MANIFEST) == twice[1]
    assert {array.dtype for array in moments.values()} == {np.dtype(np.float64)}


@any_rule
def test_a_state_of_another_rule_is_refused(rule: AggregationSpecification) -> None:
    base = tensors.encode({"a": np.zeros(2)}, MANIFEST)
    foreign = tensors.encode({"a": np.zeros((2, 3))}, STATE_MANIFEST)
    with pytest.raises(TensorFileError, match=r"expected F64\[2, [12]\]"):
        advanced(rule, base, foreign, [{"a": np.ones(2)}])


def test_a_state_that_outgrows_its_type_is_refused() -> None:
    base = tensors.encode({"a": np.zeros(1)}, MANIFEST)
    with pytest.raises(AggregationError, match="state of 'a' outgrows float64"):
        advanced(FedAdam(), base, None, [{"a": np.float64([1e200])}])


@pytest.mark.parametrize("rule", ["fedavgm", "fedadam", "fedyogi"])
def test_a_later_release_gives_the_same_bytes(rule: str) -> None:
    expected = {
        "fedavgm": "7a29c0d99f1b1e5c8e45b91f6912054aafae5fa2a625167c4c4eab74a11b4fc6",
        "fedadam": "0b9afebc53b503ba43c1a437b436e81253e5da282e2fd621189939312489ff3c",
        "fedyogi": "179767e376f674f26bcaaeee75e8cb3d0fe2a8fbe657f37646f01e3fb15620c5",
    }
    (choices,) = [choice for choice in RULES if choice.rule == rule]
    files = advanced(choices, tensors.encode({"a": np.zeros(2)}, MANIFEST), None, [{"a": np.ones(2)}])
    assert digest_of_bytes(b"".join(files)) == f"sha256:{expected[rule]}"
