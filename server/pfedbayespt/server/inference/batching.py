"""Micro-batches: what several threads encode at the same time goes through the trunk together.

Rules:
1. A GPU takes hardly longer for sixteen images than for one; a CPU takes sixteen times as long, and everybody waits
   for the last. So images are joined where the trunk is on a GPU, unless a setting says otherwise.
2. Whoever comes first leads: it waits until all who are on their way have come, the batch is full, or
   `wait_seconds` have passed; an image that is alone waits for nobody.
3. Only the frozen trunk is shared. Each image keeps its own seed, samples and options, so an answer differs from
   what it is alone by rounding only (1e-5 in float32). The same bytes are promised only where nothing is joined.
4. Images meet only where the same backbone and the same insertion encode them; a failure is everybody's in the
   batch. Never in int8: there the scale of the activations would depend on the other images.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Literal

import torch
from torch import Tensor

from pfedbayespt.model.classifier import PromptedClassifier
from pfedbayespt.model.insertion import Context
from pfedbayespt.protocol.predictions import Precision

MicroBatching = Literal["auto", "on", "off"]
MAX_IMAGES: Final = 16
WAIT_SECONDS: Final = 0.003
Encode = Callable[[PromptedClassifier, Tensor], Context]
_Key = tuple[int, str]


def is_wanted(chosen: MicroBatching, device: torch.device, precision: Precision) -> bool:
    """Whether images are to be joined on the device."""
    wanted = device.type == "cuda" if chosen == "auto" else chosen == "on"
    return wanted and precision != "int8"


@contextmanager
def alone() -> Iterator[Encode]:
    """Encode an image by itself: what `MicroBatcher.arrival` is where nothing is joined."""
    yield lambda classifier, image: classifier.encode(image)


@dataclass(eq=False)
class _Batch:
    """Images that go through the trunk together."""

    images: list[Tensor] = field(default_factory=list)
    is_closed: bool = False
    done: threading.Event = field(default_factory=threading.Event)
    result: Context | None = None
    error: Exception | None = None

    def compute(self, classifier: PromptedClassifier) -> None:
        """Encode the images; whatever comes of it, nobody waits any longer."""
        try:
            self.result = classifier.encode(torch.cat(self.images))
        except Exception as error:  # noqa: BLE001 - each of those who wait raises it
            self.error = error
        finally:
            self.done.set()

    def part(self, place: int) -> Context:
        """Return one image's context.

        Raises:
            RuntimeError: encoding failed.
        """
        self.done.wait()
        if self.result is None:
            raise RuntimeError(f"the images could not be encoded together: {self.error}") from self.error
        return self.result.select(torch.tensor([place]))


@dataclass(eq=False)
class _Arrival:
    """An image that others may wait for, until it has come."""

    has_come: bool = False


class MicroBatcher:
    """Joins images; safe to use from several threads."""

    def __init__(self, max_images: int = MAX_IMAGES, wait_seconds: float = WAIT_SECONDS) -> None:
        self._max_images = max_images
        self._wait_seconds = wait_seconds
        self._changed = threading.Condition()
        self._num_on_their_way = 0
        self._open: dict[_Key, _Batch] = {}

    @contextmanager
    def arrival(self) -> Iterator[Encode]:
        """Announce an image while it is read and prepared, so that others wait for it; yield what encodes it."""
        arrival = _Arrival()
        with self._changed:
            self._num_on_their_way += 1
        try:
            yield partial(self._encode, arrival)
        finally:
            with self._changed:
                self._come(arrival)

    def _encode(self, arrival: _Arrival, classifier: PromptedClassifier, image: Tensor) -> Context:
        """Return what `classifier.encode` makes of the one image [1, 3, H, W], computed with others."""
        insertion = classifier.insertion
        key = (id(insertion.backbone), f"{insertion.config} {insertion.mid_block} {insertion.grid_size}")
        with self._changed:
            batch, place = self._join(key, image)
            self._come(arrival)
            if place == 0:
                self._gather(key, batch)
        if place == 0:
            batch.compute(classifier)
        return batch.part(place)

    def _come(self, arrival: _Arrival) -> None:
        if not arrival.has_come:
            arrival.has_come = True
            self._num_on_their_way -= 1
            self._changed.notify_all()

    def _join(self, key: _Key, image: Tensor) -> tuple[_Batch, int]:
        batch = self._open.setdefault(key, _Batch())
        batch.images.append(image)
        if len(batch.images) >= self._max_images:
            self._close(key, batch)
        return batch, len(batch.images) - 1

    def _gather(self, key: _Key, batch: _Batch) -> None:
        """Wait for others, without holding the lock."""
        self._changed.wait_for(
            lambda: batch.is_closed or not self._num_on_their_way, timeout=self._wait_seconds
        )
        self._close(key, batch)

    def _close(self, key: _Key, batch: _Batch) -> None:
        if not batch.is_closed:
            batch.is_closed = True
            del self._open[key]
            self._changed.notify_all()
