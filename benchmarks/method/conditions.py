"""What the generator reads of an image instead of its features: rivals and controls that differ in this alone.

Rules:
    1. A condition sees the sites' training images and the standardised features, never a test label.
    2. It is zero-padded to the width of the features and scaled to their norm, so the generator starts alike.
"""

import torch
from fleet import Fleet
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from pfedbayespt.model.readout import log_class_prior

_GROUPS = 6
_STEPS = 20
_TEMPERATURE = 0.1


def nothing(fleet: Fleet) -> Tensor:
    """No image at all: a client-level posterior, as pFedBayes has over weights."""
    return torch.zeros_like(fleet.features)[None]


def group(fleet: Fleet) -> Tensor:
    """The group that an image falls into, by k-means over the features of all sites' training images.

    Deng et al., "Unlocking the potential of prompt-tuning in bridging generalized and personalized federated
    learning" (SGPT), CVPR 2024: a shared prompt plus that of the image's group. There the groups' keys are learned
    with the prompts; k-means needs no more than sums over sites, and its groups are as even.
    """
    return _padded(one_hot(_nearest(fleet.features, _centres(fleet)), _GROUPS).float(), fleet)[None]


def classes(fleet: Fleet) -> Tensor:
    """The image's likeness to the class prototypes of all sites, weighted with its site's class prior.

    In the manner of PEP-FedPT ("Prompt estimation from prototypes for federated prompt tuning of vision
    transformers", 2025), which mixes one prompt per class with these weights. Here a generator reads the weights.
    """
    unit = normalize(fleet.features, dim=1)
    indices = fleet.train_indices.flatten()
    sums = one_hot(fleet.labels[indices], fleet.config.num_classes).float().T @ unit[indices]
    likeness = unit @ normalize(sums, dim=1).T / _TEMPERATURE
    labels = fleet.labels[fleet.train_indices]
    priors = torch.stack([log_class_prior(row, fleet.config.num_classes) for row in labels])
    return torch.stack([_padded((likeness + prior).softmax(1), fleet) for prior in priors])


def style(fleet: Fleet, dimensions: int = 8) -> Tensor:
    """The leading principal components of the features, whitened: style more than identity."""
    mine = fleet.features[fleet.train_indices.flatten()]
    _, values, directions = torch.linalg.svd(mine - mine.mean(0), full_matrices=False)
    whitening = directions[:dimensions].T / values[:dimensions] * len(mine) ** 0.5
    return _padded((fleet.features - mine.mean(0)) @ whitening, fleet)[None]


def _centres(fleet: Fleet) -> Tensor:
    mine = fleet.features[fleet.train_indices.flatten()]
    generator = torch.Generator().manual_seed(fleet.training.seed)
    centres = mine[torch.randperm(len(mine), generator=generator)[:_GROUPS]]
    for _ in range(_STEPS):
        members = one_hot(_nearest(mine, centres), _GROUPS).float()
        count = members.sum(0)[:, None]
        centres = torch.where(count > 0, members.T @ mine / count.clamp_min(1), centres)
    return centres


def _nearest(points: Tensor, centres: Tensor) -> Tensor:
    return torch.cdist(points, centres).argmin(1)


def _padded(values: Tensor, fleet: Fleet) -> Tensor:
    """Pad to the features' width; a mean square of 1 per coordinate becomes that of the features."""
    width = fleet.features.shape[1]
    mine = values[fleet.train_indices.flatten()]
    scale = (width / mine.square().sum(1).mean().clamp_min(1e-6)).sqrt()
    return torch.nn.functional.pad(values * scale, (0, width - values.shape[1]))
