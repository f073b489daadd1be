"""Images as the model wants them: encoded once by the frozen trunk, kept across epochs and rounds.

Rules:
1. The trunk never changes, so an encoded image (a context) stays right for every model version.
2. Contexts are kept in memory up to `max_cache_bytes`; the images beyond it are encoded again whenever they are
   asked for. While the cache fills, its last step needs twice the memory for a moment.
3. Contexts are image data: they live in this process alone and are gone with it.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from pfedbayespt.client.data import LabelledImages, image_of
from pfedbayespt.client.errors import DatasetError
from pfedbayespt.model.config import BackboneConfig
from pfedbayespt.model.images import ImageError, prepare
from pfedbayespt.model.insertion import Context, Insertion, concatenate

DEFAULT_CACHE_BYTES = 2 * 2**30
_CHUNK = 32


class ImageContexts:
    """The images of a dataset as a source of contexts for training and evaluation.

    Args:
        dataset: the images.
        labels: the position of each image's class.
        insertion: encodes; its device is where contexts are delivered.
        config: how images are prepared.
        device: of the insertion.
        max_cache_bytes: how much memory contexts may take.
        on_encoded: told after each chunk of the first pass how many images are done.
    """

    def __init__(
        self,
        dataset: LabelledImages,
        labels: list[int],
        insertion: Insertion,
        config: BackboneConfig,
        *,
        device: torch.device,
        max_cache_bytes: int = DEFAULT_CACHE_BYTES,
        on_encoded: Callable[[int, int], None] = lambda done, total: None,  # noqa: ARG005 - named for its callers
    ) -> None:
        self.labels = torch.tensor(labels, dtype=torch.long)
        self._dataset = dataset
        self._insertion = insertion
        self._config = config
        self._device = device
        self._max_cache_bytes = max_cache_bytes
        self._on_encoded = on_encoded
        self._cache: Context | None = None
        self._num_cached = 0
        self._filled = False

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Tensor) -> Context:
        """Return the contexts of the images at `indices` (int64 [B]), in their order, on the model's device."""
        self._fill_once()
        is_cached = indices < self._num_cached
        parts = []
        if self._cache is not None and is_cached.any():
            parts.append(self._cache.select(indices[is_cached]).to(self._device))
        if not is_cached.all():
            parts.append(self._encode(indices[~is_cached]))
        if len(parts) == 1:
            return parts[0]
        places = torch.cat([is_cached.nonzero(), (~is_cached).nonzero()]).flatten()
        return concatenate(parts).select(places.argsort())

    def frozen_features(self) -> tuple[Tensor, Tensor]:
        """Return the generator's features [N, F] and the unprompted read-outs [N, R] of all images, on the CPU."""
        features, readouts = [], []
        for chunk in _chunks(torch.arange(len(self))):
            feature, readout = self._insertion.frozen_features(self._images(chunk))
            features.append(feature.cpu())
            readouts.append(readout.cpu())
            self._on_encoded(int(chunk[-1]) + 1, len(self))
        return torch.cat(features), torch.cat(readouts)

    def _fill_once(self) -> None:
        """Encode images in order until all are cached or the memory is used up."""
        if self._filled or not self._max_cache_bytes:
            return
        self._filled = True
        chunks: list[Context] = []
        room = len(self)
        for chunk in _chunks(torch.arange(len(self))):
            if int(chunk[0]) >= room:
                break
            chunks.append(self._encode(chunk).to(torch.device("cpu")))
            room = min(len(self), self._max_cache_bytes * len(chunk) // max(chunks[-1].num_bytes, 1))
            self._on_encoded(int(chunk[-1]) + 1, len(self))
        self._num_cached = min(room, _CHUNK * len(chunks))
        if self._num_cached:
            self._cache = concatenate(chunks).select(torch.arange(self._num_cached))

    def _encode(self, indices: Tensor) -> Context:
        chunks = [self._insertion.encode(self._images(chunk)) for chunk in _chunks(indices)]
        return concatenate(chunks)

    def _images(self, indices: Tensor) -> Tensor:
        return torch.stack([self._prepared(index) for index in indices.tolist()]).to(self._device)

    def _prepared(self, index: int) -> Tensor:
        try:
            return prepare(image_of(self._dataset[index][0], index), self._config)
        except (ImageError, OSError) as error:
            raise DatasetError(f"image {index} can no longer be read: {error}") from error


def _chunks(indices: Tensor) -> tuple[Tensor, ...]:
    return torch.split(indices, _CHUNK)
