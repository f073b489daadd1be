"""What the tokens of a prompt are, on what scale they live, and where they start.

A prompt is a row of D = num_tokens * d numbers, token after token. Each token has one role:

    TOKEN   a state in the sequence (visual prompt tuning):  U(-v, v),  v = sqrt(6 / (3 * patch_area + d))
    KEY     a free key of a prefix:                          N(0, 1)
    VALUE   a free value of a prefix:                        N(0, 0.09^2)

v is that of Jia et al., "Visual Prompt Tuning", ECCV 2022. The other two are choices of this project, measured.
"""

import math
from collections.abc import Sequence
from enum import Enum, auto

import torch
from jaxtyping import Float
from torch import Tensor

from pfedbayespt.model.backbone import Backbone

_VALUE_RMS = 0.09


class Role(Enum):
    """What one token of a prompt is."""

    TOKEN = auto()
    KEY = auto()
    VALUE = auto()


def token_roles(num_tokens: int) -> list[Role]:
    """Return the roles of prompt tokens in the sequence."""
    return [Role.TOKEN] * num_tokens


def prefix_roles(num_blocks: int, prompt_length: int) -> list[Role]:
    """Return the roles of a prefix: for each block its P keys, then its P values."""
    return ([Role.KEY] * prompt_length + [Role.VALUE] * prompt_length) * num_blocks


def prompt_scale(roles: Sequence[Role], backbone: Backbone) -> Float[Tensor, " D"]:
    """Return the root mean square of each coordinate on the prompt's own scale."""
    rms = {Role.TOKEN: _vpt_bound(backbone) / math.sqrt(3), Role.KEY: 1.0, Role.VALUE: _VALUE_RMS}
    return torch.tensor([rms[role] for role in roles]).repeat_interleave(backbone.embed_dim)


def draw_prompt(roles: Sequence[Role], backbone: Backbone, generator: torch.Generator) -> Float[Tensor, " D"]:
    """Draw a prompt to start from, on the generator's device."""
    bound, shape = _vpt_bound(backbone), (len(roles), backbone.embed_dim)
    uniform = torch.rand(shape, generator=generator, device=generator.device).mul(2 * bound).sub(bound)
    normal = torch.randn(shape, generator=generator, device=generator.device)
    drawn = {Role.TOKEN: uniform, Role.KEY: normal, Role.VALUE: _VALUE_RMS * normal}
    rows = [drawn[role][index] for index, role in enumerate(roles)]
    return torch.cat(rows) if rows else uniform.flatten()


def _vpt_bound(backbone: Backbone) -> float:
    height, width = backbone.patch_size
    return math.sqrt(6.0 / (3 * height * width + backbone.embed_dim))
