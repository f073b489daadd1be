"""The messages: frozen, strict about unknown fields, the same after a trip over the wire."""

import base64
import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

import pfedbayespt.protocol as protocol
from pfedbayespt.protocol import (
    BackboneSpecification,
    Evaluation,
    Event,
    FederationSpecification,
    HeadSpecification,
    Message,
    Page,
    PredictionRequest,
    RoundPolicy,
    RoundTask,
    SigningKey,
    SiteEnrol,
    Uncertainty,
    UpdateManifest,
    WeightedMean,
    canonical_json,
    digest_of_bytes,
    digest_of_message,
)

DIGEST = "sha256:" + "0" * 64
MESSAGES = sorted(
    (kind for kind in vars(protocol).values() if isinstance(kind, type) and issubclass(kind, Message)),
    key=lambda kind: kind.__name__,
)
UNIT = st.floats(0, 1)
MANIFESTS = st.builds(
    UpdateManifest,
    federation=st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True),
    round_id=st.from_regex(r"rnd_[0-9a-f]{32}", fullmatch=True),
    task=st.sampled_from(RoundTask),
    base_digest=st.from_regex(r"sha256:[0-9a-f]{64}", fullmatch=True),
    num_examples=st.integers(1, 10**9),
    metrics=st.dictionaries(
        st.from_regex(r"[a-z][a-z0-9_]{0,63}", fullmatch=True),
        st.floats(allow_nan=False, allow_infinity=False),
        max_size=32,
    ),
)
SPECIFICATIONS = st.builds(
    FederationSpecification,
    classes=st.lists(
        st.text(st.characters(codec="utf-8"), min_size=1, max_size=100), min_size=2, unique=True
    ),
    backbone=st.builds(
        BackboneSpecification,
        architecture=st.from_regex(r"[a-z0-9_.]{1,100}", fullmatch=True),
        weights_digest=st.just(DIGEST),
        image_size_pixels=st.integers(16, 1024),
    ),
    rounds=st.builds(
        RoundPolicy, max_accuracy_drop=st.none() | UNIT, late_policy=st.sampled_from(["drop", "next_round"])
    ),
)


def manifest(**changes: object) -> UpdateManifest:
    fields = {
        "federation": "clinics",
        "round_id": "rnd_1",
        "task": "training",
        "base_digest": DIGEST,
        "num_examples": 7,
    }
    return UpdateManifest.model_validate(fields | changes)


# Every message


@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.__name__)
def test_every_message_is_frozen_and_refuses_numbers_that_are_not_finite(kind: type[Message]) -> None:
    assert kind.model_config["frozen"] is True
    assert kind.model_config["allow_inf_nan"] is False


@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.__name__)
def test_every_message_but_a_problem_refuses_unknown_fields(kind: type[Message]) -> None:
    allowed = "allow" if kind is protocol.Problem else "forbid"
    assert kind.model_config["extra"] == allowed


@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.__name__)
def test_every_message_has_a_json_schema_and_a_docstring(kind: type[Message]) -> None:
    described = Page[protocol.Event] if kind is Page else kind
    assert described.model_json_schema()["type"] == "object"
    assert kind.__doc__


def test_a_message_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        manifest().num_examples = 8  # type: ignore[misc]


def test_an_unknown_field_is_refused_by_name() -> None:
    with pytest.raises(ValidationError, match="num_exampels"):
        manifest(num_exampels=7)


# Trips over the wire


@given(MANIFESTS)
def test_an_update_manifest_survives_the_wire(message: UpdateManifest) -> None:
    assert UpdateManifest.model_validate_json(canonical_json(message)) == message
    assert UpdateManifest.model_validate_json(message.model_dump_json()) == message


@given(SPECIFICATIONS)
def test_a_specification_keeps_its_digest_over_the_wire(specification: FederationSpecification) -> None:
    received = FederationSpecification.model_validate_json(specification.model_dump_json())
    assert received == specification
    assert digest_of_message(received) == digest_of_message(specification)


@given(st.binary(max_size=200))
def test_an_image_survives_the_wire_as_base64(content: bytes) -> None:
    request = PredictionRequest(image=content)
    sent = json.loads(request.model_dump_json())
    assert sent["image"] == base64.b64encode(content).decode()
    assert PredictionRequest.model_validate(sent).image == content


@pytest.mark.parametrize(
    "text", ["!!!", "aGVs bG8=", "aGVsbG8", "aGVsbG8=\n", "é", "a-_b", "https://x/y.png"]
)
def test_an_image_that_is_not_base64_is_refused(text: str) -> None:
    with pytest.raises(ValidationError, match="not base64"):
        PredictionRequest.model_validate({"image": text})


@pytest.mark.parametrize("seed", [0, 1, 2**53 + 1, 2**64 - 1])
def test_a_seed_of_64_bits_survives_the_wire(seed: int) -> None:
    request = PredictionRequest(image=b"x", seed=seed)
    assert PredictionRequest.model_validate_json(request.model_dump_json()).seed == seed


@pytest.mark.parametrize(
    "options",
    [
        {"num_samples": 0},
        {"num_samples": 257},
        {"top_k": 0},
        {"seed": -1},
        {"seed": 2**64},
        {"model_version": -1},
    ],
)
def test_prediction_options_outside_their_range_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValidationError, match=next(iter(options))):
        PredictionRequest.model_validate({"image": "", **options})


def test_times_are_told_in_utc_whatever_the_zone_they_came_in() -> None:
    tokyo = datetime(2026, 1, 1, 9, tzinfo=timezone(timedelta(hours=9)))
    event = Event(
        event_id=1,
        federation=None,
        actor="admin",
        action="x",
        subject="y",
        details={},
        occurred_at=tokyo,
        previous_hash="0" * 64,
        hash="0" * 64,
    )
    assert event.occurred_at.tzinfo is UTC
    assert json.loads(event.model_dump_json())["occurred_at"] == "2026-01-01T00:00:00Z"


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ValidationError, match="timezone"):
        Event.model_validate(
            {
                "event_id": 1,
                "federation": None,
                "actor": "admin",
                "action": "x",
                "subject": "y",
                "details": {},
                "occurred_at": "2026-01-01T00:00:00",
                "previous_hash": "0" * 64,
                "hash": "0" * 64,
            }
        )


def test_an_enrolment_token_is_sent_but_never_shown() -> None:
    key = SigningKey.generate()
    request = SiteEnrol.signed(
        key,
        token=SecretStr("enr_secret"),
        site_name="north",
        public_key=key.public_key,
        coordinator_key_id=key.key_id,
    )
    assert json.loads(request.model_dump_json())["token"] == "enr_secret"
    assert "enr_secret" not in repr(request)
    assert "enr_secret" not in str(request.model_dump())


# Canonical JSON and digests


def test_canonical_json_is_sorted_dense_and_utf_8() -> None:
    assert canonical_json({"b": [1, 2.5, None], "a": "é"}) == '{"a":"é","b":[1,2.5,null]}'.encode()


def test_canonical_json_of_a_number_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"a": float("nan")})


def test_the_digest_of_bytes_is_their_sha_256() -> None:
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert digest_of_bytes(b"") == f"sha256:{empty}"
    assert digest_of_message(manifest()) == digest_of_bytes(canonical_json(manifest()))


# What single messages refuse


@pytest.mark.parametrize(
    "count", [0, -1, float("nan"), float("inf"), 2**63, 10**9 + 1, 1.5, None, "many", [1]]
)
def test_a_number_of_examples_that_cannot_be_is_refused(count: object) -> None:
    with pytest.raises(ValidationError, match="num_examples"):
        manifest(num_examples=count)


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_metric_that_is_not_finite_is_refused(text: str) -> None:
    valid = Evaluation(num_examples=1, metrics={"accuracy": 0.5}).model_dump_json()
    with pytest.raises(ValidationError, match="accuracy"):
        Evaluation.model_validate_json(valid.replace("0.5", text))


@pytest.mark.parametrize("name", ["", "Accuracy", "a b", "a" * 65, "../x", "1a"])
def test_a_metric_name_outside_its_form_is_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        Evaluation(num_examples=1, metrics={name: 0.5})


def test_more_than_32_metrics_are_refused() -> None:
    with pytest.raises(ValidationError, match="at most 32"):
        Evaluation(num_examples=1, metrics={f"m{number}": 0.5 for number in range(33)})


@pytest.mark.parametrize("slug", ["a", "0", "a-b", "clinics-2", "a" * 63])
def test_a_slug_is_accepted(slug: str) -> None:
    assert manifest(federation=slug).federation == slug


@pytest.mark.parametrize("slug", ["", "-a", "a-", "A", "a_b", "a/b", "..", "a b", "a\n", "é", "a" * 64])
def test_what_is_not_a_slug_is_refused(slug: str) -> None:
    with pytest.raises(ValidationError, match="federation"):
        manifest(federation=slug)


@pytest.mark.parametrize(
    "digest", ["", "0" * 64, "sha256:" + "0" * 63, "sha256:" + "A" * 64, "md5:" + "0" * 64, DIGEST + "\n"]
)
def test_what_is_not_a_digest_is_refused(digest: str) -> None:
    with pytest.raises(ValidationError, match="base_digest"):
        manifest(base_digest=digest)


def test_a_head_is_cross_fitted_with_no_fold_or_with_several() -> None:
    assert [HeadSpecification(cross_fit_folds=count).cross_fit_folds for count in (0, 2, 16)] == [0, 2, 16]
    for count, why in (
        (1, "no image would be held out"),
        (17, "less than or equal to 16"),
        (-1, "equal to 0"),
    ):
        with pytest.raises(ValidationError, match=why):
            HeadSpecification(cross_fit_folds=count)


@pytest.mark.parametrize("rule", ["fedavgm", "fedadam"])
def test_heads_in_closed_form_are_averaged_and_nothing_else(rule: str) -> None:
    backbone = {"architecture": "vit", "weights_digest": DIGEST, "image_size_pixels": 112}
    described = {"classes": ["a", "b"], "backbone": backbone, "head": {"cross_fit_folds": 2}}
    assert FederationSpecification.model_validate(described).head.cross_fit_folds == 2
    described["rounds"] = {"aggregation": {"rule": rule}}
    with pytest.raises(ValidationError, match=f"weighted_mean, not {rule}"):
        FederationSpecification.model_validate(described)


def test_late_heads_do_not_step_beyond_their_closed_form() -> None:
    backbone = {"architecture": "vit", "weights_digest": DIGEST, "image_size_pixels": 112}
    described = {"classes": ["a", "b"], "backbone": backbone, "rounds": {"late_policy": "next_round"}}
    for head in ({}, {"cross_fit_folds": 2, "relaxation": 1.0}):
        assert (
            FederationSpecification.model_validate(described | {"head": head}).rounds.late_policy
            == "next_round"
        )
    with pytest.raises(
        ValidationError, match=r"relaxation 1\.8 goes with late_policy drop, not next_round.*up to 1"
    ):
        FederationSpecification.model_validate(described | {"head": {"cross_fit_folds": 2}})


@pytest.mark.parametrize(
    ("folds", "num_rounds", "complaint"),
    [
        (0, 20, "head_rounds 10 goes with head.cross_fit_folds of 2 or more"),
        (4, None, "the last of rounds.num_rounds, which is not set"),
        (4, 10, "the last of rounds.num_rounds, which is 10"),
    ],
)
def test_rounds_that_fit_heads_alone_are_the_last_of_a_known_number(
    folds: int, num_rounds: int | None, complaint: str
) -> None:
    backbone = {"architecture": "vit", "weights_digest": DIGEST, "image_size_pixels": 112}
    described = {"classes": ["a", "b"], "backbone": backbone, "training": {"head_rounds": 10}}
    whole = described | {"head": {"cross_fit_folds": 4}, "rounds": {"num_rounds": 11}}
    assert FederationSpecification.model_validate(whole).training.head_rounds == 10
    changed = described | {"head": {"cross_fit_folds": folds}, "rounds": {"num_rounds": num_rounds}}
    with pytest.raises(ValidationError, match=complaint):
        FederationSpecification.model_validate(changed)


def test_without_prompts_what_could_never_learn_is_refused() -> None:
    backbone = {"architecture": "vit", "weights_digest": DIGEST, "image_size_pixels": 112}
    described = {"classes": ["a", "b"], "backbone": backbone, "insertion": {"kind": "none"}}
    shared = described | {"posterior": {"family": "shared"}}
    assert FederationSpecification.model_validate(shared).insertion.kind == "none"
    with pytest.raises(ValidationError, match=r"no prompts to draw.*semi_implicit; allowed: shared"):
        FederationSpecification.model_validate(described)
    residual = shared | {"head": {"cross_fit_folds": 2, "personal_residual": True}}
    with pytest.raises(
        ValidationError, match=r"nothing takes steps in a round, so a head\.personal_residual would stay"
    ):
        FederationSpecification.model_validate(residual)


def test_a_policy_under_which_no_round_could_close_is_refused() -> None:
    with pytest.raises(ValidationError, match="cohort_size 2 is below quorum 3"):
        RoundPolicy(cohort_size=2, quorum=3, min_sites_to_start=3)
    with pytest.raises(ValidationError, match="min_sites_to_start 2 is below quorum 3"):
        RoundPolicy(quorum=3)
    assert RoundPolicy(cohort_size=3, quorum=3, min_sites_to_start=3).quorum == 3


@pytest.mark.parametrize(
    ("policy", "why"),
    [
        ({"late_policy": "buffer"}, "go together"),
        ({"asynchronous": {"buffer_size": 2}}, "go together"),
        ({"late_policy": "buffer", "asynchronous": {"buffer_size": 1}}, "below quorum 2"),
        ({"late_policy": "buffer", "asynchronous": {"buffer_size": 2}, "cohort_size": 2}, "no meaning"),
        ({"late_policy": "later"}, "late_policy"),
        ({"aggregation": {"rule": "fedsgd"}}, "rule"),
        ({"aggregation": {"rule": "fedavgm", "momentum": 1.0}}, "momentum"),
        ({"aggregation": {"rule": "fedadam", "tau": 0.0}}, "tau"),
        ({"aggregation": {"rule": "weighted_mean", "momentum": 0.5}}, "momentum"),
    ],
)
def test_a_mode_or_a_rule_that_cannot_work_is_refused(policy: dict[str, object], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        RoundPolicy.model_validate(policy)


def test_asynchronous_mode_and_server_optimisers_have_sound_defaults() -> None:
    policy = RoundPolicy.model_validate(
        {
            "late_policy": "buffer",
            "asynchronous": {"buffer_size": 2},
            "aggregation": {"rule": "fedyogi"},
        }
    )
    assert policy.asynchronous is not None
    assert (policy.asynchronous.max_staleness, policy.asynchronous.staleness_weight) == (10, 0.5)
    assert RoundPolicy().aggregation == WeightedMean()


def test_classes_must_be_distinct_and_at_least_two() -> None:
    backbone = BackboneSpecification(architecture="vit", weights_digest=DIGEST, image_size_pixels=112)
    with pytest.raises(ValidationError, match=r"these repeat: \['bird'\]"):
        FederationSpecification(classes=("bird", "fruit", "bird"), backbone=backbone)
    with pytest.raises(ValidationError, match="at least 2"):
        FederationSpecification(classes=("bird",), backbone=backbone)


def test_an_uncertainty_below_zero_is_refused() -> None:
    zero = dict.fromkeys(Uncertainty.model_fields, 0.0)
    for name in zero:
        with pytest.raises(ValidationError, match=name):
            Uncertainty.model_validate(zero | {name: -1e-9})
