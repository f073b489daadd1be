"""Heads without training, from sums that sites add up exactly, over the frozen read-out.

Fed3R (Fani et al., ICML 2024):    W = (sum w z z^T + lambda I)^-1 sum w z y^T
FedNCM (Legate et al., NeurIPS 2023):   W_k = mean of class k, normalised

`refit_ridge` is Fed3R after training instead of before: over the read-out that the central prompts give.

Where sites add their class prior to the logits, the head itself must favour no class, so every class weighs the
same over all sites: what balanced softmax does in training. Elsewhere w = 1.
"""

import torch
from choices import Choice
from fleet import Fleet, Parameters
from torch.nn.functional import one_hot

from pfedbayespt.model.cross_fitting import class_weights, ridge_regression
from pfedbayespt.model.sources import class_frequencies


def fit_ridge(fleet: Fleet, choice: Choice) -> Parameters:
    """Return the ridge regression on one-hot labels; its outputs become logits by a tuned scale."""
    labels = _training_labels(fleet)
    readout = fleet.readouts(fleet.train_indices.flatten())
    return fleet.stack(fleet.initial | _ridge_head(fleet, readout, labels, choice))


def refit_ridge(fleet: Fleet, parameters: Parameters, readout: torch.Tensor, choice: Choice) -> Parameters:
    """Return trained parameters with the head of `fit_ridge` over `readout`, the sites' central ones [C, N, R]."""
    head = _ridge_head(fleet, readout.flatten(0, 1), _training_labels(fleet), choice)
    return parameters | fleet.stack(head)


def _ridge_head(fleet: Fleet, readout: torch.Tensor, labels: torch.Tensor, choice: Choice) -> Parameters:
    num_classes = fleet.config.num_classes
    weights = torch.ones(len(labels))
    if fleet.config.head.label_shift:
        weights = class_weights(labels, class_frequencies(labels, num_classes))
    weight, bias = ridge_regression(readout, one_hot(labels, num_classes).float(), weights, choice.ridge)
    return {
        "readout.head.weight": weight * choice.logit_scale,
        "readout.head.bias": bias * choice.logit_scale,
    }


def fit_class_means(fleet: Fleet, choice: Choice) -> Parameters:
    """Return the nearest class mean in the cosine sense."""
    readout = fleet.readouts(fleet.train_indices.flatten())
    targets = one_hot(_training_labels(fleet), fleet.config.num_classes).float()
    means = targets.T @ readout / targets.sum(0)[:, None].clamp_min(1)
    weights = (
        means / means.norm(dim=1, keepdim=True).clamp_min(1e-6) * choice.logit_scale / readout.shape[1] ** 0.5
    )
    return fleet.stack(
        fleet.initial | {"readout.head.weight": weights, "readout.head.bias": torch.zeros(len(weights))}
    )


def _training_labels(fleet: Fleet) -> torch.Tensor:
    return fleet.labels[fleet.train_indices.flatten()]
