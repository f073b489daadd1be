"""What a fake coordinator signs: receipts, and versions, each its parent moved by the weighted mean of a round."""

import json
import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import median
from typing import Final

import numpy as np

from pfedbayespt.protocol import (
    AggregationInput,
    FederationSpecification,
    ModelVersionStatus,
    ParametersManifest,
    Receipt,
    RoundTask,
    SigningKey,
    VersionManifest,
    digest_of_bytes,
    digest_of_message,
    tensors,
)
from pfedbayespt.testing.records import Arrays, LiveRound, Version

_NO_HISTORY: Final = "0" * 64  # a receipt's `audit_head`: there is no chain of events here


@dataclass(frozen=True)
class Lineage:
    """Makes the versions of one federation, and signs for them and for what they are made of.

    Attributes:
        federation: its name.
        specification: what its members agree to.
        key: the coordinator's, which signs.
    """

    federation: str
    specification: FederationSpecification
    key: SigningKey

    @property
    def specification_digest(self) -> str:
        """The digest of the specification."""
        return digest_of_message(self.specification)

    def first(self, initial: Arrays) -> Version:
        """Return version 0."""
        return self._version(0, initial, None, {})

    def after(self, round_: LiveRound, number: int, max_weight_ratio: float) -> Version:
        """Return the version that a round's updates make of its base."""
        weights = _weights(round_, max_weight_ratio)
        base = tensors.decode(round_.base.content)[1]
        moved = {
            name: (
                array.astype(np.float64)
                + sum(weight * round_.updates[site].arrays[name] for site, weight in weights.items())
            ).astype(np.float32)
            for name, array in base.items()
        }
        return self._version(number, moved, round_, weights)

    def receipt(self, round_id: str, site_id: str, content: bytes) -> Receipt:
        """Acknowledge an update."""
        return Receipt.signed(
            self.key,
            federation=self.federation,
            update_id=f"upd_{secrets.token_hex(8)}",
            round_id=round_id,
            site_id=site_id,
            digest=digest_of_bytes(content),
            size_bytes=len(content),
            received_at=datetime.now(UTC),
            audit_head=_NO_HISTORY,
        )

    def _version(
        self, number: int, arrays: Arrays, round_: LiveRound | None, weights: Mapping[str, float]
    ) -> Version:
        parent = None if round_ is None else round_.base.digest
        inputs = () if round_ is None else tuple(_inputs(round_, weights))
        recorded = json.dumps([each.model_dump(mode="json") for each in inputs]).encode()
        content = tensors.encode(
            arrays,
            ParametersManifest(
                federation=self.federation,
                specification_digest=self.specification_digest,
                version_number=number,
                parent_digest=parent,
                inputs_digest=None if round_ is None else digest_of_bytes(recorded),
            ),
        )
        manifest = VersionManifest.signed(
            self.key,
            federation=self.federation,
            version_number=number,
            digest=digest_of_bytes(content),
            size_bytes=len(content),
            specification_digest=self.specification_digest,
            backbone_digest=self.specification.backbone.weights_digest,
            parent_digest=parent,
            round_id=None if round_ is None else round_.round_id,
            task=None if round_ is None else round_.task,
            rule={} if round_ is None else self.specification.rounds.aggregation.model_dump(mode="json"),
            inputs=inputs,
            optimiser_state_digest=None,
            parent_optimiser_state_digest=None,
            code_version="fake",
            created_at=datetime.now(UTC),
        )
        return Version(number, content, manifest, ModelVersionStatus.CANDIDATE)


def _weights(round_: LiveRound, max_ratio: float) -> dict[str, float]:
    """Return each site's share: by examples, none more than `max_ratio` times the median in a training round."""
    counts = {site: accepted.manifest.num_examples for site, accepted in round_.updates.items()}
    most = math.inf if round_.task is RoundTask.STATISTICS else max_ratio * median(counts.values())
    kept = {site: min(float(count), most) for site, count in counts.items()}
    total = sum(kept.values())
    return {site: count / total for site, count in kept.items()}


def _inputs(round_: LiveRound, weights: Mapping[str, float]) -> list[AggregationInput]:
    inputs = [
        AggregationInput(
            update_id=accepted.receipt.update_id,
            site_id=site,
            digest=accepted.receipt.digest,
            num_examples=accepted.manifest.num_examples,
            weight=weights[site],
        )
        for site, accepted in round_.updates.items()
    ]
    return sorted(inputs, key=lambda each: each.digest)
