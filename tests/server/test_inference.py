"""Inference: one complete, verified version per answer, on a backbone that is found by what it is."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.server.serving_parts import (
    CLASSES,
    Arrays,
    encoded,
    file_of,
    keep,
    parameters_of,
    picture,
    servable,
    specification_on,
    tiny_backbone,
)

from pfedbayespt.model.backbone import load_backbone
from pfedbayespt.model.classifier import build_classifier
from pfedbayespt.model.config import BackboneConfig, ModelConfig
from pfedbayespt.model.images import prepare, read_image
from pfedbayespt.model.parameters import load_shared_parameters
from pfedbayespt.model.prediction import derive_seed, draw_noise, predict
from pfedbayespt.protocol import (
    CalibratedAnswer,
    CalibrationPolicy,
    CalibrationSketch,
    FederationSpecification,
    Prediction,
    PredictionRequest,
    VersionCalibration,
    digest_of_bytes,
    digest_of_message,
)
from pfedbayespt.protocol.calibrations import TEMPERATURES
from pfedbayespt.server.blobs import MemoryBlobStore
from pfedbayespt.server.calibrations.pooling import pool
from pfedbayespt.server.errors import ImageRejected, InferenceUnavailable, InvalidRequest
from pfedbayespt.server.inference import BackboneFolder, BundlePredictor, make_predictor, share_cores
from pfedbayespt.server.predictions.predictor import Asker, ServableVersion

CPU = torch.device("cpu")
IMAGE = encoded(picture())
REQUEST = PredictionRequest(image=IMAGE, num_samples=4)
ENCODED, RECALLED = {"decode", "encode", "sample"}, {"recall", "sample"}


@pytest.fixture(scope="module")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("backbones")
    (folder / "aaa.safetensors").write_bytes(b"a file that is no backbone")
    (folder / "subfolder").mkdir()
    return folder


@pytest.fixture(scope="module")
def specification(backbones: Path) -> FederationSpecification:
    return specification_on(tiny_backbone(backbones, "zzz"))


@pytest.fixture(scope="module")
def arrays(backbones: Path, specification: FederationSpecification) -> list[Arrays]:
    """The parameters of three versions."""
    return [parameters_of(specification, backbones / "zzz", seed) for seed in range(3)]


@pytest.fixture
def blobs() -> MemoryBlobStore:
    return MemoryBlobStore()


@pytest.fixture
def versions(blobs, specification: FederationSpecification, arrays: list[Arrays]) -> list[ServableVersion]:
    return [
        servable(specification, number, keep(blobs, file_of(parameters, specification, number)))
        for number, parameters in enumerate(arrays)
    ]


@pytest.fixture
def predictor(blobs: MemoryBlobStore, backbones: Path) -> BundlePredictor:
    return BundlePredictor(blobs, BackboneFolder(backbones, CPU))


def damage(blobs: MemoryBlobStore, digest: str) -> bytes:
    """Flip the last bit of a blob, and return what it was."""
    key = digest.removeprefix("sha256:")
    intact = blobs._blobs[key]
    blobs._blobs[key] = intact[:-1] + bytes([intact[-1] ^ 1])
    return intact


# The answer


def test_the_answer_is_what_the_model_package_computes(
    predictor, versions, arrays, specification, backbones
) -> None:
    agreed = specification.model_dump(mode="json")
    config = BackboneConfig.from_specification(agreed)
    backbone = load_backbone(config, backbones / "zzz")
    model = build_classifier(ModelConfig.from_specification(agreed), backbone, torch.Generator())
    load_shared_parameters(model, arrays[1])
    noise = draw_noise([derive_seed(IMAGE, versions[1].digest)], 4, model.posterior.noise_width)
    expected = predict(model.eval(), model.encode(prepare(read_image(IMAGE), config)[None]), noise)

    prediction = predictor.predict(versions[1], REQUEST).prediction
    answered = {entry.label: entry.probability for entry in prediction.probabilities}
    assert [answered[name] for name in CLASSES] == pytest.approx(expected.probabilities[0].tolist(), rel=1e-6)
    told = prediction.uncertainty
    assert told.total_entropy_nats == pytest.approx(float(expected.total), rel=1e-6)
    assert told.aleatoric_entropy_nats == pytest.approx(float(expected.aleatoric), rel=1e-6)
    assert told.epistemic_entropy_nats == pytest.approx(float(expected.epistemic), rel=1e-3)
    assert told.prompt_variance == pytest.approx(float(expected.prompt_variance), rel=1e-6)


def test_the_answer_names_everything_it_came_from(predictor, versions) -> None:
    prediction = predictor.predict(versions[2], REQUEST).prediction
    assert (prediction.federation, prediction.model_version) == ("alpha", 2)
    assert prediction.model_digest == versions[2].digest
    assert prediction.image_digest == digest_of_bytes(IMAGE)
    assert prediction.num_samples == 4
    assert prediction.seed == derive_seed(IMAGE, versions[2].digest)


def test_probabilities_are_sorted_and_sum_to_one_and_uncertainty_adds_up(predictor, versions) -> None:
    prediction = predictor.predict(versions[0], REQUEST).prediction
    shares = [entry.probability for entry in prediction.probabilities]
    assert {entry.label for entry in prediction.probabilities} == set(CLASSES)
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(1.0, abs=1e-6)
    assert prediction.label == prediction.probabilities[0].label
    told = prediction.uncertainty
    assert told.total_entropy_nats == pytest.approx(
        told.aleatoric_entropy_nats + told.epistemic_entropy_nats, abs=1e-6
    )
    assert told.epistemic_entropy_corrected_nats == pytest.approx(
        told.epistemic_entropy_nats * 4 / 3, rel=1e-5
    )
    assert told.prompt_variance > 0


@pytest.mark.parametrize(("top_k", "named"), [(1, 1), (2, 2), (3, 3), (10**6, 3), (None, 3)])
def test_top_k_names_the_most_probable_classes(predictor, versions, top_k: int | None, named: int) -> None:
    everything = predictor.predict(versions[0], REQUEST).prediction
    some = predictor.predict(versions[0], REQUEST.model_copy(update={"top_k": top_k})).prediction
    assert some.probabilities == everything.probabilities[:named]
    assert some.uncertainty == everything.uncertainty


def test_one_sample_has_no_epistemic_part(predictor, versions) -> None:
    told = predictor.predict(
        versions[0], PredictionRequest(image=IMAGE, num_samples=1)
    ).prediction.uncertainty
    assert told.epistemic_entropy_nats == told.epistemic_entropy_corrected_nats == 0.0


def test_how_long_the_steps_took_is_told_apart(predictor, versions) -> None:
    seconds = predictor.predict(versions[0], REQUEST).seconds
    assert list(seconds) == ["decode", "encode", "sample"]
    assert all(duration > 0 for duration in seconds.values())


# What a caller may ask for besides


def test_the_samples_are_given_out_on_request_and_average_to_the_answer(predictor, versions) -> None:
    plain = predictor.predict(versions[1], REQUEST).prediction
    told = predictor.predict(versions[1], REQUEST.model_copy(update={"return_samples": True})).prediction
    assert plain.samples is None
    assert told.samples is not None
    assert np.shape(told.samples) == (4, len(CLASSES))
    assert told.model_copy(update={"samples": None}) == plain
    means = dict(zip(CLASSES, np.mean(told.samples, axis=0), strict=True))
    assert {entry.label: entry.probability for entry in told.probabilities} == pytest.approx(means, rel=1e-5)


def test_a_class_prior_moves_the_odds_by_its_own_and_its_scale_does_not_matter(predictor, versions) -> None:
    def odds(prior: tuple[float, ...] | None) -> float:
        asked = REQUEST.model_copy(update={"class_prior": prior, "num_samples": 1})
        shares = {
            entry.label: entry.probability
            for entry in predictor.predict(versions[1], asked).prediction.probabilities
        }
        return shares[CLASSES[0]] / shares[CLASSES[1]]

    assert odds((3.0, 1.0, 1.0)) == pytest.approx(3 * odds(None), rel=1e-4)
    assert odds((3.0, 1.0, 1.0)) == pytest.approx(odds((0.6, 0.2, 0.2)), rel=1e-4)


def test_a_class_prior_of_another_number_of_classes_is_refused(predictor, versions) -> None:
    asked = REQUEST.model_copy(update={"class_prior": (1.0, 1.0)})
    with pytest.raises(InvalidRequest, match="class_prior has 2 numbers; the federation has 3 classes"):
        predictor.predict(versions[1], asked)


def calibrated(version: ServableVersion, **policy: float) -> ServableVersion:
    """The version with a calibration from two sites, of which one is sure of everything."""
    shy, sure = (
        CalibrationSketch(
            num_examples=200,
            negative_log_likelihoods=tuple(1 + (np.log(TEMPERATURES) - np.log(2)) ** 2),
            scores=(score,) * 200,
            entropies=(0.5,) * 200,
            error_shares=(0.0,) * 200,
        )
        for score in (5.0, 0.0)
    )
    pooled = pool(version.number, CalibrationPolicy(**policy), {"sit_shy": shy, "sit_sure": sure})
    found = VersionCalibration(
        digest=digest_of_message(pooled), calibration=pooled, pooled_at=datetime(2026, 1, 1, tzinfo=UTC)
    )
    return replace(version, calibration=found)


def test_a_calibrated_version_says_what_its_answer_is_worth_and_by_which_calibration(
    predictor, versions
) -> None:
    plain = predictor.predict(versions[1], REQUEST).prediction
    assert plain.calibration is None
    version = calibrated(versions[1])
    told = predictor.predict(version, REQUEST).prediction
    assert told.calibration is not None
    assert told.calibration.digest == version.calibration.digest
    assert told.calibration.temperature == pytest.approx(2.0, rel=1e-4)
    roots = {entry.label: entry.probability**0.5 for entry in plain.probabilities}
    for before, after in zip(plain.probabilities, told.probabilities, strict=True):
        assert after.probability == before.probability
        assert after.calibrated_probability == pytest.approx(
            roots[before.label] / sum(roots.values()), rel=1e-3
        )
    assert predictor.predict(versions[1], REQUEST).prediction == plain


def test_a_sites_own_threshold_decides_for_that_site(predictor, versions) -> None:
    version = calibrated(versions[1])

    def answer(site_id: str | None) -> CalibratedAnswer:
        told = predictor.predict(version, REQUEST, Asker(site_id)).prediction.calibration
        assert told is not None
        return told

    assert answer(None).scope == answer("sit_other").scope == "federation"
    assert set(answer(None).conformal_set) == set(CLASSES)  # nine of ten examples score up to 5
    assert answer("sit_sure").scope == "site"
    assert len(answer("sit_sure").conformal_set) == 1
    assert set(answer("sit_shy").conformal_set) == set(CLASSES)


def test_an_answer_with_a_class_prior_is_not_calibrated(predictor, versions) -> None:
    asked = REQUEST.model_copy(update={"class_prior": (1.0, 1.0, 1.0)})
    told = predictor.predict(calibrated(versions[1]), asked).prediction
    assert told.calibration is None
    assert all(entry.calibrated_probability is None for entry in told.probabilities)


def test_the_federations_rule_decides_when_to_abstain(predictor, versions) -> None:
    def abstains(**policy: float) -> bool | None:
        told = predictor.predict(calibrated(versions[1], **policy), REQUEST).prediction
        assert told.calibration is not None
        assert told.uncertainty.total_entropy_nats != 0.5
        return told.calibration.abstain

    entropy = predictor.predict(versions[1], REQUEST).prediction.uncertainty.total_entropy_nats
    assert abstains() is None
    assert abstains(target_risk=0.1) is (entropy > 0.5)


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_another_precision_of_the_trunk_is_named_in_the_answer(
    blobs, backbones, predictor, versions, precision
) -> None:
    low = make_predictor(blobs, backbones, precision=precision)
    exact, told = (which.predict(versions[1], REQUEST).prediction for which in (predictor, low))
    assert (exact.precision, told.precision) == ("float32", precision)
    assert told.uncertainty.total_entropy_nats == pytest.approx(exact.uncertainty.total_entropy_nats, abs=0.1)


def test_an_image_is_encoded_once_for_each_tenant_who_asks_about_it(
    blobs, backbones, predictor, versions
) -> None:
    caching = make_predictor(blobs, backbones, cache_bytes=2**24)
    clinic, bank = Asker(tenant="clinic"), Asker(tenant="bank")
    expected = [predictor.predict(version, REQUEST).prediction for version in versions[:2]]
    first = caching.predict(versions[0], REQUEST, clinic)
    again = caching.predict(versions[0], REQUEST, clinic)
    of_the_next = caching.predict(versions[1], REQUEST, clinic)
    of_another = caching.predict(versions[0], REQUEST, bank)
    assert [first.prediction, again.prediction, of_another.prediction] == [expected[0]] * 3
    assert of_the_next.prediction == expected[1]
    encoded = [set(answer.seconds) for answer in (first, again, of_the_next, of_another)]
    assert encoded == [ENCODED, RECALLED, RECALLED, ENCODED]

    assert caching.forget("clinic") > 0
    assert set(caching.predict(versions[0], REQUEST, clinic).seconds) == ENCODED
    assert set(caching.predict(versions[0], REQUEST, bank).seconds) == RECALLED
    assert caching.forget(None) > 0
    assert set(caching.predict(versions[0], REQUEST, bank).seconds) == ENCODED


def test_nothing_is_kept_unless_asked_for(blobs, backbones, versions) -> None:
    plain = make_predictor(blobs, backbones)
    for _ in range(2):
        assert set(plain.predict(versions[0], REQUEST, Asker(tenant="clinic")).seconds) == ENCODED
    assert plain.forget(None) == 0


def test_a_version_that_was_prepared_is_not_loaded_again(
    predictor, versions, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor.prepare(versions[0])
    expected = predictor.predict(versions[0], REQUEST).prediction
    monkeypatch.setattr(predictor, "_load", None)
    predictor.prepare(versions[0])
    assert predictor.predict(versions[0], REQUEST).prediction == expected


# The same request, the same bytes


def test_the_same_request_gives_the_same_bytes_also_after_a_restart(
    blobs, backbones, predictor, versions
) -> None:
    restarted = make_predictor(blobs, backbones)
    answers = {
        which.predict(versions[0], REQUEST).prediction.model_dump_json()
        for which in (predictor, predictor, restarted, predictor)
    }
    assert len(answers) == 1


@pytest.mark.parametrize(("cores", "max_running", "expected"), [(8, 2, 4), (8, 3, 2), (1, 2, 1)])
def test_answers_computed_at_once_share_the_cores(
    monkeypatch: pytest.MonkeyPatch, cores: int, max_running: int, expected: int
) -> None:
    before = torch.get_num_threads()
    monkeypatch.setattr("os.sched_getaffinity", lambda _process: set(range(cores)))
    try:
        torch.set_num_threads(cores)
        share_cores(max_running)
        assert torch.get_num_threads() == expected
        share_cores(max_running)  # a second server in the process takes nothing from the first
        assert torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(before)


def test_threads_do_not_disturb_each_other(predictor, versions) -> None:
    requests = [PredictionRequest(image=encoded(picture(seed)), num_samples=3) for seed in range(4)]
    alone = [predictor.predict(versions[0], request).prediction for request in requests]
    with ThreadPoolExecutor(4) as pool:
        together = pool.map(lambda request: predictor.predict(versions[0], request).prediction, requests * 5)
        assert list(together) == alone * 5


def test_the_seed_decides_and_is_by_default_that_of_image_and_version(predictor, versions) -> None:
    def ask(
        version: ServableVersion = versions[0], image: bytes = IMAGE, seed: int | None = None
    ) -> Prediction:
        return predictor.predict(version, PredictionRequest(image=image, num_samples=4, seed=seed)).prediction

    default = ask()
    assert ask(seed=default.seed) == default
    assert ask(seed=1) == ask(seed=1) != ask(seed=2)
    assert ask(seed=2**64 - 1).seed == 2**64 - 1
    same_picture = encoded(picture(), compress_level=1)
    assert len({default.seed, ask(version=versions[1]).seed, ask(image=same_picture).seed}) == 3


# Versions: whole, verified, swapped at once


def test_each_version_answers_for_itself_whatever_answered_before(predictor, versions) -> None:
    fresh = {version.number: predictor.predict(version, REQUEST).prediction for version in versions}
    assert len({answer.uncertainty.total_entropy_nats for answer in fresh.values()}) == 3
    for number in (2, 0, 1, 1, 2, 0):
        assert predictor.predict(versions[number], REQUEST).prediction == fresh[number]


def test_no_answer_mixes_versions_while_they_are_swapped(predictor, versions) -> None:
    expected = [predictor.predict(version, REQUEST).prediction for version in versions]
    swapped = BundlePredictor(predictor._blobs, predictor._backbones)  # loads them anew, in the crowd

    def ask(turn: int) -> None:
        version = versions[turn % 3]
        assert swapped.predict(version, REQUEST).prediction == expected[version.number]

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(ask, range(60)))


def test_a_crowd_loads_a_version_once(predictor, versions, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[int] = []
    load = predictor._load
    monkeypatch.setattr(predictor, "_load", lambda version: loads.append(version.number) or load(version))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: predictor.predict(versions[0], REQUEST), range(16)))
    assert loads == [0]


def test_versions_share_one_backbone_in_memory(predictor, versions) -> None:
    bundles = [predictor._bundle(version) for version in versions]
    assert len({id(bundle.classifier.insertion.backbone) for bundle in bundles}) == 1


def test_only_the_last_few_versions_are_kept(predictor, blobs, specification, arrays) -> None:
    for number in range(12):
        digest = keep(blobs, file_of(arrays[0], specification, number))
        predictor.predict(servable(specification, number, digest), REQUEST)
    assert len(predictor._bundles) == 8


@pytest.mark.parametrize("way", ["damaged", "missing"])
def test_if_the_next_version_cannot_be_loaded_the_old_one_answers_on(
    predictor, versions, blobs, way: str
) -> None:
    before = predictor.predict(versions[0], REQUEST).prediction
    intact = damage(blobs, versions[1].digest)
    if way == "missing":
        blobs.delete(versions[1].digest)
    assert predictor.predict(versions[1], REQUEST).prediction == before
    keep(blobs, intact)
    assert predictor.predict(versions[1], REQUEST).prediction.model_version == 1


def test_a_version_asked_for_by_number_is_never_replaced_by_another(predictor, versions, blobs) -> None:
    predictor.predict(versions[0], REQUEST)
    damage(blobs, versions[1].digest)
    with pytest.raises(
        InferenceUnavailable, match=r"version 1 of 'alpha' cannot be loaded: blob .* is damaged"
    ):
        predictor.predict(versions[1], REQUEST.model_copy(update={"model_version": 1}))


def test_without_an_old_version_a_damaged_one_is_unavailable(predictor, versions, blobs) -> None:
    damage(blobs, versions[1].digest)
    with pytest.raises(InferenceUnavailable, match="damaged"):
        predictor.predict(versions[1], REQUEST)


def test_a_version_asked_for_by_number_does_not_become_the_one_that_serves(
    predictor, versions, blobs
) -> None:
    predictor.predict(versions[0], REQUEST)
    predictor.predict(versions[2], REQUEST.model_copy(update={"model_version": 2}))
    damage(blobs, versions[1].digest)
    assert predictor.predict(versions[1], REQUEST).prediction.model_version == 0


def test_one_federations_trouble_is_not_anothers_answer(
    predictor, versions, blobs, specification, arrays
) -> None:
    predictor.predict(versions[0], REQUEST)
    digest = keep(blobs, file_of(arrays[0], specification, 0, "beta"))
    damage(blobs, digest)
    with pytest.raises(InferenceUnavailable, match="'beta' cannot be loaded"):
        predictor.predict(servable(specification, 0, digest, "beta"), REQUEST)


def test_threads_that_wait_for_a_load_all_get_its_error(predictor, versions, blobs) -> None:
    damage(blobs, versions[0].digest)
    refusals: list[str] = []
    start = threading.Barrier(4)

    def ask() -> None:
        start.wait()
        try:
            predictor.predict(versions[0], REQUEST)
        except InferenceUnavailable as error:
            refusals.append(error.detail)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refusals) == 4


@pytest.mark.parametrize(
    "claim", [{"number": 7}, {"federation": "beta"}, {"specification_digest": "sha256:" + "0" * 64}]
)
def test_a_file_that_says_it_is_another_version_is_refused(
    predictor, versions, claim: dict[str, object]
) -> None:
    with pytest.raises(InferenceUnavailable, match="its file says that it is version 0 of 'alpha'"):
        predictor.predict(replace(versions[0], **claim), REQUEST)


def test_parameters_that_do_not_fit_the_specification_are_refused(
    predictor, blobs, specification, arrays
) -> None:
    without_bias = {name: array for name, array in arrays[0].items() if name != "head.bias"}
    version = servable(specification, 0, keep(blobs, file_of(without_bias, specification, 0)))
    with pytest.raises(InferenceUnavailable, match=r"missing parameters: \['head.bias'\]"):
        predictor.predict(version, REQUEST)


@pytest.mark.parametrize("name", ["head.weight", "prompt.map", "prompt.mean"])
def test_numbers_that_overflow_are_refused_not_answered(
    predictor, blobs, specification, arrays, name: str
) -> None:
    huge = arrays[0] | {name: np.full_like(arrays[0][name], 3e38)}
    version = servable(specification, 0, keep(blobs, file_of(huge, specification, 0)))
    with pytest.raises(InferenceUnavailable, match="version 0 gives no finite numbers"):
        predictor.predict(version, REQUEST)


def test_what_is_no_image_is_refused(predictor, versions) -> None:
    with pytest.raises(ImageRejected):
        predictor.predict(versions[0], PredictionRequest(image=b"no image"))


# Backbones: found by what they are


def test_a_backbone_that_is_not_here_is_named_with_where_it_was_looked_for(
    versions, blobs, tmp_path, backbones
) -> None:
    folder = tmp_path / "empty"
    predictor = BundlePredictor(blobs, BackboneFolder(folder, CPU))
    with pytest.raises(InferenceUnavailable) as refusal:
        predictor.predict(versions[0], REQUEST)
    assert versions[0].specification.backbone.weights_digest in refusal.value.detail
    assert str(folder) in refusal.value.detail
    folder.mkdir()
    (folder / "any name").write_bytes((backbones / "zzz").read_bytes())
    assert predictor.predict(versions[0], REQUEST).prediction.model_version == 0


def test_a_damaged_backbone_is_not_used(versions, blobs, tmp_path, backbones) -> None:
    content = (backbones / "zzz").read_bytes()
    (tmp_path / "zzz").write_bytes(content[:-1] + b"\x55")
    predictor = BundlePredictor(blobs, BackboneFolder(tmp_path, CPU))
    with pytest.raises(InferenceUnavailable, match="is not here"):
        predictor.predict(versions[0], REQUEST)
    (tmp_path / "zzz").write_bytes(content + b"")
    assert predictor.predict(versions[0], REQUEST).prediction.model_version == 0


@pytest.mark.parametrize("architecture", ["no_such_vit", "resnet18", "vit_tiny_patch16_224"])
def test_a_backbone_of_another_architecture_is_refused(predictor, versions, architecture: str) -> None:
    backbone = versions[0].specification.backbone.model_copy(update={"architecture": architecture})
    specification = versions[0].specification.model_copy(update={"backbone": backbone})
    with pytest.raises(InferenceUnavailable, match="cannot be loaded"):
        predictor.predict(replace(versions[0], specification=specification), REQUEST)
