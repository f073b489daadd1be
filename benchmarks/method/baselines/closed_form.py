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

from pfedbayespt.model.cross_fitting import class_weights, ridge_regression


def fit_ridge(fleet: Fleet, choice: Choice) -> Parameters:
    """Return the ridge regression on one-hot labels; its outputs become logits by a tuned scale."""
    readout, targets = _training_data(fleet)
    return fleet.stack(fleet.initial | _ridge_head(fleet, readout, targets, choice))


def refit_ridge(fleet: Fleet, parameters: Parameters, readout: torch.Tensor, choice: Choice) -> Parameters:
    """Return trained parameters with the head of `fit_ridge` over `readout`, the sites' central ones [C, N, R]."""
    _, targets = _training_data(fleet)
    return parameters | fleet.stack(_ridge_head(fleet, readout.flatten(0, 1), targets, choice))


def _ridge_head(fleet: Fleet, readout: torch.Tensor, targets: torch.Tensor, choice: Choice) -> Parameters:
    weights = torch.ones(len(targets)) if fleet.log_prior is None else class_weights(targets)
    weight, bias = ridge_regression(readout, targets, weights, choice.ridge)
    return {
        "readout.head.weight": weight * choice.logit_scale,
        "readout.head.bias": bias * choice.logit_scale,
    }


def fit_class_means(fleet: Fleet, choice: Choice) -> Parameters:
    """Return the nearest class mean in the cosine sense."""
    readout, targets = _training_data(fleet)
    means = targets.T @ readout / targets.sum(0)[:, None].clamp_min(1)
    weights = (
        means / means.norm(dim=1, keepdim=True).clamp_min(1e-6) * choice.logit_scale / readout.shape[1] ** 0.5
    )
    return fleet.stack(
        fleet.initial | {"readout.head.weight": weights, "readout.head.bias": torch.zeros(len(weights))}
    )


def _training_data(fleet: Fleet) -> tuple[torch.Tensor, torch.Tensor]:
    indices = fleet.train_indices.flatten()
    targets = torch.nn.functional.one_hot(fleet.labels[indices], fleet.config.num_classes).float()
    return fleet.readouts(indices), targets
