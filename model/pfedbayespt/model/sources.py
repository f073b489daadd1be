"""Where a site's encoded images come from, and the statistics of their frozen features.

    mean_j = (1/N) sum_i f_ij,    second_moment_j = (1/N) sum_i f_ij^2

Moments pool exactly: the mean of the sites' moments, weighted with their numbers of images, is the moment of all
images together. That is why the statistics round needs no special aggregation.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pfedbayespt.model.classifier import PromptedClassifier
from pfedbayespt.model.insertion import Context, Insertion, concatenate

_CHUNK = 32  # images at a time


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


@dataclass(frozen=True)
class InMemoryContexts:
    """A `ContextSource` that holds everything in memory.

    Attributes:
        context: of all images.
        labels: their classes.
    """

    context: Context
    labels: Int[Tensor, " N"]

    @classmethod
    def encode(
        cls, insertion: Insertion, batches: Iterable[Float[Tensor, "_ 3 H W"]], labels: Int[Tensor, " N"]
    ) -> "InMemoryContexts":
        """Encode batches of prepared images, which `labels` belong to in the same order."""
        return cls(concatenate([insertion.encode(images) for images in batches]), labels)

    def __len__(self) -> int:
        """Return N."""
        return len(self.labels)

    def batch(self, indices: Int[Tensor, " B"]) -> Context:
        """Return the contexts of the images at `indices`, in that order."""
        return self.context.select(indices.to(self.context.features.device))


def gather_statistics(model: PromptedClassifier, source: ContextSource) -> dict[str, npt.NDArray[np.float64]]:
    """Return the moments of a site's frozen features, under the names that shared parameters use.

    With them, where the model keeps them, the shares of the classes.

    Raises:
        ValueError: there are no images.
    """
    if not len(source):
        raise ValueError("there are no images to gather statistics of")
    sums: dict[str, Float[Tensor, " _"]] = {}
    for indices in torch.split(torch.arange(len(source)), _CHUNK):
        for name, value in _power_sums(model.insertion, source.batch(indices)):
            sums[name] = sums[name] + value if name in sums else value
    statistics = {name: total / len(source) for name, total in sums.items()}
    if model.class_frequencies is not None:
        statistics["statistics.classes"] = class_frequencies(source.labels, model.config.num_classes)
    return {name: value.cpu().numpy() for name, value in statistics.items()}


def class_frequencies(labels: Int[Tensor, " N"], num_classes: int) -> Float[Tensor, " C"]:
    """Return the share of each class, in float64."""
    return torch.bincount(labels, minlength=num_classes).double() / len(labels)


def _power_sums(insertion: Insertion, context: Context) -> Iterator[tuple[str, Float[Tensor, " _"]]]:
    for name, values in (("features", context.features), ("readout", insertion.unprompted(context))):
        exact = values.double()
        yield f"statistics.{name}.mean", exact.sum(0)
        yield f"statistics.{name}.second_moment", exact.square().sum(0)
