"""Where a site's encoded images come from, and the statistics of their frozen features.

    mean_j = (1/N) sum_i f_ij,    second_moment_j = (1/N) sum_i f_ij^2

Moments pool exactly: the mean of the sites' moments, weighted with their numbers of images, is the moment of all
images together. That is why the statistics round needs no special aggregation.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pfedbayespt.model.classifier import PromptedClassifier
from pfedbayespt.model.insertion import Context, Insertion, concatenate


@runtime_checkable
class ContextSource(Protocol):
    """A site's images of one split, already encoded, in a fixed order."""

    @property
    def labels(self) -> Int[Tensor, " N"]:
        """The class of each image."""
        ...

    def __len__(self) -> int:
        """Return N."""
        ...

    def batch(self, indices: Int[Tensor, " B"]) -> Context:
        """Return the contexts of the images at `indices`, in that order."""
        ...

    def frozen_features(self) -> tuple[Float[Tensor, "N F"], Float[Tensor, "N R"]]:
        """Return the generator features and the unprompted read-out of all images."""
        ...


@dataclass(frozen=True)
class InMemoryContexts:
    """A `ContextSource` that holds everything in memory.

    Attributes:
        context: of all images.
        labels: their classes.
        readout: their unprompted read-out; only the statistics need it.
    """

    context: Context
    labels: Int[Tensor, " N"]
    readout: Float[Tensor, "N R"] | None = None

    @classmethod
    def encode(
        cls, insertion: Insertion, batches: Iterable[Float[Tensor, "_ 3 H W"]], labels: Int[Tensor, " N"]
    ) -> "InMemoryContexts":
        """Encode batches of prepared images, which `labels` belong to in the same order."""
        contexts, readouts = [], []
        for images in batches:
            contexts.append(insertion.encode(images))
            readouts.append(insertion.frozen_features(images)[1])
        return cls(concatenate(contexts), labels, torch.cat(readouts))

    def __len__(self) -> int:
        """Return N."""
        return len(self.labels)

    def batch(self, indices: Int[Tensor, " B"]) -> Context:
        """Return the contexts of the images at `indices`, in that order."""
        return self.context.select(indices.to(self.context.features.device))

    def frozen_features(self) -> tuple[Float[Tensor, "N F"], Float[Tensor, "N R"]]:
        """Return the generator features and the unprompted read-out of all images.

        Raises:
            ValueError: it was built without a read-out.
        """
        if self.readout is None:
            raise ValueError("these contexts hold no read-out, so they have no statistics; see `encode`")
        return self.context.features, self.readout


def gather_statistics(model: PromptedClassifier, source: ContextSource) -> dict[str, npt.NDArray[np.float64]]:
    """Return the moments of a site's frozen features, under the names that shared parameters use.

    Raises:
        ValueError: the source's features are not those that `model` reads.
    """
    features, readout = source.frozen_features()
    expected = (model.insertion.feature_dim, model.insertion.readout_dim)
    if (features.shape[1], readout.shape[1]) != expected:
        raise ValueError(f"features have widths {features.shape[1]}, {readout.shape[1]}; expected {expected}")
    statistics: dict[str, npt.NDArray[np.float64]] = {}
    for name, values in (("features", features), ("readout", readout)):
        exact = values.double()
        statistics[f"statistics.{name}.mean"] = exact.mean(0).cpu().numpy()
        statistics[f"statistics.{name}.second_moment"] = exact.square().mean(0).cpu().numpy()
    return statistics
