"""The port between a site's loop and what it computes: all that needs torch lies behind `LocalModel`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from pfedbayespt.protocol import Evaluation
from pfedbayespt.protocol.tensors import FloatArray


class Checkpoint(Protocol):
    """Where the live round's training is kept between epochs; see `checkpoints.py`."""

    def read(self) -> bytes | None:
        """Return what was kept last; None: nothing was."""

    def write(self, content: bytes) -> None:
        """Keep `content` in place of what was kept before."""


OnEpoch = Callable[[int, int, Mapping[str, float]], None]
"""Called after each local epoch with its number (from 1), how many there are, and its mean metrics."""


@dataclass(frozen=True)
class LocalUpdate:
    """What a site worked out in a round.

    Attributes:
        delta: shared parameters after minus before, by name.
        num_examples: training images behind it.
        metrics: finite numbers about the work.
        personal: the file of the personal parameters after the round; None: the model has none.
    """

    delta: Mapping[str, FloatArray]
    num_examples: int
    metrics: Mapping[str, float]
    personal: bytes | None


class LocalModel(Protocol):
    """The federation's model on this site's images. Parameters come as the files that travel and rest."""

    def gather_statistics(self, base: bytes) -> LocalUpdate:
        """Work out the moments of the training images' features."""

    def train(
        self,
        base: bytes,
        personal: bytes | None,
        round_number: int,
        on_epoch: OnEpoch,
        checkpoint: Checkpoint,
    ) -> LocalUpdate:
        """Tune the parameters for one round, from `checkpoint` on; what `on_epoch` raises ends the work."""

    def evaluate(self, parameters: bytes, personal: bytes | None) -> Evaluation:
        """Try parameters on the held-out images."""
