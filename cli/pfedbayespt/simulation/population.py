"""Sites whose objective is known: each pulls the shared parameters towards an optimum of its own.

    f_i(theta) = |theta - theta_i|^2 / 2,       theta_i = theta* + heterogeneity z_i

z_i and theta* are uniform in [-1/2, 1/2), n_i, the number of examples, is log-uniform. A site's local work is what
the specification's `training` says, plain gradient descent in full steps, whose end a quadratic lets us write:

    delta_i = (1 - (1 - learning_rate)^steps) (theta_i - theta),    steps = local_epochs ceil(n_i / batch_size)

Statistics are what they are: in a statistics round delta_i = theta_i - theta. What a site reports of a version is
the mean of f_i over the parameters, and exp(-loss) as its accuracy.

Everything is drawn from the site's number, so nothing of a site is kept between two rounds.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from pfedbayespt.protocol import Evaluation, RoundTask, TrainingSpecification

Arrays = Mapping[str, "np.ndarray[Any, Any]"]
_FEWEST, _MOST = 20, 2000
_EVALUATED: Final = 100  # held-out examples per site


@dataclass(frozen=True)
class Population:
    """The sites of one simulation.

    Attributes:
        shapes: of the shared parameters, by name.
        training: what a site does in a round.
        heterogeneity: how far the sites' optima lie apart; 0: they agree.
        seed: another one draws another population.
    """

    shapes: Mapping[str, tuple[int, ...]]
    training: TrainingSpecification
    heterogeneity: float = 1.0
    seed: int = 0

    def num_examples(self, site: int) -> int:
        """Return n_i."""
        drawn = float(self._generator(site, "examples").random())
        return round(_FEWEST * math.exp(drawn * math.log(_MOST / _FEWEST)))

    def optimum(self, site: int) -> dict[str, "np.ndarray[Any, Any]"]:
        """Return theta_i, in float32."""
        return {
            name: self._drawn(None, name) + np.float32(self.heterogeneity) * self._drawn(site, name)
            for name in self.shapes
        }

    def delta(self, site: int, base: Arrays, task: RoundTask) -> dict[str, "np.ndarray[Any, Any]"]:
        """Return what a site submits in a round that starts from `base`: zero where the task touches nothing."""
        reach, optimum = np.float32(self._reach(site, task)), self.optimum(site)
        return {
            name: (reach * (optimum[name] - array)).astype(array.dtype)
            if task.touches(name)
            else np.zeros_like(array)
            for name, array in base.items()
        }

    def evaluation(self, site: int, parameters: Arrays) -> Evaluation:
        """Return what a site says of a version: of the parameters that training touches."""
        optimum = self.optimum(site)
        trained = [name for name in parameters if RoundTask.TRAINING.touches(name)]
        squares = [np.square(parameters[name] - optimum[name], dtype=np.float64).sum() for name in trained]
        loss = 0.5 * float(math.fsum(squares)) / sum(parameters[name].size for name in trained)
        return Evaluation(num_examples=_EVALUATED, metrics={"loss": loss, "accuracy": math.exp(-loss)})

    def _reach(self, site: int, task: RoundTask) -> float:
        """Return which share of the way to its optimum a site goes."""
        if task is RoundTask.STATISTICS:
            return 1.0
        steps = self.training.local_epochs * math.ceil(self.num_examples(site) / self.training.batch_size)
        return 1.0 - (1.0 - min(1.0, self.training.learning_rate)) ** steps

    def _drawn(self, site: int | None, name: str) -> "np.ndarray[Any, Any]":
        numbers = self._generator(site, name).random(self.shapes[name], dtype=np.float32)
        return np.asarray(numbers - np.float32(0.5))

    def _generator(self, site: int | None, name: str) -> np.random.Generator:
        whose = 0 if site is None else site + 1
        return np.random.default_rng((self.seed, whose, *name.encode()))
