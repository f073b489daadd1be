"""Linear layers whose initial values come from an explicit generator, or from nobody.

`nn.Linear` draws from torch's global generator; on the meta device it draws nothing.
"""

import math

import torch
from torch import nn


def normal_linear(
    num_inputs: int, num_outputs: int, generator: torch.Generator, *, gain: float = 1.0, bias: bool = True
) -> nn.Linear:
    """Return a linear layer with weights N(0, gain^2 / num_inputs) and a bias, if any, of zero."""
    layer = zero_linear(num_inputs, num_outputs, bias=bias)
    nn.init.normal_(layer.weight, std=gain / math.sqrt(num_inputs), generator=generator)
    return layer


def zero_linear(num_inputs: int, num_outputs: int, *, bias: bool = True) -> nn.Linear:
    """Return a linear layer of zeros."""
    layer = nn.Linear(num_inputs, num_outputs, bias=bias, device="meta").to_empty(device="cpu")
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
