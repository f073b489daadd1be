"""What a site refuses: other bytes, another specification, another backbone (promise P8)."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.client_sdk.harness import Coordinator
from tests.client_sdk.transports import Spy, is_assignment, is_download

from pfedbayespt.client import (
    BackboneMismatchError,
    HttpAnswer,
    HttpRequest,
    IntegrityError,
    Site,
    SpecificationChangedError,
)
from pfedbayespt.client.agreement import check_parameters
from pfedbayespt.model.backbone import random_backbone
from pfedbayespt.protocol import (
    ParametersManifest,
    SigningKey,
    VersionManifest,
    digest_of_bytes,
    digest_of_message,
    tensors,
)


def tampering_with_assignments(change: Callable[[dict[str, Any]], None]) -> Spy:
    def tamper(request: HttpRequest, answer: HttpAnswer) -> HttpAnswer:
        if not is_assignment(request):
            return answer
        document = json.loads(answer.body)
        change(document)
        return HttpAnswer(answer.status, answer.headers, json.dumps(document).encode())

    return Spy(after=tamper)


def test_a_download_that_was_tampered_with_is_refused_and_not_kept(
    coordinator: Coordinator, images: Path, tmp_path: Path
) -> None:
    coordinator.found(min_sites_to_start=1, quorum=1)

    def tamper(request: HttpRequest, answer: HttpAnswer) -> HttpAnswer:
        if not is_download(request):
            return answer
        return HttpAnswer(answer.status, answer.headers, answer.body[:-1] + bytes([answer.body[-1] ^ 1]))

    spy = Spy(after=tamper)
    site = coordinator.enrol(tmp_path / "state", "clinic-a", transport=spy)
    with pytest.raises(IntegrityError, match="nothing was kept"):
        site.run(images / "train")
    assert not spy.updates()
    assert not list((tmp_path / "state").glob("versions/*"))


def test_a_version_passed_off_as_another_is_refused(
    coordinator: Coordinator, images: Path, tmp_path: Path
) -> None:
    """The coordinator lies consistently: version 1 is announced and described as version 0, and version 0 comes."""
    coordinator.found(min_sites_to_start=1, quorum=1)
    initial = coordinator.admin.model_versions.get("shapes", 0)
    content = coordinator.admin.model_versions.download("shapes", 0, initial.digest)

    def announce_one_as_the_other(document: dict[str, Any]) -> None:
        document["model_version"], document["model_digest"] = 1, initial.digest

    coordinator.enrol(tmp_path / "state", "clinic-a")
    spy = tampering_with_assignments(announce_one_as_the_other)
    tamper = spy.after
    described = initial.model_copy(update={"version_number": 1}).model_dump_json().encode()

    def lie(request: HttpRequest, answer: HttpAnswer) -> HttpAnswer:
        if request.url.endswith("/model-versions/1"):
            return HttpAnswer(200, {}, described)
        return HttpAnswer(200, {}, content) if is_download(request) else tamper(request, answer)

    spy.after = lie
    with pytest.raises(IntegrityError, match="was announced"):
        Site.resume(tmp_path / "state", transport=spy).run(images / "train")
    assert not spy.updates()


def test_a_version_that_the_coordinator_has_not_signed_for_is_refused_and_not_kept(
    coordinator: Coordinator, images: Path, tmp_path: Path
) -> None:
    coordinator.found(min_sites_to_start=1, quorum=1)
    signed = coordinator.admin.model_versions.get("shapes", 0)
    assert signed.manifest is not None
    facts = signed.manifest.model_dump(exclude={"key_id", "signature"})
    forged = VersionManifest.signed(SigningKey.generate(), **facts)
    coordinator.enrol(tmp_path / "state", "clinic-a")
    for manifest, complaint in (
        (None, "does not sign"),
        (signed.manifest.model_copy(update={"code_version": "another"}), "not the coordinator's"),
        (forged, "not the coordinator's"),
    ):
        told = signed.model_copy(update={"manifest": manifest}).model_dump_json().encode()
        spy = Spy(
            after=lambda request, answer, told=told: (
                HttpAnswer(200, {}, told) if request.url.endswith("/model-versions/0") else answer
            )
        )
        with pytest.raises(IntegrityError, match=complaint):
            Site.resume(tmp_path / "state", transport=spy).run(images / "train")
        assert not spy.updates()
        assert not list((tmp_path / "state").glob("versions/*"))


def test_a_kept_version_that_rotted_on_the_disk_is_downloaded_again(
    coordinator: Coordinator, images: Path, tmp_path: Path
) -> None:
    coordinator.found(num_rounds=1, min_sites_to_start=1, quorum=1)
    site = coordinator.enrol(tmp_path / "state", "clinic-a")
    site.run(images / "train")
    expected = site.predict(images / "held-out" / "circle" / "2-0.png")
    for file in (tmp_path / "state" / "versions").iterdir():
        file.write_bytes(file.read_bytes()[:-1] + b"?")
    again = Site.resume(tmp_path / "state")
    assert again.predict(images / "held-out" / "circle" / "2-0.png") == expected


def test_a_changed_specification_is_refused_even_with_its_proper_digest(
    coordinator: Coordinator, images: Path, tmp_path: Path
) -> None:
    coordinator.found(min_sites_to_start=1, quorum=1)
    other = coordinator.specification(training={"learning_rate": 1.0}, min_sites_to_start=1, quorum=1)

    def replace_specification(document: dict[str, Any]) -> None:
        document["specification"] = other.model_dump(mode="json")
        document["specification_digest"] = digest_of_message(other)

    coordinator.enrol(tmp_path / "state", "clinic-a")
    spy = tampering_with_assignments(replace_specification)
    site = Site.resume(tmp_path / "state", transport=spy)
    with pytest.raises(SpecificationChangedError, match="enrol again in a new directory"):
        site.run(images / "train")
    assert not spy.updates()


def test_a_specification_that_is_not_the_one_announced_is_refused_at_enrolment(
    coordinator: Coordinator, tmp_path: Path
) -> None:
    coordinator.found()

    def raise_the_rate(document: dict[str, Any]) -> None:
        document["specification"]["training"]["learning_rate"] = 1.0

    with pytest.raises(SpecificationChangedError, match="announces"):
        coordinator.enrol(
            tmp_path / "state", "clinic-a", transport=tampering_with_assignments(raise_the_rate)
        )
    assert not (tmp_path / "state" / "agreement.json").exists()


def test_work_for_another_federation_is_refused(
    coordinator: Coordinator, images: Path, tmp_path: Path
) -> None:
    coordinator.found()
    coordinator.enrol(tmp_path / "state", "clinic-a")
    spy = tampering_with_assignments(lambda document: document.update(federation="elsewhere"))
    with pytest.raises(SpecificationChangedError, match="elsewhere"):
        Site.resume(tmp_path / "state", transport=spy).run(images / "train")


def test_another_backbone_is_refused_and_the_right_one_can_be_named_later(
    coordinator: Coordinator, tmp_path: Path
) -> None:
    coordinator.found()
    other = tmp_path / "other.safetensors"
    random_backbone(other, seed=1)
    with pytest.raises(BackboneMismatchError, match=coordinator.backbone_config.weights_digest):
        Site.enrol(
            coordinator.url,
            coordinator.invite(),
            name="clinic-a",
            directory=tmp_path / "state",
            backbone=other,
        )
    with pytest.raises(BackboneMismatchError):
        Site.resume(tmp_path / "state")
    site = Site.resume(tmp_path / "state", backbone=coordinator.backbone_file)
    assert site.specification_digest == digest_of_message(coordinator.specification())
    assert Site.resume(tmp_path / "state").name == "clinic-a"


def test_a_backbone_that_changes_after_enrolment_is_refused(coordinator: Coordinator, tmp_path: Path) -> None:
    coordinator.found()
    own = tmp_path / "own.safetensors"
    own.write_bytes(coordinator.backbone_file.read_bytes())
    site = Site.enrol(
        coordinator.url, coordinator.invite(), name="clinic-a", directory=tmp_path / "state", backbone=own
    )
    own.write_bytes(own.read_bytes()[:-1] + b"?")
    with pytest.raises(BackboneMismatchError):
        site.model()


def test_a_missing_backbone_spends_no_token(coordinator: Coordinator, tmp_path: Path) -> None:
    coordinator.found()
    token = coordinator.invite()
    options = {"name": "clinic-a", "directory": tmp_path / "state"}
    with pytest.raises(BackboneMismatchError, match="cannot be read"):
        Site.enrol(coordinator.url, token, backbone=tmp_path / "missing", **options)
    Site.enrol(coordinator.url, token, backbone=coordinator.backbone_file, **options)


def test_a_parameters_file_must_say_that_it_is_what_was_announced(coordinator: Coordinator) -> None:
    import numpy as np

    specification = coordinator.specification()
    manifest = ParametersManifest(
        federation="shapes", specification_digest=digest_of_message(specification), version_number=4
    )
    content = tensors.encode({"head.bias": np.zeros(3, np.float32)}, manifest)
    check_parameters(content, specification, "shapes", 4)
    for federation, number in (("other", 4), ("shapes", 5)):
        with pytest.raises(IntegrityError, match="was announced"):
            check_parameters(content, specification, federation, number)
    with pytest.raises(IntegrityError, match="not a parameters file"):
        check_parameters(b"not a file", specification, "shapes", 4)
    assert digest_of_bytes(content).startswith("sha256:")
