"""The one place that says what a site shares and what is personal (METHOD.md section 4).

Shared parameters leave the site: the generator, the global prompt m, its map R, log s, the shared head (with one
for each fold where it is cross-fitted), and the statistics that standardise features. Personal parameters never do:
the head residual. Everything else (the trunk) is frozen and is named by digest only.

Shared parameters form an affine space: a site sends `difference(after, before)`, and the coordinator adds the
weighted mean of the differences to the same base. Statistics are float64, so that pooling them is exact enough for
variances; all else is float32.
"""

from collections.abc import Mapping
from operator import attrgetter

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pfedbayespt.model.backbone import Backbone
from pfedbayespt.model.classifier import PromptedClassifier, build_classifier
from pfedbayespt.model.config import ModelConfig

FloatArray = npt.NDArray[np.float32] | npt.NDArray[np.float64]

# name on the wire: attribute of the classifier, a tensor or a module; absent (None) in families that lack it
_SHARED = {
    "generator": "posterior.generator",
    "prompt.mean": "posterior.mean",
    "prompt.map": "posterior.map",
    "posterior.log_scale": "posterior.log_scale",
    "head": "readout.head",
    "folds": "readout.folds",
    "statistics.features": "feature_moments",
    "statistics.readout": "readout_moments",
    "statistics.classes": "class_frequencies",
}
_PERSONAL = {"residual": "readout.residual"}


class ParameterError(ValueError):
    """Parameters do not fit the model; the message names what is missing, unknown or of another shape."""


def shared_parameters(model: PromptedClassifier) -> dict[str, FloatArray]:
    """Return copies of all parameters and statistics that leave the site, by their names on the wire."""
    return _copies(_tensors(model, _SHARED))


def load_shared_parameters(model: PromptedClassifier, parameters: Mapping[str, FloatArray]) -> None:
    """Set the shared parameters; the personal ones stay.

    Raises:
        ParameterError: a name or shape is not the model's; the model is then unchanged.
    """
    _load(_tensors(model, _SHARED), parameters)


def personal_parameters(model: PromptedClassifier) -> dict[str, FloatArray]:
    """Return copies of the parameters that never leave the site; empty if the federation has none."""
    return _copies(_tensors(model, _PERSONAL))


def load_personal_parameters(model: PromptedClassifier, parameters: Mapping[str, FloatArray]) -> None:
    """Set the personal parameters.

    Raises:
        ParameterError: a name or shape is not the model's; the model is then unchanged.
    """
    _load(_tensors(model, _PERSONAL), parameters)


def difference(after: Mapping[str, FloatArray], before: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
    """Return `after - before`, name by name.

    Raises:
        ParameterError: the two do not have the same names and shapes.
    """
    _check({name: array.shape for name, array in before.items()}, after)
    return {name: after[name] - before[name] for name in before}


def initial_parameters(config: ModelConfig, backbone: Backbone, seed: int) -> dict[str, FloatArray]:
    """Return version 0 of a federation: the shared parameters of an untrained classifier."""
    return shared_parameters(build_classifier(config, backbone, torch.Generator().manual_seed(seed)))


def _tensors(model: PromptedClassifier, table: Mapping[str, str]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name, attribute in table.items():
        match attrgetter(attribute)(model):
            case nn.Module() as module:
                tensors |= {f"{name}.{part}": value for part, value in module.state_dict().items()}
            case Tensor() as value if value.numel():  # a prompt may have no tokens, and so no numbers
                tensors[name] = value.detach()
    return tensors


def _copies(tensors: Mapping[str, Tensor]) -> dict[str, FloatArray]:
    return {name: tensor.cpu().numpy().copy() for name, tensor in tensors.items()}


def _load(tensors: Mapping[str, Tensor], parameters: Mapping[str, FloatArray]) -> None:
    _check({name: tuple(tensor.shape) for name, tensor in tensors.items()}, parameters)
    for name, tensor in tensors.items():
        tensor.copy_(torch.from_numpy(np.array(parameters[name])))


def _check(expected: Mapping[str, tuple[int, ...]], parameters: Mapping[str, FloatArray]) -> None:
    missing, unknown = sorted(set(expected) - set(parameters)), sorted(set(parameters) - set(expected))
    if missing or unknown:
        raise ParameterError(f"missing parameters: {missing}; unknown parameters: {unknown}")
    for name, shape in expected.items():
        if parameters[name].shape != shape:
            raise ParameterError(f"{name} has shape {parameters[name].shape}; expected {shape}")
