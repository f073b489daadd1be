"""Images as the model wants them: encoded once by the frozen trunk, kept across epochs, rounds and restarts.

Rules:
1. The trunk never changes, so an encoded image (a context) stays right for every model version.
2. Contexts are kept in memory up to `max_cache_bytes`, and on the disk as far as the store has room; images beyond
   both are encoded again whenever they are asked for. While the cache fills, its last step needs twice the memory
   for a moment.
3. What is kept was encoded in chunks that depend on the images' order alone, so its bits are the same wherever it
   is from.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from pfedbayespt.client.context_store import ContextStore, digest_of_pixels
from pfedbayespt.client.data import LabelledImages, image_of
from pfedbayespt.client.errors import DatasetError
from pfedbayespt.model.config import BackboneConfig
from pfedbayespt.model.images import ImageError, prepare
from pfedbayespt.model.insertion import Context, Insertion, concatenate

DEFAULT_CACHE_BYTES = 2 * 2**30
_CHUNK = 32
_CPU = torch.device("cpu")


class ImageContexts:
    """The images of a dataset as a source of contexts for training and evaluation.

    Args:
        dataset: the images.
        labels: the position of each image's class.
        insertion: encodes; its device is where contexts are delivered.
        config: how images are prepared.
        device: of the insertion.
        max_cache_bytes: how much memory contexts may take.
        store: keeps contexts on the disk; None: none are.
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
        store: ContextStore | None = None,
        on_encoded: Callable[[int, int], None] = lambda done, total: None,  # noqa: ARG005 - named for its callers
    ) -> None:
        self.labels = torch.tensor(labels, dtype=torch.long)
        self._dataset = dataset
        self._insertion = insertion
        self._config = config
        self._device = device
        self._max_cache_bytes = max_cache_bytes
        self._on_encoded = on_encoded
        self._store = store
        self._may_store = store is not None
        self._stored: list[str] = []  # the digest of each chunk that is on the disk
        self._cache: Context | None = None
        self._num_cached = 0
        self._filled = False

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Tensor) -> Context:
        """Return the contexts of the images at `indices` (int64 [B]), in their order, on the model's device."""
        self._fill_once()
        in_memory = indices < self._num_cached
        on_disk = ~in_memory & (indices < len(self._stored) * _CHUNK)
        parts, places = [], []
        for mask, fetch in (
            (in_memory, self._from_memory),
            (on_disk, self._from_disk),
            (~in_memory & ~on_disk, self._encode),
        ):
            if mask.any():
                parts.append(fetch(indices[mask]).to(self._device))
                places.append(mask.nonzero().flatten())
        return parts[0] if len(parts) == 1 else concatenate(parts).select(torch.cat(places).argsort())

    def _fill_once(self) -> None:
        """Get the images' contexts in order, as long as there is room for them in memory or on the disk."""
        if self._filled:
            return
        self._filled = True
        kept: list[Context] = []
        room = len(self) if self._max_cache_bytes else 0
        for chunk in _chunks(torch.arange(len(self))):
            in_reach = int(chunk[0]) < room
            if not in_reach and not self._may_store:
                break
            context = self._chunk(chunk)
            if in_reach:
                kept.append(context)
                room = min(len(self), self._max_cache_bytes * len(chunk) // max(context.num_bytes, 1))
            self._on_encoded(int(chunk[-1]) + 1, len(self))
        self._num_cached = min(room, _CHUNK * len(kept))
        if self._num_cached:
            self._cache = concatenate(kept).select(torch.arange(self._num_cached))

    def _chunk(self, chunk: Tensor) -> Context:
        """Return a whole chunk's contexts on the CPU, from the store or into it."""
        pixels = self._images(chunk)
        if self._store is None or not self._may_store:
            return self._encode_pixels(pixels).to(_CPU)
        digest = digest_of_pixels(pixels)
        context = self._store.read(digest)
        if context is None:
            context = self._encode_pixels(pixels).to(_CPU)
            self._may_store = self._store.keep(digest, context)
        if self._may_store:
            self._stored.append(digest)
        return context

    def _from_memory(self, indices: Tensor) -> Context:
        if self._cache is None:
            raise LookupError("nothing is cached")
        return self._cache.select(indices)

    def _from_disk(self, indices: Tensor) -> Context:
        """Read the rows of each chunk at once; encode what has become unreadable again."""
        parts, places = [], []
        chunks = indices // _CHUNK
        for number in sorted(set(chunks.tolist())):
            mine = (chunks == number).nonzero().flatten()
            rows = (indices[mine] % _CHUNK).tolist()
            kept = self._store.read(self._stored[number], rows) if self._store else None
            parts.append(self._encode(indices[mine]).to(_CPU) if kept is None else kept)
            places.append(mine)
        return concatenate(parts).select(torch.cat(places).argsort())

    def _encode(self, indices: Tensor) -> Context:
        return concatenate([self._encode_pixels(self._images(chunk)) for chunk in _chunks(indices)])

    def _encode_pixels(self, pixels: Tensor) -> Context:
        return self._insertion.encode(pixels.to(self._device))

    def _images(self, indices: Tensor) -> Tensor:
        return torch.stack([self._prepared(index) for index in indices.tolist()])

    def _prepared(self, index: int) -> Tensor:
        try:
            return prepare(image_of(self._dataset[index][0], index), self._config)
        except (ImageError, OSError) as error:
            raise DatasetError(f"image {index} can no longer be read: {error}") from error


def _chunks(indices: Tensor) -> tuple[Tensor, ...]:
    return torch.split(indices, _CHUNK)
