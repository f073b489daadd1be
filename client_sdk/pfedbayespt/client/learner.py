"""What a site computes in a round: moments, training, evaluation.

Rules:
1. A round's randomness comes from the federation's seed, the round and the site's name alone, so a site that was
   killed while it trained goes on, or does the same again, and submits the same bytes.
2. An update holds a delta of everything shared: of the statistics in the statistics round, of what was trained in a
   training round, and zeros for the rest.
3. Where the shared head is trained free of class priors (`label_shift`), the site's own prior is put back for its
   own predictions, unless it has a personal residual, which has learnt the prior itself.
"""

import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch

from pfedbayespt.client.agreement import parameters_manifest
from pfedbayespt.client.contexts import ImageContexts
from pfedbayespt.client.errors import TrainingError
from pfedbayespt.client.federation_model import FederationModel
from pfedbayespt.client.personal import PersonalManifest
from pfedbayespt.client.work import Checkpoint, LocalUpdate, OnEpoch
from pfedbayespt.model.checkpoint import CheckpointError
from pfedbayespt.model.config import HeadConfig, TrainingConfig
from pfedbayespt.model.parameters import difference
from pfedbayespt.model.readout import log_class_prior
from pfedbayespt.model.sources import gather_statistics
from pfedbayespt.model.training import RoundMetrics, TrainingDivergedError, train_round
from pfedbayespt.protocol import Evaluation
from pfedbayespt.protocol.tensors import FloatArray

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Learner:
    """A `LocalModel` on this machine's torch.

    Attributes:
        model: the federation's model.
        site_name: tells this site's randomness from the others'.
        training: images to train on.
        held_out: images to evaluate on.
        class_prior: the site's class frequencies where they belong into its predictions (rule 3).
    """

    model: FederationModel
    site_name: str
    training: ImageContexts
    held_out: ImageContexts
    class_prior: torch.Tensor | None

    def gather_statistics(self, base: bytes) -> LocalUpdate:
        """Work out the moments of the training images' frozen features."""
        before = self.model.take(base, None)
        after: Mapping[str, FloatArray] = {
            **before,
            **gather_statistics(self.model.classifier, self.training),
        }
        return LocalUpdate(difference(after, before), len(self.training), {}, None)

    def train(
        self,
        base: bytes,
        personal: bytes | None,
        round_number: int,
        on_epoch: OnEpoch,
        checkpoint: Checkpoint,
    ) -> LocalUpdate:
        """Tune the parameters for one round, from where `checkpoint` says it is.

        Raises:
            TrainingError: the loss is no longer a finite number.
        """
        before = self.model.take(base, personal)
        train = partial(self._train, round_number, on_epoch, checkpoint.write)
        try:
            metrics = train(checkpoint.read())
        except CheckpointError as error:
            logger.warning("the round is trained from its beginning: %s", error)
            self.model.take(base, personal)
            metrics = train(None)
        delta = difference(self.model.shared(), before)
        return LocalUpdate(delta, len(self.training), metrics.to_metrics(), self._personal_file(base))

    def _personal_file(self, base: bytes) -> bytes | None:
        if not self.model.has_personal_head:
            return None
        return self.model.personal_file(
            PersonalManifest(model_version=parameters_manifest(base).version_number)
        )

    def _train(
        self,
        round_number: int,
        on_epoch: OnEpoch,
        on_checkpoint: Callable[[bytes], None],
        checkpoint: bytes | None,
    ) -> RoundMetrics:
        config = TrainingConfig.from_specification(self.model.specification.model_dump(mode="json"))

        def after_epoch(epoch: int, metrics: RoundMetrics) -> None:
            on_epoch(epoch, config.local_epochs, metrics.to_metrics())

        try:
            return train_round(
                self.model.classifier,
                self.training,
                config,
                round_number=round_number - 1,  # the statistics round trains nothing
                num_rounds=self.model.specification.rounds.num_rounds,
                seed=_seed_of(self.site_name),
                on_epoch=after_epoch,
                checkpoint=checkpoint,
                on_checkpoint=on_checkpoint,
            )
        except TrainingDivergedError as error:
            raise TrainingError(str(error)) from error

    def evaluate(self, parameters: bytes, personal: bytes | None) -> Evaluation:
        """Try parameters on the held-out images, and sketch their scores for the version's calibration."""
        self.model.take(parameters, personal)
        evaluation = self.model.evaluate(self.held_out, self.class_prior)
        return evaluation.model_copy(update={"calibration": self.model.sketch(self.held_out)})


def class_prior_of(labels: torch.Tensor, config: HeadConfig, num_classes: int) -> torch.Tensor | None:
    """Return the class frequencies (float64 [C]) of `labels` (int64 [N]), if predictions need them (rule 3)."""
    if not config.label_shift or config.personal_residual:
        return None
    return log_class_prior(labels, num_classes).double().softmax(0)


def _seed_of(site_name: str) -> int:
    return int.from_bytes(hashlib.sha256(site_name.encode()).digest()[:4], "big")
