"""FedBABU. Oh et al., "FedBABU: toward enhanced representation for federated image classification", ICLR 2022.

The head stays at its random start while the body is trained together; at the end each site tunes its own head.
"""

import torch
from choices import Choice
from fleet import Fleet, Parameters, federate, is_head


def fit(fleet: Fleet, choice: Choice) -> Parameters:
    """Train the prompts under a random head, then, for 40 % of the rounds, the heads, at rates that fall anew."""
    generator = torch.Generator().manual_seed(fleet.training.seed)
    weight = fleet.initial["readout.head.weight"]
    random_head = torch.randn(weight.shape, generator=generator) * weight.shape[1] ** -0.5
    own = fleet.stack(fleet.initial | {"readout.head.weight": random_head})
    tuned = round(0.4 * choice.num_rounds)
    together = choice.num_rounds - tuned
    for number in range(1, together + 1):
        own = federate(
            fleet.train(own, number, num_rounds=together, trainable=lambda name: not is_head(name))
        )
    for number in range(1, tuned + 1):
        own = fleet.train(own, number, num_rounds=tuned, trainable=is_head)
    return own
