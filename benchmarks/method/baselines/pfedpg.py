"""pFedPG. Yang et al., "Efficient model personalization via client-specific prompt generation", ICCV 2023.

m_c = m + W e_c;   sites train m_c to m_c' and a head
the server descends   1/2 sum_c |m_c' - m - W e_c|^2   in m, W and e

The paper's server generates by cross-attention from learned client embeddings e_c to base prompts; here by a linear
map of them, with the gradient that the sites' changes give, as there: m takes the sites' mean change, W and then e
a step of one over the largest curvature, since with a constant one W and e grow each other without bound. The head
is the sites' own, as in the paper, or shared.
"""

import torch
from choices import Choice
from fleet import Fleet, Parameters, federate, is_head, is_residual
from torch import Tensor

_WIDTH = 16
_MEAN = "posterior.mean"


def fit(fleet: Fleet, choice: Choice, *, personal_head: bool = True) -> Parameters:
    """Generate each site's prompt at the server, train prompt and head at the site."""
    generator = torch.Generator().manual_seed(fleet.training.seed)
    kept = is_head if personal_head else is_residual
    own, base = fleet.stack(fleet.initial), fleet.initial[_MEAN]
    sites = torch.randn(fleet.num_sites, _WIDTH, generator=generator) / _WIDTH**0.5
    weights = torch.zeros(_WIDTH, base.numel())
    for number in range(1, choice.num_rounds + 1):
        start = base + sites @ weights
        trained = fleet.train(own | {_MEAN: start}, number)
        change = trained[_MEAN] - start
        base = base + change.mean(0)
        sites, weights = descended(sites, weights, change - change.mean(0))
        own = federate(trained, personal=kept)
    return own | {_MEAN: base + sites @ weights}


def descended(sites: Tensor, weights: Tensor, missing: Tensor) -> tuple[Tensor, Tensor]:
    """Return e [C, D] and W [D, P] after a step each towards what W e lacks at every site, [C, P]."""
    step = sites.T @ missing / _curvature(sites)
    weights = weights + step
    return sites + (missing - sites @ step) @ weights.T / _curvature(weights), weights


def _curvature(factor: Tensor) -> Tensor:
    """Return the largest curvature of the squared error in the other factor."""
    return torch.linalg.matrix_norm(factor, 2).square().clamp_min(torch.finfo(factor.dtype).tiny)


def fit_shared_head(fleet: Fleet, choice: Choice) -> Parameters:
    """As `fit`, with one head for all."""
    return fit(fleet, choice, personal_head=False)
