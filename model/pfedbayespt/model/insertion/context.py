"""What `encode` keeps of an image: everything that all posterior samples share.

A context is image data: it stays where the image is. Every tensor in it has the batch as its leading dimension and
owns its memory, so that contexts can be cached, cut and joined, and `num_bytes` is what they truly take.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import Field, dataclass, fields, replace
from typing import Any, TypeVar, get_origin

import torch
from jaxtyping import Float, Int
from torch import Tensor

# typing.Self by hand: the checker of shapes decorates methods before their class exists.
_Self = TypeVar("_Self", bound="Context")


@dataclass(frozen=True, eq=False)
class Context:
    """What every insertion keeps; each adds its own tensors, or tuples of tensors (one per block).

    Attributes:
        features: f(x), the generator's input: class token and patch mean before the first prompted block.
    """

    features: Float[Tensor, "B F"]

    def __len__(self) -> int:
        return len(self.features)

    @property
    def num_bytes(self) -> int:
        """Memory that the tensors take."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors())

    def select(self: _Self, indices: Int[Tensor, " b"]) -> _Self:  # noqa: PYI019
        """Return the context of the images at `indices`, in that order."""
        return self._map(lambda tensor: tensor.index_select(0, indices.to(tensor.device)))

    def to(self: _Self, device: torch.device | None = None, dtype: torch.dtype | None = None) -> _Self:  # noqa: PYI019
        """Return the context on `device` and in `dtype`: a cache takes half the memory in a 16-bit type."""
        return self._map(lambda tensor: tensor.to(device=device, dtype=dtype))

    def tensors(self) -> Iterator[Tensor]:
        """Yield every tensor, in the order of the fields."""
        yield from self.named_tensors().values()

    def named_tensors(self) -> dict[str, Tensor]:
        """Return every tensor under the name that a file can keep it by: `features`, `keys.0`, `keys.1`."""
        named: dict[str, Tensor] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, tuple):
                named |= {f"{field.name}.{index}": tensor for index, tensor in enumerate(value)}
            else:
                named[field.name] = value
        return named

    @classmethod
    def from_named_tensors(cls: type[_Self], named: Mapping[str, Tensor]) -> _Self:  # noqa: PYI019
        """Return the context that `named_tensors` was called on.

        Raises:
            ValueError: a tensor is missing.
        """
        try:
            values: dict[str, Any] = {field.name: _named_value(field, named) for field in fields(cls)}
        except KeyError as error:
            raise ValueError(f"a {cls.__name__} has a tensor {error}, which is missing") from error
        return cls(**values)

    def _map(self: _Self, function: Callable[[Tensor], Tensor]) -> _Self:  # noqa: PYI019
        changed: dict[str, Any] = {
            field.name: _apply(function, getattr(self, field.name)) for field in fields(self)
        }
        return replace(self, **changed)


def concatenate(contexts: Sequence[_Self]) -> _Self:
    """Join contexts of one insertion along the batch.

    Raises:
        ValueError: there is none, or they are of different kinds.
    """
    if len({type(context) for context in contexts}) != 1:
        raise ValueError("contexts to concatenate: one or more, all made by the same insertion")
    names = [field.name for field in fields(contexts[0])]
    joined: dict[str, Any] = {name: _join([getattr(context, name) for context in contexts]) for name in names}
    return replace(contexts[0], **joined)


def _named_value(field: "Field[Any]", named: Mapping[str, Tensor]) -> Tensor | tuple[Tensor, ...]:
    if get_origin(field.type) is not tuple:
        return named[field.name]
    count = sum(name.startswith(f"{field.name}.") for name in named)
    return tuple(named[f"{field.name}.{index}"] for index in range(count))


def _apply(
    function: Callable[[Tensor], Tensor], value: Tensor | tuple[Tensor, ...]
) -> Tensor | tuple[Tensor, ...]:
    return tuple(function(tensor) for tensor in value) if isinstance(value, tuple) else function(value)


def _join(values: list[Any]) -> Tensor | tuple[Tensor, ...]:
    if isinstance(values[0], tuple):
        return tuple(torch.cat(column) for column in zip(*values, strict=True))
    return torch.cat(values)
