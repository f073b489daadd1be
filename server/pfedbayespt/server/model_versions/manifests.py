"""The coordinator's signed word for each version, written with the version and never again.

A manifest holds all that determines a version's bytes, so that anyone with the files can compute it again. It is
stored as it was signed: a later edit of the row, of the inputs or of the specification no longer agrees with it.
"""

from importlib.metadata import version as release_of
from typing import Final

from sqlalchemy import select

from pfedbayespt.protocol import (
    AggregationSpecification,
    RoundTask,
    SigningKey,
    VersionManifest,
    WeightedMean,
)
from pfedbayespt.server.database import Transaction
from pfedbayespt.server.events import service as events
from pfedbayespt.server.model_versions import service
from pfedbayespt.server.model_versions.models import ModelVersionRecord

CODE_VERSION: Final = f"pfedbayespt {release_of('pfedbayespt')}"


def sign(version: ModelVersionRecord, signer: SigningKey) -> None:
    """Give the coordinator's word for a version."""
    federation, parent, round_ = version.federation, version.parent, version.round
    rule: AggregationSpecification = WeightedMean()
    if round_ is not None and round_.task == RoundTask.TRAINING:
        rule = federation.policy.aggregation
    manifest = VersionManifest.signed(
        signer,
        federation=federation.name,
        version_number=version.number,
        digest=version.digest,
        size_bytes=version.size_bytes,
        specification_digest=federation.specification_digest,
        backbone_digest=federation.agreed.backbone.weights_digest,
        parent_digest=parent.digest if parent else None,
        round_id=version.round_id,
        task=round_.task if round_ else None,
        rule=rule.model_dump(mode="json"),
        inputs=tuple(map(service.describe_input, round_.inputs)) if round_ else (),
        optimiser_state_digest=version.optimiser_state_digest,
        parent_optimiser_state_digest=parent.optimiser_state_digest if parent else None,
        code_version=CODE_VERSION,
        created_at=version.created_at,
    )
    version.manifest = manifest.model_dump(mode="json")


def sign_result(tx: Transaction, round_id: str, signer: SigningKey) -> None:
    """Give the coordinator's word for the version that a round has just led to."""
    query = select(ModelVersionRecord).where(ModelVersionRecord.round_id == round_id)
    version = tx.session.scalars(query).one_or_none()
    if version is not None:
        sign(version, signer)


def sign_unsigned(tx: Transaction, signer: SigningKey) -> None:
    """Sign the versions that were made by a release that did not sign yet."""
    query = select(ModelVersionRecord).where(ModelVersionRecord.manifest.is_(None))
    for version in tx.session.scalars(query.order_by(ModelVersionRecord.number)).all():
        sign(version, signer)
        events.record(tx, version.federation_id, "model_version.signed", version.id, key_id=signer.key_id)
