"""What can be done with model versions: add, read, evaluate, promote.

A version's lineage is its parent and the recorded inputs of its round; `inputs_digest` stands for those
inputs in the parameters file itself, so that a version can be checked without the coordinator.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pfedbayespt.protocol import (
    AggregationInput,
    Evaluation,
    ModelVersion,
    ModelVersionStatus,
    Page,
    SiteEvaluation,
    VersionCalibration,
    VersionManifest,
    canonical_json,
    digest_of_bytes,
)
from pfedbayespt.server.auth import SiteCaller
from pfedbayespt.server.calibrations import service as calibrations
from pfedbayespt.server.database import Transaction
from pfedbayespt.server.errors import AlreadyExists, EvaluationConflict, NotFound, TransitionNotAllowed
from pfedbayespt.server.events import service as events
from pfedbayespt.server.failpoints import failpoint
from pfedbayespt.server.federations.models import FederationRecord
from pfedbayespt.server.identifiers import new_id
from pfedbayespt.server.model_versions import lifecycle, repository
from pfedbayespt.server.model_versions.initial import INITIAL_NUMBER, File
from pfedbayespt.server.model_versions.models import EvaluationRecord, ModelVersionRecord
from pfedbayespt.server.pages import Order, PageRequest, fetch_page, matching
from pfedbayespt.server.rounds.models import RoundInput, RoundRecord
from pfedbayespt.server.trials import ending as trials

_NEWEST_FIRST = Order((ModelVersionRecord.number,), newest_first=True)


@dataclass(frozen=True)
class NewFile:
    """A version's file in the blob store, and the digest of the optimiser's state that goes with it."""

    digest: str
    size_bytes: int
    optimiser_state_digest: str | None = None


def check_initial(tx: Transaction, federation: FederationRecord, digest: str) -> ModelVersionRecord | None:
    """Return the initial version if it is there already with these bytes, None if it may be added now.

    Raises:
        AlreadyExists: there is one with other bytes.
        TransitionNotAllowed: the federation is no draft any more.
    """
    there = repository.by_number(tx, federation.id, INITIAL_NUMBER)
    if there is not None and there.digest == digest:
        return there
    if there is not None:
        raise AlreadyExists(
            f"federation {federation.name!r} has initial parameters {there.digest}; a version never changes"
        )
    if federation.status != "draft":
        raise TransitionNotAllowed(
            f"federation {federation.name!r} is {federation.status}; initial parameters go to a draft"
        )
    return None


def add_initial(tx: Transaction, federation: FederationRecord, file: File) -> ModelVersionRecord:
    """Add version 0, which serves at once; its tensors become the federation's schema."""
    federation.tensor_schema = [spec.model_dump(mode="json") for spec in file.schema]
    version = _add(tx, federation, INITIAL_NUMBER, NewFile(file.digest, file.size_bytes))
    lifecycle.promote(tx, version)
    return version


def add_candidate(
    tx: Transaction, federation: FederationRecord, round_: RoundRecord, number: int, file: NewFile
) -> ModelVersionRecord:
    """Add the result of a round; UNIQUE(round) makes a second one impossible."""
    return _add(tx, federation, number, file, parent_id=round_.base_version_id, round_id=round_.id)


def promote(tx: Transaction, federation: FederationRecord, version: ModelVersionRecord) -> None:
    """Make the version the one that serves, and retire the one that did."""
    serving = repository.serving(tx, federation.id)
    if serving is not None:
        lifecycle.retire(tx, serving)
    trials.end_running(tx, federation.id, version.number)
    failpoint("promotion.after_retire")
    lifecycle.promote(tx, version)


def hold(tx: Transaction, version: ModelVersionRecord) -> None:
    """Set a candidate aside."""
    lifecycle.hold(tx, version)


def find(
    tx: Transaction, federation: FederationRecord, number: int, *, lineage: bool = False
) -> ModelVersionRecord:
    """Return a federation's version; with its `lineage` for whoever shows it, as that is long.

    Raises:
        NotFound: it has none of that number.
    """
    version = repository.by_number(tx, federation.id, number, lineage=lineage)
    if version is None:
        raise NotFound(f"federation {federation.name!r} has no model version {number}")
    return version


def list_page(
    tx: Transaction,
    federation: FederationRecord,
    request: PageRequest,
    tenant: str | None = None,
    status: ModelVersionStatus | None = None,
) -> Page[ModelVersion]:
    """Return a page of the federation's versions, newest first, as one organisation sees them if it is given."""

    def to_messages(rows: Sequence[ModelVersionRecord]) -> list[ModelVersion]:
        return [describe(row, federation.name, tenant) for row in rows]

    query = repository.with_lineage().where(ModelVersionRecord.federation_id == federation.id)
    return fetch_page(tx, matching(query, status=status), _NEWEST_FIRST, request, to_messages)


def evaluate(
    tx: Transaction, caller: SiteCaller, version: ModelVersionRecord, evaluation: Evaluation
) -> SiteEvaluation:
    """Record a site's evaluation of a version; the same one again changes nothing.

    Raises:
        EvaluationConflict: the site has reported another one.
    """
    record = repository.evaluation(tx, version.id, caller.site_id)
    if record is None:
        record = _add_evaluation(tx, caller, version, evaluation)
        if evaluation.calibration is not None:
            calibrations.add_sketch(tx, version, caller.site_id, evaluation.calibration)
    elif not _is_the_same(tx, record, evaluation):
        raise EvaluationConflict(
            f"site {caller.site_name!r} has reported another evaluation of version {version.number}; "
            "a report never changes"
        )
    return _describe_evaluation(record)


def describe(version: ModelVersionRecord, federation: str, tenant: str | None = None) -> ModelVersion:
    """Return the version's message, with the evaluations of one organisation alone if it is given."""
    inputs = version.round.inputs if version.round else []
    return ModelVersion(
        version_number=version.number,
        federation=federation,
        status=version.status,
        digest=version.digest,
        size_bytes=version.size_bytes,
        parent_version=version.parent.number if version.parent else None,
        round_id=version.round_id,
        optimiser_state_digest=version.optimiser_state_digest,
        inputs=tuple(map(describe_input, inputs)),
        evaluations=tuple(_evaluations(version, tenant)),
        calibration=_calibration_of(version),
        manifest=VersionManifest.model_validate(version.manifest) if version.manifest else None,
        created_at=version.created_at,
    )


def _evaluations(version: ModelVersionRecord, tenant: str | None) -> Iterator[SiteEvaluation]:
    for record in version.evaluations:
        if tenant in {None, record.site.organisation}:
            yield _describe_evaluation(record)


def _calibration_of(version: ModelVersionRecord) -> VersionCalibration | None:
    return calibrations.describe(version.calibrations[-1]) if version.calibrations else None


def describe_input(part: RoundInput) -> AggregationInput:
    """Return the message of one update in an aggregate."""
    update = part.update
    return AggregationInput(
        update_id=update.id,
        site_id=update.site_id,
        digest=update.digest,
        num_examples=update.num_examples or 0,
        weight=part.weight,
    )


def inputs_digest(inputs: Sequence[AggregationInput], optimiser_state_digest: str | None = None) -> str:
    """Return the digest of the canonical JSON of {"inputs": [...]}, in the order of the list.

    An optimiser's state of the base version is an input too: its digest is the member `optimiser_state`.
    """
    recorded: dict[str, object] = {"inputs": [part.model_dump(mode="json") for part in inputs]}
    if optimiser_state_digest is not None:
        recorded["optimiser_state"] = optimiser_state_digest
    return digest_of_bytes(canonical_json(recorded))


def is_candidate(version: ModelVersionRecord) -> bool:
    """Whether the version still awaits its verdict."""
    return version.status == ModelVersionStatus.CANDIDATE


def _add(
    tx: Transaction, federation: FederationRecord, number: int, file: NewFile, **links: str
) -> ModelVersionRecord:
    version = ModelVersionRecord(
        id=new_id("ver"),
        federation_id=federation.id,
        number=number,
        status=lifecycle.LIFECYCLE.initial,
        digest=file.digest,
        size_bytes=file.size_bytes,
        optimiser_state_digest=file.optimiser_state_digest,
        created_at=tx.now,
        **links,
    )
    tx.session.add(version)
    tx.session.flush()
    events.record(
        tx, federation.id, "model_version.created", version.id, version_number=number, digest=file.digest
    )
    return version


def _add_evaluation(
    tx: Transaction, caller: SiteCaller, version: ModelVersionRecord, evaluation: Evaluation
) -> EvaluationRecord:
    record = EvaluationRecord(
        version_id=version.id,
        site_id=caller.site_id,
        num_examples=evaluation.num_examples,
        metrics=evaluation.metrics,
        reported_at=tx.now,
    )
    tx.session.add(record)
    tx.session.flush()
    events.record(
        tx,
        version.federation_id,
        "model_version.evaluated",
        version.id,
        version_number=version.number,
        site_id=caller.site_id,
        metrics=dict(evaluation.metrics),
    )
    return record


def _is_the_same(tx: Transaction, record: EvaluationRecord, evaluation: Evaluation) -> bool:
    sketch = calibrations.sketch_of(tx, record.version_id, record.site_id)
    return _evaluation_of(record).model_copy(update={"calibration": sketch}) == evaluation


def _evaluation_of(record: EvaluationRecord) -> Evaluation:
    return Evaluation(num_examples=record.num_examples, metrics=record.metrics)


def _describe_evaluation(record: EvaluationRecord) -> SiteEvaluation:
    return SiteEvaluation(
        site_id=record.site_id,
        site_name=record.site.name,
        evaluation=_evaluation_of(record),
        reported_at=record.reported_at,
    )
