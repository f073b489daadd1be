"""Heads in closed form and nothing else: what the product does without prompts (`insertion.kind: none`).

W <- mean_c [kappa W + omega (V_c - kappa W)],  V_c site c's ridge regression over the frozen read-out

`pfedbayespt.model.cross_fitting`, round by round. Where Fed3R exchanges sums once, sites exchange heads.
"""

from choices import Choice
from fleet import Fleet, Parameters, federate


def fit(fleet: Fleet, choice: Choice) -> Parameters:
    """Let the mean of the sites' heads near that of all their images; nothing else learns, so none is held out."""
    readout = fleet.readouts(fleet.train_indices)
    own = fleet.stack({n: p for n, p in fleet.initial.items() if not n.startswith("readout.folds.")})
    for _ in range(choice.num_rounds):
        own = federate(fleet.fit_heads(own, readout))
    return own
