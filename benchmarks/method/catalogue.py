"""The methods by name: which algorithm, which posterior, what the generator reads, and the controls.

Every trained method has the same trunk, insertion, read-out, head options, epochs and batch size; learning rates
and rounds come from `choices.py`, as many candidates for all; one row has more rounds, and says so.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import conditions
from baselines import (
    apfl,
    closed_form,
    ditto,
    fedavg,
    fedbabu,
    fedper,
    fedprox,
    fedrep,
    heads_alone,
    local,
    pfedme,
    pfedpg,
)
from choices import (
    CANDIDATES,
    HEAD_CANDIDATES,
    LONG_CANDIDATES,
    PROMPT_CANDIDATES,
    RIDGE_CANDIDATES,
    ROUNDS_OF_OURS,
    SCALE_CANDIDATES,
    Choice,
)
from fleet import Condition, Control, Fleet, Parameters

Fit = Callable[[Fleet, Choice], Parameters]


@dataclass(frozen=True)
class Method:
    """One row of the tables, and rows for what is left of it when something is taken away at test.

    Attributes:
        fit: the federated algorithm.
        posterior: changes to the posterior's configuration.
        training: changes to the training configuration.
        head: changes to the head's configuration.
        condition: what the generator reads; None: the image's frozen features.
        frozen_readout: no prompts at all: a linear probe.
        candidates: what is tried for it.
        personal: sites answer with parameters of their own, so there is no model for a site that never trained.
        refitted: a further row: the same parameters, but the head fitted anew, in closed form over the prompted
            read-out.
        like: the method whose tuning it takes, so that a control differs in one thing; None: tuned itself.
        controls: further rows from the same parameters.
    """

    fit: Fit = fedavg.fit
    posterior: Mapping[str, Any] = field(default_factory=lambda: {"family": "shared"})
    training: Mapping[str, Any] = field(default_factory=dict)
    head: Mapping[str, Any] = field(default_factory=dict)
    condition: Condition | None = None
    frozen_readout: bool = False
    candidates: Sequence[Choice] = CANDIDATES
    personal: bool = False
    refitted: str | None = None
    like: str | None = None
    controls: Mapping[str, Control] = field(default_factory=dict)

    @property
    def terms(self) -> dict[str, dict[str, Any]]:
        """What it changes in the plan's configurations."""
        return {"posterior": dict(self.posterior), "training": dict(self.training), "head": dict(self.head)}


OURS = "pFedBayesPT"
LONG = "FedAvg-VPT of 20 rounds"
OURS_REFITTED = "pFedBayesPT + refit"

_CLOSED_FORM: dict[str, Any] = {
    "frozen_readout": True,
    "head": {"personal_residual": False},  # nothing would train it, and sites with one add no class prior
}
_HEAD_ROUNDS = {"head_rounds": 10}
_SEMI_IMPLICIT = {"family": "semi_implicit"}
_DETERMINISTIC = {"family": "deterministic"}
_OURS: dict[str, Any] = {
    "posterior": _SEMI_IMPLICIT,
    "training": _HEAD_ROUNDS,
    "head": {"cross_fit_folds": 4},
}
_TAKEN_AWAY = {
    "ours, prompts shuffled": Control(shuffle=True),
    "ours, eps off": Control(without_eps=True),
    "ours, u off": Control(without_u=True),
    "ours, S = 1": Control(num_samples=1),
}


def _control(**changes: Any) -> Method:
    """Return ours with one thing changed, and with ours' tuning."""
    return Method(**_OURS | {"like": OURS} | changes)


METHODS: dict[str, Method] = {
    "probe": Method(frozen_readout=True, candidates=HEAD_CANDIDATES),
    "local": Method(local.fit, personal=True),
    "local probe": Method(local.fit, frozen_readout=True, candidates=HEAD_CANDIDATES, personal=True),
    "FedAvg-VPT": Method(refitted="FedAvg-VPT + refit"),
    LONG: Method(candidates=LONG_CANDIDATES, refitted=f"{LONG} + refit"),
    "FedProx": Method(fedprox.fit),
    "FedPer": Method(fedper.fit, personal=True),
    "FedRep": Method(fedrep.fit, personal=True),
    "FedBABU": Method(fedbabu.fit, personal=True),
    "Ditto": Method(ditto.fit, personal=True),
    "pFedMe": Method(pfedme.fit, personal=True),
    "APFL": Method(apfl.fit, personal=True),
    "pFedPG": Method(pfedpg.fit, personal=True),
    "pFedPG with shared head": Method(pfedpg.fit_shared_head),
    "SGPT-like": Method(posterior=_DETERMINISTIC, condition=conditions.group),
    "class mixing": Method(posterior=_DETERMINISTIC, condition=conditions.classes),
    "pFedBayes-like": Method(posterior={"family": "gaussian"}, condition=conditions.nothing),
    "Fed3R": Method(closed_form.fit_ridge, candidates=RIDGE_CANDIDATES, **_CLOSED_FORM),
    "FedNCM": Method(closed_form.fit_class_means, candidates=SCALE_CANDIDATES, **_CLOSED_FORM),
    "heads alone": Method(
        heads_alone.fit,
        frozen_readout=True,
        head={"cross_fit_folds": 2, "personal_residual": False},
        candidates=ROUNDS_OF_OURS,
    ),
    OURS: Method(**_OURS, candidates=PROMPT_CANDIDATES, refitted=OURS_REFITTED, controls=_TAKEN_AWAY),
    "ours with one prompt for all": _control(
        posterior={"family": "shared"}, refitted="ours with one prompt for all + refit"
    ),
    "ours with no noise": _control(posterior=_DETERMINISTIC, refitted="ours with no noise + refit"),
    "ours with dropout for noise": _control(posterior=_DETERMINISTIC | {"dropout": 0.3}),
    "ours with explicit noise alone": _control(posterior={"family": "gaussian"}),
    "ours with K = 0": _control(training=_HEAD_ROUNDS | {"num_mixing_samples": 0}),
    "ours with beta = 0": _control(training=_HEAD_ROUNDS | {"beta": 0.0}),
    "ours reading style": _control(condition=conditions.style),
    "ours with its head trained along": Method(
        posterior=_SEMI_IMPLICIT, refitted="ours with its head trained along + refit", like="FedAvg-VPT"
    ),
}
_CONTROL_RUNS = tuple(name for name, method in METHODS.items() if method.like is not None)
CONTROLS = (
    *_CONTROL_RUNS,
    *(name for run in _CONTROL_RUNS if (name := METHODS[run].refitted) is not None),
    *_TAKEN_AWAY,
)
RIVALS_AND_OURS = tuple(name for name in METHODS if name not in {*CONTROLS, LONG})
"""What differs where all have the same rounds."""

NEAREST_AND_OURS = ("Fed3R", "FedNCM", "heads alone", "probe", "FedAvg-VPT", OURS)
