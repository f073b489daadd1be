"""What a run of the demo measured: plain values, gathered first and shown afterwards."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pfedbayespt.demo.measures import Flags, Vector
from pfedbayespt.demo.scenario import Drawing
from pfedbayespt.protocol import ModelVersion, Prediction

Curve = Sequence[tuple[int, float]]
Curves = Mapping[str, Mapping[str, Curve]]
"""method -> site -> (training round, a measure on the site's held-out images)."""


@dataclass(frozen=True)
class Answer:
    """One image, whose it is, and what the federation's endpoint answered."""

    drawing: Drawing
    origin: str
    prediction: Prediction

    @property
    def is_correct(self) -> bool:
        """Whether the most probable class is the true one."""
        return self.prediction.label == self.drawing.label

    @property
    def confidence(self) -> float:
        """Probability of the most probable class."""
        return self.prediction.probabilities[0].probability


@dataclass(frozen=True)
class Answers:
    """Many answers, by column."""

    rows: tuple[Answer, ...]

    @property
    def correct(self) -> Flags:
        """Which answers are right."""
        return np.array([row.is_correct for row in self.rows])

    @property
    def confidence(self) -> Vector:
        """Probability of each answer's most probable class."""
        return np.array([row.confidence for row in self.rows])

    @property
    def total_entropy(self) -> Vector:
        """Total entropy in nats."""
        return np.array([row.prediction.uncertainty.total_entropy_nats for row in self.rows])

    @property
    def epistemic_entropy(self) -> Vector:
        """Epistemic entropy in nats."""
        return np.array([row.prediction.uncertainty.epistemic_entropy_nats for row in self.rows])


@dataclass(frozen=True)
class Facts:
    """Everything the report shows."""

    classes: tuple[str, ...]
    mixtures: Mapping[str, Mapping[str, float]]
    num_images: Mapping[str, tuple[int, int]]
    accuracy: Curves
    nll: Curves
    known: Answers
    unseen: Answers
    versions: Sequence[ModelVersion]
    site_names: Mapping[str, str]
    setting: Mapping[str, str]
    pages: Mapping[str, str]  # what they show -> where they are while the coordinator runs
