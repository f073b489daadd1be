"""How the updates of a round become the next version: rules of aggregation and their hyper-parameters.

Every rule starts from the mean change  d = sum_i w_i delta_i  of the round. `weighted_mean` adds it as it is; the
others pass it through a server optimiser with a memory of earlier rounds (Reddi et al., "Adaptive Federated
Optimization", ICLR 2021; `fedavgm`: Hsu, Qi and Brown, 2019). Tensors `statistics.*` are always just averaged.
"""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat

from pfedbayespt.protocol._base import Message

Decay = Annotated[float, Field(ge=0.0, lt=1.0)]


class WeightedMean(Message):
    """theta' = theta + d."""

    rule: Literal["weighted_mean"] = "weighted_mean"


class FedAvgM(Message):
    """m' = momentum m + d,  theta' = theta + server_learning_rate m',  from m = 0."""

    rule: Literal["fedavgm"] = "fedavgm"
    server_learning_rate: PositiveFloat = 1.0
    momentum: Decay = 0.9


class _Adaptive(Message):
    server_learning_rate: PositiveFloat = 0.01
    beta_1: Decay = Field(default=0.9, description="Decay of the mean change m.")
    beta_2: Decay = Field(default=0.99, description="Decay of its second moment v.")
    tau: PositiveFloat = Field(default=1e-3, description="Added to sqrt(v): larger is less adaptive.")


class FedAdam(_Adaptive):
    """m' = beta_1 m + (1 - beta_1) d,  v' = beta_2 v + (1 - beta_2) d^2.

    theta' = theta + server_learning_rate m' / (sqrt(v') + tau), from m = 0 and v = tau^2, without bias correction.
    """

    rule: Literal["fedadam"] = "fedadam"


class FedYogi(_Adaptive):
    """As `fedadam`, but  v' = v - (1 - beta_2) d^2 sign(v - d^2),  which forgets large changes slowly."""

    rule: Literal["fedyogi"] = "fedyogi"


AggregationSpecification = Annotated[
    WeightedMean | FedAvgM | FedAdam | FedYogi,
    Field(discriminator="rule", description="How the updates of a training round become the next version."),
]
