"""A round's training, set down at the end of an epoch so that it can go on from there to the same bytes.

    parameters    everything that training changes: shared and personal parameters
    optimiser     AdamW's step and both moments, per parameter
    randomness    the states of the generators of noise and of order
    progress      the epoch that is done, and its measures

One safetensors file whose metadata is JSON. What does not depend on training (base, data, configuration) is not in
it: whoever restores a checkpoint answers for these being the same.
"""

import json
from collections.abc import Mapping
from typing import cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from pfedbayespt.model.classifier import PromptedClassifier

_FORMAT = "pfedbayespt.checkpoint/1"
_METADATA = "checkpoint"  # one entry: the library keeps several in no order


class CheckpointError(ValueError):
    """The bytes are no checkpoint of this training; the model may have been changed."""


def capture(
    model: PromptedClassifier,
    optimizer: torch.optim.Optimizer,
    generators: Mapping[str, torch.Generator],
    progress: Mapping[str, float],
) -> bytes:
    """Return a checkpoint.

    Args:
        model: whose trained parameters are kept.
        optimizer: of these parameters.
        generators: by a name of their own.
        progress: numbers, given back by `restore` as they are.
    """
    tensors = {f"parameter.{name}": value.detach() for name, value in _trained(model).items()}
    for index, entries in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in entries.items()}
    tensors |= {f"generator.{name}": generator.get_state() for name, generator in generators.items()}
    described = json.dumps({"format": _FORMAT, "progress": dict(progress)})
    return save({name: value.cpu().contiguous() for name, value in tensors.items()}, {_METADATA: described})


def restore(
    content: bytes,
    model: PromptedClassifier,
    optimizer: torch.optim.Optimizer,
    generators: Mapping[str, torch.Generator],
) -> dict[str, float]:
    """Bring training back to where `capture` was called, and return its progress.

    Raises:
        CheckpointError: the bytes are not a checkpoint of such a training.
    """
    try:
        tensors, progress = load(content), _progress_of(content)
        for name, parameter in _trained(model).items():
            parameter.data.copy_(_shaped_like(parameter, tensors[f"parameter.{name}"]))
        described = optimizer.state_dict()
        described["state"] = _optimizer_state(tensors)
        optimizer.load_state_dict(described)
        for name, generator in generators.items():
            generator.set_state(tensors[f"generator.{name}"])
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"this is no checkpoint of such a training: {error}") from error
    return progress


def _trained(model: PromptedClassifier) -> dict[str, nn.Parameter]:
    parts = (("posterior", model.posterior), ("readout", model.readout))
    return {name: parameter for prefix, part in parts for name, parameter in part.named_parameters(prefix)}


def _shaped_like(parameter: Tensor, value: Tensor) -> Tensor:
    if value.shape != parameter.shape:
        raise ValueError(f"a parameter has shape {list(value.shape)}, expected {list(parameter.shape)}")
    return value


def _optimizer_state(tensors: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        match name.split("."):
            case ["optimizer", index, entry]:
                state.setdefault(int(index), {})[entry] = value
    return state


def _progress_of(content: bytes) -> dict[str, float]:
    """Read the metadata, which the library's own reader of bytes leaves out."""
    length = int.from_bytes(content[:8], "little")
    described = json.loads(json.loads(content[8 : 8 + length])["__metadata__"][_METADATA])
    if described["format"] != _FORMAT:
        raise ValueError(f"its format is {described['format']!r}; allowed: {_FORMAT!r}")
    return cast("dict[str, float]", described["progress"])
