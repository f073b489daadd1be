"""Images that are encoded together: the same numbers as alone, each with its own seed; forced here, on a CPU."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.server.serving_parts import (
    encoded,
    file_of,
    keep,
    parameters_of,
    picture,
    servable,
    specification_on,
    tiny_backbone,
)

from pfedbayespt.protocol import Prediction, PredictionRequest
from pfedbayespt.server.blobs import MemoryBlobStore
from pfedbayespt.server.errors import ImageRejected
from pfedbayespt.server.inference import BackboneFolder, BundlePredictor
from pfedbayespt.server.inference.batching import MicroBatcher, is_wanted
from pfedbayespt.server.predictions.predictor import ServableVersion

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
REQUESTS = [
    PredictionRequest(image=encoded(picture(number)), num_samples=4 + number, seed=None if number else 7)
    for number in range(4)
]


class CountingBatcher(MicroBatcher):
    """Waits for long, so that whoever is on the way comes, and notes how many were joined."""

    def __init__(self, max_images: int = 16) -> None:
        super().__init__(max_images, wait_seconds=30.0)
        self.sizes: list[int] = []

    def _gather(self, key, batch) -> None:
        super()._gather(key, batch)
        self.sizes.append(len(batch.images))


@pytest.fixture
def parts(tmp_path: Path) -> tuple[MemoryBlobStore, BackboneFolder, list[ServableVersion]]:
    blobs, specification = MemoryBlobStore(), specification_on(tiny_backbone(tmp_path, "weights"))
    versions = [
        servable(
            specification,
            number,
            keep(
                blobs,
                file_of(parameters_of(specification, tmp_path / "weights", number), specification, number),
            ),
        )
        for number in range(2)
    ]
    return blobs, BackboneFolder(tmp_path, CPU), versions


def together(predictor: BundlePredictor, batcher: MicroBatcher, asked) -> list[Prediction]:
    """Answer all at the same time: none is encoded before the last one is on its way."""
    everybody = threading.Barrier(len(asked))
    announce = batcher.arrival

    def arrival():
        context = announce()

        class Waiting:
            def __enter__(self):
                encode = context.__enter__()
                everybody.wait(timeout=60)
                return encode

            def __exit__(self, *error):
                return context.__exit__(*error)

        return Waiting()

    predictor._arrival = arrival
    predictor._bundles.clear()
    with ThreadPoolExecutor(len(asked)) as pool:
        futures = [pool.submit(predictor.predict, version, request) for version, request in asked]
        return [future.result().prediction for future in futures]


def numbers(prediction: Prediction) -> np.ndarray:
    shares = {each.label: each.probability for each in prediction.probabilities}
    return np.array(
        [*(shares[label] for label in sorted(shares)), *prediction.uncertainty.model_dump().values()]
    )


@pytest.mark.parametrize("max_images", [16, 2])
def test_each_answer_is_what_it_is_alone(parts, max_images: int) -> None:
    blobs, folder, versions = parts
    asked = [(versions[0], request) for request in REQUESTS]
    alone = [BundlePredictor(blobs, folder).predict(*each).prediction for each in asked]
    batcher = CountingBatcher(max_images)
    joined = together(BundlePredictor(blobs, folder, batcher), batcher, asked)
    assert batcher.sizes == [min(len(asked), max_images)] * -(-len(asked) // max_images)
    for one, other in zip(alone, joined, strict=True):
        assert (one.seed, one.num_samples, one.label) == (other.seed, other.num_samples, other.label)
        np.testing.assert_allclose(numbers(one), numbers(other), atol=1e-5)


def test_versions_share_the_trunk_and_nothing_else(parts) -> None:
    blobs, folder, versions = parts
    asked = [
        (version, REQUESTS[1].model_copy(update={"model_version": version.number})) for version in versions
    ]
    alone = [BundlePredictor(blobs, folder).predict(*each).prediction for each in asked]
    batcher = CountingBatcher()
    joined = together(BundlePredictor(blobs, folder, batcher), batcher, asked)
    assert batcher.sizes == [2]
    assert [one.model_digest for one in joined] == [version.digest for version in versions]
    for one, other in zip(alone, joined, strict=True):
        np.testing.assert_allclose(numbers(one), numbers(other), atol=1e-5)


def test_an_image_that_is_refused_holds_nobody_up_and_one_alone_waits_for_nobody(parts) -> None:
    blobs, folder, versions = parts
    batcher = CountingBatcher()
    predictor = BundlePredictor(blobs, folder, batcher)
    with pytest.raises(ImageRejected):
        predictor.predict(versions[0], PredictionRequest(image=b"no image"))
    alone = BundlePredictor(blobs, folder).predict(versions[0], REQUESTS[0]).prediction
    assert predictor.predict(versions[0], REQUESTS[0]).prediction == alone
    assert batcher.sizes == [1]


def test_what_fails_fails_for_all_who_were_joined_and_for_nobody_after(parts, monkeypatch) -> None:
    blobs, folder, versions = parts
    batcher = CountingBatcher()
    predictor = BundlePredictor(blobs, folder, batcher)
    classifier = predictor._bundle(versions[0]).classifier
    monkeypatch.setattr(type(classifier), "encode", lambda *_: 1 / 0)
    with pytest.raises(RuntimeError, match="division by zero"):
        predictor.predict(versions[0], REQUESTS[0])
    monkeypatch.undo()
    assert predictor.predict(versions[0], REQUESTS[0]).prediction.model_version == 0


def test_it_is_chosen_by_device_unless_a_setting_forces_it() -> None:
    assert is_wanted("auto", CUDA, "float32")
    assert not is_wanted("auto", CPU, "float32")
    assert is_wanted("on", CPU, "float32")
    assert not is_wanted("off", CUDA, "bfloat16")
    assert not is_wanted("on", CPU, "int8")
