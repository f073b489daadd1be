"""FedBABU. Oh et al., "FedBABU: toward enhanced representation for federated image classification", ICLR 2022.

The head stays at its random start while the body is trained together; at the end each site tunes its own head.
"""

import torch
from fleet import Fleet, Parameters, average

from baselines.fedper import is_head


def fit(fleet: Fleet, num_rounds: int, tuning_rounds: int = 4) -> Parameters:
    """Train the prompts under a random head, then the heads."""
    generator = torch.Generator().manual_seed(fleet.training.seed)
    weight = fleet.initial["head.weight"]
    random_head = torch.randn(weight.shape, generator=generator) * weight.shape[1] ** -0.5
    shared = fleet.initial | {"head.weight": random_head}
    for number in range(1, num_rounds - tuning_rounds + 1):
        shared = average(fleet.train(fleet.stack(shared), number, trainable=lambda name: not is_head(name)))
    own = fleet.stack(shared)
    for number in range(num_rounds - tuning_rounds + 1, num_rounds + 1):
        own = fleet.train(own, number, trainable=is_head)
    return own
