"""Sites of a federation at work: a real coordinator, real training, tiny images."""

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.client_sdk.harness import CLASSES, Coordinator, coordinating, draw_images
from tests.client_sdk.transports import Killed, Spy, is_assignment, is_update

from pfedbayespt.client import HttpAnswer, HttpRequest, Site, Timeouts, TransportError, events
from pfedbayespt.client.contexts import ImageContexts
from pfedbayespt.client.data import ImageFolderDataset
from pfedbayespt.client.errors import (
    AuthenticationRequired,
    DatasetError,
    EnrolmentTokenRefused,
    IntegrityError,
    NoServingVersion,
    PredictionError,
    StateError,
)
from pfedbayespt.client.events import SiteEvent
from pfedbayespt.client.learner import Learner
from pfedbayespt.client.outbox import Outbox
from pfedbayespt.client.personal import PersonalStore
from pfedbayespt.client.work import LocalUpdate
from pfedbayespt.model.config import BackboneConfig
from pfedbayespt.protocol import FederationStatus, RoundStatus, UpdateStatus, tensors


def run_together(*jobs: Callable[[], object]) -> None:
    """Run jobs in threads and raise what any of them raised."""
    with ThreadPoolExecutor(len(jobs)) as pool:
        for done in [pool.submit(job) for job in jobs]:
            done.result(timeout=120)


def kinds(seen: list[SiteEvent]) -> list[str]:
    return [type(event).__name__ for event in seen]


def test_two_sites_train_a_model_together_from_enrolment_to_prediction(
    coordinator: Coordinator, images: Path, tmp_path: Path
) -> None:
    coordinator.found(training={"local_epochs": 3})
    seen: list[SiteEvent] = []
    sites = [coordinator.enrol(tmp_path / name, name) for name in ("clinic-a", "clinic-b")]
    run_together(
        lambda: sites[0].run(images / "train", images / "held-out", on_event=seen.append),
        lambda: sites[1].run(
            ImageFolderDataset(images / "train", CLASSES), ImageFolderDataset(images / "held-out", CLASSES)
        ),
    )

    federation = coordinator.admin.federations.get("shapes")
    assert (federation.rounds_published, federation.serving_version) == (3, 3)
    assert kinds(
        [event for event in seen if not isinstance(event, events.Waiting | events.ImagesEncoded)]
    ) == [
        "SiteStarted",
        *["RoundStarted", "UpdateSubmitted"],
        *["RoundStarted", *["EpochFinished"] * 3, "UpdateSubmitted", "VersionEvaluated"] * 2,
        "SiteFinished",
    ]
    warming_up = [event.metrics["beta"] for event in seen if isinstance(event, events.EpochFinished)]
    beta = federation.specification.training.beta  # in full after three training rounds
    assert warming_up == pytest.approx([beta / 3] * 3 + [beta * 2 / 3] * 3)
    newest, *_, statistics, initial = coordinator.admin.model_versions.list("shapes")
    assert sorted(report.site_name for report in newest.evaluations) == ["clinic-a", "clinic-b"]
    for report in newest.evaluations:
        assert report.evaluation.num_examples == 12
        assert report.evaluation.metrics.keys() == {"accuracy", "nll", "brier", "ece"}
    assert [entry.weight for entry in newest.inputs] == [0.5, 0.5]
    assert (statistics.evaluations, initial.version_number) == ((), 0)
    assert newest.calibration is not None
    assert newest.calibration.calibration.num_examples == 24

    prediction = sites[0].predict(images / "held-out" / "square" / "2-0.png")
    assert prediction.model_version == 3
    assert prediction.model_digest == newest.digest
    assert sum(item.probability for item in prediction.probabilities) == pytest.approx(1.0, abs=1e-5)
    assert {item.label for item in prediction.probabilities} == set(CLASSES)
    assert sites[0].predict((images / "held-out" / "square" / "2-0.png").read_bytes()) == prediction


def test_a_federation_without_prompts_fits_a_head_together(
    coordinator: Coordinator, images: Path, tmp_path: Path
) -> None:
    coordinator.found(
        insertion={"kind": "none"},
        posterior={"family": "shared"},
        head={"cross_fit_folds": 2, "mid_block": 4},
        num_rounds=4,
    )
    sites = [coordinator.enrol(tmp_path / name, name) for name in ("clinic-a", "clinic-b")]
    run_together(*(lambda s=site: s.run(images / "train", images / "held-out") for site in sites))

    newest, *_ = coordinator.admin.model_versions.list("shapes")
    content = coordinator.admin.model_versions.download("shapes", newest.version_number, newest.digest)
    names = {name for name in tensors.decode(content)[1] if not name.startswith("statistics.")}
    assert names == {"head.weight", "head.bias"}
    assert min(report.evaluation.metrics["accuracy"] for report in newest.evaluations) >= 0.75
    prediction = sites[0].predict(images / "held-out" / "square" / "2-0.png")
    assert prediction.uncertainty.prompt_variance == 0.0
    assert prediction.uncertainty.epistemic_entropy_nats == pytest.approx(0.0, abs=1e-6)
    adapted = sites[0].adapt(images / "train", shots=3, kind="head", insist=True)
    assert adapted.is_kept
    assert (
        sites[0].predict(images / "held-out" / "square" / "2-0.png").probabilities != prediction.probabilities
    )


def test_a_cross_fitted_federation_trains_without_a_step_of_the_head(
    coordinator: Coordinator, images: Path, tmp_path: Path
) -> None:
    """Heads are the mean of what sites fit in closed form, so the server publishes heads that nobody trained.

    In the last round prompts rest.
    """
    head = {"cross_fit_folds": 3, "mid_block": 4, "label_shift": True}
    insertion = {"kind": "midway", "num_blocks": 2}
    coordinator.found(insertion=insertion, head=head, training={"head_rounds": 1}, num_rounds=4)
    more_circles = draw_images(draw_images(tmp_path / "more", 8, seed=5), 8, seed=6, classes=CLASSES[:1])
    folders = {"clinic-a": images / "train", "clinic-b": more_circles}
    sites = {name: coordinator.enrol(tmp_path / name, name) for name in folders}
    run_together(*(lambda n=name: sites[n].run(folders[n], images / "held-out") for name in sites))

    newest, last_prompts, *_, second, _, initial = coordinator.admin.model_versions.list("shapes")
    accuracies = [report.evaluation.metrics["accuracy"] for report in newest.evaluations]
    assert min(accuracies) >= 0.75
    contents = {
        version.version_number: tensors.decode(
            coordinator.admin.model_versions.download("shapes", version.version_number, version.digest)
        )[1]
        for version in (newest, last_prompts, second, initial)
    }
    last = contents[newest.version_number]
    assert last["folds.weight"].shape == (3 * len(CLASSES), last["head.weight"].shape[1])
    assert not contents[0]["folds.weight"].any()
    counts = np.array(
        [sum(len(list((folder / c).iterdir())) for folder in folders.values()) for c in CLASSES]
    )
    np.testing.assert_allclose(last["statistics.classes"], counts / counts.sum())
    assert counts[0] > counts[1]
    assert not np.array_equal(last["prompt.mean"], contents[second.version_number]["prompt.mean"])
    before = contents[last_prompts.version_number]
    moved = {name for name in last if not np.array_equal(last[name], before[name])}
    assert moved == {"head.weight", "head.bias", "folds.weight", "folds.bias"}


def test_the_statistics_round_pools_the_moments_of_all_sites_images(
    coordinator: Coordinator, tmp_path: Path
) -> None:
    """Sites of different sizes, so that a wrong weight would show."""
    coordinator.found(num_rounds=1)
    folders = [draw_images(tmp_path / "one", 3, seed=5), draw_images(tmp_path / "two", 7, seed=6)]
    sites = [coordinator.enrol(tmp_path / name, name) for name in ("clinic-a", "clinic-b")]
    held_out = draw_images(tmp_path / "held-out", 1)
    run_together(lambda: sites[0].run(folders[0], held_out), lambda: sites[1].run(folders[1], held_out))

    number = 1
    version = coordinator.admin.model_versions.get("shapes", number)
    content = coordinator.admin.model_versions.download("shapes", number, version.digest)
    pooled = tensors.decode(content)[1]

    model = sites[0].model()
    features = []
    for folder in folders:
        dataset = ImageFolderDataset(folder, CLASSES)
        contexts = ImageContexts(
            dataset,
            list(dataset.labels),
            model.classifier.insertion,
            model.backbone_config,
            device=torch.device("cpu"),
        )
        features.append(contexts.batch(torch.arange(len(dataset))).features.double())
    everything = torch.cat(features).numpy()
    assert np.allclose(pooled["statistics.features.mean"], everything.mean(0), atol=1e-9)
    assert np.allclose(pooled["statistics.features.second_moment"], (everything**2).mean(0), atol=1e-9)
    assert not pooled["head.weight"].any()


def test_a_site_killed_before_its_update_is_sent_sends_the_same_bytes_later(
    coordinator: Coordinator, images: Path, tmp_path: Path
) -> None:
    coordinator.found(num_rounds=1, min_sites_to_start=1, quorum=1)

    def die(request: HttpRequest) -> HttpRequest:
        if is_update(request):
            spy.sent.append(request)
            raise Killed
        return request

    spy = Spy(before=die)
    site = coordinator.enrol(tmp_path / "state", "clinic-a", transport=spy)
    with pytest.raises(Killed):
        site.run(images / "train", images / "held-out")
    (unsent,) = spy.updates()
    pending = Outbox(tmp_path / "state").pending()
    assert pending is not None
    assert pending.content == unsent, "on the disk before it is sent"
    assert [round_.updates_accepted for round_ in coordinator.admin.rounds.list("shapes")] == [0]

    again = Spy()
    progress = Site.resume(tmp_path / "state", transport=again).run(images / "train", images / "held-out")
    assert again.updates()[0] == unsent
    assert progress.rounds_contributed == 2


def test_a_site_that_missed_the_receipt_gets_it_for_the_same_bytes(
    coordinator: Coordinator, images: Path, tmp_path: Path
) -> None:
    coordinator.found(num_rounds=1, min_sites_to_start=1, quorum=1)

    def die(request: HttpRequest, answer: HttpAnswer) -> HttpAnswer:
        if is_update(request):
            raise Killed
        return answer

    spy = Spy(after=die)
    site = coordinator.enrol(tmp_path / "state", "clinic-a", transport=spy)
    with pytest.raises(Killed):
        site.run(images / "train")
    again = Spy()
    Site.resume(tmp_path / "state", transport=again).run(images / "train")
    assert again.updates()[0] == spy.updates()[0]
    first_round = list(coordinator.admin.rounds.list("shapes"))[-1]
    (update,) = coordinator.admin.updates.list(first_round.round_id)
    assert update.status is UpdateStatus.AGGREGATED


def test_training_again_after_a_kill_leads_to_the_same_update(
    coordinator: Coordinator, images: Path, tmp_path: Path
) -> None:
    coordinator.found(num_rounds=1, min_sites_to_start=1, quorum=1)
    updates: list[bytes] = []

    def die(request: HttpRequest) -> HttpRequest:
        if is_update(request) and b'"task":"training"' in request.body.replace(b"\\", b""):
            updates.append(request.body)
            raise Killed
        return request

    for _ in range(2):
        with suppress(StateError):
            coordinator.enrol(tmp_path / "state", "clinic-a")
        site = Site.resume(tmp_path / "state", transport=Spy(before=die))
        with pytest.raises(Killed):
            site.run(images / "train")
        Outbox(tmp_path / "state").discard()  # as if it had been killed while it trained
    assert updates[0] == updates[1]


def test_stopping_in_the_middle_of_training_submits_nothing_and_costs_only_the_round(
    coordinator: Coordinator, images: Path, tmp_path: Path
) -> None:
    coordinator.found(num_rounds=1, min_sites_to_start=1, quorum=1)
    site = coordinator.enrol(tmp_path / "state", "clinic-a")
    seen: list[SiteEvent] = []

    def stop_in_the_first_epoch(event: SiteEvent) -> None:
        seen.append(event)
        if isinstance(event, events.EpochFinished):
            site.stop()

    assert site.run(images / "train", on_event=stop_in_the_first_epoch).rounds_contributed == 1
    assert kinds(seen).count("EpochFinished") == 1
    assert seen[-1] == events.SiteFinished(stopped=True)
    assert Outbox(tmp_path / "state").pending() is None
    assert site.run(images / "train").rounds_contributed == 2


def test_a_round_that_ends_while_the_site_trains_is_left(
    coordinator: Coordinator, images: Path, tmp_path: Path
) -> None:
    coordinator.found(num_rounds=1, min_sites_to_start=1, quorum=1, training={"local_epochs": 500})
    site = coordinator.enrol(tmp_path / "state", "clinic-a")
    seen: list[SiteEvent] = []

    def abandon(event: SiteEvent) -> None:
        seen.append(event)
        if isinstance(event, events.EpochFinished) and event.epoch == 1:
            coordinator.admin.federations.pause("shapes")  # so that no other round follows
            (live,) = [
                r for r in coordinator.admin.rounds.list("shapes") if r.status is RoundStatus.COLLECTING
            ]
            coordinator.admin.rounds.abandon(live.round_id)
        if isinstance(event, events.RoundLeft):
            site.stop()

    site.run(images / "train", on_event=abandon)
    assert events.RoundLeft(2) in seen
    assert kinds(seen).count("EpochFinished") < 500


def test_an_update_for_a_round_that_is_over_is_dropped_and_the_site_goes_on(
    coordinator: Coordinator, images: Path, tmp_path: Path
) -> None:
    coordinator.found(num_rounds=1, min_sites_to_start=1, quorum=1)
    seen: list[SiteEvent] = []

    def close_first(request: HttpRequest) -> HttpRequest:
        if is_update(request) and not any(isinstance(event, events.UpdateNotTaken) for event in seen):
            coordinator.admin.rounds.abandon(request.url.split("/")[-3])
        return request

    site = coordinator.enrol(tmp_path / "state", "clinic-a", transport=Spy(before=close_first))
    progress = site.run(images / "train", on_event=seen.append)
    assert kinds(seen).count("UpdateNotTaken") == 1
    assert progress.rounds_contributed == 2


def test_a_refused_update_is_not_sent_over_and_over(
    coordinator: Coordinator, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same images give the same update again, so the site waits for the next round."""
    coordinator.found(num_rounds=1, min_sites_to_start=1, quorum=1)
    seen: list[SiteEvent] = []

    gather = Learner.gather_statistics

    def spoiled(learner: Learner, base: bytes) -> LocalUpdate:
        update = gather(learner, base)
        update.delta["statistics.readout.mean"][-1] = 1e30
        return update

    monkeypatch.setattr(Learner, "gather_statistics", spoiled)
    spy = Spy()
    site = coordinator.enrol(tmp_path / "state", "clinic-a", transport=spy)

    def stop_after_some_waiting(event: SiteEvent) -> None:
        seen.append(event)
        if kinds(seen).count("Waiting") > 5:
            site.stop()

    site.run(images / "train", on_event=stop_after_some_waiting)
    assert len(spy.updates()) == 1
    (refused,) = [event for event in seen if isinstance(event, events.UpdateNotTaken)]
    assert "statistics.readout.mean" in refused.reason


def test_a_receipt_for_other_bytes_is_no_receipt(
    coordinator: Coordinator, images: Path, tmp_path: Path
) -> None:
    coordinator.found(num_rounds=1, min_sites_to_start=1, quorum=1)

    def forge(request: HttpRequest, answer: HttpAnswer) -> HttpAnswer:
        if not is_update(request):
            return answer
        forged = json.loads(answer.body) | {"digest": "sha256:" + "0" * 64}
        return replace(answer, body=json.dumps(forged).encode())

    site = coordinator.enrol(tmp_path / "state", "clinic-a", transport=Spy(after=forge))
    with pytest.raises(IntegrityError, match="the receipt is not the coordinator's"):
        site.run(images / "train")
    assert site.status().has_pending_update
    assert Site.resume(tmp_path / "state").run(images / "train").rounds_contributed == 2


def test_an_update_that_arrives_torn_is_sent_again_whole(
    coordinator: Coordinator, images: Path, tmp_path: Path
) -> None:
    coordinator.found(num_rounds=1, min_sites_to_start=1, quorum=1)
    tears = iter(range(1))

    def tear_once(request: HttpRequest) -> HttpRequest:
        if is_update(request) and next(tears, None) is not None:
            return replace(request, body=request.body[:-1] + b"?")
        return request

    site = coordinator.enrol(tmp_path / "state", "clinic-a", transport=Spy(before=tear_once))
    seen: list[SiteEvent] = []
    assert site.run(images / "train", on_event=seen.append).rounds_contributed == 2
    assert kinds(seen).count("CoordinatorUnreachable") == 1


def test_a_site_waits_for_a_coordinator_that_is_away_and_goes_on_when_it_is_back(
    coordinator: Coordinator, images: Path, tmp_path: Path
) -> None:
    coordinator.found(num_rounds=1, min_sites_to_start=1, quorum=1)
    coordinator.enrol(tmp_path / "state", "clinic-a")
    outages = iter(range(2))

    def fail_twice(request: HttpRequest, answer: HttpAnswer) -> HttpAnswer:
        if is_assignment(request) and next(outages, None) is not None:
            return HttpAnswer(500)
        return answer

    site = Site.resume(tmp_path / "state", transport=Spy(after=fail_twice))
    seen: list[SiteEvent] = []
    assert site.run(images / "train", on_event=seen.append).rounds_contributed == 2
    assert kinds(seen).count("CoordinatorUnreachable") == 2


def test_a_coordinator_that_stays_away_ends_the_run_with_its_error(
    coordinator: Coordinator, images: Path, tmp_path: Path
) -> None:
    coordinator.found()
    coordinator.enrol(tmp_path / "state", "clinic-a")

    def fail(request: HttpRequest) -> HttpRequest:
        raise TransportError("the network is down")

    impatient = Timeouts(total_seconds=0.0)
    site = Site.resume(tmp_path / "state", transport=Spy(before=fail), timeouts=impatient)
    with pytest.raises(TransportError, match="network is down"):
        site.run(images / "train", patience_seconds=0.0)


def test_a_revoked_site_ends_at_once_with_the_coordinators_reason(
    coordinator: Coordinator, images: Path, tmp_path: Path
) -> None:
    coordinator.found()
    site = coordinator.enrol(tmp_path / "state", "clinic-a")
    (record,) = coordinator.admin.sites.list("shapes")
    coordinator.admin.sites.revoke(record.site_id)
    with pytest.raises(AuthenticationRequired):
        site.run(images / "train")


def test_personal_parameters_take_effect_at_home_and_never_leave_it(
    coordinator: Coordinator, images: Path, tmp_path: Path
) -> None:
    coordinator.found(num_rounds=1, min_sites_to_start=1, quorum=1, head={"personal_residual": True})
    spy = Spy()
    site = coordinator.enrol(tmp_path / "state", "clinic-a", transport=spy)
    site.run(images / "train", images / "held-out")

    personal = tensors.decode(PersonalStore(tmp_path / "state" / "personal").of_version(2) or b"")[1]
    assert any(values.any() for values in personal.values())
    sent = tensors.decode(spy.updates()[-1])[1]
    assert not personal.keys() & sent.keys()

    image = images / "held-out" / "circle" / "2-1.png"
    at_home = site.predict(image)
    shutil.rmtree(tmp_path / "state" / "personal")
    without = Site.resume(tmp_path / "state").predict(image)
    assert at_home.seed == without.seed
    assert at_home.probabilities != without.probabilities


def test_a_version_whose_numbers_overflow_gives_no_answer(coordinator: Coordinator, tmp_path: Path) -> None:
    coordinator.found(num_rounds=1, min_sites_to_start=1, quorum=1)
    site = coordinator.enrol(tmp_path / "state", "clinic-a")
    site.run(draw_images(tmp_path / "images", 4, seed=3))
    predictor = site.predictor()
    with torch.no_grad():
        predictor.model.classifier.readout.head.weight.fill_(torch.inf)
    with pytest.raises(PredictionError, match=r"version 2 gives no finite numbers"):
        predictor.predict(draw_images(tmp_path / "new", 1, seed=9) / "stripe" / "9-0.png")


def test_under_label_shift_a_sites_own_class_prior_moves_its_predictions(
    coordinator: Coordinator, tmp_path: Path
) -> None:
    coordinator.found(num_rounds=1, min_sites_to_start=1, quorum=1, head={"label_shift": True})
    train = draw_images(tmp_path / "images", 12, seed=3, classes=CLASSES[:1])
    draw_images(train, 2, seed=4, classes=CLASSES[1:2])
    site = coordinator.enrol(tmp_path / "state", "clinic-a")
    site.run(train)
    prior = site.predictor().class_prior
    assert prior is not None
    assert prior.sum() == pytest.approx(1.0)
    # Eleven circles are left for training; a class never seen counts as a tenth of an image.
    assert prior[0] == pytest.approx(11 / 13.1)
    image = draw_images(tmp_path / "new", 1, seed=9) / "stripe" / "9-0.png"
    shifted = site.predict(image)
    unshifted = replace(site.predictor(), class_prior=None).predict(image)
    chosen = [
        {item.label: item.probability for item in p.probabilities}["circle"] for p in (shifted, unshifted)
    ]
    assert chosen[0] > chosen[1]


def test_one_state_directory_is_run_by_one_process_at_a_time(
    coordinator: Coordinator, images: Path, tmp_path: Path
) -> None:
    coordinator.found(min_sites_to_start=2)
    site = coordinator.enrol(tmp_path / "state", "clinic-a")
    second = Site.resume(tmp_path / "state")

    def try_the_second(event: SiteEvent) -> None:
        if isinstance(event, events.Waiting):
            with pytest.raises(StateError, match="another process"):
                second.run(images / "train")
            site.stop()

    site.run(images / "train", on_event=try_the_second)


def test_a_site_predicts_offline_with_the_version_it_used_last(
    coordinator: Coordinator, images: Path, tmp_path: Path
) -> None:
    coordinator.found(num_rounds=1, min_sites_to_start=1, quorum=1)
    site = coordinator.enrol(tmp_path / "state", "clinic-a")
    image = images / "held-out" / "stripe" / "2-3.png"
    with pytest.raises(StateError, match="no version is kept"):
        site.predictor(offline=True)
    site.run(images / "train")
    online = site.predict(image)

    def fail(request: HttpRequest) -> HttpRequest:
        raise TransportError("the network is down")

    away = Site.resume(tmp_path / "state", transport=Spy(before=fail))
    assert away.predictor(offline=True).predict(image) == online


def test_a_site_and_its_coordinator_give_the_same_prediction(
    tmp_path: Path, images: Path, backbone_file: Path, backbone_config: BackboneConfig
) -> None:
    roles = {"roles": ["coordinator", "inference"], "backbone_cache_dir": backbone_file.parent}
    with coordinating(tmp_path / "c", backbone_file, backbone_config, **roles) as coordinator:
        coordinator.found(num_rounds=1, min_sites_to_start=1, quorum=1)
        site = coordinator.enrol(tmp_path / "state", "clinic-a")
        site.run(images / "train", images / "held-out")
        image = (images / "held-out" / "circle" / "2-2.png").read_bytes()
        for options in ({}, {"num_samples": 4, "top_k": 1, "seed": 7}):
            assert site.predict(image, **options) == coordinator.admin.predict("shapes", image, **options)


def test_a_site_evaluates_a_version_on_any_folder_without_telling_anyone(
    coordinator: Coordinator, images: Path, tmp_path: Path
) -> None:
    coordinator.found(num_rounds=1, min_sites_to_start=1, quorum=1)
    spy = Spy()
    site = coordinator.enrol(tmp_path / "state", "clinic-a", transport=spy)
    site.run(images / "train", images / "held-out")
    (reported,) = coordinator.admin.model_versions.get("shapes", 2).evaluations
    spy.sent.clear()
    assert site.evaluate(images / "held-out") == reported.evaluation
    assert {request.method for request in spy.sent} == {"GET"}


def test_without_held_out_images_every_tenth_training_image_is_kept_for_evaluation(
    coordinator: Coordinator, images: Path, tmp_path: Path
) -> None:
    coordinator.found(num_rounds=1, min_sites_to_start=1, quorum=1)
    coordinator.enrol(tmp_path / "state", "clinic-a").run(images / "train")
    newest = next(coordinator.admin.model_versions.list("shapes"))
    assert [report.evaluation.num_examples for report in newest.evaluations] == [2]
    (newest_round, *_) = coordinator.admin.rounds.list("shapes")
    (update,) = coordinator.admin.updates.list(newest_round.round_id)
    assert update.manifest.num_examples == 22


def test_a_draft_federation_has_no_version_to_predict_with(coordinator: Coordinator, tmp_path: Path) -> None:
    coordinator.admin.federations.create("shapes", coordinator.specification())
    site = coordinator.enrol(tmp_path / "state", "clinic-a")
    assert site.status().federation.status is FederationStatus.DRAFT
    with pytest.raises(NoServingVersion):
        site.predictor()


def test_an_enrolment_token_works_once(coordinator: Coordinator, tmp_path: Path) -> None:
    coordinator.found()
    token = coordinator.invite()
    options = {"backbone": coordinator.backbone_file}
    Site.enrol(coordinator.url, token, name="clinic-a", directory=tmp_path / "a", **options)
    with pytest.raises(EnrolmentTokenRefused):
        Site.enrol(coordinator.url, token, name="clinic-b", directory=tmp_path / "b", **options)
    assert not (tmp_path / "b" / "site.json").exists()


def test_enrolling_twice_in_one_directory_spends_no_token(coordinator: Coordinator, tmp_path: Path) -> None:
    coordinator.found()
    coordinator.enrol(tmp_path / "state", "clinic-a")
    token = coordinator.invite()
    with pytest.raises(StateError, match="already holds an enrolled site"):
        Site.enrol(
            coordinator.url,
            token,
            name="clinic-b",
            directory=tmp_path / "state",
            backbone=coordinator.backbone_file,
        )
    options = {"backbone": coordinator.backbone_file, "directory": tmp_path / "other"}
    assert Site.enrol(coordinator.url, token, name="clinic-b", **options).name == "clinic-b"


def test_too_few_training_images_are_refused_before_anything_is_asked(
    coordinator: Coordinator, tmp_path: Path
) -> None:
    coordinator.found()
    site = coordinator.enrol(tmp_path / "state", "clinic-a")
    few = draw_images(tmp_path / "few", 2)
    with pytest.raises(DatasetError, match="5 training images are too few; allowed: 8 or more"):
        site.run(few)


def test_leaving_removes_everything_the_site_kept(coordinator: Coordinator, tmp_path: Path) -> None:
    coordinator.found()
    site = coordinator.enrol(tmp_path / "state", "clinic-a")
    site.leave()
    assert not (tmp_path / "state").exists()
