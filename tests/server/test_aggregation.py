"""Aggregation: the laws of a weighted mean, to the last bit where the last bit is promised."""

import io
import math
import resource
import statistics
import tracemalloc
from collections.abc import Sequence
from fractions import Fraction
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pfedbayespt.protocol import (
    FedYogi,
    Message,
    OptimiserStateManifest,
    ParametersManifest,
    RoundTask,
    TensorFileError,
    UpdateManifest,
    digest_of_bytes,
    tensors,
)
from pfedbayespt.server.blobs import FolderBlobStore, TemporaryBlob
from pfedbayespt.server.rounds.weights import update_weights
from pfedbayespt.server.worker.aggregation import (
    AggregationError,
    ServerStep,
    WeightedUpdate,
    aggregate,
    weighted_mean,
)
from pfedbayespt.server.worker.optimisers import Optimiser, optimiser_of

Arrays = dict[str, tensors.FloatArray]
MANIFEST = ParametersManifest(
    federation="clinics",
    specification_digest="sha256:" + "a" * 64,
    version_number=1,
    parent_digest="sha256:" + "b" * 64,
    inputs_digest="sha256:" + "c" * 64,
)
STATE_MANIFEST = OptimiserStateManifest(
    federation="clinics",
    specification_digest="sha256:" + "a" * 64,
    version_number=1,
    inputs_digest="sha256:" + "c" * 64,
)
SHAPES: dict[str, tuple[type[np.floating], tuple[int, ...]]] = {
    "head.bias": (np.float32, (3,)),
    "head.weight": (np.float32, (3, 4)),
    "posterior.log_scale": (np.float32, ()),
    "statistics.features.mean": (np.float64, (5,)),
}


def update_manifest(number: int = 0) -> UpdateManifest:
    return UpdateManifest(
        federation="clinics",
        round_id=f"rnd_{number}",
        task=RoundTask.TRAINING,
        base_digest="sha256:" + "b" * 64,
        num_examples=1,
    )


def file_of(arrays: Arrays, manifest: Message | None = None) -> bytes:
    return tensors.encode(arrays, manifest or update_manifest())


def weighted(content: bytes, weight: float) -> WeightedUpdate:
    return WeightedUpdate(digest_of_bytes(content), partial(io.BytesIO, content), weight)


def aggregated(base: Arrays, deltas: Sequence[Arrays], weights: Sequence[float], **options: int) -> bytes:
    updates = [
        weighted(file_of(delta, update_manifest(number)), weight)
        for number, (delta, weight) in enumerate(zip(deltas, weights, strict=True))
    ]
    output = TemporaryBlob(io.BytesIO())
    aggregate(io.BytesIO(file_of(base, MANIFEST)), updates, MANIFEST, output, **options)
    output.file.seek(0)
    return output.file.read()


def result_of(base: Arrays, deltas: Sequence[Arrays], weights: Sequence[float]) -> Arrays:
    return tensors.decode(aggregated(base, deltas, weights))[1]


def finite(bound: float) -> st.SearchStrategy[Arrays]:
    return st.fixed_dictionaries(
        {
            name: hnp.arrays(
                dtype, shape, elements=st.floats(-bound, bound, width=32 if dtype is np.float32 else 64)
            )
            for name, (dtype, shape) in SHAPES.items()
        }
    )


ARRAYS = finite(1e6)
COUNTS = st.lists(st.integers(1, 10**9), min_size=1, max_size=12)


@st.composite
def rounds(draw: st.DrawFn) -> tuple[Arrays, list[Arrays], list[float]]:
    """A base, some updates, and weights that sum to one."""
    weights = update_weights(draw(st.lists(st.integers(1, 10**6), min_size=1, max_size=5)), 3.0)
    return draw(ARRAYS), [draw(ARRAYS) for _ in weights], weights


# The laws


@given(ARRAYS, ARRAYS)
def test_one_update_of_weight_one_is_added_as_it_is(base: Arrays, delta: Arrays) -> None:
    result = result_of(base, [delta], [1.0])
    for name in base:
        assert result[name].tobytes() == (base[name] + delta[name]).tobytes()


@given(ARRAYS, st.integers(1, 6))
def test_updates_of_nothing_change_nothing(base: Arrays, count: int) -> None:
    nothing = {name: np.zeros_like(array) for name, array in base.items()}
    result = result_of(base, [nothing] * count, [1 / count] * count)
    for name in base:
        np.testing.assert_array_equal(result[name], base[name])


@given(ARRAYS, ARRAYS, COUNTS)
def test_the_mean_of_identical_updates_is_that_update(base: Arrays, delta: Arrays, counts: list[int]) -> None:
    result = result_of(base, [delta] * len(counts), update_weights(counts, 3.0))
    for name in base:
        expected = base[name].astype(np.float64) + delta[name]
        # n weights and n terms are each rounded once; then the result is rounded to its own type.
        error = 4 * len(counts) * np.finfo(np.float64).eps * np.abs(delta[name])
        error += np.finfo(base[name].dtype).eps * np.abs(expected) + np.finfo(base[name].dtype).tiny
        assert np.all(np.abs(result[name] - expected) <= error)


@given(rounds(), st.randoms())
def test_the_order_of_arrival_does_not_change_a_bit(parts, random) -> None:
    base, deltas, weights = parts
    files = [file_of(delta, update_manifest(number)) for number, delta in enumerate(deltas)]
    updates = [weighted(content, weight) for content, weight in zip(files, weights, strict=True)]
    results = set()
    for _ in range(3):
        output = TemporaryBlob(io.BytesIO())
        aggregate(io.BytesIO(file_of(base, MANIFEST)), updates, MANIFEST, output)
        results.add(output.digest)
        random.shuffle(updates)
    assert len(results) == 1


@given(rounds(), st.integers(1, 20))
def test_the_length_of_a_slice_does_not_change_a_bit(parts, slice_elements: int) -> None:
    assert aggregated(*parts, slice_elements=slice_elements) == aggregated(*parts)


@given(rounds())
def test_the_file_is_the_one_that_the_codec_writes(parts) -> None:
    content = aggregated(*parts)
    manifest_json, arrays = tensors.decode(content)
    assert ParametersManifest.model_validate_json(manifest_json) == MANIFEST
    assert tensors.encode(arrays, MANIFEST) == content


@given(rounds())
def test_it_agrees_with_exact_arithmetic(parts) -> None:
    base, deltas, weights = parts
    result = result_of(base, deltas, weights)
    for name, array in base.items():
        for index in np.ndindex(array.shape):
            terms = [
                Fraction(w) * Fraction(float(d[name][index])) for w, d in zip(weights, deltas, strict=True)
            ]
            exact = Fraction(float(array[index])) + sum(terms)
            # Each product and each sum rounds once; float64 keeps 1e-12 of what went in, then comes the type's own.
            error = 1e-12 * float(abs(Fraction(float(array[index]))) + sum(map(abs, terms)))
            error += float(np.finfo(array.dtype).eps) * abs(float(exact)) + float(np.finfo(array.dtype).tiny)
            assert abs(Fraction(float(result[name][index])) - exact) <= Fraction(error)


def test_sums_are_taken_in_float64_and_rounded_once() -> None:
    # In float32, 2^24 + 1 is 2^24: adding the ones one by one would lose them all.
    base: Arrays = {"a": np.float32([2.0**24])}
    result = result_of(base, [{"a": np.float32([8.0])}] * 8, [0.125] * 8)
    assert result["a"] == np.float32([2.0**24 + 8])


def test_a_known_answer() -> None:
    base: Arrays = {"a": np.float32([[1.0, 2.0]]), "b": np.float64([10.0])}
    deltas: list[Arrays] = [
        {"a": np.float32([[4.0, 0.0]]), "b": np.float64([-1.0])},
        {"a": np.float32([[0.0, 8.0]]), "b": np.float64([3.0])},
    ]
    result = result_of(base, deltas, [0.75, 0.25])
    np.testing.assert_array_equal(result["a"], np.float32([[4.0, 4.0]]))
    np.testing.assert_array_equal(result["b"], [10.0])
    assert (result["a"].dtype, result["b"].dtype) == (np.float32, np.float64)


def test_pooled_statistics_are_those_of_all_images_together() -> None:
    rng = np.random.default_rng(0)
    images = [rng.normal(size=(count, 4)) for count in (3, 50, 11)]
    base: Arrays = {"statistics.mean": np.zeros(4), "statistics.second_moment": np.zeros(4)}
    moments: list[Arrays] = [
        {"statistics.mean": part.mean(0), "statistics.second_moment": (part**2).mean(0)} for part in images
    ]
    result = result_of(base, moments, update_weights([len(part) for part in images]))
    pooled = np.concatenate(images)
    np.testing.assert_allclose(result["statistics.mean"], pooled.mean(0), rtol=1e-12)
    np.testing.assert_allclose(result["statistics.second_moment"], (pooled**2).mean(0), rtol=1e-12)


def test_another_rule_sees_all_deltas_of_a_slice_in_digest_order() -> None:
    contents = [file_of({"a": np.float32([number])}, update_manifest(number)) for number in range(5)]
    seen: list[list[float]] = []

    def median(deltas, weights):
        stacked = np.stack(list(deltas))
        seen.append(stacked[:, 0].tolist())
        return np.median(stacked, axis=0)

    output = TemporaryBlob(io.BytesIO())
    base = io.BytesIO(file_of({"a": np.float32([100.0])}, MANIFEST))
    aggregate(base, [weighted(content, 0.2) for content in contents], MANIFEST, output, combine=median)
    output.file.seek(0)
    assert tensors.decode(output.file.read())[1]["a"] == [102.0]
    order = sorted(range(5), key=lambda number: digest_of_bytes(contents[number]))
    assert seen == [[float(number) for number in order]]


def test_the_weighted_mean_needs_as_many_weights_as_deltas() -> None:
    with pytest.raises(ValueError, match="zip"):
        weighted_mean([np.zeros(1), np.zeros(1)], [1.0])


# What it refuses


def test_no_updates_make_no_version() -> None:
    with pytest.raises(AggregationError, match="no updates"):
        aggregated({"a": np.zeros(1)}, [], [])


def test_an_update_of_another_schema_is_refused() -> None:
    with pytest.raises(TensorFileError, match="unexpected tensor 'b'"):
        aggregated({"a": np.zeros(1)}, [{"a": np.zeros(1), "b": np.zeros(1)}], [1.0])


def test_a_result_too_large_for_its_type_is_refused() -> None:
    large: Arrays = {"a": np.float32([3e38])}
    with pytest.raises(AggregationError, match="'a' outgrows float32"):
        aggregated(large, [large], [1.0])


# Memory


@pytest.mark.parametrize(
    ("num_updates", "num_elements"), [(2, 100_000), (40, 100_000), (2_000, 5_000), (2, 1_000_000)]
)
@pytest.mark.parametrize("optimiser", [None, optimiser_of(FedYogi())], ids=["mean", "fedyogi"])
def test_memory_depends_on_the_slice_alone(
    tmp_path: Path, num_updates: int, num_elements: int, optimiser: Optimiser | None
) -> None:
    store, slice_elements = FolderBlobStore(tmp_path), 4096
    path = tmp_path / "update"
    path.write_bytes(file_of({"head.weight": np.ones(num_elements, np.float32)}))
    updates = [
        WeightedUpdate(f"sha256:{number:064x}", partial(path.open, "rb"), 1 / num_updates)
        for number in range(num_updates)
    ]
    with store.create() as output, store.create() as state, path.open("rb") as base:
        step = ServerStep(optimiser, None, STATE_MANIFEST, state) if optimiser else None
        tracemalloc.start()
        try:
            aggregate(base, updates, MANIFEST, output, step=step, slice_elements=slice_elements)
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert output.size_bytes > num_elements * 4
    # At once: slices of the base, of a delta, of its product, of the sum and of the result, at most 8 bytes an
    # element, and twice as many with moments; every update adds a tuple or two.
    assert peak_bytes < 16 * slice_elements * 8 + num_updates * 300 + 50_000


def test_a_round_of_thousands_of_updates_opens_them_one_at_a_time(tmp_path: Path) -> None:
    """With eight more open files allowed than there are."""
    contents = [file_of({"a": np.float32([number])}, update_manifest(number)) for number in range(2_000)]
    for number, content in enumerate(contents):
        (tmp_path / str(number)).write_bytes(content)
    updates = [
        WeightedUpdate(digest_of_bytes(content), partial((tmp_path / str(number)).open, "rb"), 1 / 2_000)
        for number, content in enumerate(contents)
    ]
    output = TemporaryBlob(io.BytesIO())
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened = sum(1 for _ in Path("/proc/self/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (opened + 8, limits[1]))
    try:
        aggregate(io.BytesIO(file_of({"a": np.float32([1.0])}, MANIFEST)), updates, MANIFEST, output)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    output.file.seek(0)
    assert tensors.decode(output.file.read())[1]["a"] == pytest.approx(1.0 + 1999 / 2)


# Weights


@given(COUNTS, st.floats(1.0, 100.0))
def test_weights_sum_to_one_and_keep_the_order_of_the_counts(counts: list[int], ratio: float) -> None:
    weights = update_weights(counts, ratio)
    assert math.fsum(weights) == pytest.approx(1.0, abs=1e-12)
    assert all(0.0 < weight <= 1.0 for weight in weights)
    pairs = sorted(zip(counts, weights, strict=True))
    assert all(left[1] <= right[1] for left, right in pairwise(pairs))


@given(COUNTS, st.floats(1.0, 100.0))
def test_no_weight_exceeds_the_ratio_to_the_median_count(counts: list[int], ratio: float) -> None:
    weights = update_weights(counts, ratio)
    total = math.fsum(min(count, ratio * statistics.median(counts)) for count in counts)
    assert max(weights) <= ratio * statistics.median(counts) / total * (1 + 1e-12)


@given(COUNTS)
def test_without_a_cap_weights_are_shares_of_the_examples(counts: list[int]) -> None:
    exact = [Fraction(count, sum(counts)) for count in counts]
    assert update_weights(counts) == pytest.approx([float(share) for share in exact], rel=1e-12)


def test_known_weights() -> None:
    assert update_weights([7], 3.0) == [1.0]
    assert update_weights([10, 10], 3.0) == [0.5, 0.5]
    assert update_weights([10, 10, 10**9], 3.0) == [0.2, 0.2, 0.6]
    assert update_weights([1, 2, 3, 4], 1.0) == pytest.approx([1 / 8, 2 / 8, 2.5 / 8, 2.5 / 8])


def test_a_later_release_gives_the_same_bytes() -> None:
    content = aggregated({"a": np.zeros(1)}, [{"a": np.ones(1)}], [1.0])
    expected = "01d62ed54d3716a2ac8e6b892ee8b866b8bf35f0dfc34506c4c62a64cfb8b901"
    assert digest_of_bytes(content) == f"sha256:{expected}"
