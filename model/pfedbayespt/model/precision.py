"""The trunk in fewer bits; the head, the softmax and the entropies stay in float32.

    float32     as loaded
    bfloat16    every weight and every state of the trunk
    int8        the weights of its linear layers, and their inputs with one scale per tensor, found as they come

A trunk in another precision is another function: its answers differ in the third digit or so. So the precision that
answered is named in the answer, and a version is calibrated and evaluated in the precision that it is trained in.
"""

import copy
import warnings
from typing import Literal, get_args

import torch
from torch import nn

from pfedbayespt.model.backbone import Backbone

Precision = Literal["float32", "bfloat16", "int8"]


def in_precision(backbone: Backbone, precision: Precision) -> Backbone:
    """Return the trunk in `precision`; `backbone` itself is unchanged, and is returned for float32.

    Raises:
        ValueError: there is no such precision, or int8 is asked for on a device other than the CPU.
    """
    if precision not in get_args(Precision):
        raise ValueError(f"the precision is {precision!r}; allowed: {', '.join(get_args(Precision))}")
    if precision == "float32":
        return backbone
    if precision == "bfloat16":
        return Backbone(copy.deepcopy(backbone.vit).to(torch.bfloat16))
    if backbone.vit.cls_token.device.type != "cpu":
        raise ValueError("int8 is for the CPU; allowed on an accelerator: float32, bfloat16")
    return Backbone(_with_int8_layers(backbone.vit))


def _with_int8_layers(vit: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        # Its successor is a package of its own; this one has all that is needed here.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", UserWarning)
        quantise = torch.ao.quantization.quantize_dynamic
        quantised: nn.Module = quantise(vit, {nn.Linear}, dtype=torch.qint8)  # type: ignore[no-untyped-call]
    return quantised
