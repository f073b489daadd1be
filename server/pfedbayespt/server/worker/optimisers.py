"""Server optimisers: how far the parameters move, given the mean change d of this round and of the ones before.

    FedAvgM   m' = momentum m + d                       theta' - theta = rate m'
    FedAdam   m' = beta_1 m + (1 - beta_1) d
              v' = beta_2 v + (1 - beta_2) d^2          theta' - theta = rate m' / (sqrt(v') + tau)
    FedYogi   v' = v - (1 - beta_2) d^2 sign(v - d^2)   the rest as FedAdam

Reddi et al., "Adaptive Federated Optimization", ICLR 2021, algorithm 2 (m_-1 = 0, v_-1 = tau^2, no bias
correction); FedAvgM: Hsu, Qi and Brown, 2019, whose v is our m.

The moments m and v are kept in float64 whatever the parameters' own type: they are summed over all rounds, the
square of a change that float32 holds may be one that it does not, and the file never travels to a site.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pfedbayespt.protocol import AggregationSpecification, FedAdam, FedAvgM, FedYogi

Float64Array = npt.NDArray[np.float64]
SecondMoment = Callable[[float, Float64Array, Float64Array], Float64Array]
"""From beta_2, v and d^2: v'."""


class Optimiser(Protocol):
    """Works element by element, so that it can be applied slice by slice."""

    @property
    def num_moments(self) -> int:
        """How many numbers are remembered of each element."""

    def start(self, num_elements: int) -> Float64Array:
        """Return the moments [num_elements, num_moments] before the first round."""

    def remember(self, moments: Float64Array, change: Float64Array) -> Float64Array:
        """Return the moments after a round whose mean change [num_elements] is `change`."""

    def step(self, moments: Float64Array) -> Float64Array:
        """Return what to add to the parameters [num_elements], from the moments after the round."""


@dataclass(frozen=True)
class Momentum:
    """FedAvgM."""

    choices: FedAvgM
    num_moments: int = 1

    def start(self, num_elements: int) -> Float64Array:
        """Return m = 0."""
        return np.zeros((num_elements, 1))

    def remember(self, moments: Float64Array, change: Float64Array) -> Float64Array:
        """Return m'."""
        return self.choices.momentum * moments + change[:, None]

    def step(self, moments: Float64Array) -> Float64Array:
        """Return rate m'."""
        return self.choices.server_learning_rate * moments[:, 0]


@dataclass(frozen=True)
class Adaptive:
    """FedAdam and FedYogi, which differ in how they remember squares."""

    choices: FedAdam | FedYogi
    second_moment: SecondMoment
    num_moments: int = 2

    def start(self, num_elements: int) -> Float64Array:
        """Return m = 0, v = tau^2."""
        return np.tile([0.0, self.choices.tau**2], (num_elements, 1))

    def remember(self, moments: Float64Array, change: Float64Array) -> Float64Array:
        """Return m' and v'."""
        beta_1 = self.choices.beta_1
        first = beta_1 * moments[:, 0] + (1.0 - beta_1) * change
        second = self.second_moment(self.choices.beta_2, moments[:, 1], np.square(change))
        return np.stack([first, second], axis=1)

    def step(self, moments: Float64Array) -> Float64Array:
        """Return rate m' / (sqrt(v') + tau)."""
        return self.choices.server_learning_rate * moments[:, 0] / (np.sqrt(moments[:, 1]) + self.choices.tau)


def optimiser_of(specification: AggregationSpecification) -> Optimiser | None:
    """Return the optimiser that the members agreed on, None for the plain weighted mean."""
    match specification:
        case FedAvgM():
            return Momentum(specification)
        case FedAdam():
            return Adaptive(specification, _adam)
        case FedYogi():
            return Adaptive(specification, _yogi)
    return None


def _adam(beta_2: float, second: Float64Array, square: Float64Array) -> Float64Array:
    return beta_2 * second + (1.0 - beta_2) * square


def _yogi(beta_2: float, second: Float64Array, square: Float64Array) -> Float64Array:
    return second - (1.0 - beta_2) * square * np.sign(second - square)
