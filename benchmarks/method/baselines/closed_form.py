"""Heads without training, from sums that sites add up exactly, over the frozen read-out.

Fed3R (Fani et al., ICML 2024):    W = (sum z z^T + lambda I)^-1 sum z y^T
FedNCM (Legate et al., NeurIPS 2023):   W_k = mean of class k, normalised

`refit_ridge` is Fed3R after training instead of before: over the read-out that the trained prompts give.
"""

import torch
from choices import Choice
from fleet import Fleet, Parameters

_NUM_SAMPLES = 4


def fit_ridge(fleet: Fleet, choice: Choice) -> Parameters:
    """Return the ridge regression on one-hot labels; its outputs become logits by a tuned scale."""
    return fleet.stack(fleet.initial | _ridge_head(*_training_data(fleet), choice))


def refit_ridge(fleet: Fleet, parameters: Parameters, choice: Choice) -> Parameters:
    """Return trained parameters with the head of `fit_ridge` over the mean prompted read-out of each image."""
    _, targets = _training_data(fleet)
    readout = fleet.prompted_readouts(parameters, _NUM_SAMPLES).flatten(0, 1)
    return parameters | fleet.stack(_ridge_head(readout, targets, choice))


def _ridge_head(readout: torch.Tensor, targets: torch.Tensor, choice: Choice) -> Parameters:
    """Solve in the smaller of the two spaces, that of the images or that of the read-out."""
    extended = torch.cat([readout, torch.ones(len(readout), 1)], 1).double()
    wanted = targets.double()
    if len(extended) < extended.shape[1]:
        solved = extended.T @ torch.linalg.solve(_plus_ridge(extended @ extended.T, choice.ridge), wanted)
    else:
        solved = torch.linalg.solve(_plus_ridge(extended.T @ extended, choice.ridge), extended.T @ wanted)
    weights = (solved.T * choice.logit_scale).float()
    return {"readout.head.weight": weights[:, :-1], "readout.head.bias": weights[:, -1]}


def _plus_ridge(gram: torch.Tensor, ridge: float) -> torch.Tensor:
    return gram + ridge * torch.eye(len(gram), dtype=gram.dtype)


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
