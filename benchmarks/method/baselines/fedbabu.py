"""FedBABU. Oh et al., "FedBABU: toward enhanced representation for federated image classification", ICLR 2022.

The head stays at its random start while the body is trained together; at the end each site tunes its own head.
"""

import torch
from choices import Choice
from fleet import Fleet, Parameters, federate, is_head


def fit(fleet: Fleet, choice: Choice) -> Parameters:
    """Train the prompts under a random head, then, in the last 40 % of the rounds, the heads."""
    generator = torch.Generator().manual_seed(fleet.training.seed)
    weight = fleet.initial["readout.head.weight"]
    random_head = torch.randn(weight.shape, generator=generator) * weight.shape[1] ** -0.5
    own = fleet.stack(fleet.initial | {"readout.head.weight": random_head})
    first_tuned = choice.num_rounds - round(0.4 * choice.num_rounds) + 1
    for number in range(1, first_tuned):
        own = federate(fleet.train(own, number, trainable=lambda name: not is_head(name)))
    for number in range(first_tuned, choice.num_rounds + 1):
        own = fleet.train(own, number, trainable=is_head)
    return own
