"""The examples in the API's documentation: one small story, three hospitals and a handful of classes."""

from datetime import UTC, datetime
from typing import Final

from pfedbayespt.protocol import (
    AccessToken,
    AggregationInput,
    ApiKey,
    ApiKeyRole,
    Assignment,
    BackboneSpecification,
    CoordinatorIdentity,
    EnrolmentToken,
    Evaluation,
    Event,
    Federation,
    FederationSpecification,
    FederationStatus,
    FederationTerms,
    Lineage,
    LineageInput,
    ModelVersion,
    ModelVersionStatus,
    NewApiKey,
    Organisation,
    Page,
    Receipt,
    Round,
    RoundPolicy,
    RoundStatus,
    RoundTask,
    Site,
    SiteAction,
    SiteEnrolment,
    SiteEvaluation,
    SiteKey,
    SiteStatus,
    TensorSpec,
    Trial,
    TrialStatus,
    TrialTally,
    TrialTerms,
    Update,
    UpdateManifest,
    UpdateStatement,
    UpdateStatus,
    digest_of_bytes,
    digest_of_message,
)
from pfedbayespt.protocol.lineage import Ancestor

_NOON: Final = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
_ONE: Final = datetime(2026, 11, 22, 13, 0, tzinfo=UTC)
_NAME: Final = "skin-lesions"
_SITE_ID: Final = "sit_4d1f6a0c9b8e4f2aa1c35d7e90b6f812"
_ROUND_ID: Final = "rnd_9a7c52e1d04b4c86b3f1e8d270a5c694"
_UPDATE_ID: Final = "upd_c2b86f3d5a1e4970868d4f0b9e7a1c35"
_BASE: Final = digest_of_bytes(b"base")
_RESULT: Final = digest_of_bytes(b"result")
_UPDATE: Final = digest_of_bytes(b"update")
_SIGNED: Final = {"key_id": "key_" + "5f" * 16, "signature": "A" * 86}
IDENTITY: Final = CoordinatorIdentity(key_id=_SIGNED["key_id"], public_key="A" * 43)
ACCESS_TOKEN: Final = AccessToken(
    access_token="eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJzaXRfNGQxZiJ9.AAAA",
    expires_in=900,
)
SITE_KEY: Final = SiteKey(key_id=_SIGNED["key_id"], public_key="A" * 43, created_at=_NOON)
SITE_KEYS: Final[Page[SiteKey]] = Page(items=(SITE_KEY,), next_cursor=None)

API_KEY: Final = ApiKey(
    api_key_id="api_5f2c1f0e9d3b4a7c",
    federation=_NAME,
    organisation="hospital-north",
    name="reading-room",
    role=ApiKeyRole.PREDICTOR,
    created_at=_NOON,
    revoked_at=None,
)
NEW_API_KEY: Final = NewApiKey(key="fp_live_5f2c1f0e9d3b4a7c_" + "A" * 43 + "c0ffee00", api_key=API_KEY)
API_KEYS: Final[Page[ApiKey]] = Page(items=(API_KEY,), next_cursor=None)

ORGANISATION: Final = Organisation(name="hospital-north", federations=(_NAME,), created_at=_NOON)
ORGANISATIONS: Final[Page[Organisation]] = Page(items=(ORGANISATION,), next_cursor=None)

SPECIFICATION: Final = FederationSpecification(
    classes=("benign", "malignant", "unsure"),
    backbone=BackboneSpecification(
        architecture="vit_small_patch14_dinov2",
        weights_digest=digest_of_bytes(b"weights"),
        image_size_pixels=112,
    ),
    rounds=RoundPolicy(num_rounds=12, min_sites_to_start=3, quorum=2, deadline_seconds=1800.0),
)
TERMS: Final = FederationTerms(
    federation=_NAME,
    specification_digest=digest_of_message(SPECIFICATION),
    backbone_digest=SPECIFICATION.backbone.weights_digest,
    issued_at=_NOON,
    **_SIGNED,
)
FEDERATION: Final = Federation(
    name=_NAME,
    status=FederationStatus.ACTIVE,
    specification=SPECIFICATION,
    specification_digest=digest_of_message(SPECIFICATION),
    terms=TERMS,
    serving_version=3,
    rounds_published=3,
    created_at=_NOON,
)
ENROLMENT_TOKEN: Final = EnrolmentToken(
    token="enr_" + "A" * 43,
    federation=_NAME,
    organisation="hospital-north",
    expires_at=_ONE,
    coordinator_key_id=IDENTITY.key_id,
)
SITE: Final = Site(
    site_id=_SITE_ID,
    site_name="radiology",
    organisation="hospital-north",
    federation=_NAME,
    status=SiteStatus.ACTIVE,
    enrolled_at=_NOON,
    last_seen_at=_ONE,
)
SITE_ENROLMENT: Final = SiteEnrolment(site=SITE, key_id=SITE_KEY.key_id, coordinator=IDENTITY)
ROUND: Final = Round(
    round_id=_ROUND_ID,
    federation=_NAME,
    round_number=4,
    task=RoundTask.TRAINING,
    status=RoundStatus.COLLECTING,
    base_version=3,
    base_digest=_BASE,
    result_version=None,
    quorum=2,
    cohort=(_SITE_ID,),
    updates_accepted=1,
    updates_quarantined=0,
    started_at=_NOON,
    deadline_at=_ONE,
    finished_at=None,
)
ASSIGNMENT: Final = Assignment(
    action=SiteAction.TRAIN,
    federation=_NAME,
    federation_status=FederationStatus.ACTIVE,
    specification=SPECIFICATION,
    specification_digest=FEDERATION.specification_digest,
    terms=TERMS,
    round=ROUND,
    model_version=3,
    model_digest=_BASE,
    retry_after_seconds=1.0,
)
STATEMENT: Final = UpdateStatement(
    federation=_NAME,
    round_id=_ROUND_ID,
    site_id=_SITE_ID,
    base_digest=_BASE,
    update_digest=_UPDATE,
    num_examples=128,
    nonce="0" * 32,
    **_SIGNED,
)
UPDATE: Final = Update(
    update_id=_UPDATE_ID,
    round_id=_ROUND_ID,
    site_id=_SITE_ID,
    status=UpdateStatus.AGGREGATED,
    digest=_UPDATE,
    size_bytes=181_320,
    manifest=UpdateManifest(
        federation=_NAME,
        round_id=_ROUND_ID,
        task=RoundTask.TRAINING,
        base_digest=_BASE,
        num_examples=128,
        metrics={"loss": 0.83},
    ),
    tensors=(TensorSpec(name="head.weight", dtype="F32", shape=(3, 1536)),),
    delta_norm=0.42,
    verdict=None,
    weight=0.4,
    statement=STATEMENT,
    received_at=_NOON,
)
RECEIPT: Final = Receipt(
    federation=_NAME,
    update_id=_UPDATE_ID,
    round_id=_ROUND_ID,
    site_id=_SITE_ID,
    digest=_UPDATE,
    size_bytes=181_320,
    received_at=_NOON,
    audit_head="9d" * 32,
    **_SIGNED,
)
EVALUATION: Final = Evaluation(num_examples=64, metrics={"accuracy": 0.81, "nll": 0.55})
SITE_EVALUATION: Final = SiteEvaluation(
    site_id=_SITE_ID, site_name="radiology", evaluation=EVALUATION, reported_at=_ONE
)
MODEL_VERSION: Final = ModelVersion(
    version_number=4,
    federation=_NAME,
    status=ModelVersionStatus.SERVING,
    digest=_RESULT,
    size_bytes=181_020,
    parent_version=3,
    round_id=_ROUND_ID,
    inputs=(
        AggregationInput(
            update_id=_UPDATE_ID, site_id=_SITE_ID, digest=_UPDATE, num_examples=128, weight=1.0
        ),
    ),
    evaluations=(SITE_EVALUATION,),
    created_at=_ONE,
)
EVENT: Final = Event(
    event_id=17,
    federation=_NAME,
    actor="worker",
    action="round.published",
    subject=_ROUND_ID,
    details={"version_number": 4},
    occurred_at=_ONE,
    previous_hash="0" * 64,
    hash="9d" * 32,
)

LINEAGE: Final = Lineage(
    federation=_NAME,
    version_number=4,
    digest=_RESULT,
    manifest=None,
    round_id=_ROUND_ID,
    round_number=4,
    task=RoundTask.TRAINING,
    inputs=(
        LineageInput(
            update_id=_UPDATE_ID,
            digest=_UPDATE,
            num_examples=128,
            weight=1.0,
            site_id=_SITE_ID,
            site_name="radiology",
            organisation="hospital-north",
        ),
    ),
    ancestors=(Ancestor(version_number=3, digest=_BASE),),
)

FEDERATIONS: Final[Page[Federation]] = Page(items=(FEDERATION,), next_cursor=None)
SITES: Final[Page[Site]] = Page(items=(SITE,), next_cursor=None)
ROUNDS: Final[Page[Round]] = Page(items=(ROUND,), next_cursor=None)
UPDATES: Final[Page[Update]] = Page(items=(UPDATE,), next_cursor=None)
MODEL_VERSIONS: Final[Page[ModelVersion]] = Page(items=(MODEL_VERSION,), next_cursor=None)
EVENTS: Final[Page[Event]] = Page(items=(EVENT,), next_cursor=None)

TRIAL: Final = Trial(
    trial_id="trl_" + "5" * 32,
    federation=_NAME,
    model_version=5,
    serving_version=4,
    status=TrialStatus.RUNNING,
    terms=TrialTerms(answer_share=0.1),
    tally=TrialTally(
        num_tried=240,
        num_errors=0,
        num_answered=25,
        num_compared=230,
        num_flips=7,
        num_skipped=12,
        mean_distance=0.031,
        mean_trial_seconds=0.064,
        mean_serving_seconds=0.063,
    ),
    reason=None,
    started_at=_NOON,
    finished_at=None,
)
TRIALS: Final[Page[Trial]] = Page(items=(TRIAL,), next_cursor=None)
