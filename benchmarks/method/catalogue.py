"""The methods by name: which algorithm, which posterior, which read-out, and the controls.

Every trained method has the same trunk, insertion, read-out, rounds, epochs and batch size.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from baselines import apfl, closed_form, ditto, fedavg, fedbabu, fedper, fedprox, fedrep, local, pfedme
from fleet import Fleet, Parameters

Fit = Callable[[Fleet, int], Parameters]


@dataclass(frozen=True)
class Method:
    """One row of the tables.

    Attributes:
        fit: the federated algorithm.
        posterior: changes to the posterior's configuration.
        training: changes to the training configuration.
        blind: the generator sees no image (client-level posterior, as pFedBayes has one over weights).
        frozen_readout: no prompts at all: a linear probe.
        shuffle: at test, each image gets another one's prompt.
    """

    fit: Fit = fedavg.fit
    posterior: dict[str, Any] = field(default_factory=lambda: {"family": "shared"})
    training: dict[str, Any] = field(default_factory=dict)
    blind: bool = False
    frozen_readout: bool = False
    shuffle: bool = False


def _ours(**changes: Any) -> dict[str, Any]:
    return {"family": "semi_implicit"} | changes


METHODS: dict[str, Method] = {
    "probe": Method(frozen_readout=True),
    "local": Method(local.fit),
    "FedAvg-VPT": Method(),
    "FedProx": Method(fedprox.fit),
    "FedPer": Method(fedper.fit),
    "FedRep": Method(fedrep.fit),
    "FedBABU": Method(fedbabu.fit),
    "Ditto": Method(ditto.fit),
    "pFedMe": Method(pfedme.fit),
    "APFL": Method(apfl.fit),
    "pFedBayes": Method(posterior={"family": "gaussian"}, blind=True),
    "Fed3R": Method(closed_form.fit_ridge, frozen_readout=True),
    "FedNCM": Method(closed_form.fit_class_means, frozen_readout=True),
    "pFedBayesPT": Method(posterior=_ours()),
    "deterministic": Method(posterior=_ours(family="deterministic")),
    "deterministic+dropout": Method(posterior=_ours(family="deterministic", dropout=0.3)),
    "gaussian": Method(posterior=_ours(family="gaussian")),
    "K=0": Method(posterior=_ours(), training={"num_mixing_samples": 0}),
    "beta=0": Method(posterior=_ours(), training={"beta": 0.0}),
    "blind": Method(posterior=_ours(), blind=True),
    "shuffled": Method(posterior=_ours(), shuffle=True),
}
CORE = ("probe", "local", "FedAvg-VPT", "deterministic", "gaussian", "pFedBayesPT")
CONTROLS = ("deterministic", "deterministic+dropout", "gaussian", "K=0", "beta=0", "blind", "shuffled")
